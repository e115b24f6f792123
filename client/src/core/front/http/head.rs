//! The head of a request, and whether it is meant for the port that it reached.

use std::net::{IpAddr, SocketAddr};

use httparse::Header;

use super::Body;

/// More headers than any program sends.
pub(crate) const MAX_HEADERS: usize = 100;

/// A request's head.
pub(crate) struct Head<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) is_11: bool,
    pub(crate) headers: &'a [Header<'a>],
}

impl<'a> Head<'a> {
    /// The values of a header, as often as it is there.
    pub(crate) fn all(&self, name: &'static str) -> impl Iterator<Item = &'a str> {
        let named = self.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        // What is not UTF-8 is nothing that we look at; it must not pass for missing.
        named.map(|header| std::str::from_utf8(header.value).unwrap_or("\u{fffd}").trim())
    }

    /// The first of them.
    pub(crate) fn value(&self, name: &'static str) -> Option<&'a str> {
        self.all(name).next()
    }

    /// Whether a page of another site made a browser send this; `host` is how the port was addressed.
    pub(crate) fn is_from_elsewhere(&self, host: &str) -> bool {
        let ours = |origin: &str| origin.strip_prefix("http://") == Some(host);
        self.all("origin").any(|origin| !ours(origin))
            || self.value("sec-fetch-site").is_some_and(|site| !matches!(site, "none" | "same-origin"))
    }

    /// How the body's end is told (RFC 9112 §6.3). Whatever the target could understand in another way is refused.
    pub(crate) fn body(&self) -> Result<Body, &'static str> {
        let mut encodings = self.all("transfer-encoding");
        let mut lengths = self.all("content-length");
        match (encodings.next(), encodings.next(), lengths.next(), lengths.next()) {
            (None, _, None, _) => Ok(Body::Length(0)),
            (None, _, Some(digits), None) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().map(Body::Length).map_err(|_| "Content-Length is no number.")
            }
            (None, _, Some(_), _) => Err("Content-Length is no number."),
            (Some(coding), None, None, _) if self.is_11 && coding.eq_ignore_ascii_case("chunked") => {
                Ok(Body::chunked())
            }
            (Some(_), ..) => Err("Of transfer encodings only chunked is passed on, without Content-Length."),
        }
    }
}

/// Whether this `Host` is an address of the port: a loopback address or `localhost`, or the address that was reached. Any
/// other name was pointed here by somebody ("DNS rebinding"). A port at `[::]` sees IPv4 as IPv6; the `Host` does not.
pub(crate) fn names_here(host: &str, local: Option<SocketAddr>) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port.parse().ok()),
        _ => (host, Some(80)),
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let ip = bare.parse().ok().map(|ip: IpAddr| ip.to_canonical());
    let known =
        ip.is_some_and(|ip| ip.is_loopback() || Some(ip) == local.map(|local| local.ip().to_canonical()));
    (known || name.eq_ignore_ascii_case("localhost")) && local.is_none_or(|local| port == Some(local.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_for_both_families_is_named_by_its_ipv4_address() {
        let local = Some("[::ffff:192.0.2.1]:9152".parse().unwrap());
        for host in
            ["192.0.2.1:9152", "[::ffff:192.0.2.1]:9152", "127.0.0.1:9152", "[::1]:9152", "localhost:9152"]
        {
            assert!(names_here(host, local), "{host}");
        }
        for host in ["192.0.2.2:9152", "192.0.2.1:9153", "192.0.2.1", "example.com:9152"] {
            assert!(!names_here(host, local), "{host}");
        }
    }
}
