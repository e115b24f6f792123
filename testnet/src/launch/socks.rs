//! The few bytes with which a program asks a SOCKS5 port for a connection (RFC 1928).

use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Asks the port at the other end of `connection` for a connection to the host, a name or an address; what comes back then
/// comes from there.
///
/// # Errors
/// If the port refuses, with its code, or breaks off.
pub async fn connect(mut connection: TcpStream, host: &str, port: u16) -> io::Result<TcpStream> {
    connection.write_all(&[5, 1, 0]).await?;
    let mut chosen = [0; 2];
    connection.read_exact(&mut chosen).await?;
    connection.write_all(&request(host, port)?).await?;
    let mut reply = [0; 4];
    connection.read_exact(&mut reply).await?;
    if (chosen, reply[0], reply[1]) != ([5, 0], 5, 0) {
        return Err(io::Error::other(format!("the SOCKS port refused with code {}", reply[1])));
    }
    let address_len = if reply[3] == 4 { 16 } else { 4 };
    let mut bound = [0; 18];
    connection.read_exact(&mut bound[..address_len + 2]).await?;
    Ok(connection)
}

fn request(host: &str, port: u16) -> io::Result<Vec<u8>> {
    let mut request = vec![5, 1, 0];
    match host.parse() {
        Ok(IpAddr::V4(ip)) => {
            request.push(1);
            request.extend_from_slice(&ip.octets());
        }
        Ok(IpAddr::V6(ip)) => {
            request.push(4);
            request.extend_from_slice(&ip.octets());
        }
        Err(_) => {
            let length = u8::try_from(host.len()).ok().filter(|length| *length > 0);
            let length = length.ok_or_else(|| io::Error::other("a name has 1 to 255 bytes"))?;
            request.extend_from_slice(&[3, length]);
            request.extend_from_slice(host.as_bytes());
        }
    }
    request.extend_from_slice(&port.to_be_bytes());
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_asked_for_as_what_they_are() {
        let check = |host: &str, expect: &[u8]| assert_eq!(request(host, 258).unwrap(), expect, "{host}");
        check("web", &[5, 1, 0, 3, 3, b'w', b'e', b'b', 1, 2]);
        check("192.0.2.1", &[5, 1, 0, 1, 192, 0, 2, 1, 1, 2]);
        check("::1", &[&[5, 1, 0, 4][..], &[0; 15], &[1, 1, 2]].concat());
        assert!(request("", 1).is_err() && request(&"x".repeat(256), 1).is_err());
    }
}
