//! A network that a test started, and that cannot outlive it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tunic_testnet::screen::Announcement;

use crate::processes::{self, wait_until};

const READY_LIMIT: Duration = Duration::from_secs(120);
const END_LIMIT: Duration = Duration::from_secs(30);

/// The network that all tests share which leave it as they found it. It ends with the test process, whose death
/// closes its stdin.
pub fn shared() -> &'static TestNetwork {
    static SHARED: LazyLock<TestNetwork> = LazyLock::new(|| TestNetwork::start(&[]));
    &SHARED
}

pub struct TestNetwork {
    parent: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    stderr: tempfile::NamedTempFile,
    pub up: Announcement,
}

impl TestNetwork {
    /// Starts `up` with these arguments beside the usual ones, and waits until it says that it works.
    pub fn start(args: &[&str]) -> TestNetwork {
        let stderr = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tunic-testnet"));
        command.args(["up", "--json", "--socks", "127.0.0.1:0", "--until-stdin-closes"]).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr.reopen().unwrap());
        command.env_remove("TUNIC_LOG");
        let mut parent = command.spawn().unwrap();
        let stdin = parent.stdin.take();
        let (line, stdout) = first_line(&mut parent, stderr.path());
        let up = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        TestNetwork { parent, stdin, stdout, stderr, up }
    }

    pub fn parent_pid(&self) -> u32 {
        self.parent.id()
    }

    /// What `up` has said on stderr so far.
    pub fn said(&self) -> String {
        fs::read_to_string(self.stderr.path()).unwrap()
    }

    /// A value of a node's configuration file.
    pub fn setting(&self, name: &str, key: &str) -> String {
        let text = fs::read_to_string(self.up.dir.join(format!("{name}.toml"))).unwrap();
        let table: toml::Table = text.parse().unwrap();
        table[key].as_str().unwrap().to_owned()
    }

    /// The process of the relay with this nickname.
    pub fn relay_pid(&self, nickname: &str) -> u32 {
        let number: usize = nickname.trim_start_matches("relay").parse().unwrap();
        self.up.pids.relay[number - 1]
    }

    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Waits for the parent to end.
    pub fn ended(&mut self) -> ExitStatus {
        wait_for_end(&mut self.parent)
    }

    /// Everything on stdout after the first line. To be called when the parent has ended.
    pub fn rest_of_stdout(&mut self) -> String {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        rest
    }

    /// Every node runs.
    pub fn assert_all_alive(&self) {
        for pid in self.up.pids.all() {
            assert!(processes::is_alive(pid), "process {pid} of {:?} has ended", self.up.pids);
        }
    }
}

/// The program with any command line, killed when the test ends.
pub struct Started {
    child: Child,
    stderr: tempfile::NamedTempFile,
}

impl Started {
    /// Starts it; its temporary folders go to this place.
    pub fn new(args: &[&str], place: &Path) -> Started {
        let stderr = tempfile::NamedTempFile::new().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tunic-testnet"));
        command.args(args).env("TMPDIR", place).env_remove("TUNIC_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr.reopen().unwrap());
        Started { child: command.spawn().unwrap(), stderr }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said on stderr so far.
    pub fn said(&self) -> String {
        fs::read_to_string(self.stderr.path()).unwrap()
    }

    /// Waits for its end.
    pub fn ended(&mut self) -> ExitStatus {
        wait_for_end(&mut self.child)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for_end(child: &mut Child) -> ExitStatus {
    let mut status = None;
    wait_until(END_LIMIT, "it has ended", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

impl Drop for TestNetwork {
    fn drop(&mut self) {
        self.close_stdin();
        let deadline = Instant::now() + END_LIMIT;
        while matches!(self.parent.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.parent.kill();
                let _ = self.parent.wait();
                return;
            }
            thread::sleep(processes::POLL);
        }
    }
}

/// Reads the first line with a deadline. A network that does not come up ends the test with what it said.
fn first_line(parent: &mut Child, stderr: &Path) -> (String, BufReader<ChildStdout>) {
    let mut stdout = BufReader::new(parent.stdout.take().unwrap());
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        let _ = stdout.read_line(&mut line);
        let _ = sender.send((line, stdout));
    });
    match receiver.recv_timeout(READY_LIMIT) {
        Ok((line, stdout)) if line.ends_with('\n') => (line, stdout),
        _ => {
            let _ = parent.kill();
            let _ = parent.wait();
            let said = fs::read_to_string(stderr).unwrap();
            panic!("the network did not come up:\n{said}");
        }
    }
}
