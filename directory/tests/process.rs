//! The daemon as a process of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed setup is a failed test")]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn tunic_directory(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tunic-directory"));
    command.args(args).env_remove("TUNIC_LOG");
    command
}

fn config(dir: &Path, more: &str) -> PathBuf {
    let file = dir.join("directory.toml");
    let data_dir = dir.join("data");
    let text = format!("listen = \"127.0.0.1:0\"\ndata_dir = {data_dir:?}\n{more}");
    std::fs::write(&file, text).unwrap();
    file
}

#[track_caller]
fn check(output: &Output, code: i32, expect: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(stderr.contains(expect), "{stderr}");
}

#[test]
fn the_printed_configuration_is_the_example() {
    let output = tunic_directory(&["--print-config"]).output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), tunic_directory::config::EXAMPLE);
}

#[test]
fn keygen_prints_lines_that_stay_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let file = config(dir.path(), "name = \"one\"");
    let keygen = || tunic_directory(&["keygen", "--config", file.to_str().unwrap()]).output().unwrap();
    let first = keygen();
    assert!(first.status.success());
    let text = String::from_utf8(first.stdout.clone()).unwrap();
    assert!(text.starts_with("[[authority]]\nname = \"one\"\nidentity = \""), "{text}");
    assert_eq!(keygen().stdout, first.stdout);
    let mode = std::fs::metadata(dir.path().join("data/keys")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn exit_codes_tell_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let run = |more: &str| {
        let file = config(dir.path(), more);
        tunic_directory(&["run", "--config", file.to_str().unwrap()]).output().unwrap()
    };
    check(&run("listn = 1"), 78, "did you mean `listen`?");
    check(&run("[rounds]\nvote_delay_s = 0"), 78, "[rounds]");
    let stranger = format!(
        "[[authority]]\nname = \"x\"\nidentity = \"{0}\"\nonion_key = \"{0}\"\naddresses = []",
        "1".repeat(64)
    );
    check(&run(&stranger), 78, "own identity");
    let identity = dir.path().join("data/keys/identity.key");
    std::fs::set_permissions(&identity, PermissionsExt::from_mode(0o644)).unwrap();
    check(&run(""), 77, "can be accessed by other users");
    check(&tunic_directory(&["run"]).output().unwrap(), 2, "--config");
}

#[test]
fn sigterm_ends_it_cleanly_and_its_log_names_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let file = config(dir.path(), "");
    let mut child =
        tunic_directory(&["run", "--config", file.to_str().unwrap()]).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut seen = String::new();
    while !seen.contains("started") {
        seen += &log.next().expect("it ended early").unwrap();
    }
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    seen.extend(log.map(|line| line.unwrap()));
    assert!(child.wait().unwrap().success());
    assert!(seen.contains("ends") && !seen.contains("127.0.0.1"), "{seen}");
}
