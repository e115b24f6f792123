//! The directory exchange over a stream (docs/protocol.md §8): one request, one response, then the stream is over.
//!
//! What a stranger can make this process hold is bounded: so many exchanges at a time, few of them from one network, none
//! with a large request, each for so long and no longer. Peers whose identity the handler trusts have places of their own, so
//! that strangers who fill theirs do not keep authorities from agreeing.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tracing::debug;
use tunic_proto::dir::{DirError, Kind, Request, RequestDecoder, Response, ResponseDecoder};
use tunic_proto::ids::RelayId;
use tunic_proto::message::EndReason;

use crate::channel::{Caller, Circuit, IncomingStream};

/// How long a whole exchange may take that was begun here.
pub const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(180);
/// How long a request of a trusted peer may take to come in: 8 MiB at 140 KB/s.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(60);
/// The same of a stranger's, which is short.
const STRANGER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a response may take to go out: 16 MiB at 93 KB/s.
const RESPOND_TIMEOUT: Duration = Duration::from_secs(180);
/// How long a requester that was refused may take to notice.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Exchanges of strangers that are answered at a time; further streams are rejected.
const MAX_EXCHANGES: usize = 256;
/// Of these, so many from one network (IPv4 /24, IPv6 /48).
const MAX_PER_NETWORK: usize = 64;
/// Exchanges of trusted peers that are answered at a time, which may be large (8 MiB each at most).
const MAX_TRUSTED_EXCHANGES: usize = 32;
/// Bytes that are read at once.
const PIECE_LEN: usize = 16 * 1024;

static FREE: Semaphore = Semaphore::const_new(MAX_EXCHANGES);
static FREE_TRUSTED: Semaphore = Semaphore::const_new(MAX_TRUSTED_EXCHANGES);
static NETWORKS: Mutex<BTreeMap<IpAddr, usize>> = Mutex::new(BTreeMap::new());

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The stream was refused or ended before the response was complete.
    #[error("the directory stream ended: {0}")]
    Stream(EndReason),
    /// The stream broke.
    #[error("the directory stream broke: {0}")]
    Io(#[from] io::Error),
    /// What came is no response.
    #[error("the directory's response is {0}")]
    Response(#[from] DirError),
    /// It took longer than [`EXCHANGE_TIMEOUT`].
    #[error("the directory took too long")]
    Timeout,
}

/// Answers requests.
pub trait DirHandler: Send + Sync + 'static {
    /// The response to a request. May take its time: it is called where blocking is allowed.
    fn handle(&self, request: Request) -> Response;

    /// Whether this peer may send large requests and has places of its own: for authorities, their fellows.
    fn trusts(&self, peer: RelayId) -> bool {
        let _ = peer;
        false
    }
}

/// A place among those of strangers, or of trusted peers. Held while an exchange is answered.
struct Place {
    _permit: SemaphorePermit<'static>,
    network: Option<IpAddr>,
}

impl Place {
    fn take(caller: Caller, trusted: bool) -> Option<Place> {
        if trusted {
            return Some(Place { _permit: FREE_TRUSTED.try_acquire().ok()?, network: None });
        }
        let permit = FREE.try_acquire().ok()?;
        let network = caller.address.map(|address| network_of(address.ip()));
        if let Some(network) = network {
            let mut networks = NETWORKS.lock().unwrap_or_else(PoisonError::into_inner);
            let count = networks.entry(network).or_default();
            if *count >= MAX_PER_NETWORK {
                return None;
            }
            *count += 1;
        }
        Some(Place { _permit: permit, network })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(network) = self.network else { return };
        let mut networks = NETWORKS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = networks.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                networks.remove(&network);
            }
        }
    }
}

/// The /24 of an IPv4 address, the /48 of an IPv6 one.
fn network_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4((ip.to_bits() & !0xff).into()),
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & !((1 << 80) - 1)).into()),
    }
}

/// Asks the directory of the circuit's last hop.
///
/// # Errors
/// [`RequestError`]. A refusal by the directory is a [`Response`].
pub async fn request(circuit: &Circuit, request: &Request) -> Result<Response, RequestError> {
    let mut stream = circuit.begin_dir().map_err(RequestError::Stream)?;
    let result = timeout(EXCHANGE_TIMEOUT, ask(&mut stream, request)).await;
    match (result, stream.end_reason()) {
        (Err(_), _) => Err(RequestError::Timeout),
        (Ok(Err(RequestError::Io(_))), Some(reason)) => Err(RequestError::Stream(reason)),
        (Ok(result), _) => result,
    }
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    request: &Request,
) -> Result<Response, RequestError> {
    stream.write_all(&request.encode()).await?;
    stream.shutdown().await?;
    let mut decoder = ResponseDecoder::default();
    let mut piece = vec![0; PIECE_LEN];
    loop {
        match stream.read(&mut piece).await? {
            0 => return Ok(decoder.finish()?),
            count => decoder.handle_bytes(&piece[..count])?,
        }
    }
}

/// Answers the request that comes on this stream, in a task of its own.
pub fn serve(stream: IncomingStream, handler: Arc<dyn DirHandler>) {
    let trusted = stream.caller().id.is_some_and(|id| handler.trusts(id));
    let Some(place) = Place::take(stream.caller(), trusted) else {
        return stream.reject(EndReason::Resources);
    };
    tokio::spawn(async move {
        let _held = place;
        let mut stream = stream.accept(None);
        if let Err(error) = answer(&mut stream, handler, trusted).await {
            debug!("directory exchange failed: {error}");
        }
    });
}

async fn answer<S>(stream: &mut S, handler: Arc<dyn DirHandler>, trusted: bool) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let limit = if trusted { RECEIVE_TIMEOUT } else { STRANGER_TIMEOUT };
    let received = timeout(limit, receive(stream, trusted)).await?;
    let (response, is_complete) = match received? {
        Ok(request) => {
            let handled = tokio::task::spawn_blocking(move || handler.handle(request)).await;
            (handled.map_err(io::Error::other)?, true)
        }
        Err(refusal) => (refusal, false),
    };
    timeout(RESPOND_TIMEOUT, respond(stream, &response)).await??;
    if !is_complete {
        // Ending the stream while the request still comes would take the response with it.
        timeout(DRAIN_TIMEOUT, tokio::io::copy(stream, &mut tokio::io::sink())).await??;
    }
    Ok(())
}

/// The request, or the response to something that is none.
async fn receive<S: AsyncRead + Unpin>(
    stream: &mut S,
    trusted: bool,
) -> io::Result<Result<Request, Response>> {
    let mut decoder = RequestDecoder::default();
    let mut piece = vec![0; PIECE_LEN];
    loop {
        let count = stream.read(&mut piece).await?;
        if count == 0 {
            return Ok(decoder.finish().map_err(|_| Response::Malformed));
        }
        if decoder.handle_bytes(&piece[..count]).is_err() {
            return Ok(Err(Response::Malformed));
        }
        let is_large = decoder.announced_len().is_some_and(|len| len > Kind::Descriptor.max_len());
        if is_large && !trusted {
            return Ok(Err(Response::Refused("only authorities send as much".into())));
        }
    }
}

async fn respond<S: AsyncWrite + Unpin>(stream: &mut S, response: &Response) -> io::Result<()> {
    stream.write_all(&response.head()).await?;
    stream.write_all(response.body()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{DuplexStream, duplex};
    use tunic_proto::time::UnixTime;

    /// Says what it was asked.
    struct Echo;

    impl DirHandler for Echo {
        fn handle(&self, request: Request) -> Response {
            match request {
                Request::PostVote(bytes) => Response::Ok(bytes.into()),
                Request::GetConsensus { have } => Response::Refused(have.0.to_string()),
                _ => Response::NotFound,
            }
        }
    }

    fn server() -> (DuplexStream, tokio::task::JoinHandle<io::Result<()>>) {
        server_of(true)
    }

    fn server_of(trusted: bool) -> (DuplexStream, tokio::task::JoinHandle<io::Result<()>>) {
        let (near, mut far) = duplex(1_000);
        (near, tokio::spawn(async move { answer(&mut far, Arc::new(Echo), trusted).await }))
    }

    #[tokio::test]
    async fn a_stranger_cannot_send_much() {
        let (mut stream, _server) = server_of(false);
        let vote = Request::PostVote(vec![b'v'; 3 << 20]);
        assert!(matches!(ask(&mut stream, &vote).await, Ok(Response::Refused(_)) | Err(RequestError::Io(_))));
        let (mut stream, _server) = server_of(false);
        let have = UnixTime(7);
        check(ask(&mut stream, &Request::GetConsensus { have }).await, &Response::Refused("7".into()));
    }

    #[test]
    fn one_network_has_a_share_of_the_places_and_gives_them_back() {
        let from = |ip: &str| Caller { id: None, address: Some((ip.parse::<IpAddr>().unwrap(), 1).into()) };
        let take = |ip| Place::take(from(ip), false);
        let held: Vec<_> = (0..MAX_PER_NETWORK).map(|_| take("192.0.2.1").unwrap()).collect();
        assert!(take("192.0.2.99").is_none());
        assert!(take("::ffff:192.0.2.7").is_none());
        assert!(take("198.51.100.1").is_some());
        assert!(Place::take(from("192.0.2.1"), true).is_some());
        drop(held);
        assert!(take("192.0.2.1").is_some());
    }

    #[track_caller]
    fn check(result: Result<Response, RequestError>, expect: &Response) {
        assert_eq!(&result.unwrap(), expect);
    }

    #[tokio::test]
    async fn requests_and_responses_of_any_size_go_through() {
        let vote = vec![b'v'; 3 << 20];
        let (mut stream, server_task) = server();
        check(ask(&mut stream, &Request::PostVote(vote.clone())).await, &Response::Ok(vote.into()));
        server_task.await.unwrap().unwrap();
        let (mut stream, _server) = server();
        let have = UnixTime(7);
        check(ask(&mut stream, &Request::GetConsensus { have }).await, &Response::Refused("7".into()));
    }

    async fn raw(bytes: &[u8]) -> Result<Response, DirError> {
        let (stream, _server) = server();
        let (mut from, mut to) = tokio::io::split(stream);
        let bytes = bytes.to_vec();
        let writer = tokio::spawn(async move {
            let _ = to.write_all(&bytes).await;
            let _ = to.shutdown().await;
        });
        let mut response = Vec::new();
        from.read_to_end(&mut response).await.unwrap();
        writer.await.unwrap();
        let mut decoder = ResponseDecoder::default();
        decoder.handle_bytes(&response)?;
        decoder.finish()
    }

    #[tokio::test]
    async fn what_is_no_request_is_answered_as_malformed() {
        let cases: [&[u8]; 5] = [
            b"",
            b"GET / HTTP/1.1\r\n\r\n",
            &[1, 0, 0, 0, 8, 0],
            &[1, 0, 0, 0, 9, 0, 0, 0],
            &[1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 99],
        ];
        for bytes in cases {
            assert_eq!(raw(bytes).await, Ok(Response::Malformed), "{bytes:?}");
        }
        // Even if much of it is still to come.
        assert_eq!(raw(&[&[9; 5][..], &vec![0; 1 << 20]].concat()).await, Ok(Response::Malformed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_requester_that_says_nothing_is_given_up() {
        let (_stream, server) = server();
        assert_eq!(server.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
