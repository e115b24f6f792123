//! What memory a network holds: `cargo bench -p tunic-testnet --bench memory`, Linux. `-- 500` takes fewer circuits.
//!
//! 1. A client and relays that do nothing, resident.
//! 2. A relay through which 10,000 circuits go that do nothing: what each adds.
//! 3. The same circuits, each with a stream that somebody fills. Their client does not read its channel any more, so the
//!    cells stand in the relay: the most that it ever holds, beside what it may, and what that does to the round trip of
//!    somebody else on a circuit through it.
//!
//! The relay is one of the network's, started again with the limit below, and so is the exit, with more: it is not to be the one that
//! runs out. The figures that have a goal are printed last.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tunic_client::config::Config;
use tunic_net::channel::{Channel, Circuit, CircuitStream, HopSpec, Node, NodeConfig, Peer};
use tunic_net::daemon::unix_now;
use tunic_net::dirstream;
use tunic_proto::dir::{AuthoritySet, Consensus, RelayEntry, Request, Response, UncheckedConsensus};
use tunic_proto::message::Target;
use tunic_proto::time::UnixTime;
use tunic_testnet::screen::Announcement;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tunic-testnet");
const CIRCUITS: usize = 10_000;
/// Circuits that are being built at the same time.
const AT_ONCE: usize = 64;
/// What the relay may hold: less than the 312 MiB that the first windows of 10,000 circuits are.
const MEMORY_MAX: u64 = 256 << 20;
/// Of this program's own end.
const OWN_BUDGET: usize = 4 << 30;
/// Of the exit's queues: more than what 10,000 streams and their circuits reserve, which is 470 MiB.
const EXIT_BUDGET: i64 = 1 << 30;
/// How long memory must stay the same before it counts.
const STILL: Duration = Duration::from_secs(5);
/// How long round trips are measured where nothing else ends it.
const ROUND_TRIPS: Duration = Duration::from_secs(3);
/// What each stream is given: its circuit takes 64 cells and the exit's end 16 more.
const FLOOD_LEN: usize = 64 << 10;
/// The streams have come to the exit when none came for so long.
const FLOOD_OVER: Duration = Duration::from_millis(500);
/// How long a round trip may take, and the first of these streams.
const PATIENCE: Duration = Duration::from_secs(60);
const MIB: f64 = (1 << 20) as f64;

#[tokio::main]
async fn main() {
    let mut network = Network::start();
    tokio::time::sleep(STILL).await;
    let client = resident(network.up.pids.client[0]);
    let relays = network.up.pids.relay.iter().map(|pid| resident(*pid)).fold(0.0, f64::max);
    println!("idle: the client {:.1} MiB, the largest relay {:.1} MiB", client / MIB, relays / MIB);

    let consensus = network.consensus().await;
    let middle = consensus.relays.iter().find(|relay| !relay.exit.is_exit()).unwrap();
    let exit = consensus.relays.iter().find(|relay| relay.exit.is_exit()).unwrap();
    let middle_pid = network.restart(middle, |settings| {
        settings.insert("memory_max".into(), MEMORY_MAX.cast_signed().into());
        let limits = settings.entry("limits").or_insert_with(|| toml::Table::new().into());
        limits.as_table_mut().unwrap().insert("circuits_per_client".into(), 65_536.into());
    });
    network.restart(exit, |settings| {
        settings.insert("memory_budget".into(), EXIT_BUDGET.into());
        let limits = settings.entry("limits").or_insert_with(|| toml::Table::new().into());
        limits.as_table_mut().unwrap().insert("streams_per_neighbour".into(), 65_536.into());
    });
    let echo = serve(echo).await;
    // With threads of its own: the round trips of others are not to wait for this program's own work.
    let floods = Runtime::new().unwrap();
    let flood = floods.spawn(serve(flood)).await.unwrap();

    let node = own_node();
    let honest = connect(&node, middle).await.create_circuit(hops(&[middle, exit])).await.unwrap();
    let mut honest = open(&honest, echo).await;
    let before = round_trips_for(&mut honest, ROUND_TRIPS).await;

    let idle = resident_when_still(middle_pid).await;
    let count = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(CIRCUITS);
    let (reads, may_read) = watch::channel(true);
    let stalling = Valve::open(middle.addresses[0], may_read).await;
    let stalled_node = own_node();
    let channel = connect_at(&stalled_node, middle, stalling).await;
    let circuits = build(&channel, hops(&[middle, exit]), count).await;
    let open_circuits = resident_when_still(middle_pid).await;
    let each = (open_circuits - idle) / circuits.len() as f64;
    println!(
        "{} idle circuits: {:.1} MiB, before {:.1} MiB",
        circuits.len(),
        open_circuits / MIB,
        idle / MIB
    );

    let peak = Peak::watch(middle_pid);
    reads.send(false).unwrap();
    let streams: Vec<_> =
        circuits.iter().map(|circuit| circuit.begin(Target::Addr(flood)).unwrap()).collect();
    let mut flood = Flood::begun();
    let mut meanwhile = round_trips(&mut honest, || flood.goes_on()).await;
    meanwhile.retain(|trip| trip.begun <= flood.since);
    let meanwhile = Trips::of(&meanwhile);
    let stalled = resident_when_still(middle_pid).await;
    let after = round_trips_for(&mut honest, ROUND_TRIPS).await;
    let peak = peak.end();
    println!("{} of {count} streams came to the exit", FLOODED.load(Relaxed));
    assert!(FLOODED.load(Relaxed) > count / 2, "most have to come");
    println!("{} circuits that nobody reads: {:.1} MiB in the end", streams.len(), stalled / MIB);
    println!(
        "round trip of somebody else, p95 over time: idle {before}; while they begin {meanwhile}; then {after}"
    );

    floods.shutdown_background();
    let times = |trips: Trips| trips.p95.as_secs_f64() / before.p95.as_secs_f64();
    println!("idle client: {:.1} MiB, goal <= 16", client / MIB);
    println!("idle relay: {:.1} MiB, goal <= 24", relays / MIB);
    println!("an idle circuit: {each:.0} bytes, goal <= 4096");
    println!("circuits that nobody reads, at the most: {:.1} MiB, goal <= {}", peak / MIB, MEMORY_MAX >> 20);
    println!("p95 of round trips while they stand: {:.2} of idle, goal <= 2", times(after));
    println!("p95 of round trips while they begin: {:.2} of idle, goal <= 2", times(meanwhile));
}

/// A network of this machine, which ends when this is dropped.
struct Network {
    parent: Child,
    up: Announcement,
    /// Those that were started again.
    relays: Vec<Child>,
}

impl Network {
    fn start() -> Network {
        let mut command = Command::new(PROGRAM);
        command.args([
            "up",
            "--json",
            "--socks",
            "127.0.0.1:0",
            "--until-stdin-closes",
            "--authorities",
            "1",
        ]);
        let mut parent =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(parent.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        Network { parent, up: serde_json::from_str(&line).unwrap(), relays: Vec::new() }
    }

    /// From the authority, as a client gets it.
    async fn consensus(&self) -> Consensus {
        let config: Config =
            toml::from_str(&fs::read_to_string(self.up.dir.join("client.toml")).unwrap()).unwrap();
        let authority = &config.authorities[0];
        let peer = Peer { id: authority.identity, addresses: authority.addresses.clone() };
        let node = own_node();
        let hop = HopSpec { id: authority.identity, onion_key: authority.onion_key };
        let circuit = node.connect(&peer).await.unwrap().create_circuit(vec![hop]).await.unwrap();
        let response =
            dirstream::request(&circuit, &Request::GetConsensus { have: UnixTime(0) }).await.unwrap();
        let Response::Ok(bytes) = response else { panic!("{response:?}") };
        let now = unix_now();
        let timely = UncheckedConsensus::parse(&bytes).unwrap().check_time(now).unwrap();
        timely.check_signatures(&AuthoritySet::new([authority.identity]), now).unwrap().into_consensus()
    }

    /// Starts a relay again, with other settings; its process id.
    fn restart(&mut self, entry: &RelayEntry, change: impl FnOnce(&mut toml::Table)) -> u32 {
        let config = self.up.dir.join(format!("{}.toml", entry.nickname));
        let pid = *self.up.pids.relay.iter().find(|pid| runs_on(**pid, &config)).unwrap();
        kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
        wait_until("the relay has ended", || fs::read_link(format!("/proc/{pid}/exe")).is_err());
        let mut settings: toml::Table = toml::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
        change(&mut settings);
        fs::write(&config, toml::to_string(&settings).unwrap()).unwrap();
        // As `up` does: the child gets its listener as standard input.
        let mut listener = None;
        wait_until("the port is free", || {
            listener = std::net::TcpListener::bind(entry.addresses[0]).ok();
            listener.is_some()
        });
        let own = std::process::id().to_string();
        let mut command = Command::new(PROGRAM);
        command.args(["role", "relay", "--parent", &own, "--config"]).arg(&config);
        command.stdin(OwnedFd::from(listener.unwrap())).stdout(Stdio::null()).stderr(Stdio::null());
        let relay = command.spawn().unwrap();
        let pid = relay.id();
        self.relays.push(relay);
        pid
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for relay in &mut self.relays {
            relay.kill().unwrap();
            relay.wait().unwrap();
        }
        drop(self.parent.stdin.take());
        self.parent.wait().unwrap();
    }
}

fn runs_on(pid: u32, config: &Path) -> bool {
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split('\0').any(|word| Path::new(word) == config)
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Bytes.
fn resident(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<f64>().unwrap() * 1024.0
}

/// Once it has been the same to a MiB for a while.
async fn resident_when_still(pid: u32) -> f64 {
    let (mut last, mut since) = (resident(pid), Instant::now());
    while since.elapsed() < STILL {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = resident(pid);
        if (now - last).abs() > MIB {
            (last, since) = (now, Instant::now());
        }
    }
    resident(pid)
}

fn own_node() -> Node {
    Node::new(NodeConfig { signer: None, responder: None, memory_budget: OWN_BUDGET }).unwrap()
}

async fn connect(node: &Node, relay: &RelayEntry) -> Channel {
    connect_at(node, relay, relay.addresses[0]).await
}

async fn connect_at(node: &Node, relay: &RelayEntry, at: SocketAddr) -> Channel {
    node.connect(&Peer { id: relay.identity, addresses: vec![at] }).await.unwrap()
}

fn hops(relays: &[&RelayEntry]) -> Vec<HopSpec> {
    relays.iter().map(|relay| HopSpec { id: relay.identity, onion_key: relay.onion_key }).collect()
}

async fn build(channel: &Channel, hops: Vec<HopSpec>, count: usize) -> Vec<Circuit> {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut building = JoinSet::new();
    for _ in 0..count {
        let turn = turns.clone().acquire_owned().await.unwrap();
        let (channel, hops) = (channel.clone(), hops.clone());
        building.spawn(async move {
            let circuit = channel.create_circuit(hops).await.unwrap();
            drop(turn);
            circuit
        });
    }
    building.join_all().await
}

async fn open(circuit: &Circuit, to: SocketAddr) -> CircuitStream {
    let mut stream = circuit.begin(Target::Addr(to)).unwrap();
    stream.connected().await.unwrap();
    stream
}

struct Trip {
    begun: Instant,
    took: Duration,
}

/// What round trips were, one after the other.
#[derive(Clone, Copy)]
struct Trips {
    count: usize,
    took: Duration,
    longest: Duration,
    /// The 95th percentile over time: for 5 % of it, one that takes as long or longer is on its way. Over their number, a second that
    /// nothing got through would count for one of hundreds.
    p95: Duration,
}

impl fmt::Display for Trips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1?} ({} in {:.1?}, longest {:.1?})", self.p95, self.count, self.took, self.longest)
    }
}

impl Trips {
    fn of(trips: &[Trip]) -> Trips {
        let mut times: Vec<_> = trips.iter().map(|trip| trip.took).collect();
        times.sort();
        let took: Duration = times.iter().sum();
        let mut left = took.mul_f64(0.95);
        let at = times.iter().position(|time| {
            left = left.saturating_sub(*time);
            left.is_zero()
        });
        Trips { count: times.len(), took, longest: times[times.len() - 1], p95: times[at.unwrap()] }
    }
}

async fn round_trips(stream: &mut CircuitStream, mut goes_on: impl FnMut() -> bool) -> Vec<Trip> {
    let mut trips = Vec::new();
    while trips.is_empty() || goes_on() {
        let begun = Instant::now();
        stream.write_all(&[1]).await.unwrap();
        stream.flush().await.unwrap();
        timeout(PATIENCE, stream.read_exact(&mut [0])).await.expect("an answer").unwrap();
        trips.push(Trip { begun, took: begun.elapsed() });
    }
    trips
}

async fn round_trips_for(stream: &mut CircuitStream, how_long: Duration) -> Trips {
    let begun = Instant::now();
    Trips::of(&round_trips(stream, || begun.elapsed() < how_long).await)
}

/// Stands before a relay and passes on what comes from there only while it may.
struct Valve;

impl Valve {
    async fn open(to: SocketAddr, may_read: watch::Receiver<bool>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (near, _) = listener.accept().await.unwrap();
            let far = TcpStream::connect(to).await.unwrap();
            let ((mut near_in, near_out), (far_in, mut far_out)) = (near.into_split(), far.into_split());
            tokio::spawn(Valve::pass(far_in, near_out, may_read));
            let _ = tokio::io::copy(&mut near_in, &mut far_out).await;
        });
        at
    }

    async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut may_read: watch::Receiver<bool>) {
        let mut buffer = vec![0; 64 << 10];
        while may_read.wait_for(|may| *may).await.is_ok() {
            let count = from.read(&mut buffer).await.unwrap_or(0);
            if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    }
}

/// The most that a process ever held, as often as it is looked.
struct Peak {
    ends: Arc<AtomicBool>,
    most: std::thread::JoinHandle<f64>,
}

impl Peak {
    fn watch(pid: u32) -> Peak {
        let ends = Arc::new(AtomicBool::new(false));
        let ended = ends.clone();
        let most = std::thread::spawn(move || {
            let mut most: f64 = 0.0;
            while !ended.load(Relaxed) {
                most = most.max(resident(pid));
                std::thread::sleep(Duration::from_millis(20));
            }
            most
        });
        Peak { ends, most }
    }

    fn end(self) -> f64 {
        self.ends.store(true, Relaxed);
        self.most.join().unwrap()
    }
}

/// Serves on loopback for as long as this program runs.
async fn serve<S: Future<Output = ()> + Send + 'static>(each: fn(TcpStream) -> S) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(each(tcp));
        }
    });
    address
}

async fn echo(mut tcp: TcpStream) {
    tcp.set_nodelay(true).unwrap();
    let (mut read, mut write) = tcp.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

/// Connections that [`flood`] got.
static FLOODED: AtomicUsize = AtomicUsize::new(0);

/// Streams that come to the exit, until none does.
struct Flood {
    came: usize,
    /// When the last one came, as far as it was looked.
    since: Instant,
}

impl Flood {
    fn begun() -> Flood {
        Flood { came: 0, since: Instant::now() }
    }

    fn goes_on(&mut self) -> bool {
        let came = FLOODED.load(Relaxed);
        if came > self.came {
            *self = Flood { came, since: Instant::now() };
        }
        self.since.elapsed() < if came == 0 { PATIENCE } else { FLOOD_OVER }
    }
}

/// Writes more than a circuit and the exit's end of a stream take, and waits until the other end has gone. No more than that: what
/// 10,000 sockets can hold is more than the kernel has for TCP (`tcp_mem`), and then it lets none of them connect.
async fn flood(mut tcp: TcpStream) {
    FLOODED.fetch_add(1, Relaxed);
    if tcp.write_all(&[7; FLOOD_LEN]).await.is_ok() {
        let _ = tcp.read(&mut [0]).await;
    }
}
