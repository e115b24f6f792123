//! What logs say about people at the default level: nothing (docs/threat-model.md).

use std::fs;

use crate::network::shared;
use crate::server::serve_echo;
use crate::socks;

#[test]
fn logs_hold_no_address_name_or_key() {
    let network = shared();
    let echo = serve_echo();
    // One stream that works, one that the exit cannot open, one to a name that does not exist.
    let (code, mut stream) = socks::request(network.up.socks, "localhost", echo.port());
    assert_eq!(code, socks::SUCCEEDED);
    socks::ping(&mut stream).unwrap();
    let (code, _) = socks::request(network.up.socks, "localhost", 1);
    assert_eq!(code, socks::CONNECTION_REFUSED);
    let (code, _) = socks::request(network.up.socks, "who-visits-this.invalid", 80);
    assert_eq!(code, socks::HOST_UNREACHABLE);

    let target_port = format!("{}", echo.port());
    for entry in fs::read_dir(network.up.dir.join("logs")).unwrap() {
        let path = entry.unwrap().path();
        let log = fs::read_to_string(&path).unwrap();
        assert!(log.contains(" INFO "), "{}: a log says something", path.display());
        for line in log.lines() {
            let told = tells(line, &target_port);
            assert!(told.is_none(), "{} tells {}: {line}", path.display(), told.unwrap_or_default());
        }
    }
}

/// What of a person or a relay a line gives away.
fn tells(line: &str, target_port: &str) -> Option<&'static str> {
    let words = || line.split(|c: char| !c.is_ascii_alphanumeric());
    let is_key = |word: &str| word.len() >= 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_nickname = |word: &str| {
        let number = word.strip_prefix("relay").or_else(|| word.strip_prefix("authority"));
        number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let found = [
        ("an address", line.contains("127.0.0.1") || line.contains("[::1]")),
        ("a host name", line.contains("localhost") || line.contains(".invalid")),
        ("the target's port", words().any(|word| word == target_port)),
        ("a key or id", words().any(is_key)),
        ("a nickname", words().any(is_nickname)),
    ];
    found.into_iter().find(|(_, holds)| *holds).map(|(what, _)| what)
}

#[test]
fn a_line_that_gives_something_away_is_found() {
    let line = |said: &str| tells(&format!("2026-11-21T09:53:44.005619Z  INFO {said}"), "4711");
    assert_eq!(line("consensus in force: 6 relays"), None);
    assert_eq!(line("SOCKS5 port is open; connecting to the Tunic network port=36883"), None);
    assert_eq!(line("refused 127.0.0.1"), Some("an address"));
    assert_eq!(line("cannot resolve localhost"), Some("a host name"));
    assert_eq!(line("cannot connect port=4711"), Some("the target's port"));
    assert_eq!(line("circuit to RelayId(6366ed01157736e8bd7b)"), Some("a key or id"));
    assert_eq!(line("descriptor of relay3 refused"), Some("a nickname"));
}
