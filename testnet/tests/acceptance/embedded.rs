//! The example of a program with the client inside, run as its first line says, against a network of real processes.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::network::shared;
use crate::server::serve;

const EXAMPLE: &str = include_str!("../../../client/examples/embed.rs");
const README: &str = include_str!("../../../README.md");

/// Builds the example with the profile of this test, where the test's own program is.
fn built_example() -> PathBuf {
    let bin = Path::new(env!("CARGO_BIN_EXE_tunic-testnet")).parent().unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "-p", "tunic-client", "--example", "embed"]);
    cargo.arg("--target-dir").arg(bin.parent().unwrap());
    if bin.file_name().is_some_and(|profile| profile == "release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().unwrap().success(), "the example does not build");
    bin.join("examples/embed")
}

#[test]
fn the_example_of_an_embedded_client_fetches_a_page_through_three_relays() {
    let network = shared();
    let scratch = tempfile::tempdir().unwrap();
    // The network's own client has its state for itself.
    let text = std::fs::read_to_string(network.up.dir.join("client.toml")).unwrap();
    let mut config: toml::Table = text.parse().unwrap();
    config.insert("state_dir".into(), scratch.path().join("state").display().to_string().into());
    let file = scratch.path().join("client.toml");
    std::fs::write(&file, config.to_string()).unwrap();

    let web = serve(|mut connection| {
        let head = BufReader::new(connection.try_clone().unwrap()).lines();
        let asked: Vec<String> = head.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
        let answer = format!("HTTP/1.0 200 OK\r\n\r\nyou asked {}", asked[0]);
        connection.write_all(answer.as_bytes()).unwrap();
    });
    let mut example = Command::new(built_example());
    example.arg(&file).args(["localhost", &web.port().to_string()]).env_remove("TUNIC_LOG");
    let done = example.output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    let reported = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{}: {reported}", done.status);
    assert!(said.starts_with("HTTP/1.0 200 OK\r\n") && said.contains("you asked GET / "), "{said}");
    assert!(reported.contains("connected through 3 relays"), "{reported}");
}

#[test]
fn the_readme_shows_the_example_as_it_is() {
    let shown =
        README.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next()).expect("some Rust");
    let lines = |text: &str| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>();
    let example = lines(EXAMPLE);
    for line in lines(shown).iter().filter(|line| !line.is_empty()) {
        assert!(example.contains(line), "not in the example: {line}");
    }
    assert!(shown.lines().count() >= 8, "{shown}");
}
