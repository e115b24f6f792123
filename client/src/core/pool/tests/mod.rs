mod circuits;
mod pace;
mod spares;
mod wants;

use std::cell::RefCell;
use std::collections::HashMap;

use tunic_proto::dir::ExitPolicy;
use tunic_proto::message::{DestroyReason, Target};

use super::*;
use crate::core::isolation::Isolation;
use crate::core::path::Hop;
use crate::core::testing::{id, open_policy, policy, relay, start};

/// A pool with a clock and circuits whose streams can be set.
struct Bench {
    pool: Pool,
    now: Instant,
    streams: RefCell<HashMap<CircuitId, usize>>,
}

impl Bench {
    fn new(spares: usize) -> Self {
        let mut bench =
            Bench { pool: Pool::new(spares, BUILD_RATE), now: start(), streams: RefCell::default() };
        bench.pool.network_changed();
        bench
    }

    fn settle(&mut self) -> Vec<Output> {
        let load = |id: CircuitId| self.streams.borrow().get(&id).copied().unwrap_or(0);
        self.pool.settle(self.now, &load);
        std::iter::from_fn(|| self.pool.poll_output()).collect()
    }

    fn want(&mut self, isolation: &str, target: &str, port: u16) -> WantId {
        let target = Target::Name(target.into(), port);
        self.pool.want(
            Want {
                isolation: Isolation::named(isolation),
                need: Need::Target(target),
                not_exits: Vec::new(),
                fresh: false,
            },
            self.now,
        )
    }

    fn built(&mut self, id: CircuitId, exit: u32) {
        self.pool.built(id, &path(exit, open_policy()));
    }

    /// Builds whatever the pool asks for until it asks for nothing, and returns the other outputs.
    fn build_all(&mut self) -> Vec<Output> {
        let mut rest = Vec::new();
        loop {
            let (builds, others): (Vec<_>, Vec<_>) =
                self.settle().into_iter().partition(|output| matches!(output, Output::Build(_)));
            rest.extend(others);
            if builds.is_empty() {
                return rest;
            }
            builds_of(&builds).into_iter().for_each(|build| self.built(build.circuit, 1));
        }
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
    }

    fn set_streams(&self, id: CircuitId, streams: usize) {
        self.streams.borrow_mut().insert(id, streams);
    }

    /// The circuit that a stream of this isolation gets; it must be ready.
    fn circuit_for(&mut self, isolation: &str) -> CircuitId {
        let want = self.want(isolation, "example.com", 443);
        let outputs = self.build_all();
        let mut used = outputs.iter().filter_map(|output| match output {
            Output::Use(id, circuit) if *id == want => Some(*circuit),
            _ => None,
        });
        used.next().unwrap_or_else(|| panic!("not served: {outputs:?}"))
    }
}

fn path(exit: u32, exit_policy: ExitPolicy) -> Path {
    Path { hops: [10, 11, exit].map(|number| Hop::from(&relay(number))).to_vec(), exit_policy }
}

fn builds_of(outputs: &[Output]) -> Vec<Build> {
    let builds = outputs.iter().filter_map(|output| match output {
        Output::Build(build) => Some(build.clone()),
        _ => None,
    });
    builds.collect()
}
