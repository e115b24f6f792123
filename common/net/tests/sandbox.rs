//! The sandbox from inside: this test starts itself again as a process that enters the sandbox and then tries something.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed setup is a failed test")]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use tunic_net::keyfile::{ensure_private_dir, write_private};
use tunic_net::sandbox::{self, Hold, Paths};

/// Which act the process inside is to try.
const ACT: &str = "TUNIC_TEST_ACT";
/// The folder with `config/`, `data/` and `elsewhere/`.
const DIR: &str = "TUNIC_TEST_DIR";

fn folders() -> tempfile::TempDir {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for name in ["config", "data", "elsewhere"] {
        ensure_private_dir(&dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("file"), "x").unwrap();
    }
    dir
}

/// Has a process inside the sandbox do this, and tells how it ended.
fn inside(act: &str) -> ExitStatus {
    let dir = folders();
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "the_process_inside", "--ignored", "--test-threads", "1"]);
    again.env(ACT, act).env(DIR, dir.path()).status().unwrap()
}

#[track_caller]
fn check_works(act: &str) {
    assert!(inside(act).success(), "{act}");
}

#[test]
fn what_a_daemon_does_works_inside() {
    for act in ["keys", "config", "resolve", "connect", "threads", "look at itself"] {
        check_works(act);
    }
}

#[test]
fn a_file_outside_is_refused() {
    for act in ["read elsewhere", "write elsewhere", "write config"] {
        check_works(act);
    }
}

#[test]
fn a_call_outside_the_list_is_refused() {
    for act in ["raw socket", "change of user"] {
        check_works(act);
    }
}

#[test]
fn running_a_program_ends_the_process() {
    assert_eq!(inside("execute").signal(), Some(libc::SIGSYS));
}

#[test]
#[ignore = "is started by the other tests, with what it has to try"]
fn the_process_inside() {
    let dir = PathBuf::from(std::env::var_os(DIR).unwrap());
    let paths = Paths { read: vec![dir.join("config")], write: vec![dir.join("data")] };
    let confined = sandbox::enter(&paths);
    assert_ne!(confined.files, Hold::None(String::new()));
    assert_eq!(confined.calls, Hold::Full, "{confined}");
    if matches!(confined.files, Hold::None(_)) {
        println!("files: skipped, {confined}");
        return;
    }
    act(&std::env::var(ACT).unwrap(), &dir);
}

fn act(what: &str, dir: &Path) {
    let refused = |result: std::io::Result<()>| {
        assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied, "{what}");
    };
    match what {
        "keys" => {
            let file = dir.join("data/keys/identity.key");
            ensure_private_dir(file.parent().unwrap()).unwrap();
            write_private(&file, b"secret").unwrap();
            write_private(&file, b"another").unwrap();
            fs::remove_file(&file).unwrap();
        }
        "config" => assert_eq!(fs::read_to_string(dir.join("config/file")).unwrap(), "x"),
        "resolve" => {
            let mut found = std::net::ToSocketAddrs::to_socket_addrs("localhost:1").unwrap();
            assert!(found.next().is_some());
            // A name that is nowhere takes the resolver all the way, and is no reason to die.
            assert!(std::net::ToSocketAddrs::to_socket_addrs("a.invalid:1").is_err());
        }
        "connect" => {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            listener.accept().unwrap();
        }
        "threads" => {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                tokio::spawn(async { tokio::time::sleep(std::time::Duration::from_millis(1)).await })
                    .await
                    .unwrap();
                tokio::task::spawn_blocking(|| ()).await.unwrap();
            });
        }
        "look at itself" => {
            assert!(fs::read_to_string("/proc/thread-self/status").unwrap().contains("Seccomp:\t2"))
        }
        "read elsewhere" => refused(fs::read(dir.join("elsewhere/file")).map(|_| ())),
        "write elsewhere" => refused(fs::write(dir.join("elsewhere/new"), "x")),
        "write config" => refused(fs::write(dir.join("config/file"), "y")),
        "raw socket" => {
            let packet = socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::RAW, None);
            refused(packet.map(|_| ()));
        }
        "change of user" => {
            // Not among the calls that end the process: it is merely not on the list.
            let refused_call = rustix::thread::set_thread_uid(rustix::process::getuid());
            assert_eq!(refused_call, Err(rustix::io::Errno::PERM));
        }
        "execute" => {
            let error = std::os::unix::process::CommandExt::exec(&mut Command::new("/bin/true"));
            panic!("the process inside lives on: {error}");
        }
        other => panic!("{other}"),
    }
}
