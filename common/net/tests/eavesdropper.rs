//! What somebody sees who reads the wire between client and guard.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed setup is a failed test")]
mod support;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use support::{client, echo, echo_server, relays};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tunic_net::channel::Peer;
use tunic_proto::cell::CELL_LEN;
use tunic_proto::message::Target;

type Tape = Arc<Mutex<Vec<u8>>>;

/// Bytes that TLS 1.3 adds to an encrypted record's content: the real type, the tag.
const TLS_OVERHEAD: usize = 17;
const ALERT_LEN: usize = 2;

async fn record(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, tape: Tape) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        tape.lock().unwrap().extend_from_slice(&buffer[..count]);
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// Listens in front of `guard` and keeps what passes: away from the client, and towards it.
async fn wiretap(guard: SocketAddr) -> (SocketAddr, Tape, Tape) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (up, down) = (Tape::default(), Tape::default());
    let tapes = (up.clone(), down.clone());
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let (from_client, to_client) = client.into_split();
        let (from_guard, to_guard) = TcpStream::connect(guard).await.unwrap().into_split();
        tokio::join!(record(from_client, to_guard, up), record(from_guard, to_client, down));
    });
    (address, tapes.0, tapes.1)
}

/// The records of a tape: outer type and length of the content.
fn records(tape: &[u8]) -> Vec<(u8, usize)> {
    let mut records = Vec::new();
    let mut rest = tape;
    while let [kind, _, _, high, low, body @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        assert!(length <= body.len(), "a record cut short");
        records.push((*kind, length));
        rest = &body[length..];
    }
    assert!(rest.is_empty(), "bytes outside records");
    records
}

/// Checks that after TLS's own messages there are only records of whole cells, and counts the cells.
#[track_caller]
fn check(tape: &[u8], at_least: usize) {
    let records = records(tape);
    let is_cells = |(kind, length): &(u8, usize)| {
        *kind == 23 && *length > TLS_OVERHEAD && (length - TLS_OVERHEAD).is_multiple_of(CELL_LEN)
    };
    let first = records.iter().position(is_cells).expect("no cell at all");
    assert!(first <= 6, "{first} records before the first cell: {:?}", &records[..first]);
    let (last, cells) = records[first..].split_last().unwrap();
    for record in cells {
        assert!(is_cells(record), "not whole cells: {record:?}");
    }
    assert!(is_cells(last) || *last == (23, ALERT_LEN + TLS_OVERHEAD), "{last:?}");
    let count: usize = cells.iter().map(|(_, length)| (length - TLS_OVERHEAD) / CELL_LEN).sum();
    assert!(count >= at_least, "{count} cells");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn between_client_and_guard_there_are_only_whole_cells() {
    let (relays, target) = (relays(3).await, echo_server().await);
    let (tapped, up, down) = wiretap(relays[0].peer.addresses[0]).await;
    let client = client();
    let guard = Peer { id: relays[0].peer.id, addresses: vec![tapped] };
    let channel = client.connect(&guard).await.unwrap();
    let path = relays.iter().map(|relay| relay.hop.clone()).collect();
    let circuit = channel.create_circuit(path).await.unwrap();
    echo(circuit.begin(Target::Addr(target)).unwrap()).await;
    let mut quiet = circuit.begin(Target::Addr(target)).unwrap();
    quiet.write_all(b"a needle in the haystack").await.unwrap();
    let mut back = [0; 24];
    quiet.read_exact(&mut back).await.unwrap();
    drop((quiet, circuit));
    client.shutdown(std::time::Duration::from_secs(5)).await;
    channel.closed().await;

    // A megabyte each way in messages of 451 bytes.
    let cells = 1_000_000 / 451;
    let (up, down) = (up.lock().unwrap().clone(), down.lock().unwrap().clone());
    check(&up, cells);
    check(&down, cells);
    for tape in [&up, &down] {
        assert!(!tape.windows(8).any(|window| window == b"a needle"));
    }
}
