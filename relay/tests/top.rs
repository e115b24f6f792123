//! `tunic-relay top` beside a running relay: as text, and in a terminal whose screen is read.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

#[path = "support/authority.rs"]
mod authority;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use tunic_net::channel::{HopSpec, Node, NodeConfig, Peer};
use tunic_net::daemon::unix_now;
use tunic_net::keyfile::ensure_private_dir;
use tunic_net::keys::NodeKeys;

use authority::AUTHORITY;

const RELAY: &str = env!("CARGO_BIN_EXE_tunic-relay");
/// How often a condition is looked at, and how long it may take.
const LOOK: Duration = Duration::from_millis(50);
const LOOKS: usize = 1_200;

#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..LOOKS {
        if is_so() {
            return;
        }
        sleep(LOOK);
    }
    panic!("waited in vain: {what}");
}

/// A relay that runs, killed when dropped.
struct Relay {
    dir: tempfile::TempDir,
    socket: TcpListener,
    hop: HopSpec,
    child: Child,
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Relay {
    fn start() -> Relay {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        ensure_private_dir(&data).unwrap();
        let keys = NodeKeys::create(&data.join("keys"), unix_now()).unwrap();
        let hop = HopSpec { id: keys.signer.id(), onion_key: keys.onion[0].public() };
        let text = format!(
            "listen = \"127.0.0.1:0\"\nnickname = \"watched\"\nallow_private_relays = true\ndrain_s = 0\n\
             data_dir = {data:?}\n{AUTHORITY}"
        );
        let config = dir.path().join("relay.toml");
        std::fs::write(&config, text).unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let child = spawn(&config, &socket);
        let relay = Relay { dir, socket, hop, child };
        relay.wait_until_it_tells();
        relay
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("relay.toml")
    }

    fn wait_until_it_tells(&self) {
        let control = self.dir.path().join("data/control.sock");
        wait_until("the control socket", || UnixStream::connect(&control).is_ok());
    }

    fn stop(&mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    fn start_again(&mut self) {
        self.child = spawn(&self.config(), &self.socket);
    }

    fn top(&self) -> Command {
        let mut top = Command::new(RELAY);
        top.args(["top", "--config"]).arg(self.config());
        top.env_remove("COLUMNS").env_remove("LINES");
        top
    }
}

fn spawn(config: &Path, socket: &TcpListener) -> Child {
    let script = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" run --config \"$1\" 3<&0 0</dev/null";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, RELAY]).arg(config);
    shell.stdin(OwnedFd::from(socket.try_clone().unwrap())).stderr(Stdio::null());
    shell.env_remove("TUNIC_LOG").spawn().unwrap()
}

/// A program in a terminal of 80 columns and 24 lines, and its screen.
struct Terminal {
    child: Child,
    master: File,
    slave: File,
    screen: Arc<Mutex<vt100::Parser>>,
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Terminal {
    fn start(mut program: Command) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let name = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let slave = OpenOptions::new().read(true).write(true).open(name).unwrap();
        let master = File::from(master);
        resize(&master, 24, 80);
        let end = || Stdio::from(slave.try_clone().unwrap());
        let child = program.env("TERM", "xterm").stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let screen = Arc::new(Mutex::new(vt100::Parser::new(24, 80, 0)));
        let (mut output, drawn) = (master.try_clone().unwrap(), Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                drawn.lock().unwrap().process(&buffer[..count]);
            }
        });
        Terminal { child, master, slave, screen }
    }

    fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    #[track_caller]
    fn wait_for(&self, text: &str) {
        wait_until(&format!("{text:?} in\n{}", self.text()), || self.text().contains(text));
    }

    fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for the end, which leaves the terminal as it was.
    fn ended(&mut self) {
        wait_until("the end", || self.child.try_wait().unwrap().is_some());
        assert!(self.child.wait().unwrap().success());
        wait_until("the other screen", || !self.screen.lock().unwrap().screen().alternate_screen());
        assert!(!self.screen.lock().unwrap().screen().hide_cursor());
        let modes = tcgetattr(&self.slave).unwrap().local_modes;
        assert!(modes.contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG), "{modes:?}");
    }
}

fn resize(terminal: &File, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_screen_as_text_tells_what_a_neighbour_costs_and_not_who_it_is() {
    let relay = Relay::start();
    let node = Node::new(NodeConfig { signer: None, responder: None, memory_budget: 16 << 20 }).unwrap();
    let address = relay.socket.local_addr().unwrap();
    let channel = node.connect(&Peer { id: relay.hop.id, addresses: vec![address] }).await.unwrap();
    let _circuit = channel.create_circuit(vec![relay.hop.clone()]).await.unwrap();
    let mut text = String::new();
    // One more while it calls the authority, which is not there.
    wait_until("one channel alone", || {
        let top = relay.top().arg("--once").output().unwrap();
        text = String::from_utf8([top.stdout, top.stderr].concat()).unwrap();
        assert_eq!(top.status.code(), Some(0), "{text}");
        text.contains("channels 1 ")
    });
    assert_eq!(text.lines().count(), 24, "{text}");
    let shown = [
        "tunic-relay 0.1.0  watched  relay  up ",
        "ends here    1",
        "client 1 ",
        "problem: no consensus in force",
        "listening on port",
    ];
    for expect in shown {
        assert!(text.contains(expect), "no {expect:?} in\n{text}");
    }
    assert!(!text.contains("127.0.0.1") && !text.contains(&relay.hop.id.to_string()), "{text}");
}

#[test]
fn the_screen_follows_the_relay_and_the_terminal_is_left_as_it_was() {
    let mut relay = Relay::start();
    let mut top = Terminal::start(relay.top());
    top.wait_for("watched");
    top.wait_for("what costs most, by traffic");
    assert!(top.screen.lock().unwrap().screen().alternate_screen());
    top.press("p");
    top.wait_for("PAUSED");
    top.press("p\u{1b}[C");
    top.wait_for("by handshakes");
    // A larger window is used to its last line.
    top.screen.lock().unwrap().screen_mut().set_size(40, 100);
    resize(&top.master, 40, 100);
    wait_until("a last line", || {
        top.screen.lock().unwrap().screen().rows(0, 100).nth(39).is_some_and(|line| line.contains("q quit"))
    });
    relay.stop();
    top.wait_for("the relay has ended");
    relay.start_again();
    wait_until("the relay is followed again", || !top.text().contains("the relay has ended"));
    top.press("q");
    top.ended();

    let mut top = Terminal::start(relay.top());
    top.wait_for("watched");
    kill_process(Pid::from_child(&top.child), Signal::TERM).unwrap();
    top.ended();
}

#[test]
fn without_a_relay_or_a_terminal_it_is_said_what_to_do() {
    let mut relay = Relay::start();
    let piped = relay.top().stdout(Stdio::piped()).output().unwrap();
    assert!(String::from_utf8(piped.stderr).unwrap().contains("--once"));
    relay.stop();
    let none = relay.top().arg("--once").output().unwrap();
    let said = String::from_utf8(none.stderr).unwrap();
    assert!(none.status.code() == Some(1) && said.contains("is it running"), "{said}");
}
