//! A network whose exit is a public one: what must not be reached through it is not, over TCP and over UDP, from a program at
//! the client's port.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use crate::daemons::{Daemon, built_daemons, start};
use crate::datagrams::Association;
use crate::network::{TestNetwork, shared};
use crate::processes::wait_until;
use crate::socks;

const LIMIT: Duration = Duration::from_secs(90);
/// How long datagrams that must not come are waited for, after the exit has refused a stream.
const QUIET: Duration = Duration::from_secs(1);
const NOT_ALLOWED: u8 = 2;
/// Besides its own machine: private networks, the metadata of clouds, and the same inside IPv6.
const PRIVATE: [&str; 7] = [
    "10.0.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "::1",
    "fd00:ec2::254",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
];

/// The launcher's files, with exits as strangers run them.
fn make_public(dir: &Path) {
    let mut exits = 0;
    for name in ["relay1", "relay2", "relay3"] {
        let file = dir.join(format!("{name}.toml"));
        let mut config: toml::Table = fs::read_to_string(&file).unwrap().parse().unwrap();
        if let Some(exit) = config.get_mut("exit").and_then(toml::Value::as_table_mut) {
            exit.remove("allow_private").unwrap();
            exits += 1;
        }
        fs::write(&file, config.to_string()).unwrap();
    }
    assert_eq!(exits, 1);
}

/// Names of this machine, by which a datagram would reach this port.
fn own(port: u16) -> Vec<Vec<u8>> {
    let named = |name: &[u8]| [&[3, name.len() as u8][..], name, &port.to_be_bytes()].concat();
    let mapped = [&[4][..], &[0; 10], &[0xff, 0xff, 127, 0, 0, 1], &port.to_be_bytes()].concat();
    vec![
        [&[1, 127, 0, 0, 1][..], &port.to_be_bytes()].concat(),
        mapped,
        named(b"127.0.0.1"),
        named(b"localhost"),
    ]
}

/// Whether any datagram to this machine arrives over this network.
fn arrives(socks: SocketAddr, meanwhile: impl FnOnce(), limit: Duration) -> bool {
    let canary = UdpSocket::bind("127.0.0.1:0").unwrap();
    let association = Association::at(socks);
    for address in own(canary.local_addr().unwrap().port()) {
        association.send(0, &address, b"inside");
    }
    meanwhile();
    canary.set_read_timeout(Some(limit)).unwrap();
    canary.recv(&mut [0; 64]).is_ok()
}

#[test]
fn a_public_exit_reaches_nothing_private_for_a_program_at_the_port() {
    assert!(arrives(shared().up.socks, || {}, LIMIT), "through exits that may");

    let (bin, root) = (built_daemons(), tempfile::tempdir().unwrap());
    let dir = root.path().join("network");
    let size = ["--authorities", "1", "--relays", "3", "--exits", "1", "--dir", dir.to_str().unwrap()];
    let mut network = TestNetwork::start(&size);
    let socks = network.up.socks;
    network.close_stdin();
    assert!(network.ended().success());
    make_public(&dir);
    let relays = ["relay1", "relay2", "relay3"].map(|name| ("relay", name));
    let nodes = [("directory", "authority1")].into_iter().chain(relays).chain([("client", "client")]);
    let _daemons: Vec<Daemon> = nodes.map(|(role, name)| start(&bin, &dir, role, name)).collect();

    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = target.local_addr().unwrap().port();
    wait_until(LIMIT, "the client listens", || TcpStream::connect(socks).is_ok());
    let answer = |host: &str| socks::request(socks, host, port).0;
    wait_until(LIMIT, "the exit answers", || answer("127.0.0.1") == NOT_ALLOWED);
    for host in PRIVATE {
        assert_eq!(answer(host), NOT_ALLOWED, "{host}");
    }
    let refused = || assert_eq!(answer("localhost"), socks::HOST_UNREACHABLE, "no such name in public");
    assert!(!arrives(socks, refused, QUIET), "a datagram reached the exit's machine");
}
