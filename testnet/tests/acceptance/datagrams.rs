//! `UDP ASSOCIATE` and lookups through a network of real processes.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use tunic_client::core::status::report::StreamReport;

use crate::network::shared;
use crate::processes::wait_until;
use crate::status;

const LIMIT: Duration = Duration::from_secs(60);
/// How long a datagram that must not come is waited for, after one that did.
const QUIET: Duration = Duration::from_millis(300);

/// Sends every datagram back to where it came from.
fn serve_udp_echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = vec![0; 65_535];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
    address
}

/// An association as an application has it.
pub struct Association {
    connection: TcpStream,
    socket: UdpSocket,
    relay: SocketAddr,
}

impl Association {
    fn new() -> Association {
        Association::at(shared().up.socks)
    }

    pub fn at(socks: SocketAddr) -> Association {
        let (connection, answer) = ask_at(socks, 3, &[1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(answer[..4], [5, 0, 0, 1], "{answer:?}");
        let ip = IpAddr::from([answer[4], answer[5], answer[6], answer[7]]);
        assert!(ip.is_loopback());
        let relay = SocketAddr::new(ip, u16::from_be_bytes([answer[8], answer[9]]));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        Association { connection, socket, relay }
    }

    pub fn send(&self, fragment: u8, address: &[u8], payload: &[u8]) {
        let bytes = [&[0, 0, fragment][..], address, payload].concat();
        self.socket.send_to(&bytes, self.relay).unwrap();
    }

    /// Source address and payload of the next datagram.
    fn receive(&self) -> (SocketAddr, Vec<u8>) {
        let mut buffer = vec![0; 65_535];
        let (length, from) = self.socket.recv_from(&mut buffer).unwrap();
        assert_eq!((from, &buffer[..4]), (self.relay, &[0, 0, 0, 1][..]));
        let ip = IpAddr::from([buffer[4], buffer[5], buffer[6], buffer[7]]);
        let port = u16::from_be_bytes([buffer[8], buffer[9]]);
        (SocketAddr::new(ip, port), buffer[10..length].to_vec())
    }
}

fn address(address: SocketAddr) -> Vec<u8> {
    let IpAddr::V4(ip) = address.ip() else { panic!("IPv4 is enough here") };
    [&[1][..], &ip.octets(), &address.port().to_be_bytes()].concat()
}

/// Asks over SOCKS5; the connection and all that is answered at once.
fn ask(command: u8, address: &[u8]) -> (TcpStream, Vec<u8>) {
    ask_at(shared().up.socks, command, address)
}

fn ask_at(socks: SocketAddr, command: u8, address: &[u8]) -> (TcpStream, Vec<u8>) {
    let mut tcp = TcpStream::connect(socks).unwrap();
    tcp.set_read_timeout(Some(LIMIT)).unwrap();
    tcp.write_all(&[&[5, 1, 0, 5, command, 0], address].concat()).unwrap();
    tcp.read_exact(&mut [0; 2]).unwrap();
    let mut answer = vec![0; 512];
    let length = tcp.read(&mut answer).unwrap();
    answer.truncate(length);
    (tcp, answer)
}

#[test]
fn datagrams_of_every_size_come_back_whole() {
    let (echo, association) = (serve_udp_echo(), Association::new());
    for size in [0, 1, 451, 452, 1_400, 9_000, 60_000] {
        let payload: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        association.send(0, &address(echo), &payload);
        assert!(association.receive() == (echo, payload), "{size} bytes");
    }
}

#[test]
fn each_association_is_alone_on_its_circuit() {
    let (echo, associations) = (serve_udp_echo(), [Association::new(), Association::new()]);
    for association in &associations {
        association.send(0, &address(echo), b"here");
        assert_eq!(association.receive(), (echo, b"here".to_vec()));
    }
    let streams = status::report(shared()).streams.shown;
    let (ours, others): (Vec<_>, Vec<_>) =
        streams.into_iter().filter(|stream| stream.circuit.is_some()).partition(|it| it.kind == "datagrams");
    assert!(ours.len() >= 2, "{ours:?}");
    for (at, stream) in ours.iter().enumerate() {
        let shares = |other: &&StreamReport| other.circuit == stream.circuit;
        assert!(
            !ours[..at].iter().chain(&others).any(|other| shares(&other)),
            "{stream:?} in {ours:?}, {others:?}"
        );
    }
}

#[test]
fn names_are_resolved_at_the_exit() {
    let (echo, association) = (serve_udp_echo(), Association::new());
    let name = b"localhost";
    let target = [&[3, name.len() as u8][..], name, &echo.port().to_be_bytes()].concat();
    // The exit may find ::1 first, where nobody listens: then nothing comes back, and that is right too.
    association.send(0, &target, b"by name");
    association.send(0, &address(echo), b"by address");
    let first = association.receive();
    assert!(first == (echo, b"by name".to_vec()) || first == (echo, b"by address".to_vec()));
}

#[test]
fn fragments_and_datagrams_of_others_are_dropped() {
    let (echo, association) = (serve_udp_echo(), Association::new());
    association.send(1, &address(echo), b"a fragment");
    association.send(0, &address(echo), b"whole");
    assert_eq!(association.receive(), (echo, b"whole".to_vec()));
    // Another program of this machine, which did not open the association.
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    other.send_to(&[&[0, 0, 0][..], &address(echo), b"stolen"].concat(), association.relay).unwrap();
    association.send(0, &address(echo), b"mine");
    assert_eq!(association.receive(), (echo, b"mine".to_vec()));
    association.socket.set_read_timeout(Some(QUIET)).unwrap();
    assert!(association.socket.recv_from(&mut [0; 64]).is_err());
}

#[test]
fn an_association_ends_with_its_connection() {
    let Association { connection, socket, relay } = Association::new();
    drop(connection);
    // A connected socket learns that nobody listens there any more.
    socket.connect(relay).unwrap();
    socket.set_read_timeout(Some(QUIET)).unwrap();
    wait_until(LIMIT, "the socket is closed", || {
        let sent = socket.send(b"anyone?");
        let received = socket.recv(&mut [0; 16]);
        let refused = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
        sent.as_ref().err().is_some_and(refused) || received.as_ref().err().is_some_and(refused)
    });
}

#[test]
fn more_than_fits_is_dropped_and_the_rest_goes_on() {
    let (echo, association) = (serve_udp_echo(), Association::new());
    for _ in 0..2_000 {
        association.send(0, &address(echo), &[1; 1_400]);
    }
    let reader = &association;
    wait_until(LIMIT, "a datagram sent after the flood comes back", || {
        reader.send(0, &address(echo), b"after");
        reader.socket.set_read_timeout(Some(QUIET)).unwrap();
        let mut buffer = [0; 2_000];
        std::iter::from_fn(|| reader.socket.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec()))
            .any(|datagram| datagram.ends_with(b"after"))
    });
}

#[test]
fn names_and_addresses_are_looked_up_at_an_exit() {
    let (_tcp, answer) = ask(0xf0, b"\x03\x09localhost\0\0");
    assert_eq!(answer, [5, 0, 0, 1, 127, 0, 0, 1, 0, 0]);
    let (_tcp, answer) = ask(0xf1, &[1, 127, 0, 0, 1, 0, 0]);
    assert_eq!(answer, b"\x05\0\0\x03\x09localhost\0\0");
    let (_tcp, answer) = ask(0xf0, b"\x03\x11nowhere.invalid.x\0\0");
    assert_eq!(answer[..2], [5, 4], "not found");
}
