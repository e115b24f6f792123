//! Streams one by one, on raw sockets.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use crate::network::shared;
use crate::server::{Pattern, serve, sha256};
use crate::socks::{self, CONNECTION_REFUSED, HOST_UNREACHABLE};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn fifty_streams_run_at_once() {
    const STREAMS: usize = 50;
    const SIZE: u64 = 256 << 10;
    // Nobody gets a byte before all fifty are connected.
    let all_here = Arc::new(Barrier::new(STREAMS));
    let target = serve(move |mut connection| {
        all_here.wait();
        let _ = std::io::copy(&mut Pattern::default().take(SIZE), &mut connection);
    });
    let expect = sha256(&mut Pattern::default().take(SIZE));
    let socks = shared().up.socks;
    let streams: Vec<_> =
        (0..STREAMS).map(|_| thread::spawn(move || sha256(&mut socks::connect(socks, target)))).collect();
    for stream in streams {
        assert_eq!(stream.join().unwrap(), expect);
    }
}

#[test]
fn the_target_answers_after_the_client_has_ended_its_half() {
    let target = serve(|mut connection| {
        let mut question = String::new();
        connection.read_to_string(&mut question).unwrap();
        connection.write_all(format!("you said {question}").as_bytes()).unwrap();
    });
    let mut stream = socks::connect(shared().up.socks, target);
    stream.write_all(b"all of it").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "you said all of it");
}

#[test]
fn the_client_goes_on_after_the_target_has_ended_its_half() {
    let (sender, received) = mpsc::channel();
    let sender = Mutex::new(sender);
    let target = serve(move |mut connection| {
        connection.write_all(b"first").unwrap();
        connection.shutdown(Shutdown::Write).unwrap();
        let mut rest = String::new();
        connection.read_to_string(&mut rest).unwrap();
        sender.lock().unwrap().send(rest).unwrap();
    });
    let mut stream = socks::connect(shared().up.socks, target);
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "first");
    stream.write_all(b"then me").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(received.recv_timeout(LIMIT).unwrap(), "then me");
}

#[test]
fn a_closed_port_is_told_as_connection_refused() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, _) = socks::request(shared().up.socks, "127.0.0.1", closed.port());
    assert_eq!(code, CONNECTION_REFUSED);
}

#[test]
fn an_unknown_name_is_told_as_host_unreachable() {
    // RFC 6761 §6.4: no name under .invalid exists.
    let (code, _) = socks::request(shared().up.socks, "no-such-host.invalid", 80);
    assert_eq!(code, HOST_UNREACHABLE);
}
