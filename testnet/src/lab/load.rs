//! The load: rounds of visits through the clients, as a browser would make them.
//!
//! 1. Each round begins with rest and then silence, which are known to hold no visit.
//! 2. Then each client's program visits one site: it fetches the page, then its objects when the page asks for them, over
//!    up to [`LANES`] connections that it keeps. Each visit has SOCKS credentials and so a circuit of its own.
//! 3. The next round begins when all visits are over and the time that is looked at has passed.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::schedule::{CLIENTS, Planned};
use super::server::{PORT, request};
use super::sites::Object;
use super::truth::{Round, Visit};
use super::wires::server_of;

/// Connections of a visit.
const LANES: usize = 4;
/// After this a visit has failed.
const VISIT_LIMIT: Duration = Duration::from_secs(30);
/// Between the end of a round and silence.
const REST: Duration = Duration::from_millis(700);

/// How long what is looked at lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Of silence.
    pub idle: Duration,
    /// From the beginning of a round.
    pub visit: Duration,
}

/// Makes all visits in every set of clients at the same time. `doors` are the clients' sockets, set after set.
pub async fn run(
    rounds: &[Vec<Planned>],
    doors: &[PathBuf],
    windows: Windows,
    mut done: impl FnMut(usize),
) -> (Vec<Round>, Vec<Visit>) {
    let (mut times, mut visits) = (Vec::new(), Vec::new());
    for (number, round) in rounds.iter().enumerate() {
        sleep(REST).await;
        let idle_us = unix_us();
        sleep(windows.idle).await;
        let (start_us, over) = (unix_us(), now() + windows.visit);
        let mut running = JoinSet::new();
        for (door, socket) in doors.iter().enumerate() {
            let Some(planned) = round.get(door % CLIENTS).cloned() else { continue };
            running.spawn(visit(number, door, socket.clone(), planned));
        }
        visits.extend(running.join_all().await);
        sleep_until(over).await;
        times.push(Round { idle_us, start_us });
        done(number + 1);
    }
    (times, visits)
}

async fn visit(round: usize, door: usize, socket: PathBuf, planned: Planned) -> Visit {
    sleep(planned.after).await;
    let start_us = unix_us();
    let program = Program { socket, door, credentials: format!("visit-{round}-{door}") };
    let fetched = timeout(VISIT_LIMIT, program.fetch(&planned.objects)).await;
    let end_us = unix_us();
    let fetched = fetched.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let objects = &planned.objects;
    Visit {
        set: door / CLIENTS,
        client: planned.client,
        round,
        site: planned.site,
        start_us,
        first_byte_us: fetched.as_ref().ok().copied(),
        end_us,
        payload: objects.iter().map(|o| u64::from(o.request_len) + u64::from(o.response_len)).sum(),
        error: fetched.err().map(|error| error.to_string()),
    }
}

/// One visit's program.
struct Program {
    socket: PathBuf,
    door: usize,
    credentials: String,
}

impl Program {
    /// Fetches the page, then everything else. When the first byte came, microseconds of the system clock.
    async fn fetch(&self, objects: &[Object]) -> io::Result<u64> {
        let Some((page, others)) = objects.split_first() else { return Ok(unix_us()) };
        let mut connection = self.connect().await?;
        connection.write_all(&request(page)).await?;
        connection.read_u8().await?;
        let first_byte_us = unix_us();
        read(&mut connection, page.response_len.saturating_sub(1)).await?;
        let shown = now();
        let left = Mutex::new(others.iter());
        let lane = async |mut kept: Option<UnixStream>| -> io::Result<()> {
            loop {
                let Some(object) = left.lock().await.next() else { return Ok(()) };
                sleep_until(shown + object.offset).await;
                let mut connection = match kept.take() {
                    Some(connection) => connection,
                    None => self.connect().await?,
                };
                connection.write_all(&request(object)).await?;
                read(&mut connection, object.response_len).await?;
                kept = Some(connection);
            }
        };
        let lanes: [_; LANES] =
            tokio::join!(lane(Some(connection)), lane(None), lane(None), lane(None)).into();
        lanes.into_iter().collect::<io::Result<()>>()?;
        Ok(first_byte_us)
    }

    /// A connection through the client's SOCKS5 port to its server (RFC 1928, with credentials of RFC 1929).
    async fn connect(&self) -> io::Result<UnixStream> {
        let mut connection = UnixStream::connect(&self.socket).await?;
        let name = self.credentials.as_bytes();
        let len = u8::try_from(name.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        connection.write_all(&[5, 1, 2]).await?;
        expect(&mut connection, [5, 2]).await?;
        connection.write_all(&[&[1, len], name, &[1, b'x']].concat()).await?;
        expect(&mut connection, [1, 0]).await?;
        let server = server_of(self.door).octets();
        connection.write_all(&[&[5, 1, 0, 1], &server[..], &PORT.to_be_bytes()].concat()).await?;
        let mut reply = [0; 10];
        connection.read_exact(&mut reply[..4]).await?;
        if (reply[1], reply[3]) != (0, 1) {
            return Err(io::Error::other(format!("the client refused with code {}", reply[1])));
        }
        connection.read_exact(&mut reply[4..]).await?;
        Ok(connection)
    }
}

async fn expect(connection: &mut UnixStream, bytes: [u8; 2]) -> io::Result<()> {
    let mut got = [0; 2];
    connection.read_exact(&mut got).await?;
    if got != bytes {
        return Err(io::Error::other(format!("the client answered {got:?} instead of {bytes:?}")));
    }
    Ok(())
}

async fn read(connection: &mut UnixStream, len: u32) -> io::Result<()> {
    let len = u64::from(len);
    match tokio::io::copy(&mut connection.take(len), &mut tokio::io::sink()).await? {
        got if got == len => Ok(()),
        got => Err(io::Error::other(format!("the connection ended after {got} of {len} bytes"))),
    }
}

#[expect(clippy::disallowed_methods, reason = "the load generator is a shell")]
fn now() -> Instant {
    Instant::now()
}

/// The clock that the kernel stamps packets with.
#[expect(clippy::disallowed_methods, reason = "the load generator is a shell")]
fn unix_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
