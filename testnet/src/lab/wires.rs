//! The lines that are watched: every client in a network namespace of its own, joined to one where authorities and relays
//! are, and another one for the sites. Two sets of clients, one on unlimited lines, one on slow ones.
//!
//! Segmentation offload is off, so that what passes has the sizes that it would have on a cable. A slow line is slow in
//! both directions, with a token bucket (`tbf`) at either end.

use clap::ValueEnum;

use super::observer::SITES_INTERFACE;
use super::schedule::CLIENTS;
use crate::launch::place::Namespace;
use crate::netns::Namespaces;

/// Where relays are.
const RELAYS: &str = "10.77.0.1";
/// The server of client number `n` is at this address plus `n`.
const FIRST_SERVER: [u8; 4] = [10, 89, 0, 10];
/// A slow line: rate, burst and queue, as `tc` reads them.
const SLOW: &str = "tbf rate 10mbit burst 8kb latency 100ms";
/// What the yardstick of `ip` calls a packet that is sent as it is.
const NO_OFFLOAD: &str = "gso_max_segs 1";

/// What a client's line is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Line {
    /// As fast as the machine
    Unlimited,
    /// 10 Mbit/s each way
    #[value(name = "10mbit")]
    Slow,
}

impl Line {
    /// What it is called on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Line::Unlimited => "unlimited",
            Line::Slow => "10mbit",
        }
    }
}

/// Namespaces and what joins them. Dropped, they are gone.
pub struct Wires {
    namespaces: Namespaces,
    sets: Vec<Line>,
}

impl Wires {
    /// Lays the lines of these sets of clients. Names begin with `prefix`.
    ///
    /// # Errors
    /// Without root, or if `ip` or `tc` fail.
    pub fn lay(prefix: &str, sets: &[Line]) -> anyhow::Result<Wires> {
        let mut wires = Wires { namespaces: Namespaces::new(prefix), sets: sets.to_vec() };
        wires.namespaces.add("net")?;
        wires.namespaces.run("ip", "net", &format!("address add {RELAYS}/32 dev lo\n"))?;
        wires.namespaces.add("sites")?;
        wires.join_sites()?;
        for client in 0..wires.clients() {
            wires.namespaces.add(&format!("c{client}"))?;
            wires.join_client(client)?;
        }
        Ok(wires)
    }

    /// How many clients there are in all sets together.
    pub fn clients(&self) -> usize {
        self.sets.len() * CLIENTS
    }

    /// Where the relays are, and the far ends of all lines.
    pub fn relays(&self) -> anyhow::Result<Namespace> {
        self.namespaces.get("net")
    }

    /// Where the sites are.
    pub fn sites(&self) -> anyhow::Result<Namespace> {
        self.namespaces.get("sites")
    }

    /// Where a client is.
    pub fn client(&self, client: usize) -> anyhow::Result<Namespace> {
        self.namespaces.get(&format!("c{client}"))
    }

    /// The interfaces of the clients' lines at their far ends, in the order of the clients.
    pub fn interfaces(&self) -> Vec<String> {
        (0..self.clients()).map(|client| format!("c{client}")).collect()
    }

    fn join_sites(&self) -> anyhow::Result<()> {
        let [a, b, c, first] = FIRST_SERVER;
        self.join(SITES_INTERFACE, "sites", "10.89.0.1/24", &format!("{a}.{b}.{c}.{first}/24"))?;
        let others = (1..self.clients()).map(|n| {
            let last = usize::from(first) + n;
            format!("address add {a}.{b}.{c}.{last}/24 dev net\n")
        });
        self.namespaces.run("ip", "sites", &others.collect::<String>())
    }

    fn join_client(&self, client: usize) -> anyhow::Result<()> {
        let interface = format!("c{client}");
        let near = format!("10.88.{client}.2/30");
        self.join(&interface, &interface, &format!("10.88.{client}.1/30"), &near)?;
        self.namespaces.run("ip", &interface, &format!("route add default via 10.88.{client}.1\n"))?;
        if self.sets[client / CLIENTS] == Line::Slow {
            self.namespaces.run("tc", "net", &format!("qdisc add dev {interface} root {SLOW}\n"))?;
            self.namespaces.run("tc", &interface, &format!("qdisc add dev net root {SLOW}\n"))?;
        }
        Ok(())
    }

    /// A pair of interfaces: `interface` among the relays, `net` in the namespace `of`.
    fn join(&self, interface: &str, of: &str, far: &str, near: &str) -> anyhow::Result<()> {
        let there = self.namespaces.name(of);
        let pair = format!("link add {interface} type veth peer name net netns {there}\n");
        let up = |name: &str, address: &str| {
            format!(
                "link set dev {name} {NO_OFFLOAD}\naddress add {address} dev {name}\nlink set dev {name} up\n"
            )
        };
        self.namespaces.run("ip", "net", &(pair + &up(interface, far)))?;
        self.namespaces.run("ip", of, &up("net", near))
    }
}

/// The address of a client's server.
pub fn server_of(client: usize) -> std::net::Ipv4Addr {
    let [a, b, c, first] = FIRST_SERVER;
    std::net::Ipv4Addr::new(a, b, c, first.saturating_add(u8::try_from(client).unwrap_or(u8::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_has_a_server_of_its_own() {
        assert_eq!(server_of(0).to_string(), "10.89.0.10");
        assert_eq!(server_of(23).to_string(), "10.89.0.33");
    }
}
