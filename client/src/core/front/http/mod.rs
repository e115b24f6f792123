//! The server's side of an HTTP proxy (RFC 9110 §7.6 and §9.3.6, RFC 9112 §3.2), and the pages of the port.
//!
//! 1. The head of a request is gathered, [`MAX_BUFFERED`] bytes at most.
//! 2. `CONNECT host:port` asks for a tunnel.
//! 3. `GET http://host/path` (any method) is rewritten for the target and becomes early data. One request a connection:
//!    `Connection: close` is asked for, so that what comes behind its body cannot reach the wrong target, and the
//!    application is told so in the answer ([`Passed`]).
//! 4. `GET /path` is for the port itself: a page for a person, and `/proxy.pac`.
//!
//! A web page can make a browser send requests to this port as if it were a site: those are requests for a path, so 4. They are
//! answered only where `Host` is an address of this machine (otherwise a name was pointed here, "DNS rebinding"), and
//! refused with an `Origin` or a `Sec-Fetch-Site` of another site. A browser asks with 2 and 3 only where its user has made
//! this port its proxy. In 3 it passes on what a page sends to other sites, and its `Origin` is for the target to judge: to
//! refuse it would break every page that uses two sites. 2 is the browser's own, and carries nothing of a page's: what
//! does is refused. In 2 and 3 `Host`, where there is one, must agree with the target.

mod answer;
mod body;
mod forward;
mod head;
mod passed;

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use httparse::{EMPTY_HEADER, Status};
use subtle::ConstantTimeEq as _;
use tunic_proto::message::Target;

pub use self::answer::failure;
pub use self::body::{BadChunks, Body};
pub(crate) use self::head::{Head, MAX_HEADERS, names_here};
pub use self::passed::Passed;
use super::{Command, Dialect, Event, FrontError, MAX_BUFFERED, Request, keep, parse_host};
use crate::core::isolation::Credentials;

/// One connection's handshake.
pub struct Server {
    buffer: Vec<u8>,
    /// Up to where no end of the head was found.
    scanned: usize,
    password: Option<Vec<u8>>,
    local: Option<SocketAddr>,
    done: bool,
}

/// What a request amounts to.
enum Verdict {
    Do(Request, Vec<u8>),
    Answer(Vec<u8>),
    Refuse(Vec<u8>, FrontError),
}

use Verdict::Refuse;

impl Server {
    /// Waits for a request. `local` is where the port was reached.
    pub fn new(password: Option<Vec<u8>>, local: Option<SocketAddr>) -> Self {
        Server { buffer: Vec::new(), scanned: 0, password, local, done: false }
    }

    /// Takes what the client sent, in pieces of any size. Call [`Server::poll_event`] until it has none.
    pub fn handle_input(&mut self, bytes: &[u8]) {
        keep(&mut self.buffer, bytes);
    }

    /// The next event; `None` when more input is needed, or after the last one.
    pub fn poll_event(&mut self) -> Option<Event> {
        if self.done {
            return None;
        }
        let verdict = match self.head_len() {
            Some(length) => self.judge(length),
            None if self.buffer.len() > MAX_BUFFERED => {
                Refuse(answer::error(431, "The head of the request is too long."), FrontError::TooLong)
            }
            None => return None,
        };
        self.done = true;
        Some(match verdict {
            Verdict::Do(request, early) => {
                self.buffer = early;
                Event::Request(request)
            }
            Verdict::Answer(answer) => Event::Close { answer, error: None },
            Refuse(answer, error) => Event::Close { answer, error: Some(error) },
        })
    }

    /// What goes to the target first.
    pub fn into_early_data(self) -> Vec<u8> {
        self.buffer
    }

    /// The length of the head, once it is complete. Each byte is looked at once, however slowly they come.
    fn head_len(&mut self) -> Option<usize> {
        let from = self.scanned.saturating_sub(3);
        self.scanned = self.buffer.len();
        end_of_head(&self.buffer[from..]).map(|end| from + end)
    }

    fn judge(&self, head_len: usize) -> Verdict {
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        let mut parsed = httparse::Request::new(&mut headers);
        let (head, behind) = self.buffer.split_at(head_len);
        if !matches!(parsed.parse(head), Ok(Status::Complete(_))) {
            return malformed("This is not a request of HTTP/1.1.");
        }
        let (Some(method), Some(path)) = (parsed.method, parsed.path) else {
            return malformed("No request.");
        };
        let request = Head { method, path, is_11: parsed.version == Some(1), headers: parsed.headers };
        if request.all("host").count() > 1 {
            return malformed("There is more than one Host.");
        }
        if method == "CONNECT" {
            return self.connect(&request, behind);
        }
        match path.split_at_checked(7) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http://") => {
                self.forward(&request, rest, behind)
            }
            _ if path.starts_with('/') => self.own_page(&request),
            _ => malformed("Only http:// is passed on; for everything else a proxy is asked with CONNECT."),
        }
    }

    fn connect(&self, request: &Head<'_>, behind: &[u8]) -> Verdict {
        if request.value("origin").or(request.value("sec-fetch-site")).is_some() {
            return foreign();
        }
        let target = request.path.rsplit_once(':').and_then(|(host, port)| target(host, port.parse().ok()?));
        let Some(target) = target else { return not_a_target() };
        if !host_agrees(request, &target, 443) {
            return malformed("Host names another target than CONNECT.");
        }
        self.admit(request, target, Dialect::HttpConnect, behind.to_vec())
    }

    fn forward(&self, request: &Head<'_>, rest: &str, behind: &[u8]) -> Verdict {
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let Some(target) = authority_target(authority, 80) else { return not_a_target() };
        if !host_agrees(request, &target, 80) {
            return malformed("Host names another target than the address.");
        }
        let mut body = match request.body() {
            Ok(body) => body,
            Err(why) => return malformed(why),
        };
        let Ok(here) = body.take(behind) else { return malformed("The body's chunks are malformed.") };
        let mut early = forward::rewrite(request, authority, path);
        early.extend_from_slice(&behind[..here]);
        self.admit(request, target, Dialect::HttpForward { body }, early)
    }

    fn admit(&self, request: &Head<'_>, target: Target, dialect: Dialect, early: Vec<u8>) -> Verdict {
        let credentials = request.value("proxy-authorization").map(basic);
        if let Some(required) = &self.password
            && !is_right(credentials.as_ref().and_then(Option::as_ref), required)
        {
            return Refuse(answer::password_wanted(), FrontError::Password);
        }
        match credentials {
            Some(None) => Refuse(answer::password_wanted(), FrontError::Auth),
            credentials => Verdict::Do(
                Request {
                    command: Command::Connect(target),
                    credentials: credentials.flatten(),
                    dialect,
                    // The application leaves names to a proxy of HTTP; an address is what its user wrote.
                    bare_address: false,
                },
                early,
            ),
        }
    }

    fn own_page(&self, request: &Head<'_>) -> Verdict {
        let Some(host) = request.value("host").filter(|host| names_here(host, self.local)) else {
            return Refuse(answer::error(421, "That name is not this port's."), FrontError::Foreign);
        };
        if request.is_from_elsewhere(host) {
            return foreign();
        }
        Verdict::Answer(answer::page(request.method, request.path, host))
    }
}

fn host_agrees(request: &Head<'_>, wanted: &Target, default_port: u16) -> bool {
    let agrees = |host| authority_target(host, default_port).is_some_and(|host| same_host(&host, wanted));
    request.value("host").is_none_or(agrees)
}

/// Where the head of a message ends that has its end in these bytes.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let end =
        |text: &[u8]| bytes.windows(text.len()).position(|window| window == text).map(|at| at + text.len());
    end(b"\r\n\r\n").into_iter().chain(end(b"\n\n")).min()
}

fn same_host(a: &Target, b: &Target) -> bool {
    match (a, b) {
        (Target::Name(a, _), Target::Name(b, _)) => a.eq_ignore_ascii_case(b),
        (Target::Addr(a), Target::Addr(b)) => a.ip() == b.ip(),
        _ => false,
    }
}

fn target(host: &str, port: u16) -> Option<Target> {
    // Without brackets, an IPv6 address cannot be told from a host and a port.
    let unclear = host.contains(':') && !host.starts_with('[');
    if port == 0 || unclear { None } else { parse_host(host.as_bytes(), port) }
}

fn authority_target(authority: &str, default_port: u16) -> Option<Target> {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => target(host, port.parse().ok()?),
        _ => target(authority, default_port),
    }
}

/// Whether the value of such a header has this password, with any user name.
pub(crate) fn has_password(header: Option<&str>, required: &[u8]) -> bool {
    is_right(header.and_then(basic).as_ref(), required)
}

fn is_right(given: Option<&Credentials>, required: &[u8]) -> bool {
    given.is_some_and(|given| required.ct_eq(&given.password).into())
}

/// `Basic` credentials (RFC 7617): user and password, 255 bytes at most each, as in SOCKS5.
fn basic(value: &str) -> Option<Credentials> {
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = STANDARD.decode(encoded.trim()).ok()?;
    let colon = text.iter().position(|byte| *byte == b':')?;
    let (user, password) = (text[..colon].to_vec(), text[colon + 1..].to_vec());
    (user.len() <= 255 && password.len() <= 255).then_some(Credentials { user, password })
}

fn malformed(why: &str) -> Verdict {
    Refuse(answer::error(400, why), FrontError::Malformed)
}

fn not_a_target() -> Verdict {
    Refuse(answer::error(400, "That is not a host name and port."), FrontError::Name)
}

fn foreign() -> Verdict {
    Refuse(answer::error(403, "A page of another site asked for this."), FrontError::Foreign)
}

#[cfg(test)]
mod tests;
