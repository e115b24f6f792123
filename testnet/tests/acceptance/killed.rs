//! A relay dies while it is in use.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tunic_client::{Client, Isolation};
use tunic_net::channel::CircuitStream;
use tunic_net::config;
use tunic_net::daemon::RunOptions;
use tunic_proto::message::Target;

use crate::network::TestNetwork;
use crate::processes::{self, wait_until};
use crate::server::{Unanswering, serve_echo};
use crate::socks;
use crate::status::{circuit_to, report};

const LIMIT: Duration = Duration::from_secs(60);
/// Each on a circuit of its own: enough that no middle is on all of them.
const STREAMS: usize = 16;

/// An open stream and the names of the relays that it goes through.
struct Open {
    stream: CircuitStream,
    path: Vec<String>,
}

impl Open {
    async fn new(client: &Client, target: SocketAddr, circuit: usize) -> Open {
        let isolation = Isolation::named(&circuit.to_string());
        let (stream, path) = client.connect(Target::Addr(target), isolation).await.unwrap();
        let path = path.hops.iter().map(|hop| hop.nickname.clone()).collect();
        let mut open = Open { stream, path };
        open.ping().await.unwrap();
        open
    }

    async fn ping(&mut self) -> std::io::Result<()> {
        let mut answer = [0; 4];
        let exchange = async {
            self.stream.write_all(b"ping").await?;
            self.stream.flush().await?;
            self.stream.read_exact(&mut answer).await
        };
        tokio::time::timeout(LIMIT, exchange).await.expect("an answer or an error in time")?;
        assert_eq!(&answer, b"ping");
        Ok(())
    }
}

#[tokio::test]
async fn a_killed_middle_breaks_only_its_own_streams() {
    let network = TestNetwork::start(&["--authorities", "1", "--relays", "8", "--exits", "2"]);
    let client = embedded_client(&network).await;
    let target = serve_echo();
    let mut streams = Vec::new();
    for circuit in 0..STREAMS {
        streams.push(Open::new(&client, target, circuit).await);
    }
    let victim = middle_of_some(&streams);
    let (mut broken, mut others): (Vec<Open>, Vec<Open>) =
        streams.into_iter().partition(|open| open.path.contains(&victim));

    processes::send(network.relay_pid(&victim), Signal::KILL);

    for open in &mut broken {
        assert!(open.ping().await.is_err(), "a stream through {victim} survived: {:?}", open.path);
    }
    for open in &mut others {
        open.ping().await.unwrap_or_else(|error| panic!("{error}: {:?} has no {victim}", open.path));
    }
    let mut next = Open::new(&client, target, STREAMS).await;
    next.ping().await.unwrap();
    socks::ping(&mut socks::connect(network.up.socks, target)).unwrap();
    client.shutdown().await;
}

/// What a program is answered whose circuit breaks when its bytes are on their way, over HTTP: SOCKS has codes only.
#[test]
fn a_program_is_told_at_which_relay_its_circuit_broke() {
    let network = TestNetwork::start(&["--authorities", "1", "--relays", "6", "--exits", "2"]);
    let echo = serve_echo();
    let mut kept = socks::connect(network.up.socks, echo);
    socks::ping(&mut kept).unwrap();
    let guard = circuit_to(&network, echo).hops[0].relay.clone();

    // Over the same circuit: nothing but the dialect tells them apart.
    let target = Unanswering::new();
    let mut program = socks::raw(network.up.socks);
    write!(program, "CONNECT {} HTTP/1.1\r\n\r\npay 10", target.address).unwrap();
    wait_until(LIMIT, "an exit calls the target", || target.is_called());
    processes::send(network.relay_pid(&guard), Signal::KILL);
    let mut answer = String::new();
    program.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    let why = "the circuit broke at relay 1 before the exit had answered; what was sent may have arrived\n";
    assert!(answer.ends_with(why), "{answer}");
    let failures = report(&network).failures;
    let told =
        failures.iter().find(|failure| failure.kind == "stream").expect("it is told to the person too");
    assert_eq!((told.hop, told.relay.as_deref()), (Some(1), Some(guard.as_str())), "{failures:?}");
}

/// A client of the test's own, which tells its paths, with the network's client configuration.
pub async fn embedded_client(network: &TestNetwork) -> Client {
    let path = network.up.dir.join("client.toml");
    let config: tunic_client::Config = config::load(&path, tunic_client::config::EXAMPLE).unwrap();
    let state_dir = Some(network.up.dir.join("state/embedded"));
    Client::start(tunic_client::Config { state_dir, ..config }, RunOptions::default()).await.unwrap()
}

/// A relay that is a middle of the fewest circuits, and nothing else on any.
#[track_caller]
fn middle_of_some(streams: &[Open]) -> String {
    let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
    let ends: BTreeSet<&str> =
        streams.iter().flat_map(|open| [open.path[0].as_str(), open.path[2].as_str()]).collect();
    for open in streams {
        *uses.entry(&open.path[1]).or_default() += 1;
    }
    let middles = uses.into_iter().filter(|(name, _)| !ends.contains(name));
    let rarest = middles.min_by_key(|(_, uses)| *uses);
    let (name, uses) = rarest.expect("a relay that is only a middle");
    assert!(uses < streams.len(), "every circuit goes through {name}");
    name.to_owned()
}
