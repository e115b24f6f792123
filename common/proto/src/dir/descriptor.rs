//! What a relay says of itself (docs/protocol.md §9.2): parsed, then timely, then signed.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::envelope::{Envelope, Kind, SignatureLine};
use super::{Digest, DirError, ExitPolicy, RelayEntry, digest, from_json, to_json};
use crate::ids::RelayId;
use crate::keys::{OnionKey, Signer};
use crate::time::UnixTime;

/// How long a descriptor is believed after it was published.
pub const DESCRIPTOR_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How far in the future a descriptor may have been published, as the reader's clock goes.
pub const MAX_CLOCK_AHEAD: Duration = Duration::from_secs(10 * 60);

/// What a relay says of itself. Bounds as in [`RelayEntry`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// 1–19 ASCII letters and digits; not unique.
    pub nickname: String,
    /// Who it is.
    pub identity: RelayId,
    /// When it wrote this.
    pub published: UnixTime,
    /// Where it listens, 1–8, none twice.
    pub addresses: Vec<SocketAddr>,
    /// With which key circuit handshakes reach it.
    pub onion_key: OnionKey,
    /// What it connects to as an exit.
    pub exit: ExitPolicy,
    /// Relays under the same control; at most 64.
    pub family: Vec<RelayId>,
    /// Bytes per second that it offers.
    pub bandwidth: u64,
    /// The software that it runs.
    pub version: String,
    /// Versions of docs/protocol.md that it speaks, ascending.
    pub protocols: Vec<u16>,
}

impl Descriptor {
    /// The entry that lists this relay, without flags.
    pub fn entry(&self) -> RelayEntry {
        RelayEntry {
            nickname: self.nickname.clone(),
            identity: self.identity,
            addresses: self.addresses.clone(),
            onion_key: self.onion_key,
            exit: self.exit.clone(),
            family: self.family.clone(),
            bandwidth: self.bandwidth,
            flags: Vec::new(),
            version: self.version.clone(),
            protocols: self.protocols.clone(),
        }
    }

    /// Signs it with the key of the relay that it is about.
    ///
    /// # Errors
    /// [`DirError::WrongSigner`] for another relay's key, [`DirError::Malformed`] when a bound is not kept.
    pub fn sign(self, signer: &Signer) -> Result<SignedDescriptor, DirError> {
        if self.identity != signer.id() {
            return Err(DirError::WrongSigner);
        }
        self.entry().check_shape()?;
        let body = to_json(&self)?;
        let line = SignatureLine::sign(Kind::Descriptor, &body, signer);
        let envelope = Envelope::assemble(Kind::Descriptor, &body, &[line])?;
        Ok(SignedDescriptor { descriptor: self, envelope })
    }
}

/// A descriptor of the right shape: neither its time nor its signature is checked.
#[derive(Debug, Clone)]
pub struct UncheckedDescriptor(SignedDescriptor);

impl UncheckedDescriptor {
    /// Takes exactly one descriptor.
    ///
    /// # Errors
    /// [`DirError::TooLong`], [`DirError::Malformed`] or [`DirError::Json`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DirError> {
        let envelope = Envelope::parse(Kind::Descriptor, bytes)?;
        let descriptor: Descriptor = from_json(envelope.body())?;
        descriptor.entry().check_shape()?;
        Ok(UncheckedDescriptor(SignedDescriptor { descriptor, envelope }))
    }

    /// Checks that it is neither too old nor from the future.
    ///
    /// # Errors
    /// [`DirError::NotYetValid`] beyond [`MAX_CLOCK_AHEAD`], [`DirError::Expired`] beyond [`DESCRIPTOR_LIFETIME`].
    pub fn check_time(self, now: UnixTime) -> Result<TimelyDescriptor, DirError> {
        let published = self.0.descriptor.published;
        if published > now.plus(MAX_CLOCK_AHEAD) {
            return Err(DirError::NotYetValid);
        }
        if now > published.plus(DESCRIPTOR_LIFETIME) {
            return Err(DirError::Expired);
        }
        Ok(TimelyDescriptor(self.0))
    }
}

/// A descriptor of the right shape and time: its signature is not checked.
#[derive(Debug, Clone)]
pub struct TimelyDescriptor(SignedDescriptor);

impl TimelyDescriptor {
    /// Checks that the relay which it is about has signed it.
    ///
    /// # Errors
    /// [`DirError::WrongSigner`] or [`DirError::Key`].
    pub fn check_signature(self, now: UnixTime) -> Result<SignedDescriptor, DirError> {
        self.0.envelope.check_only_signer(Kind::Descriptor, self.0.descriptor.identity, now)?;
        Ok(self.0)
    }
}

/// A checked descriptor with its exact bytes.
#[derive(Debug, Clone)]
pub struct SignedDescriptor {
    descriptor: Descriptor,
    envelope: Envelope,
}

impl SignedDescriptor {
    /// The document as it was signed.
    pub fn bytes(&self) -> &[u8] {
        self.envelope.bytes()
    }

    /// SHA-256 of the signed JSON bytes.
    pub fn digest(&self) -> Digest {
        digest(self.envelope.body())
    }
}

impl std::ops::Deref for SignedDescriptor {
    type Target = Descriptor;
    fn deref(&self) -> &Descriptor {
        &self.descriptor
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dir::testing::{NOW, descriptor, signer};

    fn check(bytes: &[u8], now: UnixTime) -> Result<SignedDescriptor, DirError> {
        UncheckedDescriptor::parse(bytes)?.check_time(now)?.check_signature(now)
    }

    #[test]
    fn a_relay_speaks_for_itself_for_a_day() {
        let signed = descriptor(1).sign(&signer(1)).unwrap();
        let checked = check(signed.bytes(), NOW).unwrap();
        assert_eq!(*checked, descriptor(1));
        assert_eq!((checked.bytes(), checked.digest()), (signed.bytes(), signed.digest()));
        let result_at = |now| check(signed.bytes(), now).err();
        assert_eq!(result_at(NOW.plus(DESCRIPTOR_LIFETIME)), None);
        assert_eq!(result_at(UnixTime(NOW.0 + 24 * 3600 + 1)), Some(DirError::Expired));
        assert_eq!(result_at(NOW.minus(MAX_CLOCK_AHEAD)), None);
        assert_eq!(result_at(UnixTime(NOW.0 - 601)), Some(DirError::NotYetValid));
    }

    #[test]
    fn nobody_speaks_for_another_relay() {
        assert_eq!(descriptor(1).sign(&signer(2)).err(), Some(DirError::WrongSigner));
        let body = to_json(&descriptor(1)).unwrap();
        let line = SignatureLine::sign(Kind::Descriptor, &body, &signer(2));
        let forged = Envelope::assemble(Kind::Descriptor, &body, &[line]).unwrap();
        assert_eq!(check(forged.bytes(), NOW).err(), Some(DirError::WrongSigner));
    }

    #[test]
    fn a_descriptor_that_is_cut_or_altered_anywhere_is_refused() {
        let good = descriptor(1).sign(&signer(1)).unwrap().bytes().to_vec();
        for end in 0..good.len() {
            assert!(check(&good[..end], NOW).is_err(), "cut at {end}");
        }
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << (at % 8);
            assert!(check(&bytes, NOW).is_err(), "flipped at {at}");
        }
    }

    #[test]
    fn unknown_fields_are_ignored_and_repeated_ones_refused() {
        let json = String::from_utf8(to_json(&descriptor(1)).unwrap()).unwrap();
        let parse = |json: String| {
            let line = SignatureLine::sign(Kind::Descriptor, json.as_bytes(), &signer(1));
            check(Envelope::assemble(Kind::Descriptor, json.as_bytes(), &[line]).unwrap().bytes(), NOW)
        };
        assert_eq!(*parse(json.replacen('{', "{\"new\":{\"deep\":[1]},", 1)).unwrap(), descriptor(1));
        assert!(parse(json.replacen('{', "{\"bandwidth\":1,", 1)).is_err());
        assert!(parse(format!("{json} {json}")).is_err());
        assert!(parse(json.replace("\"bandwidth\":", "\"bandwith\":")).is_err());
    }
}
