//! Datagrams over a circuit as their users hold them.

use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;

use tunic_proto::datagram::{Datagram, DatagramIo, DatagramsEnded};
use tunic_proto::message::EndReason;
use tunic_proto::stream::{StreamEnded, StreamIo};

use super::limits::Place;
use super::{Circuit, Traffic};

/// One end of an association. Dropping it ends the association.
pub struct CircuitDatagrams {
    /// `None` where the stream under it was taken already.
    io: Option<DatagramIo>,
    circuit: Option<Circuit>,
    traffic: Option<Arc<Traffic>>,
    _place: Option<Place>,
}

const GONE: StreamEnded = StreamEnded(EndReason::Reset);

impl CircuitDatagrams {
    pub(super) fn new(io: Option<StreamIo>, circuit: Option<Circuit>) -> CircuitDatagrams {
        CircuitDatagrams { io: io.map(DatagramIo::new), circuit, traffic: None, _place: None }
    }

    /// Of an association that others began: its datagrams count as this node's traffic.
    pub(super) fn counted(mut self, traffic: Arc<Traffic>, place: Option<Place>) -> CircuitDatagrams {
        self.traffic = Some(traffic);
        self._place = place;
        self
    }

    /// Counts a datagram that came from outside. False: the node's limit has no room for it, and it has to be dropped.
    pub fn admit_read(&self, bytes: usize) -> bool {
        self.traffic.as_ref().is_none_or(|traffic| traffic.admit_read(bytes))
    }

    /// The same for one that is to go out.
    pub fn admit_write(&self, bytes: usize) -> bool {
        self.traffic.as_ref().is_none_or(|traffic| traffic.admit_write(bytes))
    }

    /// Waits for the exit's answer.
    ///
    /// # Errors
    /// Why the exit refused.
    pub async fn connected(&self) -> Result<Option<IpAddr>, EndReason> {
        let Some(io) = &self.io else { return Err(EndReason::Reset) };
        poll_fn(|cx| io.poll_connected(cx)).await.map_err(|StreamEnded(reason)| reason)
    }

    /// The next datagram. May be dropped and called again.
    ///
    /// # Errors
    /// [`DatagramsEnded`].
    pub async fn recv(&mut self) -> Result<Datagram, DatagramsEnded> {
        let Some(io) = &mut self.io else { return Err(GONE.into()) };
        poll_fn(|cx| io.poll_recv(cx)).await
    }

    /// Sends the datagram if there is room for it; false: it was dropped. Never waits.
    ///
    /// # Errors
    /// [`StreamEnded`] once the association has ended.
    pub fn try_send(&self, datagram: &Datagram) -> Result<bool, StreamEnded> {
        self.io.as_ref().ok_or(GONE)?.try_send(datagram)
    }

    /// Ends the association with this reason.
    pub fn end(self, reason: EndReason) {
        if let Some(io) = self.io {
            io.end(reason);
        }
    }

    /// The circuit under an association that was begun here.
    pub fn circuit(&self) -> Option<&Circuit> {
        self.circuit.as_ref()
    }
}
