//! What the client tells about itself, and its new identity, on networks of real processes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use tunic_client::Report;
use tunic_client::core::pool::Standing;
use tunic_client::core::status::report::{CircuitReport, StreamReport};
use tunic_client::ctl::{self, Question};

use crate::network::{TestNetwork, shared};
use crate::processes::wait_until;
use crate::server::{serve, serve_echo};
use crate::socks;

const LIMIT: Duration = Duration::from_secs(60);

/// The answer to one request, whole.
fn exchange(page: SocketAddr, request: &str) -> String {
    let mut connection = TcpStream::connect(page).unwrap();
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

/// The body at this path.
fn get(page: SocketAddr, path: &str) -> String {
    let answer = exchange(page, &format!("GET {path} HTTP/1.1\r\nHost: {page}\r\n\r\n"));
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

pub fn report(network: &TestNetwork) -> Report {
    serde_json::from_str(&get(network.up.status.unwrap(), "/api/v1/status")).unwrap()
}

/// Asks as the command line does, with the streams' destinations.
fn told_to_the_owner(network: &TestNetwork) -> Report {
    let control = PathBuf::from(network.setting("client", "state_dir")).join("control.sock");
    let said = ctl::ask(&control, Question::Circuits { destinations: true }, true).unwrap();
    serde_json::from_str(&said).unwrap()
}

/// The stream that leads there.
fn stream_to(network: &TestNetwork, target: SocketAddr) -> StreamReport {
    let streams = told_to_the_owner(network).streams.shown;
    let found = streams.into_iter().find(|stream| stream.destination == Some(target.to_string()));
    found.expect("the stream is listed")
}

/// The circuit of the stream that leads there.
pub fn circuit_to(network: &TestNetwork, target: SocketAddr) -> CircuitReport {
    circuit_of(network, &stream_to(network, target))
}

fn circuit_of(network: &TestNetwork, stream: &StreamReport) -> CircuitReport {
    let circuits = report(network).circuits.shown;
    circuits.into_iter().find(|circuit| Some(circuit.id) == stream.circuit).expect("its circuit is listed")
}

#[test]
fn the_status_page_shows_circuits_with_their_hops() {
    let network = shared();
    let target = serve_echo();
    let mut stream = socks::connect(network.up.socks, target);
    socks::ping(&mut stream).unwrap();

    let told = stream_to(network, target);
    assert_eq!((told.kind.as_str(), told.sent_bytes, told.received_bytes), ("stream", 4, 4));
    let circuit = circuit_of(network, &told);
    assert_eq!(circuit.state, Standing::InUse);
    let mut relays: Vec<&str> = circuit.hops.iter().map(|hop| hop.relay.as_str()).collect();
    let exits = ["relay4", "relay5", "relay6"];
    assert!(exits.contains(&relays[2]), "{relays:?}");
    assert!(relays.iter().all(|name| name.starts_with("relay")), "{relays:?}");
    relays.sort_unstable();
    relays.dedup();
    assert_eq!(relays.len(), 3, "three different relays: {circuit:?}");
    assert!(circuit.hops.iter().all(|hop| hop.answer_ms.is_some_and(|ms| ms > 0.0)), "{circuit:?}");

    let report = report(network);
    assert_eq!((report.bootstrap.percent, report.network.relays), (100, 6));
    assert!(report.traffic.sent_bytes >= 512 && report.traffic.received_bytes >= 512, "{report:?}");
    assert_eq!(report.cover.class, "normal");
    assert!(report.streams.shown.iter().all(|stream| stream.destination.is_none()), "none on the port");

    let page = get(network.up.status.unwrap(), "/");
    for part in ["Connected", &format!("Circuit {}", circuit.id), &circuit.hops[1].relay] {
        assert!(page.contains(part), "{part}: {page}");
    }
}

#[test]
fn a_new_identity_ends_every_circuit_and_what_comes_next_goes_over_new_ones() {
    let network = TestNetwork::start(&["--authorities", "1", "--relays", "4", "--exits", "2"]);
    let page = network.up.status.unwrap();
    // The target tells when its connection ends: then the circuit is gone at the exit too.
    let (sender, ended) = mpsc::channel();
    let sender = Mutex::new(sender);
    let target = serve(move |mut connection| {
        let mut buffer = [0; 64];
        while let Ok(length @ 1..) = connection.read(&mut buffer) {
            let _ = connection.write_all(&buffer[..length]);
        }
        let _ = sender.lock().unwrap().send(());
    });
    let mut before = socks::connect(network.up.socks, target);
    socks::ping(&mut before).unwrap();
    let old = stream_to(&network, target).circuit.unwrap();
    let newest = report(&network).circuits.shown.iter().map(|circuit| circuit.id).max().unwrap();

    let html = get(page, "/");
    let token = html.split("name=\"token\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let request = "POST /api/v1/new-identity HTTP/1.1";
    let refused = exchange(page, &format!("{request}\r\nHost: {page}\r\n\r\n"));
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
    socks::ping(&mut before).expect("without the token nothing ends");
    let done = exchange(page, &format!("{request}\r\nHost: {page}\r\nTunic-Token: {token}\r\n\r\n"));
    assert!(done.starts_with("HTTP/1.1 200 "), "{done}");

    assert!(matches!(before.read(&mut [0]), Ok(0) | Err(_)), "the stream before has ended");
    ended.recv_timeout(LIMIT).expect("at the exit too");
    let mut after = socks::connect(network.up.socks, target);
    socks::ping(&mut after).unwrap();
    let new = stream_to(&network, target).circuit.unwrap();
    assert!(new > newest && old <= newest, "circuit {old}, then {new}; there were some up to {newest}");
    // The list has those that are left: none from before.
    let left = report(&network).circuits.shown;
    assert!(left.iter().all(|circuit| circuit.id > newest), "{left:?}");
    wait_until(LIMIT, "spare circuits are ready again", || report(&network).circuits.spare > 0);
}
