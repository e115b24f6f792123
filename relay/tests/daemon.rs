//! The daemon as its operator meets it: files, signals, exit codes, log lines.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

#[path = "support/authority.rs"]
mod authority;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use authority::AUTHORITY;

const RELAY: &str = env!("CARGO_BIN_EXE_tunic-relay");

fn config(dir: &Path, more: &str) -> PathBuf {
    let file = dir.join("relay.toml");
    let data = dir.join("data");
    let text = format!("listen = \"127.0.0.1:0\"\ndata_dir = {data:?}\n{more}\n{AUTHORITY}");
    std::fs::write(&file, text).unwrap();
    file
}

fn relay(command: &str, config: &Path) -> Command {
    let mut relay = Command::new(RELAY);
    relay.args([command, "--config"]).arg(config).env_remove("TUNIC_LOG");
    relay
}

#[track_caller]
fn check(output: Output, code: i32, expect: &str) -> String {
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(expect), "{text}");
    text
}

#[test]
fn a_termination_signal_ends_the_relay_cleanly() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = relay("run", &config(dir.path(), "")).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut log: Vec<String> = Vec::new();
    while !log.last().is_some_and(|line| line.contains("listening")) {
        log.push(lines.next().expect("the relay ended early"));
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    log.extend(lines);
    assert_eq!(child.wait().unwrap().code(), Some(0), "{log:?}");
    assert!(log.last().unwrap().contains("ended"), "{log:?}");
    assert!(log.iter().all(|line| !line.contains("127.0.0.1")), "{log:?}");
}

#[test]
fn keys_are_made_once_and_belong_to_their_owner() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), "");
    let first = check(relay("keygen", &config).output().unwrap(), 0, "identity = \"");
    assert_eq!(check(relay("keygen", &config).output().unwrap(), 0, "onion_key = \""), first);
    let keys = dir.path().join("data/keys");
    for file in std::fs::read_dir(&keys).unwrap() {
        assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    std::fs::set_permissions(keys.join("signing.key"), std::fs::Permissions::from_mode(0o640)).unwrap();
    check(relay("run", &config).output().unwrap(), 77, "signing.key");
    check(relay("check", &config).output().unwrap(), 77, "signing.key");
}

#[test]
fn what_is_wrong_is_named_and_has_its_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let unknown = config(dir.path(), "nicknam = \"x\"");
    check(relay("run", &unknown).output().unwrap(), 78, "`nickname`");
    check(relay("check", &unknown).output().unwrap(), 78, "`nickname`");
    let wrong = config(dir.path(), "nickname = \"not one\"");
    check(relay("run", &wrong).output().unwrap(), 78, "`nickname`");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("listen = \"{}\"", taken.local_addr().unwrap());
    let text = std::fs::read_to_string(config(dir.path(), "")).unwrap();
    let busy = dir.path().join("busy.toml");
    std::fs::write(&busy, text.replace("listen = \"127.0.0.1:0\"", &listen)).unwrap();
    check(relay("run", &busy).output().unwrap(), 69, "cannot listen");
    check(relay("check", &busy).output().unwrap(), 69, "run already?");
    check(relay("run", Path::new("/nonexistent")).output().unwrap(), 78, "/nonexistent");
    check(Command::new(RELAY).arg("fly").output().unwrap(), 2, "fly");
}

#[test]
fn the_printed_configuration_only_lacks_what_a_default_cannot_know() {
    let dir = tempfile::tempdir().unwrap();
    let printed = Command::new(RELAY).arg("--print-config").output().unwrap();
    let text = check(printed, 0, "[exit]")
        .replace("/var/lib/tunic-relay", dir.path().join("data").to_str().unwrap());
    let file = dir.path().join("relay.toml");
    std::fs::write(&file, text.replace("0.0.0.0:9001", "0.0.0.0:0")).unwrap();
    let text = check(relay("check", &file).output().unwrap(), 78, "[[authority]]");
    assert!(text.contains("`address`") && text.matches("problem:").count() == 2, "{text}");
    let fixed = config(dir.path(), "");
    check(relay("check", &fixed).arg("--offline").output().unwrap(), 0, "ok");
    check(relay("check", &fixed).output().unwrap(), 69, "no authority can be asked");
}

#[test]
fn a_new_relay_is_made_by_flags_alone_and_lacks_nothing_but_its_network() {
    let dir = tempfile::tempdir().unwrap();
    let (file, data) = (dir.path().join("new.toml"), dir.path().join("data"));
    let make = || {
        let mut init = relay("init", &file);
        init.args(["--no-questions", "--nickname", "fresh", "--address", "8.8.8.8:9001", "--data-dir"])
            .arg(&data);
        init.output().unwrap()
    };
    check(make(), 0, "identity = \"");
    let text = check(relay("check", &file).output().unwrap(), 78, "[[authority]]");
    assert_eq!(text.matches("problem:").count(), 1, "{text}");
    check(make(), 1, "is not written");
}
