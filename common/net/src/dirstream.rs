//! The directory exchange over a stream (docs/protocol.md §8): one request, one response, then the stream is over.
//!
//! What a stranger can make this process hold is bounded: so many exchanges at a time, of which only a few may have a
//! large request, each for so long and no longer.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tracing::debug;
use tunic_proto::dir::{DirError, Kind, Request, RequestDecoder, Response, ResponseDecoder};
use tunic_proto::message::EndReason;

use crate::channel::{Circuit, IncomingStream};

/// How long a whole exchange may take that was begun here.
pub const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(180);
/// How long a request may take to come in.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a response may take to go out: 16 MiB at 93 KB/s.
const RESPOND_TIMEOUT: Duration = Duration::from_secs(180);
/// How long a requester that was refused may take to notice.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Exchanges that are answered at a time; further streams are rejected.
const MAX_EXCHANGES: usize = 256;
/// Requests longer than a descriptor that are read at a time (8 MiB each at most); further ones are answered *busy*.
const MAX_LARGE_EXCHANGES: usize = 8;
/// Bytes that are read at once.
const PIECE_LEN: usize = 16 * 1024;

static FREE: Semaphore = Semaphore::const_new(MAX_EXCHANGES);
static FREE_LARGE: Semaphore = Semaphore::const_new(MAX_LARGE_EXCHANGES);

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
    let Ok(permit) = FREE.try_acquire() else {
        return stream.reject(EndReason::Resources);
    };
    tokio::spawn(async move {
        let _held = permit;
        let mut stream = stream.accept(None);
        if let Err(error) = answer(&mut stream, handler).await {
            debug!("directory exchange failed: {error}");
        }
    });
}

async fn answer<S>(stream: &mut S, handler: Arc<dyn DirHandler>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let received = timeout(RECEIVE_TIMEOUT, receive(stream)).await?;
    let (response, is_complete) = match received? {
        Ok((request, permit)) => {
            let handled = tokio::task::spawn_blocking(move || handler.handle(request)).await;
            drop(permit);
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
) -> io::Result<Result<(Request, Option<SemaphorePermit<'static>>), Response>> {
    let mut decoder = RequestDecoder::default();
    let mut permit = None;
    let mut piece = vec![0; PIECE_LEN];
    loop {
        let count = stream.read(&mut piece).await?;
        if count == 0 {
            return Ok(decoder.finish().map(|request| (request, permit)).map_err(|_| Response::Malformed));
        }
        if decoder.handle_bytes(&piece[..count]).is_err() {
            return Ok(Err(Response::Malformed));
        }
        let is_large = decoder.announced_len().is_some_and(|len| len > Kind::Descriptor.max_len());
        if is_large && permit.is_none() {
            match FREE_LARGE.try_acquire() {
                Ok(free) => permit = Some(free),
                Err(_) => return Ok(Err(Response::Busy)),
            }
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
        let (near, mut far) = duplex(1_000);
        (near, tokio::spawn(async move { answer(&mut far, Arc::new(Echo)).await }))
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
