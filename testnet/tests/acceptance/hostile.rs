//! What people and machines do that they should not.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::network::shared;
use crate::server::{Pattern, serve_echo};
use crate::socks;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_browser_that_opens_the_socks_port_is_told_what_it_is_for() {
    let socks = shared().up.socks;
    let answer = http(socks, &format!("GET / HTTP/1.1\r\nHost: {socks}\r\n\r\n"));
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("SOCKS5"), "{answer}");
}

#[test]
fn pages_of_other_sites_get_nothing_from_the_socks_port() {
    let socks = shared().up.socks;
    let rebound = http(socks, "GET / HTTP/1.1\r\nHost: attacker.example\r\n\r\n");
    assert!(rebound.starts_with("HTTP/1.1 421 "), "{rebound}");
    let origin = "Origin: http://attacker.example";
    let crossed = http(socks, &format!("GET / HTTP/1.1\r\nHost: {socks}\r\n{origin}\r\n\r\n"));
    assert!(crossed.starts_with("HTTP/1.1 403 "), "{crossed}");
    for answer in [rebound, crossed] {
        assert!(!answer.contains("SOCKS5"), "{answer}");
    }
}

fn http(socks: SocketAddr, request: &str) -> String {
    let mut connection = socks::raw(socks);
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn garbage_on_every_port_leaves_everything_running() {
    let network = shared();
    let target = serve_echo();
    let mut before = socks::connect(network.up.socks, target);
    socks::ping(&mut before).unwrap();
    let mut garbage = vec![0; 64 << 10];
    Pattern::default().read_exact(&mut garbage).unwrap();
    let names = (1..=3).map(|n| format!("authority{n}")).chain((1..=6).map(|n| format!("relay{n}")));
    let ports = names.map(|name| network.setting(&name, "listen").parse::<SocketAddr>().unwrap());
    for port in ports.chain([network.up.socks]) {
        throw_at(port, &garbage);
        // The start of a TLS record that never ends: handshake, version 3.1, 512 bytes.
        throw_at(port, &[22, 3, 1, 2, 0, 1]);
        throw_at(port, b"");
    }
    socks::ping(&mut before).expect("a stream that was open stays open");
    socks::ping(&mut socks::connect(network.up.socks, target)).expect("a new stream works");
    network.assert_all_alive();
}

/// Sends these bytes, ends the sending half, and waits until the other side hangs up.
fn throw_at(port: SocketAddr, bytes: &[u8]) {
    let mut connection = TcpStream::connect(port).unwrap();
    connection.set_read_timeout(Some(LIMIT)).unwrap();
    // The other side may hang up before it has read all.
    let _ = connection.write_all(bytes);
    let _ = connection.shutdown(std::net::Shutdown::Write);
    match connection.read_to_end(&mut Vec::new()) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("{port} never hung up"),
        _ => {}
    }
}
