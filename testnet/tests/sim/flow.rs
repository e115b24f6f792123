//! Flow control: bounded memory, windows that fit the path, and turns that are fair (docs/protocol.md §7).

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tunic_proto::cell::{self, CELL_LEN, Command};
use tunic_proto::circuit::{BuildError, CircuitStatus};
use tunic_proto::counters::Incident;
use tunic_proto::flow::{IDLE_CELLS, OPEN_CELLS};
use tunic_proto::message::{DestroyReason, EndReason};
use tunic_proto::stream::{INITIAL_SEND_CELLS, StreamIo};
use tunic_testnet::sim::{App, LinkSpec, Next, Report, World, service, source};

use crate::support::{MIB, MINUTE, Network, complete, read};

const SECOND: Duration = Duration::from_secs(1);

fn paused(report: Arc<Mutex<Report>>) -> Arc<Mutex<Report>> {
    report.lock().unwrap().paused = true;
    report
}

/// What everything on the path holds: queued cells and what windows reserve for them, in bytes.
fn held(net: &Network) -> usize {
    let nodes = net.relays.iter().chain([&net.client]);
    nodes.map(|node| net.world.stored_bytes(*node) + net.world.used_cells(*node) * CELL_LEN).sum()
}

/// Memory and time of an honest download while `stalled` others do not read what they asked for.
fn beside_stalled(stalled: usize) -> Duration {
    let mut net = Network::new(11, 3);
    let honest = net.build();
    let circuits: Vec<_> = (0..stalled).map(|_| net.build()).collect();
    for circuit in &circuits {
        for _ in 0..4 {
            paused(net.world.transfer(circuit, source(1 << 30), 0).unwrap());
        }
    }
    net.world.run_for(10 * SECOND);
    let before = held(&net);
    assert!(before < 16 * MIB as usize, "{before} bytes are held");
    for _ in 0..5 {
        net.world.run_for(MINUTE);
        assert_eq!(held(&net), before);
    }
    let begun = net.world.now();
    let download = net.world.transfer(&honest, source(8 * MIB), 0).unwrap();
    complete(&mut net.world, std::slice::from_ref(&download));
    read(&download).complete_at.unwrap() - begun
}

#[test]
fn readers_that_stall_cost_no_memory_and_nobody_elses_time() {
    assert_eq!(beside_stalled(8), beside_stalled(0));
}

#[test]
fn a_stalled_stream_holds_up_no_other_on_its_circuit_and_goes_on_when_it_is_read() {
    let mut net = Network::new(12, 3);
    let circuit = net.build();
    let stalled = paused(net.world.transfer(&circuit, source(4 * MIB), 0).unwrap());
    net.world.run_for(MINUTE);
    let other = net.world.transfer(&circuit, source(4 * MIB), 0).unwrap();
    complete(&mut net.world, &[other]);
    net.world.resume(&stalled);
    complete(&mut net.world, std::slice::from_ref(&stalled));
    assert_eq!(read(&stalled).received, 4 * MIB);
    net.assert_clean(vec![circuit]);
}

#[test]
fn a_neighbour_that_grants_nothing_is_sent_nothing_more() {
    let mut net = Network::new(13, 3);
    let hostile = net.world.client();
    let end = net.world.open(hostile, net.relays[0], LinkSpec::delay_ms(5));
    let circuits: Vec<_> = (0..8).map(|_| net.world.build(end, &net.relays)).collect();
    net.world.tamper(end, |cell| match cell::parse_header(&cell) {
        Ok((_, Command::Credit)) => vec![],
        _ => vec![cell],
    });
    for circuit in &circuits {
        net.world.transfer(circuit, source(1 << 30), 0).unwrap();
    }
    net.world.run_for(10 * SECOND);
    let (before, sent) = (held(&net), net.world.sent(end.peer()));
    assert!(before < 4 * MIB as usize, "{before} bytes are held");
    net.world.run_for(5 * MINUTE);
    assert_eq!((held(&net), net.world.sent(end.peer())), (before, sent));
    let honest = net.build();
    let download = net.world.transfer(&honest, source(MIB), 0).unwrap();
    complete(&mut net.world, &[download]);
    drop(circuits);
    net.assert_clean(vec![honest]);
}

#[test]
fn windows_grow_to_fill_a_long_path() {
    let mut net = Network::new(14, 3);
    net.world.default_link = LinkSpec::delay_ms(100);
    net.world.set_link(net.end, LinkSpec::delay_ms(100));
    net.world.set_link(net.end.peer(), LinkSpec::delay_ms(100));
    let circuit = net.build();
    for (target, upload) in [(source(64 * MIB), 0), (service("sink"), 64 * MIB)] {
        let begun = net.world.now();
        let transfer = net.world.transfer(&circuit, target, upload).unwrap();
        complete(&mut net.world, std::slice::from_ref(&transfer));
        let took = read(&transfer).complete_at.unwrap() - begun;
        // The largest window is 16,384 cells a round trip of 600 ms: 12.3 MB/s, so 6 s once it has grown.
        assert!(took < 25 * SECOND, "{took:?}");
    }
    net.assert_clean(vec![circuit]);
}

/// Reads so many bytes every 100 ms.
struct SlowReader {
    stream: StreamIo,
    bytes: usize,
}

impl App for SlowReader {
    fn poll(&mut self, cx: &mut Context<'_>, now: Duration) -> Next {
        match self.stream.poll_read(cx, &mut vec![0; self.bytes]) {
            Poll::Ready(Ok(0) | Err(_)) => Next::Done,
            _ => Next::At(now + SECOND / 10),
        }
    }
}

#[test]
fn windows_do_not_grow_for_a_slow_reader() {
    let mut net = Network::new(15, 3);
    let circuit = net.build();
    let idle = net.world.used_cells(net.client);
    let stream = circuit.begin(source(1 << 30)).unwrap();
    net.world.spawn(Box::new(SlowReader { stream, bytes: 5_000 }));
    net.world.run_for(5 * MINUTE);
    // The stream's own window as it was opened, and its send buffer; and the first burst, which the client takes at once, makes
    // the circuit's window as large.
    let used = net.world.used_cells(net.client) - idle;
    assert!(used <= 2 * OPEN_CELLS as usize + INITIAL_SEND_CELLS as usize, "{used} cells");
}

#[test]
fn a_full_budget_refuses_new_circuits_and_streams_and_recovers() {
    let mut world = World::new(16);
    let client = world.client();
    // Four circuits and eight streams: an idle circuit reserves a part of its window, a stream all of it and what its application
    // may hand over.
    let stream = 64 + INITIAL_SEND_CELLS as usize;
    let relay = world.relay_with_budget((4 * IDLE_CELLS as usize + 8 * stream) * CELL_LEN);
    let end = world.open(client, relay, LinkSpec::delay_ms(5));
    let mut circuits: Vec<_> = (0..4).map(|_| world.build(end, &[relay])).collect();
    let streams: Vec<_> = (0..9).map(|n| circuits[n % 4].begin(service("stalled")).unwrap()).collect();
    world.run_for(SECOND);
    let refused: Vec<_> = streams.iter().filter_map(StreamIo::end_reason).collect();
    assert_eq!(refused, [EndReason::Resources]);
    let circuit = world.circuit(end, &[relay]).unwrap();
    world.run_for(SECOND);
    let full = BuildError { hop: 0, reason: DestroyReason::Resources };
    assert_eq!(circuit.status(), CircuitStatus::Failed(full));
    assert_eq!(world.count(relay, Incident::Resources), 2);
    drop(streams);
    world.run_for(SECOND);
    assert_eq!(world.used_cells(relay), 4 * IDLE_CELLS as usize);
    circuits.push(world.build(end, &[relay]));
    let echo = world.transfer(&circuits[4], service("echo"), MIB).unwrap();
    complete(&mut world, &[echo]);
    drop(circuits);
    world.run_for(MINUTE);
    assert_eq!((world.used_cells(relay), world.circuit_count(relay)), (0, 0));
    assert_eq!(world.violations(), []);
}

#[test]
fn those_who_transfer_much_leave_room_for_others() {
    let mut world = World::new(17);
    let client = world.client();
    let relay = world.relay_with_budget(4 * MIB as usize);
    let end = world.open(client, relay, LinkSpec::delay_ms(100));
    let bulk: Vec<_> = (0..8).map(|_| world.build(end, &[relay])).collect();
    let uploads: Vec<_> =
        bulk.iter().map(|circuit| world.transfer(circuit, service("sink"), 8 * MIB).unwrap()).collect();
    world.run_for(10 * SECOND);
    assert!(world.used_cells(relay) > 3_000);
    let others: Vec<_> = (0..32).map(|_| world.build(end, &[relay])).collect();
    for circuit in &others {
        let echo = world.transfer(circuit, service("echo"), 1_000).unwrap();
        complete(&mut world, &[echo]);
    }
    complete(&mut world, &uploads);
}

#[test]
fn a_quiet_circuit_hardly_waits_beside_busy_ones() {
    let mut net = Network::new(18, 3);
    let quiet = net.build();
    let bulk: Vec<_> = (0..8).map(|_| net.build()).collect();
    let rtt = |world: &mut World| {
        let begun = world.now();
        let echo = world.transfer(&quiet, service("echo"), 400).unwrap();
        complete(world, std::slice::from_ref(&echo));
        read(&echo).first_byte_at.unwrap() - begun
    };
    let alone = rtt(&mut net.world);
    net.world.set_link(net.end.peer(), LinkSpec { delay: Duration::from_millis(5), rate: Some(1_000_000) });
    for circuit in &bulk {
        net.world.transfer(circuit, source(64 * MIB), 0).unwrap();
    }
    net.world.run_for(10 * SECOND);
    let mut worst = Duration::ZERO;
    for _ in 0..50 {
        worst = worst.max(rtt(&mut net.world));
        net.world.run_for(SECOND / 7);
    }
    // The slow link takes half a millisecond for a cell; in turns of 32 cells, each of the eight would cost 16 ms.
    assert!(worst < alone + Duration::from_millis(40), "{worst:?} instead of {alone:?}");
}
