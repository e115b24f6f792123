//! The daemons run on the launcher's files: nothing about a private network is special.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::network::TestNetwork;
use crate::processes::{self, wait_until};
use crate::server::serve_echo;
use crate::socks;

const LIMIT: Duration = Duration::from_secs(90);

/// A daemon that a test started, killed when the test ends.
pub struct Daemon {
    name: String,
    child: Child,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Builds the daemons with the profile of this test. Cargo builds only the binaries of the package under test on its own.
pub fn built_daemons() -> PathBuf {
    let bin = Path::new(env!("CARGO_BIN_EXE_tunic-testnet")).parent().unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "--bins"]);
    cargo.args(["-p", "tunic-directory", "-p", "tunic-relay", "-p", "tunic-client"]);
    cargo.arg("--target-dir").arg(bin.parent().unwrap());
    if bin.file_name().is_some_and(|profile| profile == "release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().unwrap().success(), "the daemons do not build");
    bin.to_path_buf()
}

pub fn start(bin: &Path, dir: &Path, role: &str, name: &str) -> Daemon {
    let mut command = Command::new(bin.join(format!("tunic-{role}")));
    command.arg("run").arg("--config").arg(dir.join(format!("{name}.toml")));
    let log = File::options().append(true).create(true).open(dir.join("logs").join(format!("{name}.log")));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.unwrap());
    Daemon { name: name.to_owned(), child: command.spawn().unwrap() }
}

#[test]
fn the_daemons_run_on_the_launchers_files() {
    let bin = built_daemons();
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("network");
    let mut network = TestNetwork::start(&[
        "--authorities",
        "1",
        "--relays",
        "3",
        "--exits",
        "1",
        "--dir",
        dir.to_str().unwrap(),
    ]);
    let socks = network.up.socks;
    network.close_stdin();
    assert!(network.ended().success());
    assert!(dir.join("relay1.toml").exists(), "a folder that was asked for is kept");

    let relays = ["relay1", "relay2", "relay3"].map(|name| ("relay", name));
    let nodes = [("directory", "authority1")].into_iter().chain(relays).chain([("client", "client")]);
    let mut daemons: Vec<Daemon> = nodes.map(|(role, name)| start(&bin, &dir, role, name)).collect();
    let target = serve_echo();
    wait_until(LIMIT, "the client listens", || std::net::TcpStream::connect(socks).is_ok());
    wait_until(LIMIT, "a stream works", || {
        let (code, mut stream) = socks::request(socks, &target.ip().to_string(), target.port());
        code == socks::SUCCEEDED && socks::ping(&mut stream).is_ok()
    });

    for daemon in &mut daemons {
        processes::send(daemon.child.id(), Signal::TERM);
        let mut status = None;
        wait_until(LIMIT, &format!("{} has ended", daemon.name), || {
            status = daemon.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.unwrap().success(), "{}: {status:?}", daemon.name);
    }
}
