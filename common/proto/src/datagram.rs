//! Datagrams over a circuit (docs/protocol.md §6.8): the frames of a `BEGIN_UDP` stream.
//!
//! Cells of a circuit arrive reliably and in order, so datagrams are frames in the stream's bytes: a large one is split
//! over cells, small ones share a cell. A datagram that finds no room in the sender's queue is dropped; nobody waits.

use std::net::IpAddr;
use std::task::{Context, Poll};

use crate::buffers::ByteQueue;
use crate::message::{ConnectedAddr, EndReason, Target};
use crate::stream::{StreamEnded, StreamIo};

/// Longest payload of a datagram in bytes. UDP over IPv4 has room for 65,507; no program in use sends such.
pub const MAX_PAYLOAD: usize = 65_000;
/// Longest frame: its length, the longest address, the payload.
const MAX_FRAME: usize = 2 + MAX_HEADER + MAX_PAYLOAD;
/// The longest address: port, type, length, name.
const MAX_HEADER: usize = 2 + 1 + 1 + 255;
/// Bytes of frames that may wait to be sent: more would only make them late.
const MAX_WAITING: usize = 64 * 1024;
const _: () = assert!(MAX_FRAME <= MAX_WAITING && MAX_FRAME <= u16::MAX as usize);

/// One datagram, and where it goes or comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Forward: where it goes. Backward: where it came from, always an address.
    pub peer: Target,
    /// What it says.
    pub payload: Vec<u8>,
}

impl Datagram {
    /// The frame: `length` u16 of what follows, `port` u16, `type` u8 and address as in `BEGIN`, payload. `None` if the
    /// payload is too long or the peer's name is none.
    pub fn encode(&self) -> Option<Vec<u8>> {
        if self.payload.len() > MAX_PAYLOAD {
            return None;
        }
        let peer = self.peer.encode()?;
        let length = (peer.len() + self.payload.len()) as u16;
        Some([&length.to_be_bytes(), &peer[..], &self.payload].concat())
    }

    fn decode(frame: &[u8]) -> Option<Datagram> {
        let length = match frame.get(2..4)? {
            [4, _] => 3 + 4,
            [6, _] => 3 + 16,
            [3, length] => 4 + usize::from(*length),
            _ => return None,
        };
        let (peer, payload) = frame.split_at_checked(length)?;
        let peer = Target::decode(peer)?;
        (payload.len() <= MAX_PAYLOAD).then(|| Datagram { peer, payload: payload.to_vec() })
    }
}

/// The other side sent what is no datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed datagram")]
pub struct Malformed;

/// Puts frames together out of a stream's bytes. Holds less than one frame more than what was last put in.
#[derive(Debug, Default)]
pub struct Reassembly {
    bytes: ByteQueue,
}

impl Reassembly {
    /// Takes bytes in pieces of any size. Call [`Reassembly::poll`] until it has none.
    pub fn push(&mut self, bytes: Vec<u8>) {
        self.bytes.push_buffer(bytes);
    }

    /// The next whole datagram.
    ///
    /// # Errors
    /// [`Malformed`]: the stream is of no use any more.
    pub fn poll(&mut self) -> Result<Option<Datagram>, Malformed> {
        let Some((length, rest)) = self.bytes.front().split_first_chunk() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes(*length));
        if length > MAX_FRAME - 2 {
            return Err(Malformed);
        }
        let Some(frame) = rest.get(..length) else { return Ok(None) };
        let datagram = Datagram::decode(frame).ok_or(Malformed)?;
        self.bytes.skip(2 + length);
        Ok(Some(datagram))
    }
}

/// Why no more datagrams come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatagramsEnded {
    /// The association was ended.
    #[error(transparent)]
    Stream(#[from] StreamEnded),
    /// The other side said that it has no more.
    #[error("the other side has finished")]
    Finished,
    /// The other side does not keep to the protocol.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// One end of an association. Dropping it ends the association.
#[derive(Debug)]
pub struct DatagramIo {
    io: StreamIo,
    reassembly: Reassembly,
}

impl DatagramIo {
    /// Carries datagrams over this stream, which was begun for that.
    pub fn new(io: StreamIo) -> DatagramIo {
        DatagramIo { io, reassembly: Reassembly::default() }
    }

    /// As [`StreamIo::poll_connected`].
    ///
    /// # Errors
    /// Why the exit refused.
    pub fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<Result<ConnectedAddr, StreamEnded>> {
        self.io.poll_connected(cx)
    }

    /// The next datagram.
    ///
    /// # Errors
    /// [`DatagramsEnded`].
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Result<Datagram, DatagramsEnded>> {
        loop {
            match self.reassembly.poll() {
                Ok(Some(datagram)) => return Poll::Ready(Ok(datagram)),
                Ok(None) => {}
                Err(malformed) => {
                    self.io.end(EndReason::Reset);
                    return Poll::Ready(Err(malformed.into()));
                }
            }
            let Poll::Ready(taken) = self.io.poll_take(cx) else {
                self.reassembly.bytes.rest();
                return Poll::Pending;
            };
            match taken? {
                Some(bytes) => self.reassembly.push(bytes),
                None => return Poll::Ready(Err(DatagramsEnded::Finished)),
            }
        }
    }

    /// Sends the datagram if there is room for all of it; false: it was dropped. Never waits.
    ///
    /// # Errors
    /// [`StreamEnded`] once the association has ended.
    pub fn try_send(&self, datagram: &Datagram) -> Result<bool, StreamEnded> {
        let Some(frame) = datagram.encode() else { return Ok(false) };
        self.io.try_write_whole(&frame, MAX_WAITING)
    }

    /// Ends the association.
    pub fn end(&self, reason: EndReason) {
        self.io.end(reason);
    }
}

/// The address as the peer of a datagram, IPv4-mapped ones as IPv4.
pub fn peer(ip: IpAddr, port: u16) -> Target {
    Target::Addr((ip.to_canonical(), port).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn datagram(name: &str, length: usize) -> Datagram {
        Datagram { peer: Target::Name(name.into(), 53), payload: vec![7; length] }
    }

    #[track_caller]
    fn check_pieces(datagrams: &[Datagram], size: usize) {
        let bytes: Vec<u8> = datagrams.iter().flat_map(|datagram| datagram.encode().unwrap()).collect();
        let mut reassembly = Reassembly::default();
        let mut got = Vec::new();
        for piece in bytes.chunks(size) {
            reassembly.push(piece.to_vec());
            while let Some(datagram) = reassembly.poll().unwrap() {
                got.push(datagram);
            }
            assert!(reassembly.bytes.len() <= MAX_FRAME + size);
        }
        assert!(got == datagrams);
    }

    #[test]
    fn datagrams_arrive_whole_however_they_are_cut() {
        let v6 = Target::Addr("[2001:db8::1]:443".parse().unwrap());
        let v4 = Target::Addr("192.0.2.1:443".parse().unwrap());
        let all = [
            datagram("example.com", 40),
            Datagram { peer: v6, payload: vec![] },
            datagram(&"n".repeat(255), MAX_PAYLOAD),
            Datagram { peer: v4, payload: vec![1] },
        ];
        for size in [1, 451, 70_000] {
            check_pieces(&all, size);
        }
    }

    #[test]
    fn too_long_a_payload_is_no_datagram() {
        assert_eq!(datagram("a", MAX_PAYLOAD + 1).encode(), None);
        let mut reassembly = Reassembly::default();
        reassembly.push(vec![0xff, 0xff]);
        assert_eq!(reassembly.poll(), Err(Malformed));
    }

    #[test]
    fn malformed_frames_are_noticed() {
        for frame in
            [&[0, 0][..], &[0, 2, 0, 53], &[0, 5, 0, 53, 4, 1, 2], &[0, 4, 0, 53, 9, 1], &[0, 4, 0, 53, 3, 0]]
        {
            let mut reassembly = Reassembly::default();
            reassembly.push(frame.to_vec());
            assert_eq!(reassembly.poll(), Err(Malformed), "{frame:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..2_000), cut in 1usize..300) {
            let mut reassembly = Reassembly::default();
            for piece in bytes.chunks(cut) {
                reassembly.push(piece.to_vec());
                while let Ok(Some(_)) = reassembly.poll() {}
                prop_assert!(reassembly.bytes.len() <= bytes.len());
            }
        }
    }
}
