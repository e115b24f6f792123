//! The cables: every node in a namespace of its own, joined by a cable to one bridge.

use std::net::{IpAddr, Ipv4Addr};

use crate::launch::place::{Namespace, Place};
use crate::netns::Namespaces;

/// What a slow cable is like, in either direction, as `tc` reads it.
const SLOW: &str = "tbf rate 2mbit burst 16kb latency 400ms";
/// The namespace of the bridge.
const HUB: &str = "hub";
/// The namespace of the web server.
const WEB: &str = "web";
/// The address of the web server.
pub const WEB_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 2));
/// The last byte of the first node's address.
const FIRST_NODE: usize = 10;

/// Cables and namespaces. Dropped, they are gone.
pub struct Wires {
    namespaces: Namespaces,
    nodes: usize,
}

impl Wires {
    /// Lays cables to the web server and to so many nodes, 200 at most.
    ///
    /// # Errors
    /// Without root, or if `ip` fails.
    pub fn lay(prefix: &str, nodes: usize) -> anyhow::Result<Wires> {
        let mut wires = Wires { namespaces: Namespaces::new(prefix), nodes };
        wires.namespaces.add(HUB)?;
        wires.namespaces.run("ip", HUB, "link add bridge type bridge\nlink set dev bridge up\n")?;
        wires.join(WEB, &format!("{WEB_ADDRESS}/24"))?;
        for node in 0..nodes {
            wires.join(&cable(node), &format!("10.99.0.{}/24", FIRST_NODE + node))?;
        }
        Ok(wires)
    }

    fn join(&mut self, name: &str, address: &str) -> anyhow::Result<()> {
        self.namespaces.add(name)?;
        let there = self.namespaces.name(name);
        self.namespaces.run(
            "ip",
            HUB,
            &format!("link add {name} type veth peer name net netns {there}\nlink set dev {name} master bridge up\n"),
        )?;
        let near = format!("address add {address} dev net\nlink set dev net up\n");
        self.namespaces.run("ip", name, &near)
    }

    /// Where the nodes are, in their order.
    pub fn place(&self) -> anyhow::Result<Place> {
        (0..self.nodes)
            .map(|node| self.namespaces.get(&cable(node)))
            .collect::<Result<_, _>>()
            .map(Place::Namespaces)
    }

    /// Where the web server is.
    pub fn web(&self) -> anyhow::Result<Namespace> {
        self.namespaces.get(WEB)
    }

    /// Pulls a node's cable, or plugs it in.
    pub fn plug(&self, node: usize, plugged: bool) -> anyhow::Result<()> {
        let state = if plugged { "up" } else { "down" };
        self.namespaces.run("ip", HUB, &format!("link set dev {} {state}\n", cable(node)))
    }

    /// Makes a node's cable slow, or as fast as before.
    pub fn slow(&self, node: usize, slow: bool) -> anyhow::Result<()> {
        let queue = |device: &str| match slow {
            true => format!("qdisc add dev {device} root {SLOW}\n"),
            false => format!("qdisc del dev {device} root\n"),
        };
        let cable = cable(node);
        self.namespaces.run("tc", HUB, &queue(&cable))?;
        self.namespaces.run("tc", &cable, &queue("net"))
    }
}

/// The name of a node's namespace, and of its cable at the bridge.
fn cable(node: usize) -> String {
    format!("n{node}")
}
