//! What applications do that gives a person away, and what to do about it.

use serde::{Deserialize, Serialize};
use tunic_proto::message::Target;

use super::Command;

/// Ports whose protocols tell who one is, or everything one says, to the exit and whoever is behind it: telnet, mail
/// without encryption, the Windows network.
pub const LEAKY_PORTS: &[u16] = &[23, 25, 109, 110, 135, 137, 138, 139, 143, 445];

/// What to do about a leak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reaction {
    /// Nothing.
    Allow,
    /// Say so in the log, once.
    #[default]
    Warn,
    /// Say so in the log, once, and refuse.
    Refuse,
}

/// The kinds of leak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Leak {
    /// SOCKS with an address: the application may have resolved the name on its own, outside of Tunic.
    BareAddress,
    /// A port of [`LeakRules::ports`].
    Port(u16),
}

/// What the person set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeakRules {
    /// About addresses where names belong.
    pub bare_addresses: Reaction,
    /// The ports that leak.
    pub ports: Vec<u16>,
    /// About those.
    pub on_port: Reaction,
}

impl LeakRules {
    /// What is wrong with a request, worst first, and what to do about it.
    pub fn judge(&self, command: &Command, bare_address: bool) -> Option<(Leak, Reaction)> {
        let Command::Connect(target) = command else { return None };
        let port = target.port();
        let public = match target {
            Target::Addr(address) => !address.ip().is_loopback(),
            Target::Name(..) => true,
        };
        let by_port = self.ports.contains(&port).then_some((Leak::Port(port), self.on_port));
        let by_address = (bare_address && public).then_some((Leak::BareAddress, self.bare_addresses));
        [by_port, by_address]
            .into_iter()
            .flatten()
            .filter(|(_, reaction)| *reaction != Reaction::Allow)
            .max_by_key(|(_, reaction)| *reaction == Reaction::Refuse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Reaction::{Allow, Refuse, Warn};

    #[track_caller]
    fn check(rules: (Reaction, Reaction), target: &str, bare: bool, expect: Option<(Leak, Reaction)>) {
        let rules = LeakRules { bare_addresses: rules.0, ports: LEAKY_PORTS.to_vec(), on_port: rules.1 };
        let command = Command::Connect(Target::Addr(target.parse().unwrap()));
        assert_eq!(rules.judge(&command, bare), expect);
    }

    #[test]
    fn the_worst_leak_is_told() {
        check((Warn, Warn), "192.0.2.1:443", false, None);
        check((Warn, Warn), "192.0.2.1:443", true, Some((Leak::BareAddress, Warn)));
        check((Refuse, Warn), "192.0.2.1:445", true, Some((Leak::BareAddress, Refuse)));
        check((Warn, Refuse), "192.0.2.1:445", true, Some((Leak::Port(445), Refuse)));
        check((Allow, Warn), "192.0.2.1:25", true, Some((Leak::Port(25), Warn)));
        check((Allow, Allow), "192.0.2.1:25", true, None);
        check((Refuse, Refuse), "127.0.0.1:443", true, None);
    }
}
