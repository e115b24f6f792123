//! The sandbox from inside: this test starts itself again as a process that enters the sandbox and then tries something.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed setup is a failed test")]

use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use tunic_net::daemon::{open_unix, prepare_unix};
use tunic_net::keyfile::{ensure_private_dir, write_private};
use tunic_net::sandbox::{self, Hold, Paths};

/// Which act the process inside is to try.
const ACT: &str = "TUNIC_TEST_ACT";
/// The folder with `config/`, `data/` and `elsewhere/`.
const DIR: &str = "TUNIC_TEST_DIR";

fn folders() -> tempfile::TempDir {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for name in ["config", "data", "elsewhere", "sockets"] {
        ensure_private_dir(&dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("file"), "x").unwrap();
    }
    fs::write(dir.path().join("elsewhere/target"), "y").unwrap();
    std::os::unix::fs::symlink("../elsewhere/target", dir.path().join("config/link")).unwrap();
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
    for act in [
        "keys",
        "config",
        "link",
        "socket",
        "daemon's socket",
        "resolve",
        "connect",
        "threads",
        "look at itself",
    ] {
        check_works(act);
    }
}

#[test]
fn a_file_outside_is_refused() {
    for act in ["read elsewhere", "write elsewhere", "write config", "files beside a socket"] {
        check_works(act);
    }
}

#[test]
fn a_call_outside_the_list_is_refused() {
    for act in ["raw socket", "netlink socket", "change of user", "namespace"] {
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
    let paths = Paths {
        read: vec![dir.join("config"), dir.join("config/link")],
        write: vec![dir.join("data")],
        sockets: vec![dir.join("sockets/new.sock")],
    };
    prepare_unix(&paths.sockets[0]).unwrap();
    let confined = sandbox::enter(&paths);
    assert_ne!(confined.files, Hold::None(String::new()));
    assert_eq!(confined.calls, Hold::Full, "{confined}");
    if matches!(confined.files, Hold::None(_)) {
        println!("files: skipped, {confined}");
        return;
    }
    act(&std::env::var(ACT).unwrap(), &dir);
}

/// How the kernel refuses a process with these flags.
#[expect(unsafe_code, reason = "no safe function asks for a process in a namespace of its own")]
fn clone(flags: i32) -> i32 {
    // SAFETY: as fork(2) where it succeeds, and then the child ends at once.
    let made = unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) };
    if made == 0 {
        std::process::exit(0);
    }
    if made > 0 { 0 } else { io::Error::last_os_error().raw_os_error().unwrap() }
}

/// How the kernel refuses a process that is described nowhere.
#[expect(unsafe_code, reason = "no safe function calls clone3")]
fn clone3() -> i32 {
    // SAFETY: a description of no bytes at no address makes nothing.
    let made = unsafe { libc::syscall(libc::SYS_clone3, 0, 0) };
    assert_eq!(made, -1);
    io::Error::last_os_error().raw_os_error().unwrap()
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
        "link" => assert_eq!(fs::read_to_string(dir.join("config/link")).unwrap(), "y"),
        "socket" => {
            let path = dir.join("sockets/new.sock");
            for _ in 0..2 {
                let listener = UnixListener::bind(&path).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
                drop(listener);
                fs::remove_file(&path).unwrap();
            }
        }
        "daemon's socket" => {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let _inside = runtime.enter();
            let path = dir.join("sockets/new.sock");
            // The second time the first one's is left behind.
            for _ in 0..2 {
                drop(open_unix(&path).unwrap());
            }
            let _ours = open_unix(&path).unwrap();
            std::os::unix::net::UnixStream::connect(&path).unwrap();
            assert!(open_unix(&path).is_err());
        }
        "files beside a socket" => {
            refused(fs::read(dir.join("sockets/new.sock.lock")).map(|_| ()));
            refused(fs::read(dir.join("sockets/file")).map(|_| ()));
            refused(fs::write(dir.join("sockets/file"), "y"));
            refused(fs::write(dir.join("sockets/new"), "y"));
        }
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
        "netlink socket" => {
            let netlink = socket2::Domain::from(libc::AF_NETLINK);
            let open = |protocol: i32| {
                socket2::Socket::new(netlink, socket2::Type::RAW, Some(protocol.into())).map(|_| ())
            };
            open(libc::NETLINK_ROUTE).unwrap();
            refused(open(libc::NETLINK_KOBJECT_UEVENT));
            refused(open(libc::NETLINK_NETFILTER));
        }
        "namespace" => {
            assert_eq!(clone(libc::CLONE_NEWUSER), libc::EPERM);
            assert_eq!(clone(libc::CLONE_NEWNET), libc::EPERM);
            assert_eq!(clone3(), libc::ENOSYS);
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
