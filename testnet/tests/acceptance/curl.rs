//! A program that people use, against the network's SOCKS port.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::network::shared;
use crate::server::{Pattern, serve_web, sha256};

const SIZE: u64 = 100 << 20;

fn curl(socks: SocketAddr) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "300", "--noproxy", ""]);
    curl.args(["--socks5-hostname", &socks.to_string()]);
    curl
}

#[track_caller]
fn run(curl: &mut Command, check: impl FnOnce(&mut dyn Read)) {
    let started = curl.stdout(Stdio::piped()).spawn();
    let mut child = started.unwrap_or_else(|error| {
        panic!("these tests need curl ({error}); install it, for example: apt-get install curl")
    });
    check(child.stdout.as_mut().unwrap());
    let status = child.wait().unwrap();
    assert!(status.success(), "curl: {status}");
}

#[test]
fn curl_downloads_100_mb_intact() {
    let web = serve_web();
    // A name, which the exit and nobody else resolves.
    let url = format!("http://localhost:{}/bytes/{SIZE}", web.port());
    run(curl(shared().up.socks).arg(url), |mut body| {
        assert_eq!(sha256(&mut body), sha256(&mut Pattern::default().take(SIZE)));
    });
}

#[test]
fn curl_uploads_100_mb_intact() {
    let web = serve_web();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::copy(&mut Pattern::default().take(SIZE), &mut file).unwrap();
    file.flush().unwrap();
    let mut command = curl(shared().up.socks);
    command.arg("--upload-file").arg(file.path()).args(["--header", "Expect:"]).arg(format!("http://{web}/"));
    run(&mut command, |body| {
        let mut digest = String::new();
        body.read_to_string(&mut digest).unwrap();
        assert_eq!(digest, sha256(&mut Pattern::default().take(SIZE)));
    });
}
