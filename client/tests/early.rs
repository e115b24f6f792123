//! What a program says before it is connected, and one that is killed while it speaks.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]
#![expect(clippy::disallowed_methods, reason = "tests make their own keys")]

mod support;

use std::io;
use std::time::Duration;

use rustix::net::sockopt;
use support::{PATIENCE, TestNet};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::timeout;
use tunic_client::Client;
use tunic_net::daemon::RunOptions;

/// More than the first window of a stream takes, and as much as is kept.
const EARLY_LEN: usize = 60 * 1024;
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

/// Says a lot before it is connected, and the rest after; what the target heard.
async fn say_early(mut program: impl AsyncRead + AsyncWrite + Unpin, target: &TcpListener) -> Vec<u8> {
    let connect = format!("CONNECT {} HTTP/1.1\r\n\r\n", target.local_addr().unwrap());
    let said = pattern(2 * EARLY_LEN);
    let hear = async {
        let mut heard = Vec::new();
        target.accept().await.unwrap().0.read_to_end(&mut heard).await.unwrap();
        heard
    };
    let speak = async {
        program.write_all(connect.as_bytes()).await.unwrap();
        program.write_all(&said[..EARLY_LEN]).await.unwrap();
        let mut answer = vec![0; ESTABLISHED.len()];
        program.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, ESTABLISHED);
        program.write_all(&said[EARLY_LEN..]).await.unwrap();
        program.shutdown().await.unwrap();
    };
    timeout(PATIENCE, async { tokio::join!(hear, speak) }).await.expect("all arrives").0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_early_and_late_arrives_in_order_and_a_killed_program_resets_its_target() {
    let net = TestNet::start(4).await;
    let client = Client::start(net.config("a"), RunOptions::default()).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap();
    let socket = net.config("a").state_dir.unwrap().with_extension("sock");
    let serving = [
        tokio::spawn(client.serve_applications(listener)),
        tokio::spawn(client.serve_unix(UnixListener::bind(&socket).unwrap())),
    ];
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let heard = say_early(TcpStream::connect(port).await.unwrap(), &target).await;
    assert!(heard == pattern(2 * EARLY_LEN), "{} bytes", heard.len());
    let heard = say_early(UnixStream::connect(&socket).await.unwrap(), &target).await;
    assert!(heard == pattern(2 * EARLY_LEN), "{} bytes", heard.len());

    let mut program = TcpStream::connect(port).await.unwrap();
    let connect = format!("CONNECT {} HTTP/1.1\r\n\r\nhalf of it", target.local_addr().unwrap());
    program.write_all(connect.as_bytes()).await.unwrap();
    let mut hears = timeout(PATIENCE, target.accept()).await.expect("it is connected").unwrap().0;
    let mut half = [0; 10];
    timeout(PATIENCE, hears.read_exact(&mut half)).await.expect("it arrives").unwrap();
    sockopt::set_socket_linger(&program, Some(Duration::ZERO)).unwrap();
    drop(program);
    let end = timeout(PATIENCE, hears.read(&mut half)).await.expect("an end");
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);

    serving.iter().for_each(tokio::task::JoinHandle::abort);
    client.shutdown().await;
}
