//! A daemon in this process.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tunic_client::Config;
use tunic_net::daemon::Status;

use super::watched;

/// Far longer than anything here takes: the tests fail instead of hanging.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon in this process.
pub struct Daemon {
    pub socks: SocketAddr,
    /// The status page, if there is one.
    pub page: Option<SocketAddr>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
    pub told: Arc<Mutex<Vec<Status>>>,
}

impl Daemon {
    /// Starts and waits until the first circuit is built.
    pub async fn start(config: Config) -> Daemon {
        let (options, mut statuses) = watched();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(tunic_client::run(config, options, async { drop(stopped.await) }));
        let told = Arc::new(Mutex::new(Vec::new()));
        let (mut socks, mut page) = (None, None);
        let ready = async {
            while let Some(status) = statuses.recv().await {
                told.lock().unwrap().push(status);
                match status {
                    Status::Listening(address) => socks = Some(address),
                    Status::Page(address) => page = Some(address),
                    Status::CircuitReady => return,
                    _ => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, ready).await.expect("a circuit");
        let log = told.clone();
        tokio::spawn(async move {
            while let Some(status) = statuses.recv().await {
                log.lock().unwrap().push(status);
            }
        });
        Daemon { socks: socks.expect("a port"), page, stop, task, told }
    }

    pub async fn stop(self) {
        drop(self.stop);
        tokio::time::timeout(PATIENCE, self.task).await.expect("an end").unwrap().unwrap();
    }

    /// Asks for a name, sending `early` behind the request at once. Returns the reply code and the connection.
    pub async fn ask(&self, name: &str, port: u16, early: &[u8]) -> (u8, TcpStream) {
        let address = [&[3, name.len() as u8][..], name.as_bytes()].concat();
        self.ask_address(&address, port, early).await
    }

    pub async fn ask_address(&self, address: &[u8], port: u16, early: &[u8]) -> (u8, TcpStream) {
        let mut tcp = TcpStream::connect(self.socks).await.unwrap();
        let request = [&[5, 1, 0, 5, 1, 0], address, &port.to_be_bytes(), early].concat();
        tcp.write_all(&request).await.unwrap();
        let mut answer = [0; 12];
        tokio::time::timeout(PATIENCE, tcp.read_exact(&mut answer)).await.expect("an answer").unwrap();
        assert_eq!(answer[..3], [5, 0, 5]);
        (answer[3], tcp)
    }
}
