//! The layers of a whole circuit, as the client has them (docs/protocol.md §5.3 and §5.4).

use crate::crypto::layer::{HopOpener, HopSealer, LayerError, LayerFault, PAYLOAD_LEN, Routing};
use crate::ids::HopNum;

/// One layer for each hop, the one next to the client first; none once one has failed.
struct Hops<L> {
    layers: Vec<L>,
    dead: bool,
}

impl<L> Hops<L> {
    const EMPTY: Self = Hops { layers: Vec::new(), dead: false };

    fn push(&mut self, layer: L, hop: HopNum) -> Result<(), LayerError> {
        if self.dead || hop.index() != self.layers.len() {
            return Err(self.missing(hop));
        }
        self.layers.push(layer);
        Ok(())
    }

    fn missing(&self, hop: HopNum) -> LayerError {
        LayerError { hop, fault: if self.dead { LayerFault::Dead } else { LayerFault::NoSuchHop } }
    }

    /// After an error the counters of client and relays differ: nothing is left to go on with.
    fn check<T>(
        &mut self,
        payload: &mut [u8; PAYLOAD_LEN],
        result: Result<T, LayerError>,
    ) -> Result<T, LayerError> {
        if result.is_err() {
            payload.fill(0);
            self.layers.clear();
            self.dead = true;
        }
        result
    }
}

/// The forward layers of a circuit: one sealer for each hop that answered its handshake.
pub struct ForwardLayers(Hops<HopSealer>);

impl ForwardLayers {
    /// No hops yet.
    pub const fn new() -> Self {
        ForwardLayers(Hops::EMPTY)
    }

    /// Adds the hop that the circuit was extended to.
    ///
    /// # Errors
    /// [`LayerFault::NoSuchHop`] if it is not the next one, [`LayerFault::Dead`] after an error of [`Self::seal`].
    pub fn push(&mut self, sealer: HopSealer) -> Result<(), LayerError> {
        let hop = sealer.hop();
        self.0.push(sealer, hop)
    }

    /// How many hops there are.
    pub fn len(&self) -> usize {
        self.0.layers.len()
    }

    /// Whether there is no hop: at first, and after an error of [`Self::seal`].
    pub fn is_empty(&self) -> bool {
        self.0.layers.is_empty()
    }

    /// As if every layer had sealed all cells that it may.
    #[cfg(test)]
    pub(crate) fn use_up(&mut self) {
        self.0.layers.iter_mut().for_each(HopSealer::use_up);
    }

    /// Seals the first [`inner_len`](super::layer::inner_len)`(target)` bytes, a relay message to `target`, for the
    /// way there.
    ///
    /// # Errors
    /// [`LayerError`]; the payload is wiped, all keys are dropped, and every later call fails.
    pub fn seal(&mut self, payload: &mut [u8; PAYLOAD_LEN], target: HopNum) -> Result<(), LayerError> {
        let result = self.seal_for(payload, target);
        self.0.check(payload, result)
    }

    fn seal_for(&mut self, payload: &mut [u8; PAYLOAD_LEN], target: HopNum) -> Result<(), LayerError> {
        let missing = self.0.missing(target);
        let way = self.0.layers.get_mut(..=target.index()).ok_or(missing)?;
        let mut routing = Routing::Here;
        for hop in way.iter_mut().rev() {
            hop.seal(payload, routing)?;
            routing = Routing::PassOn;
        }
        Ok(())
    }
}

/// The backward layers of a circuit: one opener for each hop that answered its handshake.
pub struct BackwardLayers(Hops<HopOpener>);

impl BackwardLayers {
    /// No hops yet.
    pub const fn new() -> Self {
        BackwardLayers(Hops::EMPTY)
    }

    /// Adds the hop that the circuit was extended to.
    ///
    /// # Errors
    /// [`LayerFault::NoSuchHop`] if it is not the next one, [`LayerFault::Dead`] after an error of [`Self::open`].
    pub fn push(&mut self, opener: HopOpener) -> Result<(), LayerError> {
        let hop = opener.hop();
        self.0.push(opener, hop)
    }

    /// How many hops there are.
    pub fn len(&self) -> usize {
        self.0.layers.len()
    }

    /// Whether there is no hop: at first, and after an error of [`Self::open`].
    pub fn is_empty(&self) -> bool {
        self.0.layers.is_empty()
    }

    /// Opens layer after layer, and says which hop the relay message came from. The message is in the first
    /// [`inner_len`](super::layer::inner_len) bytes of that hop, with zeros behind them.
    ///
    /// # Errors
    /// [`LayerError`] with the hop whose layer was wrong: the fault lies with it, with one behind it or with a channel
    /// between them. The payload is wiped, all keys are dropped, and every later call fails.
    pub fn open(&mut self, payload: &mut [u8; PAYLOAD_LEN]) -> Result<HopNum, LayerError> {
        let result = self.open_from(payload);
        self.0.check(payload, result)
    }

    fn open_from(&mut self, payload: &mut [u8; PAYLOAD_LEN]) -> Result<HopNum, LayerError> {
        let mut error = self.0.missing(HopNum::FIRST);
        for hop in &mut self.0.layers {
            if hop.open(payload)? == Routing::Here {
                return Ok(hop.hop());
            }
            error = LayerError { hop: hop.hop(), fault: LayerFault::NoNextHop };
        }
        Err(error)
    }
}

impl Default for ForwardLayers {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for BackwardLayers {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::layer::LayerCipher;

    #[test]
    fn a_hop_is_pushed_in_its_place() {
        let sealer = |depth| HopSealer::new(LayerCipher::Aes256Gcm, &[9; 32], HopNum::new(depth).unwrap());
        let mut layers = ForwardLayers::new();
        let wrong = LayerError { hop: HopNum::new(1).unwrap(), fault: LayerFault::NoSuchHop };
        assert_eq!(layers.push(sealer(1)), Err(wrong));
        assert_eq!(layers.push(sealer(0)), Ok(()));
        assert_eq!(layers.push(sealer(1)), Ok(()));
        assert_eq!(layers.push(sealer(1)), Err(wrong));
        assert_eq!(layers.len(), 2);
    }
}
