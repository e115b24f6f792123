//! How far a network has come, derived from what its nodes report.

use std::collections::{BTreeMap, BTreeSet};

use tunic_net::daemon::Status;

use super::plan::{NodePlan, Role};

/// What a person waits for, in the order in which it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The authorities listen.
    Directory,
    /// Authorities took the relays' descriptors.
    Listed,
    /// The authorities have signed a consensus that lists every relay.
    Consensus,
    /// The client has built a circuit.
    Circuit,
    /// A byte came back through it.
    FirstByte,
}

impl Step {
    /// All steps, in order.
    pub const ALL: [Step; 5] =
        [Step::Directory, Step::Listed, Step::Consensus, Step::Circuit, Step::FirstByte];

    /// What to call it on a screen.
    pub fn label(self) -> &'static str {
        match self {
            Step::Directory => "directory ready",
            Step::Listed => "relays listed",
            Step::Consensus => "consensus signed",
            Step::Circuit => "circuits built",
            Step::FirstByte => "first byte through three hops",
        }
    }
}

/// Collects reports.
#[derive(Debug, Clone)]
pub struct Milestones {
    roles: Vec<Role>,
    listening: BTreeSet<usize>,
    published: BTreeSet<usize>,
    consensus: BTreeMap<usize, usize>,
    circuit: bool,
    first_byte: bool,
}

impl Milestones {
    /// Nothing has happened yet in this network.
    pub fn new(nodes: &[NodePlan]) -> Self {
        Milestones {
            roles: nodes.iter().map(|node| node.role).collect(),
            listening: BTreeSet::new(),
            published: BTreeSet::new(),
            consensus: BTreeMap::new(),
            circuit: false,
            first_byte: false,
        }
    }

    /// Node number `node` reports.
    pub fn report(&mut self, node: usize, status: Status) {
        match (status, self.roles.get(node)) {
            (Status::Listening(_), Some(Role::Directory)) => _ = self.listening.insert(node),
            (Status::Published, Some(Role::Relay { .. })) => _ = self.published.insert(node),
            (Status::Consensus { relays }, Some(Role::Directory)) => _ = self.consensus.insert(node, relays),
            (Status::CircuitReady, Some(Role::Client)) => self.circuit = true,
            _ => {}
        }
    }

    /// A byte came back through a circuit.
    pub fn first_byte(&mut self) {
        (self.circuit, self.first_byte) = (true, true);
    }

    /// What is done of a step, and what there is to do.
    pub fn progress(&self, step: Step) -> (usize, usize) {
        let relays = self.count(|role| matches!(role, Role::Relay { .. }));
        let authorities = self.count(|role| role == Role::Directory);
        match step {
            Step::Directory => (self.listening.len(), authorities),
            Step::Listed => (self.published.len(), relays),
            Step::Consensus => {
                (self.consensus.values().filter(|listed| **listed >= relays).count(), authorities)
            }
            Step::Circuit => (usize::from(self.circuit), 1),
            Step::FirstByte => (usize::from(self.first_byte), 1),
        }
    }

    /// Whether a step is done.
    pub fn done(&self, step: Step) -> bool {
        let (done, total) = self.progress(step);
        done >= total
    }

    fn count(&self, which: impl Fn(Role) -> bool) -> usize {
        self.roles.iter().filter(|role| which(**role)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::plan::Options;

    #[test]
    fn a_step_is_done_when_every_node_that_it_needs_has_reported() {
        let nodes = Options { authorities: 2, relays: 3, exits: 1, ..Options::default() }.nodes();
        let mut milestones = Milestones::new(&nodes);
        let address = Status::Listening(([127, 0, 0, 1], 1).into());
        milestones.report(0, address);
        milestones.report(0, address);
        milestones.report(2, address);
        assert_eq!(milestones.progress(Step::Directory), (1, 2), "twice the same, and a relay, do not count");
        milestones.report(1, address);
        assert!(milestones.done(Step::Directory));
        (2..5).for_each(|relay| milestones.report(relay, Status::Published));
        assert!(milestones.done(Step::Listed));
        milestones.report(0, Status::Consensus { relays: 2 });
        milestones.report(1, Status::Consensus { relays: 3 });
        assert_eq!(milestones.progress(Step::Consensus), (1, 2), "one relay is missing in the first");
        milestones.report(0, Status::Consensus { relays: 3 });
        assert!(milestones.done(Step::Consensus));
        milestones.report(5, Status::CircuitReady);
        assert!(milestones.done(Step::Circuit) && !milestones.done(Step::FirstByte));
        milestones.first_byte();
        assert!(milestones.done(Step::FirstByte));
    }

    #[test]
    fn a_report_from_nowhere_is_ignored() {
        let mut milestones = Milestones::new(&[]);
        milestones.report(7, Status::CircuitReady);
        assert!(!milestones.done(Step::Circuit));
    }
}
