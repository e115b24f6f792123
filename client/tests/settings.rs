//! What a person is told who has set the client up wrongly: the setting, the value, and what to do about it.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::process::{Command, Stdio};

use tunic_client::config::EXAMPLE;

/// Exit code of a configuration that is wrong (README).
const WRONG_CONFIGURATION: i32 = 78;
const PORT: &str = "socks = \"127.0.0.1:9150\"";
const DNS: &str = "# dns = \"127.0.0.1:9153\"";
/// Of no use, but nothing is wrong with it.
const AUTHORITY: &str = "
[[authority]]
name = \"nobody\"
identity = \"0000000000000000000000000000000000000000000000000000000000000000\"
onion_key = \"0000000000000000000000000000000000000000000000000000000000000000\"
addresses = [\"127.0.0.1:1\"]
";

/// Starts the daemon on the example with these changes; it must end at once and say these words.
#[track_caller]
fn check_refused(changes: &[(&str, &str)], words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let (file, state) = (dir.path().join("client.toml"), dir.path().join("state"));
    let mut text = EXAMPLE.replacen("\n[", &format!("\nstate_dir = {state:?}\n["), 1) + AUTHORITY;
    for (setting, instead) in changes {
        assert!(text.contains(setting), "{setting} is in the example");
        text = text.replace(setting, instead);
    }
    std::fs::write(&file, text).unwrap();
    let mut client = Command::new(env!("CARGO_BIN_EXE_tunic-client"));
    client.args(["run", "--config"]).arg(&file).stdin(Stdio::null());
    let ended = client.output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(WRONG_CONFIGURATION), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    assert!(!state.exists(), "nothing was begun");
}

#[test]
fn an_address_that_is_none_is_named_and_an_example_given() {
    let example = "an IP address and a port, as in \"127.0.0.1:9150\"";
    for wrong in ["localhost:9150", "127.0.0.1", "9150", "[::1]", "127.0.0.1:99999", ""] {
        let instead = format!("socks = {wrong:?}");
        check_refused(&[(PORT, &instead)], &["client.toml, line 4, `socks`", example]);
    }
    check_refused(&[(PORT, "socks = 9150")], &["line 4, `socks`", "integer `9150`", example]);
    check_refused(&[(DNS, "dns = \"localhost\"")], &["`dns`", example]);
}

#[test]
fn a_port_that_others_reach_needs_a_flag_and_a_password() {
    for public in ["0.0.0.0:9150", "[::]:9150", "192.0.2.1:9150", "[::ffff:192.0.2.1]:9150"] {
        let instead = format!("socks = {public:?}");
        let advice = "use 127.0.0.1, or set allow_public_socks = true and a socks_password";
        check_refused(&[(PORT, &instead)], &["`socks` is an address that other machines can reach", advice]);
        let flag = ("allow_public_socks = false", "allow_public_socks = true");
        check_refused(&[(PORT, &instead), flag], &["`allow_public_socks` needs a `socks_password`"]);
    }
    check_refused(&[(DNS, "dns = \"0.0.0.0:53\"")], &["`dns` must be a loopback address", "no password"]);
}
