//! Where the nodes of a network lie: on loopback, or each in a Linux network namespace, with the address that it has there.
//!
//! A socket belongs for good to the namespace of the thread that made it. So a short-lived thread that has moved makes it
//! for the launcher, which stays where it is.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Output};
use std::str::FromStr;

use anyhow::{Context, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::Deserialize;

/// Where `ip netns` keeps named namespaces.
pub const NAMESPACES: &str = "/run/netns";

/// Where nodes are put.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Place {
    /// All of them on 127.0.0.1.
    #[default]
    Loopback,
    /// Each in the next of these namespaces, which begin again when there are more nodes.
    Namespaces(Vec<Namespace>),
}

impl Place {
    /// The namespace of the node with this number.
    pub fn of(&self, number: usize) -> Option<Namespace> {
        match self {
            Place::Loopback => None,
            Place::Namespaces(names) => names.iter().cycle().nth(number).cloned(),
        }
    }
}

/// A place that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a place is written netns:NAME,NAME,…, with the names that `ip netns list` shows")]
pub struct PlaceError;

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let names = text.strip_prefix("netns:").ok_or(PlaceError)?;
        names.split(',').map(Namespace::from_str).collect::<Result<_, _>>().map(Place::Namespaces)
    }
}

/// A network namespace that `ip netns add` made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace(String);

impl FromStr for Namespace {
    type Err = PlaceError;

    fn from_str(name: &str) -> Result<Self, PlaceError> {
        let names_a_file = !matches!(name, "" | "." | "..") && !name.contains('/');
        names_a_file.then(|| Namespace(name.to_owned())).ok_or(PlaceError)
    }
}

impl std::fmt::Display for Namespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Namespace {
    /// Moves this thread, and with it the threads and sockets that it makes from now on, into the namespace.
    ///
    /// # Errors
    /// If there is no such namespace, or without the capability `CAP_SYS_ADMIN`.
    pub fn enter(&self) -> anyhow::Result<()> {
        let namespace = File::open(Path::new(NAMESPACES).join(&self.0))
            .with_context(|| format!("there is no network namespace {self}; `ip netns list` shows them"))?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("cannot enter the network namespace {self}; that takes root"))
    }

    /// What `make` makes inside the namespace.
    ///
    /// # Errors
    /// As [`Namespace::enter`], or what `make` says.
    pub fn inside<T: Send>(&self, make: impl FnOnce() -> io::Result<T> + Send) -> anyhow::Result<T> {
        let work = || {
            self.enter()?;
            make().with_context(|| format!("in the network namespace {self}"))
        };
        let joined = std::thread::scope(|scope| scope.spawn(work).join());
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// The address at which other hosts reach this namespace; an IPv4 one if there is one.
    ///
    /// # Errors
    /// If it has none, or `ip` cannot tell.
    pub fn address(&self) -> anyhow::Result<IpAddr> {
        let mut ip = Command::new("ip");
        ip.args(["-json", "-netns", &self.0, "address", "show", "scope", "global", "up"]);
        let Output { status, stdout, stderr } = ip.output().context("cannot run `ip` (package iproute2)")?;
        if !status.success() {
            bail!("ip tells no address of namespace {self}: {}", String::from_utf8_lossy(&stderr).trim());
        }
        first_address(&stdout)?.with_context(|| format!("the network namespace {self} has no address"))
    }
}

#[derive(Deserialize)]
struct Interface {
    #[serde(default)]
    addr_info: Vec<AddressInfo>,
}

#[derive(Deserialize)]
struct AddressInfo {
    local: Option<IpAddr>,
}

fn first_address(json: &[u8]) -> anyhow::Result<Option<IpAddr>> {
    let interfaces: Vec<Interface> = serde_json::from_slice(json).context("`ip` said no JSON")?;
    let addresses = interfaces.into_iter().flat_map(|interface| interface.addr_info);
    Ok(addresses.filter_map(|info| info.local).min_by_key(IpAddr::is_ipv6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Option<&[&str]>) {
        let names =
            |names: &[&str]| Place::Namespaces(names.iter().map(|n| Namespace(n.to_string())).collect());
        assert_eq!(text.parse().ok(), expect.map(names), "{text}");
    }

    #[test]
    fn a_place_lists_namespaces() {
        check("netns:wan1", Some(&["wan1"]));
        check("netns:wan1,wan2", Some(&["wan1", "wan2"]));
        for wrong in ["", "wan1", "netns:", "netns:wan1,", "netns:../wan1", "netns:.."] {
            check(wrong, None);
        }
    }

    #[test]
    fn namespaces_begin_again_when_there_are_more_nodes() {
        let place: Place = "netns:a,b".parse().unwrap();
        let names: Vec<String> = (0..3).filter_map(|n| place.of(n)).map(|name| name.to_string()).collect();
        assert_eq!(names, ["a", "b", "a"]);
        assert_eq!(Place::Loopback.of(0), None);
    }

    #[test]
    fn an_ipv4_address_goes_before_an_ipv6_one() {
        let json = br#"[{}, {"ifname":"wt1","addr_info":[{"local":"2001:db8::1"},{"local":"10.77.0.1"}]}]"#;
        assert_eq!(first_address(json).unwrap(), Some("10.77.0.1".parse().unwrap()));
        assert_eq!(first_address(b"[]").unwrap(), None);
    }

    #[test]
    fn a_namespace_that_is_not_there_is_named() {
        let nowhere = Namespace("tunic-nowhere".to_owned());
        let error = nowhere.inside(|| Ok(())).unwrap_err().to_string();
        assert!(error.contains("tunic-nowhere"), "{error}");
    }
}
