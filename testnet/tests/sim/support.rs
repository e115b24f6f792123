//! Small networks, and what must be so when everything has ended.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tunic_proto::circuit::CircuitHandle;
use tunic_testnet::sim::{EndId, LinkSpec, NodeId, Report, World};

pub const MIB: u64 = 1 << 20;
pub const MINUTE: Duration = Duration::from_secs(60);

/// A client whose channel leads to the first of some relays.
pub struct Network {
    pub world: World,
    pub client: NodeId,
    pub relays: Vec<NodeId>,
    /// The client's end of its channel.
    pub end: EndId,
}

impl Network {
    pub fn new(seed: u64, relays: usize) -> Network {
        let mut world = World::new(seed);
        let client = world.client();
        let relays = world.relays(relays);
        let end = world.open(client, relays[0], LinkSpec::delay_ms(5));
        Network { world, client, relays, end }
    }

    /// A circuit over all relays in order.
    pub fn build(&mut self) -> CircuitHandle {
        self.world.build(self.end, &self.relays)
    }

    /// Ends the circuits; then nothing may be left, and nobody may have seen anything wrong.
    pub fn assert_clean(mut self, circuits: Vec<CircuitHandle>) {
        drop(circuits);
        self.world.run_for(MINUTE);
        for node in [&[self.client], &self.relays[..]].concat() {
            assert_eq!(self.world.counters(node).to_string(), "none", "{node:?}");
        }
        assert_eq!(self.world.violations(), []);
        assert_empty(&self.world, &[&[self.client], &self.relays[..]].concat());
        assert_eq!(self.world.app_count(), 0);
    }
}

pub fn assert_empty(world: &World, nodes: &[NodeId]) {
    for node in nodes {
        assert_eq!((world.circuit_count(*node), world.used_cells(*node)), (0, 0), "{node:?}");
    }
}

pub fn read(report: &Arc<Mutex<Report>>) -> Report {
    report.lock().unwrap().clone()
}

/// Runs until these transfers are complete, and intact.
pub fn complete(world: &mut World, reports: &[Arc<Mutex<Report>>]) {
    let complete = |report: &Arc<Mutex<Report>>| report.lock().unwrap().complete_at.is_some();
    let finished = world.run_until(10 * MINUTE, |_| reports.iter().all(complete));
    let reports: Vec<_> = reports.iter().map(read).collect();
    assert!(finished, "{:?}", reports.iter().find(|report| report.complete_at.is_none()));
    assert!(reports.iter().all(|report| !report.damaged && report.broken.is_none()));
}
