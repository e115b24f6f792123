//! Connections whose program is gone while the target says nothing: they do not keep their places at the port.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]
#![expect(clippy::disallowed_methods, reason = "tests make their own keys")]

mod support;

use std::time::Duration;

use rustix::net::sockopt;
use support::{PATIENCE, TestNet};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::timeout;
use tunic_client::Client;
use tunic_net::daemon::RunOptions;

/// A target that keeps its connections open, hears everything and says nothing.
async fn silent_target() -> (std::net::SocketAddr, tokio::sync::mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, asked) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut tcp, _)) = listener.accept().await {
            if tcp.read(&mut [0; 4_096]).await.is_ok_and(|count| count > 0) {
                sender.send(()).await.unwrap();
            }
            open.push(tcp);
        }
    });
    (address, asked)
}

async fn streams(client: &Client, count: usize) {
    let until = async {
        while client.report(false).await.streams.total != count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, until).await.unwrap_or_else(|_| panic!("never {count} streams"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_that_are_gone_keep_no_place_though_the_target_is_silent() {
    let net = TestNet::start(4).await;
    let client = Client::start(net.config("a"), RunOptions::default()).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap();
    let socket = net.config("a").state_dir.unwrap().with_extension("sock");
    let serving = [
        tokio::spawn(client.serve_applications(listener)),
        tokio::spawn(client.serve_unix(UnixListener::bind(&socket).unwrap())),
    ];
    let (target, mut asked) = silent_target().await;
    let plain = format!("GET http://{target}/ HTTP/1.1\r\n\r\n");
    let tunnel = format!("CONNECT {target} HTTP/1.1\r\n\r\nhello");
    for request in [plain, tunnel] {
        let mut tcp = TcpStream::connect(port).await.unwrap();
        tcp.write_all(request.as_bytes()).await.unwrap();
        timeout(PATIENCE, asked.recv()).await.expect("it arrives").unwrap();
        tcp.shutdown().await.unwrap();
        streams(&client, 1).await;
        // As when the program was killed with an answer unread.
        sockopt::set_socket_linger(&tcp, Some(Duration::ZERO)).unwrap();
        drop(tcp);
        streams(&client, 0).await;

        let mut unix = UnixStream::connect(&socket).await.unwrap();
        unix.write_all(request.as_bytes()).await.unwrap();
        timeout(PATIENCE, asked.recv()).await.expect("it arrives").unwrap();
        drop(unix);
        streams(&client, 0).await;
    }
    serving.iter().for_each(tokio::task::JoinHandle::abort);
    client.shutdown().await;
}
