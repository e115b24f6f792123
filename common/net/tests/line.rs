//! Channels over a line that takes little at a time and passes it on in pieces of any size.

#![allow(clippy::unwrap_used, reason = "a failed setup is a failed test")]
mod support;

use std::net::SocketAddr;
use std::time::Duration;

use support::{client, echo, echo_server, relays};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tunic_net::channel::Peer;
use tunic_proto::message::Target;

/// Ends of records, headers and cells fall anywhere in these.
const PIECES: [usize; 10] = [1, 4, 5, 6, 22, 511, 513, 1_448, 9_000, 16_384];
/// What the kernel keeps of what the line has not taken yet: less than one write of a channel.
const TAKEN_LEN: u32 = 8 * 1024;

async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut buffer = [0; 16_384];
    for piece in PIECES.into_iter().cycle() {
        let Ok(count @ 1..) = from.read(&mut buffer[..piece]).await else { break };
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// Such a line to `guard`.
async fn line(guard: SocketAddr) -> SocketAddr {
    let small = || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(TAKEN_LEN).unwrap();
        socket
    };
    let socket = small();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener: TcpListener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let guard: TcpStream = small().connect(guard).await.unwrap();
        for end in [&client, &guard] {
            end.set_nodelay(true).unwrap();
        }
        let (from_client, to_client) = client.into_split();
        let (from_guard, to_guard) = guard.into_split();
        tokio::join!(pass_on(from_client, to_guard), pass_on(from_guard, to_client));
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_in_pieces_comes_whole() {
    let (relays, target) = (relays(2).await, echo_server().await);
    let client = client();
    let guard = Peer { id: relays[0].peer.id, addresses: vec![line(relays[0].peer.addresses[0]).await] };
    let channel = client.connect(&guard).await.unwrap();
    let path: Vec<_> = relays.iter().map(|relay| relay.hop.clone()).collect();
    let circuit = channel.create_circuit(path).await.unwrap();
    let streams = [(); 3].map(|()| echo(circuit.begin(Target::Addr(target)).unwrap()));
    let [one, two, three] = streams;
    tokio::join!(one, two, three);
    drop(circuit);
    client.shutdown(Duration::from_secs(5)).await;
    channel.closed().await;
}
