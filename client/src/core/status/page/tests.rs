use super::*;
use crate::core::pool::Standing;
use crate::core::status::diagnose::{Finding, Severity};
use crate::core::status::report::*;

/// A report in which every list has something.
fn full() -> Report {
    let relays = ["relay1", "<b>two", "relay3"].map(str::to_owned);
    Report {
        bootstrap: Bootstrap { percent: 100, step: "ready".into(), text: "Ready.".into() },
        circuits: CircuitList {
            total: 99,
            shown: vec![CircuitReport {
                id: 4,
                state: Standing::InUse,
                age_s: 61,
                streams: 2,
                build_ms: Some(30.0),
                hops: HopReport::list(&relays, &[10.0, 22.0, 40.0]),
            }],
            ..CircuitList::default()
        },
        streams: StreamList {
            total: 1,
            shown: vec![StreamReport {
                id: 9,
                kind: "stream".into(),
                circuit: Some(4),
                ..StreamReport::default()
            }],
            ..StreamList::default()
        },
        findings: vec![Finding {
            severity: Severity::Warning,
            code: "x".into(),
            what: "It is <slow>.".into(),
            advice: "Wait & see.".into(),
        }],
        failures: vec![FailureReport {
            what: "relay 2 <refused>".into(),
            times: 3,
            ..FailureReport::default()
        }],
        ports: vec![PortReport {
            name: "status".into(),
            address: "127.0.0.1:1".into(),
            problem: Some("taken".into()),
        }],
        ..Report::default()
    }
}

#[test]
fn the_page_is_whole_without_a_script() {
    let page = page(&full(), &Token::new([1; 32]));
    for part in [
        "value=\"0101",
        "action=\"/new-identity\"",
        "Connected",
        "Circuit 4",
        "relay3",
        "and 98 more",
        "2 streams",
        "It is &lt;slow&gt;.",
        "relay 2 &lt;refused&gt;",
        "3 times",
        "not open",
        "</html>",
    ] {
        assert!(page.contains(part), "{part} is missing: {page}");
    }
    assert!(!page.contains("{live}") && !page.contains("{token}"));
}

#[test]
fn cover_is_told_by_the_second_and_in_all() {
    let mut report = full();
    report.traffic =
        TrafficReport { sent_bytes: 300_000, received_bytes: 100_000, ..TrafficReport::default() };
    report.cover = CoverReport {
        class: "normal".into(),
        sent_bytes: 30_000,
        received_bytes: 10_000,
        sent_bytes_per_s: 1_000,
        received_bytes_per_s: 500,
    };
    let live = live(&report);
    let expect = format!(
        "<dt>Cover traffic</dt><dd><b>{}/s</b><span class=\"quiet\">{} in all, 10.0 % of everything; class normal</span>",
        bytes(1_500),
        bytes(40_000)
    );
    assert!(live.contains(&expect), "{live}");
}

#[test]
fn nothing_on_the_page_is_inline_or_from_elsewhere() {
    let page = page(&full(), &Token::new([1; 32]));
    assert!(!page.contains("<b>two") && page.contains("&lt;b&gt;two"));
    for forbidden in [" style=", "<style", " onclick", "javascript:", "http://", "https://", "src=\"//"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    assert_eq!(page.matches("<script").count(), 1, "the one with a src");
    assert!(!STYLE.contains("url(") && !STYLE.contains("@import"));
    assert!(!SCRIPT.contains("innerHTML") && !SCRIPT.contains("eval"));
}

#[test]
fn every_live_part_has_an_id_to_be_replaced_by() {
    let live = live(&full());
    for id in ["state", "findings", "traffic", "circuits", "streams", "failures", "ports", "about"] {
        assert_eq!(live.matches(&format!(" id=\"{id}\"")).count(), 1, "{id}");
    }
    assert_eq!(live.matches("<section").count(), live.matches("</section>").count());
    assert_eq!(live.matches("<ol").count(), live.matches("</ol>").count());
    assert_eq!(
        live.matches("<p").count()
            - live.matches("<path").count()
            - live.matches("<poly").count()
            - live.matches("<progress").count(),
        live.matches("</p>").count()
    );
}

#[test]
fn the_state_is_told_in_a_word() {
    let mut report = full();
    report.findings[0].severity = Severity::Error;
    assert!(live(&report).contains("Not working"));
    report.findings.clear();
    report.bootstrap.percent = 50;
    let live = live(&report);
    assert!(live.contains("Connecting") && live.contains("value=\"50\""));
}

#[test]
fn destinations_are_shown_only_when_the_report_has_them() {
    let mut report = full();
    assert!(!live(&report).contains(">To<"));
    report.streams.shown[0].destination = Some("example.com:443".into());
    assert!(live(&report).contains("<td>example.com:443</td>"));
}
