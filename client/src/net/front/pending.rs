//! Datagrams that wait for a circuit.

use std::collections::VecDeque;

use tunic_proto::datagram::Datagram;

/// Datagrams kept while there is no circuit yet; more are dropped.
const MAX_DATAGRAMS: usize = 32;
/// Bytes of their payloads.
const MAX_BYTES: usize = 128 * 1024;

/// So many, and so many bytes.
#[derive(Debug, Default)]
pub(super) struct Pending {
    datagrams: VecDeque<Datagram>,
    bytes: usize,
}

impl Pending {
    /// Keeps the datagram if there is room; false: it was dropped.
    pub(super) fn keep(&mut self, datagram: Datagram) -> bool {
        let bytes = self.bytes + datagram.payload.len();
        let has_room = self.datagrams.len() < MAX_DATAGRAMS && bytes <= MAX_BYTES;
        if has_room {
            self.bytes = bytes;
            self.datagrams.push_back(datagram);
        }
        has_room
    }

    /// Gives all of them, in order.
    pub(super) fn take(&mut self) -> VecDeque<Datagram> {
        self.bytes = 0;
        std::mem::take(&mut self.datagrams)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tunic_proto::message::Target;

    fn keep(pending: &mut Pending, length: usize) -> bool {
        let peer = Target::Addr(([192, 0, 2, 1], 53).into());
        pending.keep(Datagram { peer, payload: vec![0; length] })
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_in_bytes() {
        let mut pending = Pending::default();
        assert_eq!((0..100).filter(|_| keep(&mut pending, 100)).count(), MAX_DATAGRAMS);
        assert_eq!(pending.take().len(), MAX_DATAGRAMS);
        assert_eq!((0..100).filter(|_| keep(&mut pending, 60_000)).count(), 2);
        assert!(keep(&mut pending, 11_072) && !keep(&mut pending, 1));
        assert_eq!(pending.take().iter().map(|datagram| datagram.payload.len()).sum::<usize>(), MAX_BYTES);
        assert!(keep(&mut pending, 60_000), "there is room again");
    }
}
