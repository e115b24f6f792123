//! Which nodes the client uses just now, as the kernel knows it: whom its process is connected to, and whose cables carry
//! the most.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Context;

use super::faults::Part;
use crate::launch::Network;
use crate::launch::plan::Role;

/// A TCP connection that is open, as `/proc/net/tcp` writes it.
const ESTABLISHED: &str = "01";

/// How much went over each node's cable so far.
pub struct Traffic(Vec<u64>);

impl Traffic {
    /// Until now.
    pub fn now(network: &Network) -> Traffic {
        Traffic((0..network.nodes().len()).map(|node| bytes_at(network.pid(node))).collect())
    }
}

/// Whom a fault hits; several for [`Part::Minority`].
///
/// # Errors
/// If the client uses no relay just now.
pub fn find(
    part: Part,
    network: &Network,
    before: &Traffic,
    exit: Option<IpAddr>,
) -> anyhow::Result<Vec<usize>> {
    let authorities = nodes(network, |role| role == Role::Directory);
    Ok(match part {
        Part::Guard => vec![guard(network, before)?],
        Part::Exit => {
            let exit = exit.context("no exit has fetched anything")?;
            let is_it = |node: &usize| network.nodes()[*node].address.ip() == exit;
            vec![
                (0..network.nodes().len())
                    .find(is_it)
                    .context("what the client fetched came past the exits")?,
            ]
        }
        Part::Authority => authorities.last().copied().into_iter().collect(),
        Part::Minority => authorities[authorities.len() / 2 + 1..].to_vec(),
    })
}

/// Of the relays that the client is connected to, the one with the most traffic since.
fn guard(network: &Network, before: &Traffic) -> anyhow::Result<usize> {
    let client = nodes(network, |role| role == Role::Client);
    let client = network.pid(*client.first().context("the network has no client")?);
    let peers = peers(&fs::read_to_string(format!("/proc/{client}/net/tcp"))?);
    let relays = nodes(network, |role| matches!(role, Role::Relay { .. }));
    let connected = relays.into_iter().filter(|node| peers.contains(&network.nodes()[*node].address));
    let since = |node: &usize| bytes_at(network.pid(*node)).saturating_sub(before.0[*node]);
    connected.max_by_key(since).context("the client is connected to no relay")
}

fn nodes(network: &Network, wanted: impl Fn(Role) -> bool) -> Vec<usize> {
    let all = network.nodes().iter().enumerate();
    all.filter(|(_, node)| wanted(node.role)).map(|(number, _)| number).collect()
}

/// What a process has received over its cable. Nothing if it has ended.
fn bytes_at(pid: u32) -> u64 {
    received(&fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default()).unwrap_or_default()
}

fn received(devices: &str) -> Option<u64> {
    let row = devices.lines().find_map(|line| line.trim_start().strip_prefix("net:"))?;
    row.split_whitespace().next()?.parse().ok()
}

/// Who is at the other ends of open connections (proc(5): addresses in the machine's byte order, ports as numbers).
fn peers(table: &str) -> BTreeSet<SocketAddr> {
    let peer = |line: &str| {
        let mut fields = line.split_whitespace().skip(2);
        let (address, port) = fields.next()?.split_once(':')?;
        let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
        let port = u16::from_str_radix(port, 16).ok()?;
        (fields.next()? == ESTABLISHED).then(|| SocketAddr::from((Ipv4Addr::from(address), port)))
    };
    table.lines().skip(1).filter_map(peer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn open_connections_are_read_as_the_kernel_writes_them() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let read = || peers(&fs::read_to_string("/proc/self/net/tcp").unwrap());
        assert!(!read().contains(&address));
        let _connection = TcpStream::connect(address).unwrap();
        assert!(read().contains(&address));
    }

    #[test]
    fn the_traffic_of_a_cable_is_read() {
        let table = "Inter-|   Receive\n face |bytes    packets\n    lo:  5 1\n   net: 1234  9 0\n";
        assert_eq!(received(table), Some(1_234));
        assert_eq!(received("    lo: 5 1\n"), None);
    }
}
