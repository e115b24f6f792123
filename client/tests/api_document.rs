//! docs/client-api.md shows what the client answers: the same paths, the same fields, nothing missing and nothing more.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tunic_client::core::pool::Standing;
use tunic_client::core::status::diagnose::{Finding, Severity};
use tunic_client::core::status::http::{Door, Token, judge};
use tunic_client::core::status::report::*;

const DOCUMENT: &str = include_str!("../../docs/client-api.md");

/// The examples by the request that they answer.
fn examples() -> BTreeMap<&'static str, Value> {
    let sections = DOCUMENT.split("\n## `").skip(1);
    let example = |section: &'static str| {
        let request = section.split('`').next().unwrap();
        let text = section.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
        (request, serde_json::from_str(text).unwrap_or_else(|error| panic!("{request}: {error}")))
    };
    sections.map(example).collect()
}

/// A report in which every list has an entry and every field a value.
fn report() -> Report {
    let hop = HopReport {
        answer_ms: Some(1.0),
        added_ms: Some(1.0),
        share_percent: Some(1),
        relay: "r".into(),
        ..HopReport::default()
    };
    let circuit = CircuitReport {
        id: 1,
        state: Standing::InUse,
        age_s: 1,
        streams: 1,
        build_ms: Some(1.0),
        hops: vec![hop],
    };
    let finding =
        Finding { severity: Severity::Warning, code: "x".into(), what: "x".into(), advice: "x".into() };
    Report {
        network: NetworkReport { valid_until: Some(1), ..NetworkReport::default() },
        ports: vec![PortReport::default()],
        traffic: TrafficReport { history: vec![(1, 2)], ..TrafficReport::default() },
        circuits: CircuitList { shown: vec![circuit], ..CircuitList::default() },
        streams: StreamList {
            shown: vec![StreamReport { circuit: Some(1), ..StreamReport::default() }],
            ..StreamList::default()
        },
        findings: vec![finding],
        failures: vec![FailureReport { hop: Some(1), relay: Some("r".into()), ..FailureReport::default() }],
        ..Report::default()
    }
}

/// The shape of a value: the names of its fields, all the way down, and the kinds of what they hold.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(name, field)| (name.clone(), shape(field))).collect(),
        Value::Array(items) => items.first().map_or(json!([]), |first| json!([shape(first)])),
        Value::Null => json!("null"),
        Value::Bool(_) => json!("bool"),
        Value::Number(_) => json!("number"),
        Value::String(_) => json!("string"),
    }
}

#[test]
fn the_documented_report_has_the_fields_of_the_real_one() {
    let examples = examples();
    assert_eq!(shape(&examples["GET /api/v1/status"]), shape(&serde_json::to_value(report()).unwrap()));
    let read: Report = serde_json::from_value(examples["GET /api/v1/status"].clone()).unwrap();
    assert_eq!(
        serde_json::to_value(&read).unwrap(),
        examples["GET /api/v1/status"],
        "and its values mean the same"
    );
    let done = NewIdentity { api: 1, ended_circuits: 1 };
    assert_eq!(shape(&examples["POST /api/v1/new-identity"]), shape(&serde_json::to_value(done).unwrap()));
}

#[test]
fn the_documented_parts_are_parts_of_the_report() {
    let examples = examples();
    let whole = serde_json::to_value(Report::default()).unwrap();
    for (request, fields) in
        [("circuits", &["circuits"][..]), ("streams", &["streams"]), ("explain", &["findings", "failures"])]
    {
        let part = examples[format!("GET /api/v1/{request}").as_str()].as_object().unwrap();
        assert_eq!(part.len(), fields.len() + 1, "{request}");
        assert!(fields.iter().all(|field| shape(&part[*field]) == shape(&whole[*field])), "{request}");
    }
}

#[test]
fn the_documented_requests_are_answered_and_no_others() {
    let door = Door { local: None, password: None, token: Token::new([0; 32]), destinations: false };
    let known = |line: &str| judge(format!("{line} HTTP/1.1\r\n\r\n").as_bytes(), &door).is_ok();
    let examples = examples();
    assert!(examples.keys().all(|line| known(line)));
    assert_eq!(examples.len(), 5);
    assert!(!known("GET /api/v1/") && !known("GET /api/v2/status"));
}

#[test]
fn every_code_and_step_is_documented() {
    let source = include_str!("../src/core/status/diagnose.rs");
    let code = source.split("#[cfg(test)]").next().unwrap();
    let quoted = code.split('"').skip(1).step_by(2);
    let is_word = |text: &&str| {
        text.contains('-') && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
    };
    let codes: Vec<&str> = quoted.filter(is_word).filter(|code| *code != "kebab-case").collect();
    assert!(codes.len() >= 7, "{codes:?}");
    for code in codes {
        assert!(DOCUMENT.contains(&format!("`{code}`")), "{code}");
    }
}
