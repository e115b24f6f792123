//! Datagrams between an application and its association (RFC 1928 §7).

use tunic_proto::datagram::Datagram;
use tunic_proto::message::Target;

use super::{decode_target, reply};

/// Reads `RSV` u16, `FRAG` u8, `ATYP`, address, port, data. `None` for what must be dropped: fragments, which we do not
/// put together (the RFC lets us), no port, and what is malformed.
pub fn decode(bytes: &[u8]) -> Option<Datagram> {
    let [0, 0, 0, ..] = bytes else { return None };
    let (peer, end) = decode_target(bytes).ok()??;
    (peer.port() != 0).then(|| Datagram { peer, payload: bytes[end..].to_vec() })
}

/// The same, for a datagram that came back. `None` if it says no address, which exits do not do.
pub fn encode(datagram: &Datagram) -> Option<Vec<u8>> {
    let Target::Addr(peer) = datagram.peer else { return None };
    let ip = reply::encode_ip(peer.ip());
    Some([&[0, 0, 0], &ip[..], &peer.port().to_be_bytes(), &datagram.payload].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_are_understood() {
        let named = b"\0\0\0\x03\x0bexample.com\0\x35query";
        let peer = Target::Name("example.com".into(), 53);
        assert_eq!(decode(named), Some(Datagram { peer, payload: b"query".to_vec() }));
        for peer in ["192.0.2.1:53", "[2001:db8::1]:53"] {
            let datagram = Datagram { peer: Target::Addr(peer.parse().unwrap()), payload: vec![1, 2] };
            assert_eq!(decode(&encode(&datagram).unwrap()), Some(datagram));
        }
    }

    #[test]
    fn fragments_and_garbage_are_dropped() {
        for bytes in [
            &b"\0\0\x01\x01\xc0\0\x02\x01\0\x35x"[..],
            b"\0\0\x80\x01\xc0\0\x02\x01\0\x35x",
            b"\x01\0\0\x01\xc0\0\x02\x01\0\x35x",
            b"\0\0\0\x01\xc0\0\x02\x01\0\0x",
            b"\0\0\0\x01\xc0\0\x02",
            b"\0\0\0\x05\xc0\0\x02\x01\0\x35x",
            b"\0\0\0\x03\0\0\x35",
            b"",
        ] {
            assert_eq!(decode(bytes), None, "{bytes:?}");
        }
    }
}
