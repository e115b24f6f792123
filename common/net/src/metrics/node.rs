//! What every node has: channels, circuits, cells, memory, refusals.

use tunic_proto::cell::{CELL_LEN, Command};
use tunic_proto::channel::{CircuitState, Totals};
use tunic_proto::counters::Incident;
use tunic_proto::limits::Latency;

use super::{BYTES, CELLS, Kind, PEOPLE, Text, up};
use crate::channel::Node;

/// The families of a node; `prefix` is the daemon's, such as `tunic_relay`, and its queues may hold `memory_limit` bytes.
pub fn node(text: &mut Text, prefix: &str, node: &Node, memory_limit: usize) {
    let name = |rest: &str| format!("{prefix}_{rest}");
    text.family(&name("channels"), "Channels that are open or being opened, in multiples of 8.", Kind::Gauge)
        .sample(&[], up(node.channel_count() as u64, PEOPLE));
    let totals = node.totals();
    circuits(text, &name("circuits"), &totals);
    cells(text, prefix, &totals);
    handshakes(text, prefix, node);
    text.family(&name("memory_bytes"), "Memory granted to queues, in MiB steps.", Kind::Gauge)
        .sample(&[], up((node.budget().used_cells() * CELL_LEN) as u64, BYTES));
    text.family(&name("memory_limit_bytes"), "The most that may be granted to queues.", Kind::Gauge)
        .sample(&[], memory_limit);
    let refused = name("refused_total");
    let mut refused =
        text.family(&refused, "What was refused or dropped, by reason, in multiples of 8.", Kind::Counter);
    for incident in Incident::ALL {
        refused.sample(&[("reason", incident.label())], up(node.counters().get(*incident), PEOPLE));
    }
}

fn circuits(text: &mut Text, name: &str, totals: &Totals) {
    let mut family = text.family(name, "Circuits by what they are here, in multiples of 8.", Kind::Gauge);
    for state in CircuitState::ALL {
        family.sample(&[("state", state.label())], up(totals.circuits[state as usize], PEOPLE));
    }
}

fn handshakes(text: &mut Text, prefix: &str, node: &Node) {
    let waiting = up(node.handshakes_waiting() as u64, PEOPLE);
    let help = "Circuit handshakes that wait for a core, in multiples of 8.";
    text.family(&format!("{prefix}_handshakes_waiting"), help, Kind::Gauge).sample(&[], waiting);
    let latency = node.handshake_latency();
    let bounds = Latency::BOUNDS_MS.map(|bound_ms| bound_ms as f64 / 1_000.0);
    let help = "How long circuit handshakes waited for a core, in multiples of 8.";
    text.family(&format!("{prefix}_handshake_wait_seconds"), help, Kind::Histogram).histogram(
        &bounds,
        &latency.counts(),
        latency.sum(),
        PEOPLE,
    );
}

fn cells(text: &mut Text, prefix: &str, totals: &Totals) {
    let name = format!("{prefix}_cells_total");
    let mut family =
        text.family(&name, "Cells by direction and command, in multiples of 1024.", Kind::Counter);
    for command in Command::ALL {
        let label = ("command", command.label());
        family.sample(&[("direction", "in"), label], up(totals.received(command), CELLS));
        family.sample(&[("direction", "out"), label], up(totals.sent(command), CELLS));
    }
    let name = format!("{prefix}_bytes_total");
    let (received, sent) = totals.cells();
    text.family(&name, "Bytes of cells by direction, in MiB steps.", Kind::Counter)
        .sample(&[("direction", "in")], up(received * CELL_LEN as u64, BYTES))
        .sample(&[("direction", "out")], up(sent * CELL_LEN as u64, BYTES));
    let name = format!("{prefix}_credit_stalls_total");
    text.family(
        &name,
        "Times that a circuit had more to send than credit, in multiples of 8.",
        Kind::Counter,
    )
    .sample(&[], up(totals.sent(Command::RelayBlocked), PEOPLE));
}
