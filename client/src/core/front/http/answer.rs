//! What the port answers itself.

use crate::core::front::socks5::ReplyCode;

/// Nothing here loads, runs or frames anything.
const SAFE: &str = "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'\r\n\
    X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\nConnection: close\r\n";

const PAGE: &str = include_str!("page.html");

/// A whole answer.
fn answer(status: &str, kind: &str, extra: &str, body: &str, with_body: bool) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {}\r\n{extra}{SAFE}\r\n",
        body.len()
    );
    [head.as_bytes(), if with_body { body.as_bytes() } else { b"" }].concat()
}

fn reason(status: u16) -> &'static str {
    match status {
        403 => "403 Forbidden",
        404 => "404 Not Found",
        405 => "405 Method Not Allowed",
        421 => "421 Misdirected Request",
        431 => "431 Request Header Fields Too Large",
        502 => "502 Bad Gateway",
        503 => "503 Service Unavailable",
        504 => "504 Gateway Timeout",
        _ => "400 Bad Request",
    }
}

/// An answer in plain words.
pub(super) fn error(status: u16, why: &str) -> Vec<u8> {
    answer(reason(status), "text/plain", "", &format!("Tunic: {why}\n"), true)
}

/// The answer where a password is required, or what was given is not one.
pub(super) fn password_wanted() -> Vec<u8> {
    let how = "Proxy-Authenticate: Basic realm=\"Tunic\"\r\n";
    let body = "Tunic: this port wants a user name (any) and its password.\n";
    answer("407 Proxy Authentication Required", "text/plain", how, body, true)
}

/// The answer to a proxy request that failed.
pub fn failure(code: ReplyCode, why: &str) -> Vec<u8> {
    error(
        match code {
            ReplyCode::NotAllowed => 403,
            ReplyCode::TimedOut => 504,
            ReplyCode::NetworkUnreachable => 503,
            _ => 502,
        },
        why,
    )
}

/// The port's own pages; `host` is how the port was addressed.
pub(super) fn page(method: &str, path: &str, host: &str) -> Vec<u8> {
    let with_body = match method {
        "GET" => true,
        "HEAD" => false,
        _ => return error(405, "Only GET and HEAD."),
    };
    match path {
        "/" => answer("200 OK", "text/html", "", &PAGE.replace("{host}", host), with_body),
        // No `DIRECT`, which would go around Tunic when it is down, and no `SOCKS5`, with which some browsers resolve
        // names themselves.
        "/proxy.pac" => {
            let script = format!("function FindProxyForURL(url, host) {{\n  return \"PROXY {host}\";\n}}\n");
            answer("200 OK", "application/x-ns-proxy-autoconfig", "", &script, with_body)
        }
        _ => error(404, "There is no such page."),
    }
}
