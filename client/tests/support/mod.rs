//! A network in this process: an authority and relays that are real nodes on loopback, with the directory and the exit
//! played by a few lines, so that tests can make them misbehave.

#![allow(dead_code, reason = "not every test uses all of it")]

mod daemon;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[allow(unused_imports, reason = "not every test uses all of it")]
pub use daemon::{Daemon, PATIENCE};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tunic_client::Config;
use tunic_client::config::{Listen, Testing};
use tunic_net::channel::{IncomingStream, Node, NodeConfig, Responder, splice};
use tunic_net::config::AuthorityConfig;
use tunic_net::daemon::{RunOptions, Status, unix_now};
use tunic_net::dirstream::{self, DirHandler};
use tunic_proto::dir::{Consensus, ConsensusBody, ExitPolicy, Flag, RelayEntry, Request, Response};
use tunic_proto::ids::RelayId;
use tunic_proto::keys::{IdentityKey, OnionSecret, Signer};
use tunic_proto::message::{EndReason, Target};
use tunic_proto::padding::{Limits, LimitsConfig, PaddingRole};
use tunic_proto::resolve::{Answer, Query, Record};
use tunic_proto::time::UnixTime;

const BUDGET: usize = 64 << 20;
/// The name that the exits know.
pub const ECHO: &str = "echo.test";
/// A name for which exits never answer.
pub const SILENT: &str = "silent.test";
/// What they say its address is.
pub const ECHO_ADDRESS: [u8; 4] = [192, 0, 2, 7];

/// What a relay answers to `BEGIN`, before it connects; `None`: it connects.
pub type Refusal = dyn Fn(RelayId, &Target) -> Option<EndReason> + Send + Sync;

#[derive(Default)]
pub struct Shared {
    addresses: Mutex<HashMap<RelayId, SocketAddr>>,
    /// What directories answer to `GET_CONSENSUS`, the last one again and again.
    answers: Mutex<Vec<Response>>,
    refusal: Mutex<Option<Box<Refusal>>>,
    echo: Mutex<Option<SocketAddr>>,
    /// Streams that wait for an answer which never comes.
    silent: Mutex<Vec<(RelayId, IncomingStream)>>,
    /// What all relays together give in padding.
    limits: Arc<Limits>,
}

impl DirHandler for Shared {
    fn handle(&self, request: Request) -> Response {
        assert!(matches!(request, Request::GetConsensus { .. }));
        let mut answers = self.answers.lock().unwrap();
        if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() }
    }
}

struct Relay {
    id: RelayId,
    onion: OnionSecret,
    shared: Arc<Shared>,
}

impl Responder for Relay {
    fn lookup(&self, id: RelayId) -> Option<Vec<SocketAddr>> {
        Some(vec![*self.shared.addresses.lock().unwrap().get(&id)?])
    }

    fn begin(&self, target: Target, stream: IncomingStream) {
        let refusal = self.shared.refusal.lock().unwrap();
        if let Some(reason) = refusal.as_ref().and_then(|refusal| refusal(self.id, &target)) {
            return stream.reject(reason);
        }
        if matches!(&target, Target::Name(name, _) if name == SILENT) {
            return self.shared.silent.lock().unwrap().push((self.id, stream));
        }
        let echo = *self.shared.echo.lock().unwrap();
        tokio::spawn(async move {
            let address = match target {
                Target::Addr(address) => Some(address),
                Target::Name(name, _) => echo.filter(|_| name == ECHO),
            };
            let Some(address) = address else { return stream.reject(EndReason::NameNotFound) };
            match TcpStream::connect(address).await {
                Ok(tcp) => splice(stream.accept(Some(address.ip())), tcp).await.unwrap_or_default(),
                Err(_) => stream.reject(EndReason::ConnectionRefused),
            }
        });
    }

    fn begin_dir(&self, stream: IncomingStream) {
        dirstream::serve(stream, self.shared.clone());
    }

    fn resolve(&self, query: Query, stream: IncomingStream) {
        let record = match query {
            Query::Name(name) if name == ECHO => Record::Addr(ECHO_ADDRESS.into()),
            Query::Addr(ip) if ip == IpAddr::from(ECHO_ADDRESS) => Record::Name(ECHO.to_owned()),
            _ => return stream.reject(EndReason::NameNotFound),
        };
        tokio::spawn(async move {
            let answer = Answer { ttl: Duration::ZERO, records: vec![record] };
            stream.answer(&answer).await.unwrap_or_default();
        });
    }

    /// Sends datagrams back, whatever they are for.
    fn begin_udp(&self, stream: IncomingStream) {
        let mut datagrams = stream.accept_datagrams();
        tokio::spawn(async move {
            while let Ok(mut datagram) = datagrams.recv().await {
                datagram.peer = Target::Addr((ECHO_ADDRESS, datagram.peer.port()).into());
                datagrams.try_send(&datagram).unwrap_or_default();
            }
        });
    }

    fn onion_keys(&self) -> Vec<OnionSecret> {
        vec![self.onion.clone()]
    }
}

pub struct TestNet {
    pub relays: Vec<RelayEntry>,
    pub nodes: HashMap<RelayId, Node>,
    authority: Arc<Signer>,
    authority_config: AuthorityConfig,
    shared: Arc<Shared>,
    dir: TempDir,
}

impl TestNet {
    /// An authority and relays that are guards and exits; a consensus is served.
    pub async fn start(relays: u32) -> TestNet {
        let limits = Limits::new(LimitsConfig::default());
        let shared = Arc::new(Shared { limits, ..Shared::default() });
        *shared.echo.lock().unwrap() = Some(echo_server().await);
        let (node, authority, onion_key, address) = start_node(&shared).await;
        let authority_config = AuthorityConfig {
            name: "first".into(),
            identity: authority.id(),
            onion_key,
            addresses: vec![address],
        };
        let mut net = TestNet {
            relays: Vec::new(),
            nodes: HashMap::from([(authority.id(), node)]),
            authority,
            authority_config,
            shared,
            dir: tempfile::tempdir().unwrap(),
        };
        for number in 0..relays {
            net.add_relay(number).await;
        }
        net.relays.sort_by_key(|relay| relay.identity);
        net.serve(vec![net.consensus(0)]);
        net
    }

    async fn add_relay(&mut self, number: u32) {
        let (node, signer, onion_key, address) = start_node(&self.shared).await;
        self.nodes.insert(signer.id(), node);
        self.relays.push(RelayEntry {
            nickname: format!("relay{number}"),
            identity: signer.id(),
            addresses: vec![address],
            onion_key,
            exit: ExitPolicy::parse(&["reject *:25", "accept *:*"]).unwrap(),
            family: Vec::new(),
            bandwidth: 1_000_000,
            flags: vec![Flag::Running, Flag::Valid, Flag::Exit, Flag::Guard],
            version: "test".into(),
            protocols: vec![1],
        });
    }

    /// A consensus that began so many seconds ago, signed by the authority.
    pub fn consensus(&self, age_secs: u64) -> Response {
        Response::Ok(self.signed(age_secs, &self.authority).into())
    }

    /// The same, signed by somebody else.
    pub fn forged_consensus(&self) -> Response {
        let mut rng = rand::rng();
        let stranger = IdentityKey::generate(&mut rng).certify(UnixTime(u64::MAX), &mut rng);
        Response::Ok(self.signed(0, &stranger).into())
    }

    fn signed(&self, age_secs: u64, signer: &Signer) -> Vec<u8> {
        let valid_after = unix_now().minus(Duration::from_secs(age_secs));
        let body = ConsensusBody::new(Consensus {
            valid_after,
            fresh_until: valid_after.plus(Duration::from_secs(600)),
            valid_until: valid_after.plus(Duration::from_secs(3_600)),
            params: Default::default(),
            relays: self.relays.clone(),
        });
        let body = body.unwrap();
        body.assemble(&[body.sign(signer)]).unwrap()
    }

    /// What directories answer from now on, one after the other; the last one stays.
    pub fn serve(&self, answers: Vec<Response>) {
        *self.shared.answers.lock().unwrap() = answers;
    }

    pub fn refuse(&self, refusal: impl Fn(RelayId, &Target) -> Option<EndReason> + Send + Sync + 'static) {
        *self.shared.refusal.lock().unwrap() = Some(Box::new(refusal));
    }

    /// What relays give in padding from now on.
    pub fn limit_padding(&self, limits: LimitsConfig) {
        self.shared.limits.set(limits);
    }

    /// A client of this network; its state is kept under this name.
    pub fn config(&self, state: &str) -> Config {
        Config {
            socks: ([127, 0, 0, 1], 0).into(),
            state_dir: Some(self.dir.path().join(state)),
            status: Listen::Off,
            testing: Testing { private_is_distinct: true, ..Testing::default() },
            // Addresses for documentation are not public either.
            allow_private_answers: true,
            authorities: vec![self.authority_config.clone()],
            ..Config::default()
        }
    }

    /// How many streams wait for an answer that never comes.
    pub fn silent_count(&self) -> usize {
        self.shared.silent.lock().unwrap().len()
    }

    /// Has the exit vanish that was asked first.
    pub async fn break_silent_circuit(&self) {
        let exit = self.shared.silent.lock().unwrap()[0].0;
        self.nodes[&exit].shutdown(Duration::ZERO).await;
    }

    /// Waits until the client has given up the stream that was asked for last.
    pub async fn silent_stream_ends(&self) {
        let (id, stream) = self.shared.silent.lock().unwrap().pop().expect("a stream");
        tokio::time::timeout(PATIENCE, stream.closed()).await.expect("the client gives it up");
        self.shared.silent.lock().unwrap().push((id, stream));
    }

    pub fn authority(&self) -> &Node {
        &self.nodes[&self.authority.id()]
    }
}

async fn start_node(shared: &Arc<Shared>) -> (Node, Arc<Signer>, tunic_proto::keys::OnionKey, SocketAddr) {
    let mut rng = rand::rng();
    let identity = IdentityKey::generate(&mut rng);
    let signer = Arc::new(identity.certify(unix_now().plus(Duration::from_secs(3_600)), &mut rng));
    let onion = OnionSecret::generate(&mut rng);
    let onion_key = onion.public();
    let relay = Relay { id: signer.id(), onion, shared: shared.clone() };
    let config =
        NodeConfig { signer: Some(signer.clone()), responder: Some(Arc::new(relay)), memory_budget: BUDGET };
    let node = Node::new(config).unwrap();
    node.set_padding(PaddingRole::Relay(shared.limits.clone(), Arc::default()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    shared.addresses.lock().unwrap().insert(signer.id(), address);
    let serving = node.clone();
    tokio::spawn(async move { serving.serve(listener).await });
    (node, signer, onion_key, address)
}

/// A TCP server that sends back what it gets, and ends when its client does.
async fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = tcp.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

/// Options that hand every status on.
pub fn watched() -> (RunOptions, mpsc::UnboundedReceiver<Status>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let sink = Arc::new(move |status| sender.send(status).unwrap_or_default());
    (RunOptions { status: Some(sink), ..RunOptions::default() }, receiver)
}
