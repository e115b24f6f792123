//! The downloads: pieces, each over a fresh stream, one after another, and beside them one long download over one stream.
//!
//! What brings no byte for a while is given up and begun anew, as somebody would who looks at it.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::record::{Outcome, Piece, Record};
use super::server::{ENDLESS, Text, request};
use crate::launch::place::Namespace;
use crate::launch::{now, socks};

/// Length of a piece.
pub const PIECE_LEN: u64 = 256 << 10;
/// How long a download may bring nothing.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Between two pieces, and before a long download begins anew.
const PAUSE: Duration = Duration::from_millis(100);
const READ_LEN: usize = 64 << 10;

/// How the load gets to what it downloads.
#[derive(Clone)]
pub struct Way {
    /// Where the client is.
    pub namespace: Namespace,
    /// Its SOCKS5 port.
    pub socks: SocketAddr,
    /// The web server.
    pub web: SocketAddr,
    /// What the web server serves.
    pub text: Text,
}

/// Downloads that go on until this is dropped.
pub struct Load {
    began: Instant,
    record: Arc<Mutex<Record>>,
    _tasks: JoinSet<()>,
}

impl Load {
    /// Begins.
    pub fn start(way: Way) -> Load {
        let (began, record) = (now(), Arc::new(Mutex::new(Record::default())));
        let lane = Lane { way, began, record: Arc::clone(&record) };
        let mut tasks = JoinSet::new();
        tasks.spawn(lane.clone().fetch_pieces());
        tasks.spawn(lane.fetch_long());
        Load { began, record, _tasks: tasks }
    }

    /// The time on the record's clock.
    pub fn time(&self) -> Duration {
        now().duration_since(self.began)
    }

    /// What was downloaded.
    pub fn record(&self) -> MutexGuard<'_, Record> {
        lock(&self.record)
    }
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone)]
struct Lane {
    way: Way,
    began: Instant,
    record: Arc<Mutex<Record>>,
}

impl Lane {
    async fn fetch_pieces(self) {
        for number in 0.. {
            let begun = self.time();
            let outcome = self.fetch(PIECE_LEN * number, PIECE_LEN).await;
            lock(&self.record).piece(Piece { begun, ended: self.time(), outcome });
            sleep(PAUSE).await;
        }
    }

    async fn fetch_long(self) {
        loop {
            let outcome = self.fetch(0, ENDLESS).await;
            lock(&self.record).long_broke(self.time(), outcome);
            sleep(PAUSE).await;
        }
    }

    fn time(&self) -> Duration {
        now().duration_since(self.began)
    }

    async fn fetch(&self, place: u64, count: u64) -> Outcome {
        match self.try_fetch(place, count).await {
            Ok(()) => Outcome::Came,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Outcome::Wrong,
            Err(error) => {
                tracing::debug!(%error, "a download failed");
                Outcome::Failed
            }
        }
    }

    async fn try_fetch(&self, place: u64, count: u64) -> io::Result<()> {
        let mut stream = timeout(PATIENCE, self.connect()).await??;
        stream.write_all(&request(place, count)).await?;
        let (mut got, mut bytes) = (0, vec![0; READ_LEN]);
        while got < count {
            let read = timeout(PATIENCE, stream.read(&mut bytes)).await??;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if !self.way.text.has(place + got, &bytes[..read]) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            got += read as u64;
            lock(&self.record).bytes(self.time(), read);
        }
        Ok(())
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let socket = self.way.namespace.inside(TcpSocket::new_v4).map_err(io::Error::other)?;
        let connection = socket.connect(self.way.socks).await?;
        let web = self.way.web;
        socks::connect(connection, &web.ip().to_string(), web.port()).await
    }
}
