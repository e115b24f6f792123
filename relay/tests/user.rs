//! A relay that is started as root and told to become somebody else.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

#[path = "support/authority.rs"]
mod authority;

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, geteuid, kill_process};

use authority::AUTHORITY;

/// Who it becomes.
const USER: &str = "nobody";
/// Where only root may listen: an address of loopback that nobody else uses.
const NOTICE: &str = "127.83.19.8:80";
/// Another, for a test beside that one.
const OTHER_NOTICE: &str = "127.83.19.10:80";

/// The number of the user, if this test can do its work.
fn user() -> Option<u32> {
    if !geteuid().is_root() {
        println!("skipped: needs root");
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let number = users.lines().find_map(|line| line.strip_prefix(USER)?.split(':').nth(2)?.parse().ok());
    if number.is_none() {
        println!("skipped: there is no user {USER}");
    }
    number
}

/// Whether nobody listens there, nor at every address.
fn is_free(address: &str) -> bool {
    let refused = TcpListener::bind(address).err();
    if let Some(error) = &refused {
        println!("skipped: {address} cannot be listened at ({error})");
    }
    refused.is_none()
}

/// Where that user may go; the relay's directory is not made.
fn place(more: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let (file, data) = (dir.path().join("relay.toml"), dir.path().join("data"));
    let text = format!(
        "listen = \"127.0.0.1:0\"\ndata_dir = {data:?}\n{more}\n[service]\nuser = {USER:?}\n{AUTHORITY}"
    );
    fs::write(&file, text).unwrap();
    (dir, file)
}

fn relay(command: &str, config: &Path) -> Command {
    let mut relay = Command::new(env!("CARGO_BIN_EXE_tunic-relay"));
    relay.args([command, "--config"]).arg(config).env_remove("TUNIC_LOG");
    relay
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn it_opens_low_ports_and_then_is_that_user_with_no_rights_and_no_way_back() {
    let Some(number) = user().filter(|_| is_free(NOTICE)) else { return };
    let (dir, config) = place(&format!("[exit]\nenabled = true\nnotice = {NOTICE:?}"));
    let mut running = Running(relay("run", &config).stderr(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(running.0.stderr.take().unwrap()).lines();
    let mut log = Vec::new();
    while !log.last().is_some_and(|line: &String| line.contains("listening on port")) {
        log.push(lines.next().unwrap_or_else(|| panic!("it ended: {log:#?}")).unwrap());
    }
    for task in fs::read_dir(format!("/proc/{}/task", running.0.id())).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
        assert!(value("Uid:").split('\t').all(|user| user == number.to_string()), "{status}");
        assert!(!value("Gid:").split('\t').chain(value("Groups:").split(' ')).any(|group| group == "0"));
        for rights in ["CapEff:", "CapPrm:", "CapAmb:"] {
            assert_eq!(u64::from_str_radix(value(rights), 16), Ok(0), "{status}");
        }
    }
    let mut notice = TcpStream::connect(NOTICE.parse::<SocketAddr>().unwrap()).unwrap();
    notice.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut page = String::new();
    notice.read_to_string(&mut page).unwrap();
    assert!(page.contains("This is a Tunic exit"), "{page}");
    kill_process(Pid::from_child(&running.0), Signal::TERM).unwrap();
    assert_eq!(running.0.wait().unwrap().code(), Some(0));
    drop(dir);
}

#[test]
fn a_check_by_root_looks_with_that_users_eyes() {
    let Some(number) = user() else { return };
    let (dir, config) = place("");
    let data = dir.path().join("data");
    let check = || {
        let output = relay("check", &config).arg("--offline").output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), text)
    };
    let (code, said) = check();
    assert_eq!(code, Some(0), "{said}");
    assert!(!data.exists(), "a check makes nothing");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, Permissions::from_mode(0o700)).unwrap();
    let (code, said) = check();
    assert!(code == Some(77) && said.contains(&format!("runs as user {number}")), "{said}");
    chown(&data, Some(number), None).unwrap();
    let (code, said) = check();
    assert_eq!(code, Some(0), "{said}");
    fs::set_permissions(&config, Permissions::from_mode(0o600)).unwrap();
    let (code, said) = check();
    assert!(code == Some(78) && said.contains(&format!("{USER} cannot read it")), "{said}");
}

#[test]
fn a_check_by_root_says_which_ports_the_shipped_unit_may_not_open() {
    if user().is_none() || !is_free(OTHER_NOTICE) {
        return;
    }
    let (_dir, config) = place(&format!("[exit]\nnotice = {OTHER_NOTICE:?}"));
    let output = relay("check", &config).arg("--offline").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains(&format!("warning: `exit.notice` is {OTHER_NOTICE}")), "{said}");
}
