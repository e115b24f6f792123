//! A proxy request as the target gets it.

use super::Head;

/// Headers between the application and us only (RFC 9110 §7.6.1), and `Host`, which is written anew.
const OURS: [&str; 9] = [
    "connection",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
];

/// The head for the target: `path` instead of the whole address, our own `Host` and `Connection`, none of the headers
/// that are not for the target. What tells the target about the proxy (`Via`, `Forwarded`) is not added.
pub(super) fn rewrite(request: &Head<'_>, authority: &str, path: &str) -> Vec<u8> {
    let path = path.split('#').next().unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    let version = if request.is_11 { "1.1" } else { "1.0" };
    let mut head =
        format!("{} {slash}{path} HTTP/{version}\r\nHost: {authority}\r\n", request.method).into_bytes();
    let named: Vec<&str> =
        request.all("connection").flat_map(|value| value.split(',')).map(str::trim).collect();
    for header in request.headers {
        let is = |name: &&str| header.name.eq_ignore_ascii_case(name);
        if !OURS.iter().any(is) && !named.iter().any(is) {
            head.extend_from_slice(header.name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(header.value);
            head.extend_from_slice(b"\r\n");
        }
    }
    head.extend_from_slice(b"Connection: close\r\n\r\n");
    head
}
