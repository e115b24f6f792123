//! The relay as a service: what its manager is told, what SIGHUP changes, how it ends, how it is started again.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

#[path = "support/authority.rs"]
mod authority;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tunic_net::channel::{Channel, Circuit, CircuitStatus, HopSpec, Node, NodeConfig, Peer};
use tunic_net::daemon::unix_now;
use tunic_net::keyfile::ensure_private_dir;
use tunic_net::keys::NodeKeys;
use tunic_proto::message::DestroyReason;

use authority::AUTHORITY;

const PATIENCE: Duration = Duration::from_secs(30);

/// The files of a relay, and who it is.
struct Files {
    dir: tempfile::TempDir,
    hop: HopSpec,
}

impl Files {
    fn make(more: &str) -> Files {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        ensure_private_dir(&data).unwrap();
        let keys = NodeKeys::create(&data.join("keys"), unix_now()).unwrap();
        let hop = HopSpec { id: keys.signer.id(), onion_key: keys.onion[0].public() };
        let files = Files { dir, hop };
        files.configure(more);
        files
    }

    fn configure(&self, more: &str) {
        let data = self.dir.path().join("data");
        let text = format!("listen = \"127.0.0.1:0\"\ndata_dir = {data:?}\n{more}\n{AUTHORITY}");
        std::fs::write(self.config(), text).unwrap();
    }

    /// The way to the relay and no further.
    fn hops(&self) -> Vec<HopSpec> {
        vec![self.hop.clone()]
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("relay.toml")
    }
}

/// A running relay with the socket that it was handed, killed when dropped.
struct Relay {
    child: Child,
    log: mpsc::Receiver<String>,
    seen: Vec<String>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Relay {
    /// Starts it as a service manager does: the socket is file 3, and `LISTEN_PID` is the relay's own.
    fn start(files: &Files, socket: &TcpListener, environment: &[(&str, &str)]) -> Relay {
        let script = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" run --config \"$1\" 3<&0 0</dev/null";
        let mut shell = Command::new("sh");
        shell.args(["-c", script, env!("CARGO_BIN_EXE_tunic-relay")]).arg(files.config());
        shell.stdin(OwnedFd::from(socket.try_clone().unwrap())).stderr(Stdio::piped());
        shell.env_remove("TUNIC_LOG").envs(environment.iter().copied());
        let mut child = shell.spawn().unwrap();
        let (tell, log) = mpsc::channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Relay { child, log, seen: Vec::new() }
    }

    fn wait_for(&mut self, text: &str) {
        while !self.seen.last().is_some_and(|line| line.contains(text)) {
            let line = self.log.recv_timeout(PATIENCE);
            self.seen.push(line.unwrap_or_else(|_| panic!("no {text:?} in {:#?}", self.seen)));
        }
    }

    fn send(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end, and asserts that it was in order.
    fn ended(&mut self) {
        self.wait_for("ended in order");
        assert!(self.child.wait().unwrap().success());
    }
}

/// A relay with a circuit.
struct InUse {
    files: Files,
    at: SocketAddr,
    relay: Relay,
    channel: Channel,
    circuit: Circuit,
}

impl InUse {
    async fn start(settings: &str) -> InUse {
        let files = Files::make(settings);
        let (socket, at) = socket();
        let relay = Relay::start(&files, &socket, &[]);
        let channel = connect(&files, at).await;
        let circuit = channel.create_circuit(files.hops()).await.unwrap();
        InUse { files, at, relay, channel, circuit }
    }
}

fn socket() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    (listener, at)
}

async fn connect(files: &Files, at: SocketAddr) -> Channel {
    let node = Node::new(NodeConfig { signer: None, responder: None, memory_budget: 16 << 20 }).unwrap();
    node.connect(&Peer { id: files.hop.id, addresses: vec![at] }).await.unwrap()
}

/// Plays the service manager: everything that the relay tells it.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(dir: &Path) -> Manager {
        let path = dir.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Manager { socket, path }
    }

    fn wait_for(&self, text: &str) -> String {
        let mut buffer = [0; 4_096];
        loop {
            let length = self.socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no {text:?}: {error}"));
            let said = std::str::from_utf8(&buffer[..length]).unwrap();
            if said.contains(text) {
                return said.to_owned();
            }
        }
    }
}

#[test]
fn the_service_manager_learns_how_the_relay_is() {
    let files = Files::make("");
    let manager = Manager::new(files.dir.path());
    let (socket, _) = socket();
    let path = manager.path.to_str().unwrap();
    let mut relay = Relay::start(&files, &socket, &[("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "100000")]);
    assert_eq!(manager.wait_for("STATUS"), "STATUS=listening\n");
    manager.wait_for("READY=1");
    manager.wait_for("WATCHDOG=1");
    relay.send(Signal::HUP);
    assert!(manager.wait_for("RELOADING=1").contains("MONOTONIC_USEC="));
    manager.wait_for("READY=1");
    relay.send(Signal::TERM);
    manager.wait_for("STOPPING=1");
    relay.ended();
}

#[test]
fn sighup_changes_what_can_change_and_names_the_rest() {
    let files = Files::make("nickname = \"before\"");
    let (socket, _) = socket();
    let mut relay = Relay::start(&files, &socket, &[]);
    relay.wait_for("listening");
    files.configure("nickname = \"after\"\nmemory_budget = 99999999\n[exit]\npolicy = [\"accept *:443\"]");
    relay.send(Signal::HUP);
    relay.wait_for("only a restart can change `memory_budget`");
    relay.wait_for("changed `exit.policy`, `nickname`");
    files.configure("nickname = \"not a nickname\"");
    relay.send(Signal::HUP);
    relay.wait_for("the old one stays in force");
    files.configure("nickname = \"after\"\nlog = \"debug\"\n[exit]\npolicy = [\"accept *:443\"]");
    relay.send(Signal::HUP);
    relay.wait_for("configuration read again: changed `log`");
    relay.wait_for("finer than `info`");
    assert!(
        relay.seen.iter().all(|line| !line.contains("after") && !line.contains(":443")),
        "{:?}",
        relay.seen
    );
    relay.send(Signal::TERM);
    relay.ended();
}

/// The answer of a page.
fn page(at: SocketAddr) -> String {
    let mut tcp = TcpStream::connect(at).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).unwrap();
    answer
}

/// What SIGHUP changes is in force a moment after it is logged.
#[track_caller]
fn until_the_page_says(at: SocketAddr, text: &str) {
    for _ in 0..600 {
        if page(at).contains(text) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("no {text:?} in {}", page(at));
}

#[test]
fn sighup_changes_what_the_notice_says_and_whether_there_is_one() {
    let at = socket().1;
    let exit = |enabled: bool, more: &str| format!("[exit]\nenabled = {enabled}\nnotice = \"{at}\"\n{more}");
    let files = Files::make(&exit(false, ""));
    let (socket, _) = socket();
    let mut relay = Relay::start(&files, &socket, &[]);
    relay.wait_for("listening");
    assert!(page(at).starts_with("HTTP/1.1 404"), "it is no exit");
    files.configure(&format!("contact = \"one@example.org\"\n{}", exit(true, "")));
    relay.send(Signal::HUP);
    until_the_page_says(at, "<p>one@example.org</p>");
    files.configure(&format!("contact = \"two@example.org\"\n{}", exit(true, "allow_private = true")));
    relay.send(Signal::HUP);
    relay.wait_for("names are looked up as before");
    until_the_page_says(at, "<p>two@example.org</p>");
    files.configure(&exit(false, ""));
    relay.send(Signal::HUP);
    until_the_page_says(at, "HTTP/1.1 404");
    relay.send(Signal::TERM);
    relay.ended();
}

#[test]
fn a_check_of_a_relay_that_runs_does_not_take_its_ports_for_somebody_elses() {
    let metrics = socket().1;
    let files = Files::make(&format!("[metrics]\nlisten = \"{metrics}\""));
    let check = || {
        let mut check = Command::new(env!("CARGO_BIN_EXE_tunic-relay"));
        let output = check.args(["check", "--offline", "--config"]).arg(files.config()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (socket, _) = socket();
    let mut relay = Relay::start(&files, &socket, &[]);
    relay.wait_for("listening");
    let (code, said) = check();
    assert!(code == Some(0) && said.contains("ok: this relay runs"), "{said}");
    relay.send(Signal::TERM);
    relay.ended();
    let _somebody = TcpListener::bind(metrics).unwrap();
    let (code, said) = check();
    assert!(code == Some(69) && said.contains("`metrics.listen`"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn circuits_go_on_while_the_relay_drains_and_no_new_ones_are_made() {
    let InUse { files, at, mut relay, channel, circuit } = InUse::start("drain_s = 600").await;
    relay.send(Signal::TERM);
    relay.wait_for("no new circuits; 1 have up to 600 s");
    assert!(channel.create_circuit(files.hops()).await.is_err());
    // Who comes now is not refused, only its circuits are.
    assert!(connect(&files, at).await.create_circuit(files.hops()).await.is_err());
    let mut stream = circuit.begin_dir().unwrap();
    stream.connected().await.unwrap();
    drop((stream, circuit));
    relay.ended();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_the_relay_at_once() {
    let mut used = InUse::start("drain_s = 600").await;
    used.relay.send(Signal::TERM);
    used.relay.wait_for("no new circuits");
    used.relay.send(Signal::TERM);
    used.relay.ended();
    used.circuit.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_is_over_ends_its_circuits_with_destroy() {
    let mut used = InUse::start("drain_s = 1").await;
    used.relay.send(Signal::TERM);
    // By DESTROY, and not because the connection broke.
    let ended = used.circuit.closed().await;
    assert!(
        matches!(ended, CircuitStatus::Closed(reason) if reason != DestroyReason::ChannelLost),
        "{ended:?}"
    );
    used.relay.ended();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_refuses_no_connection() {
    let files = Files::make("");
    let (socket, at) = socket();
    let mut first = Relay::start(&files, &socket, &[]);
    connect(&files, at).await;
    first.send(Signal::TERM);
    first.ended();
    // Nobody is there: who calls now waits, and is answered by the next one.
    let calling = connect(&files, at);
    let mut second = None;
    let starting = async {
        tokio::net::TcpStream::connect(at).await.expect("the socket listens on");
        second = Some(Relay::start(&files, &socket, &[]));
    };
    let (channel, ()) = tokio::join!(calling, starting);
    channel.create_circuit(files.hops()).await.unwrap();
}

#[test]
fn the_running_relay_is_confined() {
    let files = Files::make("");
    let (socket, _) = socket();
    let mut relay = Relay::start(&files, &socket, &[]);
    relay.wait_for("sandbox: files confined, system calls confined");
    relay.wait_for("listening");
    let pid = relay.child.id();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
        assert_eq!((value("Seccomp:"), value("NoNewPrivs:")), ("2", "1"), "{status}");
    }
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
}
