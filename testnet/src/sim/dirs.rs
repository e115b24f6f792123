//! The directory exchange over simulated circuits of one hop (docs/protocol.md §8).

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tunic_proto::dir::{Request, RequestDecoder, Response, ResponseDecoder};
use tunic_proto::message::EndReason;
use tunic_proto::stream::StreamIo;

use super::apps::{App, Next};

/// What a node's directory answers at a time of the world.
pub type DirService = Rc<dyn Fn(Duration, Request) -> Response>;

/// What became of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Answer {
    /// It is under way.
    #[default]
    Waiting,
    /// No answer came.
    Failed,
    /// This came.
    Got(Response),
}

/// Where the answer to a request will be.
pub type Ticket = Rc<RefCell<Answer>>;

/// Bytes on their way out.
#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    /// Writes what can be written; ready when all is.
    fn poll(&mut self, stream: &StreamIo, cx: &mut Context<'_>) -> Poll<bool> {
        while self.sent < self.bytes.len() {
            match stream.poll_write(cx, &self.bytes[self.sent..]) {
                Poll::Ready(Ok(count)) => self.sent += count,
                Poll::Ready(Err(_)) => return Poll::Ready(false),
                Poll::Pending => return Poll::Pending,
            }
        }
        stream.finish();
        Poll::Ready(true)
    }
}

/// Hands what comes to `take` until the end; ready with whether it came that far.
fn poll_read(stream: &StreamIo, cx: &mut Context<'_>, mut take: impl FnMut(&[u8]) -> bool) -> Poll<bool> {
    loop {
        match stream.poll_take(cx) {
            Poll::Ready(Ok(Some(bytes))) if take(&bytes) => {}
            Poll::Ready(Ok(None)) => return Poll::Ready(true),
            Poll::Ready(_) => return Poll::Ready(false),
            Poll::Pending => return Poll::Pending,
        }
    }
}

/// The responder's side.
pub(super) struct Serve {
    stream: StreamIo,
    service: DirService,
    decoder: Option<RequestDecoder>,
    response: Outgoing,
}

impl Serve {
    pub(super) fn new(stream: StreamIo, service: DirService) -> Serve {
        stream.accept(None);
        Serve { stream, service, decoder: Some(RequestDecoder::default()), response: Outgoing::default() }
    }
}

impl App for Serve {
    fn poll(&mut self, cx: &mut Context<'_>, now: Duration) -> Next {
        if let Some(decoder) = &mut self.decoder {
            match poll_read(&self.stream, cx, |bytes| decoder.handle_bytes(bytes).is_ok()) {
                Poll::Pending => return Next::Woken,
                Poll::Ready(complete) => {
                    let request = self.decoder.take().filter(|_| complete).map(RequestDecoder::finish);
                    let response = match request {
                        Some(Ok(request)) => (self.service)(now, request),
                        _ => Response::Malformed,
                    };
                    self.response.bytes = [&response.head()[..], response.body()].concat();
                }
            }
        }
        match self.response.poll(&self.stream, cx) {
            Poll::Ready(true) if self.stream.poll_ended(cx).is_pending() => Next::Woken,
            Poll::Ready(_) => Next::Done,
            Poll::Pending => Next::Woken,
        }
    }
}

/// The requester's side.
pub(super) struct Ask {
    stream: StreamIo,
    request: Outgoing,
    decoder: Option<ResponseDecoder>,
    ticket: Ticket,
}

impl Ask {
    pub(super) fn new(stream: StreamIo, request: &Request, ticket: Ticket) -> Ask {
        let request = Outgoing { bytes: request.encode(), sent: 0 };
        Ask { stream, request, decoder: Some(ResponseDecoder::default()), ticket }
    }
}

impl App for Ask {
    fn poll(&mut self, cx: &mut Context<'_>, _: Duration) -> Next {
        let sent = self.request.poll(&self.stream, cx);
        let Some(decoder) = &mut self.decoder else { return Next::Done };
        let read = poll_read(&self.stream, cx, |bytes| decoder.handle_bytes(bytes).is_ok());
        let complete = match (read, sent) {
            (Poll::Ready(complete), _) => complete,
            (Poll::Pending, Poll::Ready(false)) => false,
            (Poll::Pending, _) => return Next::Woken,
        };
        let response = self.decoder.take().filter(|_| complete).map(ResponseDecoder::finish);
        *self.ticket.borrow_mut() = match response {
            Some(Ok(response)) => Answer::Got(response),
            _ => Answer::Failed,
        };
        if !complete {
            self.stream.end(EndReason::Reset);
        }
        Next::Done
    }
}
