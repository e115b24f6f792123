//! What is asked of the status page and the local API, and whether it may be asked (docs/client-api.md).
//!
//! 1. One request a connection, [`MAX_HEAD`] bytes of head and [`MAX_BODY`] of body at most.
//! 2. On a TCP port, `Host` must be an address of this machine and the port's own (otherwise a name was pointed here, "DNS
//!    rebinding"), and what a page of another site made a browser send is refused. There is no CORS.
//! 3. Where a password is set, the port asks for it (RFC 7617): the page, what belongs to it, and the API.
//! 4. Whatever changes something is a `POST` and carries the [`Token`] of this process: as a header from scripts and
//!    programs, in the body from the page's form, never in an address. A Unix socket is its owner's, and needs none.
//! 5. Where streams lead is told over the Unix socket, and elsewhere only if the person has allowed it.

use std::fmt;
use std::net::SocketAddr;

use httparse::{EMPTY_HEADER, Status};
use subtle::ConstantTimeEq as _;

use crate::core::front::http::{Body, Head, MAX_HEADERS, has_password, names_here};

/// The longest head of a request, in bytes.
pub const MAX_HEAD: usize = 8 * 1024;
/// The longest body, in bytes.
pub const MAX_BODY: usize = 256;

/// Proves that whoever acts has seen the page, or may read the socket: a page of another site can do neither.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// A token from 32 random bytes.
    pub fn new(random: [u8; 32]) -> Token {
        Token(random.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// For the page's form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is(&self, given: Option<&str>) -> bool {
        given.is_some_and(|given| self.0.as_bytes().ct_eq(given.as_bytes()).into())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Who asks, and what they may.
#[derive(Clone)]
pub struct Door {
    /// The address at which the port was reached; `None` for the Unix socket, which only its owner can reach.
    pub local: Option<SocketAddr>,
    /// What a port asks for, if anything.
    pub password: Option<Vec<u8>>,
    /// What actions on a port need.
    pub token: Token,
    /// Whether a port may tell where streams lead.
    pub destinations: bool,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The page.
    Page,
    /// The part of the page that changes.
    Live,
    /// The page's style sheet.
    Style,
    /// The page's script.
    Script,
    /// The page's icon.
    Icon,
    /// The whole report.
    Status {
        /// With the streams' destinations.
        destinations: bool,
    },
    /// The circuits.
    Circuits,
    /// The streams.
    Streams {
        /// With their destinations.
        destinations: bool,
    },
    /// What is wrong, and what failed.
    Explain,
    /// A new identity, asked for by a program.
    NewIdentity,
    /// The same, asked for by the page's form.
    NewIdentityForm,
}

/// A request that may be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// What for.
    pub wanted: Wanted,
    /// Whether the answer has a body (`GET`) or only its head (`HEAD`).
    pub with_body: bool,
}

/// A request that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// The status.
    pub status: u16,
    /// Why, in words.
    pub why: &'static str,
}

fn refused<T>(status: u16, why: &'static str) -> Result<T, Refused> {
    Err(Refused { status, why })
}

/// Judges what has arrived so far; `None`: more is needed. `bytes` need not be longer than [`MAX_HEAD`] and [`MAX_BODY`]
/// together.
///
/// # Errors
/// [`Refused`].
pub fn judge(bytes: &[u8], door: &Door) -> Result<Option<Asked>, Refused> {
    let Some(head_len) = head_len(bytes) else {
        return if bytes.len() > MAX_HEAD {
            refused(431, "The head of the request is too long.")
        } else {
            Ok(None)
        };
    };
    if head_len > MAX_HEAD {
        return refused(431, "The head of the request is too long.");
    }
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    if !matches!(parsed.parse(&bytes[..head_len]), Ok(Status::Complete(_))) {
        return refused(400, "This is not a request of HTTP/1.1.");
    }
    let (Some(method), Some(path)) = (parsed.method, parsed.path) else { return refused(400, "No request.") };
    let head = Head { method, path, is_11: parsed.version == Some(1), headers: parsed.headers };
    admit(&head, door)?;
    let length = match head.body() {
        Ok(Body::Length(length)) => length,
        Ok(_) => return refused(411, "Say the length of the body (Content-Length), please."),
        Err(why) => return refused(400, why),
    };
    let length = usize::try_from(length).ok().filter(|length| *length <= MAX_BODY);
    let Some(length) = length else { return refused(413, "The body of the request is too long.") };
    let body = &bytes[head_len..];
    if body.len() < length {
        return Ok(None);
    }
    route(&head, &body[..length], door).map(Some)
}

fn head_len(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

/// Whether whoever sent this may ask here at all.
fn admit(head: &Head<'_>, door: &Door) -> Result<(), Refused> {
    let mut hosts = head.all("host");
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return refused(400, "There is more than one Host.");
    }
    let host = match (door.local, host) {
        (None, host) => host.unwrap_or_default(),
        (Some(_), Some(host)) if names_here(host, door.local) => host,
        (Some(_), _) => return refused(421, "That name is not this port's."),
    };
    if head.is_from_elsewhere(host) || (door.local.is_none() && head.value("origin").is_some()) {
        return refused(403, "A page of another site asked for this.");
    }
    match &door.password {
        Some(password) if door.local.is_some() && !has_password(head.value("authorization"), password) => {
            refused(401, "This page has a password; any user name does.")
        }
        _ => Ok(()),
    }
}

fn route(head: &Head<'_>, body: &[u8], door: &Door) -> Result<Asked, Refused> {
    let (path, query) = head.path.split_once('?').unwrap_or((head.path, ""));
    let destinations = query.split('&').any(|pair| pair == "destinations=1");
    let wanted = match path {
        "/" => Wanted::Page,
        "/live" => Wanted::Live,
        "/style.css" => Wanted::Style,
        "/page.js" => Wanted::Script,
        "/icon.svg" => Wanted::Icon,
        "/api/v1/status" => Wanted::Status { destinations },
        "/api/v1/circuits" => Wanted::Circuits,
        "/api/v1/streams" => Wanted::Streams { destinations },
        "/api/v1/explain" => Wanted::Explain,
        "/api/v1/new-identity" => Wanted::NewIdentity,
        "/new-identity" => Wanted::NewIdentityForm,
        _ if path.starts_with("/api/") => {
            return refused(404, "This client has the API /api/v1 and no such path.");
        }
        _ => return refused(404, "There is no such page."),
    };
    if matches!(wanted, Wanted::NewIdentity | Wanted::NewIdentityForm) {
        return act(head, body, door, wanted);
    }
    if destinations && door.local.is_some() && !door.destinations {
        return refused(
            403,
            "Where streams lead is told over the Unix socket, or if `status_destinations` allows it.",
        );
    }
    match head.method {
        "GET" => Ok(Asked { wanted, with_body: true }),
        "HEAD" => Ok(Asked { wanted, with_body: false }),
        _ => refused(405, "Only GET and HEAD."),
    }
}

fn act(head: &Head<'_>, body: &[u8], door: &Door, wanted: Wanted) -> Result<Asked, Refused> {
    if head.method != "POST" {
        return refused(405, ONLY_POST);
    }
    // A browser that says so at all says `same-origin` for what a page of ours sends.
    if head.value("sec-fetch-site").is_some_and(|site| site != "same-origin") {
        return refused(403, "A page of another site asked for this.");
    }
    let in_body = std::str::from_utf8(body).ok().and_then(|body| body.strip_prefix("token="));
    let given = if wanted == Wanted::NewIdentityForm { in_body } else { head.value("tunic-token") };
    if door.local.is_some() && !door.token.is(given) {
        return refused(
            403,
            "The token is missing or wrong; it is in the page, and changes with each start.",
        );
    }
    Ok(Asked { wanted, with_body: true })
}

const ONLY_POST: &str = "Only POST.";

/// Nothing from elsewhere is loaded, nothing inline runs, nobody frames it, and nothing of it is kept or told on.
const SAFE: &str = "Content-Security-Policy: default-src 'none'; style-src 'self'; script-src 'self'; \
    connect-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'\r\n\
    X-Content-Type-Options: nosniff\r\nX-Frame-Options: DENY\r\nReferrer-Policy: same-origin\r\n\
    Cross-Origin-Opener-Policy: same-origin\r\nCross-Origin-Resource-Policy: same-origin\r\n\
    Cache-Control: no-store\r\nConnection: close\r\n";

/// The kinds of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// A page.
    Html,
    /// A style sheet.
    Css,
    /// A script.
    Script,
    /// An image.
    Svg,
    /// For programs.
    Json,
    /// In plain words.
    Text,
}

impl Media {
    fn name(self) -> &'static str {
        match self {
            Media::Html => "text/html; charset=utf-8",
            Media::Css => "text/css; charset=utf-8",
            Media::Script => "text/javascript; charset=utf-8",
            Media::Svg => "image/svg+xml",
            Media::Json => "application/json",
            Media::Text => "text/plain; charset=utf-8",
        }
    }
}

/// A whole answer.
pub fn answer(media: Media, body: &str, with_body: bool) -> Vec<u8> {
    whole("200 OK", "", media, body, with_body)
}

/// The answer to the page's form: back to the page.
pub fn back_to_the_page() -> Vec<u8> {
    whole("303 See Other", "Location: /\r\n", Media::Text, "", true)
}

fn whole(status: &str, extra: &str, media: Media, body: &str, with_body: bool) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {}\r\nContent-Length: {length}\r\n{extra}{SAFE}\r\n",
        media.name()
    );
    [head.as_bytes(), if with_body { body.as_bytes() } else { b"" }].concat()
}

impl Refused {
    /// The answer that says so. Programs get the words as JSON: they have no characters that would need escaping.
    pub fn answer(&self) -> Vec<u8> {
        let status = match self.status {
            401 => "401 Unauthorized",
            403 => "403 Forbidden",
            404 => "404 Not Found",
            405 => "405 Method Not Allowed",
            408 => "408 Request Timeout",
            411 => "411 Length Required",
            413 => "413 Content Too Large",
            421 => "421 Misdirected Request",
            431 => "431 Request Header Fields Too Large",
            503 => "503 Service Unavailable",
            _ => "400 Bad Request",
        };
        let body = format!("{{\"api\":{},\"error\":\"{}\"}}\n", super::report::API, self.why);
        let extra = match (self.status, self.why) {
            (401, _) => "WWW-Authenticate: Basic realm=\"Tunic\"\r\n",
            (405, ONLY_POST) => "Allow: POST\r\n",
            (405, _) => "Allow: GET, HEAD\r\n",
            _ => "",
        };
        whole(status, extra, Media::Json, &body, true)
    }
}

#[cfg(test)]
mod tests;
