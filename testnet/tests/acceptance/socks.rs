//! A SOCKS5 client of our own (RFC 1928), which shows what curl hides.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Reads that take longer fail the test.
const READ_LIMIT: Duration = Duration::from_secs(90);

pub const SUCCEEDED: u8 = 0;
pub const HOST_UNREACHABLE: u8 = 4;
pub const CONNECTION_REFUSED: u8 = 5;

/// Connects to the port and speaks no SOCKS yet.
pub fn raw(socks: SocketAddr) -> TcpStream {
    let connection = TcpStream::connect(socks).unwrap();
    connection.set_read_timeout(Some(READ_LIMIT)).unwrap();
    connection
}

/// A stream to this address.
pub fn connect(socks: SocketAddr, target: SocketAddr) -> TcpStream {
    let (code, stream) = request(socks, &target.ip().to_string(), target.port());
    assert_eq!(code, SUCCEEDED);
    stream
}

/// The reply's code, and the stream if it is 0. The host travels as a name, also if it is an address in digits.
pub fn request(socks: SocketAddr, host: &str, port: u16) -> (u8, TcpStream) {
    let mut connection = raw(socks);
    connection.write_all(&[5, 1, 0]).unwrap();
    assert_eq!(read::<2>(&mut connection), [5, 0]);
    let request = [&[5, 1, 0, 3, host.len() as u8], host.as_bytes(), &port.to_be_bytes()].concat();
    connection.write_all(&request).unwrap();
    let [version, code, _, kind] = read::<4>(&mut connection);
    assert_eq!(version, 5);
    match kind {
        4 => drop(read::<18>(&mut connection)),
        _ => drop(read::<6>(&mut connection)),
    }
    (code, connection)
}

fn read<const N: usize>(connection: &mut TcpStream) -> [u8; N] {
    let mut bytes = [0; N];
    connection.read_exact(&mut bytes).unwrap();
    bytes
}

/// One round trip through an echo server.
pub fn ping(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"ping")?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"ping");
    Ok(())
}
