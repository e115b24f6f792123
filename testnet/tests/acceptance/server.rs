//! The servers that tests reach through the network: a web server for curl, and whatever a closure does.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use sha2::{Digest, Sha256};

/// Answers every connection on its own thread, on a free port of 127.0.0.1, until the test process ends.
pub fn serve(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let handle = Arc::new(handle);
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let handle = handle.clone();
            thread::spawn(move || handle(connection));
        }
    });
    address
}

/// Sends back what comes in.
pub fn serve_echo() -> SocketAddr {
    serve(|mut connection| {
        let mut input = connection.try_clone().unwrap();
        let _ = io::copy(&mut input, &mut connection);
        let _ = connection.shutdown(Shutdown::Write);
    })
}

/// A port that takes no connection and refuses none: its queue is full (listen(2)).
pub struct Unanswering {
    pub address: SocketAddr,
    _listener: TcpListener,
    _queued: TcpStream,
}

impl Unanswering {
    pub fn new() -> Unanswering {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let address = listener.local_addr().unwrap();
        // Room for one is left.
        let queued = TcpStream::connect(address).unwrap();
        Unanswering { address, _listener: listener, _queued: queued }
    }

    /// Whether somebody waits to be answered (proc_pid_net(5): a socket in SYN_SENT to this port).
    pub fn is_called(&self) -> bool {
        let sockets = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        let port = format!(":{:04X}", self.address.port());
        sockets.lines().skip(1).any(|line| {
            let mut fields = line.split_whitespace().skip(2);
            fields.next().is_some_and(|remote| remote.ends_with(&port)) && fields.next() == Some("02")
        })
    }
}

/// `GET /bytes/N` answers N bytes of [`Pattern`]; `PUT` answers the SHA-256 of the body in hex.
pub fn serve_web() -> SocketAddr {
    // A visitor who breaks off gets no answer.
    serve(|connection| drop(answer(connection)))
}

fn answer(mut connection: TcpStream) -> io::Result<()> {
    let mut input = BufReader::new(connection.try_clone()?);
    let mut first = String::new();
    input.read_line(&mut first)?;
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        input.read_line(&mut line)?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = |text: &str| text.parse::<u64>().map_err(io::Error::other);
    let words: Vec<&str> = first.split_whitespace().collect();
    match words.as_slice() {
        ["GET", path, _] => {
            let wanted = length(path.trim_start_matches("/bytes/"))?;
            head(&mut connection, wanted)?;
            io::copy(&mut Pattern::default().take(wanted), &mut connection)?;
        }
        ["PUT", ..] => {
            let size = length(headers.get("content-length").map_or("", String::as_str))?;
            let digest = sha256(&mut input.take(size));
            head(&mut connection, digest.len() as u64)?;
            connection.write_all(digest.as_bytes())?;
        }
        _ => return Err(io::Error::other("neither GET nor PUT")),
    }
    connection.shutdown(Shutdown::Write)
}

fn head(connection: &mut TcpStream, length: u64) -> io::Result<()> {
    write!(connection, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")
}

/// Bytes without end that look random and are always the same (xorshift64, Marsaglia 2003), if read in pieces of
/// multiples of 8.
pub struct Pattern(u64);

impl Default for Pattern {
    fn default() -> Self {
        Pattern(0x9e37_79b9_7f4a_7c15)
    }
}

impl Read for Pattern {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        for chunk in out.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.copy_from_slice(&self.0.to_le_bytes()[..chunk.len()]);
        }
        Ok(out.len())
    }
}

pub fn sha256(input: &mut impl Read) -> String {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match input.read(&mut buffer).unwrap() {
            0 => return hex::encode(hasher.finalize()),
            n => hasher.update(&buffer[..n]),
        }
    }
}
