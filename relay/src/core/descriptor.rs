//! What the relay says of itself (docs/protocol.md §9.2).

use std::net::SocketAddr;
use std::time::Duration;

use tunic_proto::dir::{Descriptor, DirError, SignedDescriptor};
use tunic_proto::keys::{OnionKey, Signer};
use tunic_proto::time::UnixTime;

use crate::config::Config;

/// How long a signed descriptor is handed out before it is written anew. Short, so that an authority that was away
/// gets a recent one; long enough that retries send all authorities the same.
const REUSE: Duration = Duration::from_secs(60 * 60);
const VERSION: &str = concat!("tunic ", env!("CARGO_PKG_VERSION"));

/// Writes and signs descriptors, and keeps the last one while it says what is true.
#[derive(Debug, Default)]
pub struct DescriptorWriter {
    last: Option<(Descriptor, SignedDescriptor)>,
}

impl DescriptorWriter {
    /// The signed bytes to upload now. While the relay rests it states that it can carry nothing: it is not to be listed.
    ///
    /// # Errors
    /// [`DirError::Malformed`] if the settings break a bound of the protocol.
    pub fn current(
        &mut self,
        config: &Config,
        addresses: &[SocketAddr],
        signer: &Signer,
        onion_key: OnionKey,
        rests: bool,
        now: UnixTime,
    ) -> Result<&[u8], DirError> {
        let mut fresh = describe(config, addresses, signer, onion_key, now);
        if rests {
            fresh.bandwidth = 0;
        }
        let reusable = self.last.take().filter(|(last, _)| {
            let published = last.published;
            now >= published
                && now.since(published) < REUSE
                && Descriptor { published, ..fresh.clone() } == *last
        });
        let last = match reusable {
            Some(last) => last,
            None => (fresh.clone(), fresh.sign(signer)?),
        };
        Ok(self.last.insert(last).1.bytes())
    }

    /// An authority refused the last one, perhaps for its time: the next one is written anew.
    pub fn handle_refused(&mut self) {
        self.last = None;
    }
}

fn describe(
    config: &Config,
    addresses: &[SocketAddr],
    signer: &Signer,
    onion_key: OnionKey,
    now: UnixTime,
) -> Descriptor {
    let identity = signer.id();
    Descriptor {
        nickname: config.nickname.clone(),
        identity,
        published: now,
        addresses: addresses.to_vec(),
        onion_key,
        exit: config.exit.effective_policy(),
        family: config.family.iter().copied().filter(|id| *id != identity).collect(),
        bandwidth: config.stated_bandwidth(),
        version: VERSION.to_owned(),
        protocols: vec![1],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;
    use tunic_proto::dir::{ExitPolicy, UncheckedDescriptor};
    use tunic_proto::ids::RelayId;
    use tunic_proto::keys::IdentityKey;

    const NOW: UnixTime = UnixTime(1_000_000);
    const ONION: OnionKey = OnionKey([5; 32]);

    fn signer() -> Signer {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        IdentityKey::generate(&mut rng).certify(UnixTime(9_000_000), &mut rng)
    }

    fn write(writer: &mut DescriptorWriter, config: &Config, onion: OnionKey, now: UnixTime) -> Vec<u8> {
        let addresses = ["8.8.8.8:9001".parse().unwrap()];
        writer.current(config, &addresses, &signer(), onion, false, now).unwrap().to_vec()
    }

    #[test]
    fn a_descriptor_says_what_the_settings_say() {
        let mut config = Config { nickname: "onion7".into(), bandwidth: 77, ..Config::default() };
        config.exit.policy = ExitPolicy::parse(&["accept *:443"]).unwrap();
        config.family = vec![signer().id(), RelayId([8; 32])];
        let bytes = write(&mut DescriptorWriter::default(), &config, ONION, NOW);
        let parsed = UncheckedDescriptor::parse(&bytes).unwrap().check_time(NOW).unwrap();
        let signed = parsed.check_signature(NOW).unwrap();
        assert_eq!(signed.identity, signer().id());
        assert_eq!((signed.nickname.as_str(), signed.bandwidth, signed.published), ("onion7", 77, NOW));
        assert_eq!((signed.onion_key, signed.exit.clone()), (ONION, config.exit.policy));
        // A relay is of its own family without saying so.
        assert_eq!(signed.family, [RelayId([8; 32])]);
    }

    #[test]
    fn no_more_is_stated_than_the_relay_may_move() {
        let config = Config { bandwidth_rate: Some(70_000), ..Config::default() };
        let bytes = write(&mut DescriptorWriter::default(), &config, ONION, NOW);
        let parsed = UncheckedDescriptor::parse(&bytes).unwrap().check_time(NOW).unwrap();
        assert_eq!(parsed.check_signature(NOW).unwrap().bandwidth, 70_000);
    }

    #[test]
    fn a_relay_that_rests_states_nothing_and_says_so_at_once() {
        let (mut writer, config) = (DescriptorWriter::default(), Config::default());
        let awake = write(&mut writer, &config, ONION, NOW);
        let addresses = ["8.8.8.8:9001".parse().unwrap()];
        let resting = writer.current(&config, &addresses, &signer(), ONION, true, NOW).unwrap().to_vec();
        let parsed = UncheckedDescriptor::parse(&resting).unwrap().check_time(NOW).unwrap();
        assert_eq!(parsed.check_signature(NOW).unwrap().bandwidth, 0);
        assert_ne!(awake, resting);
    }

    #[test]
    fn authorities_get_the_same_bytes_until_something_changes() {
        let (mut writer, config) = (DescriptorWriter::default(), Config::default());
        let first = write(&mut writer, &config, ONION, NOW);
        assert_eq!(write(&mut writer, &config, ONION, NOW.plus(REUSE / 2)), first);
        assert_ne!(write(&mut writer, &config, OnionKey([6; 32]), NOW.plus(REUSE / 2)), first);
    }

    #[test]
    fn an_old_descriptor_is_written_anew() {
        let (mut writer, config) = (DescriptorWriter::default(), Config::default());
        let first = write(&mut writer, &config, ONION, NOW);
        let second = write(&mut writer, &config, ONION, NOW.plus(REUSE));
        assert_ne!(second, first);
        // A clock that went back does not leave a descriptor from the future in use.
        assert_ne!(write(&mut writer, &config, ONION, NOW), second);
    }

    #[test]
    fn after_a_refusal_the_next_one_is_of_its_own_time() {
        let (mut writer, config) = (DescriptorWriter::default(), Config::default());
        let first = write(&mut writer, &config, ONION, NOW);
        writer.handle_refused();
        assert_ne!(write(&mut writer, &config, ONION, UnixTime(NOW.0 + 1)), first);
    }

    #[test]
    fn settings_beyond_the_protocol_are_an_error() {
        let config = Config { nickname: "no spaces".into(), ..Config::default() };
        let addresses = ["8.8.8.8:9001".parse().unwrap()];
        let result = DescriptorWriter::default()
            .current(&config, &addresses, &signer(), ONION, false, NOW)
            .map(<[u8]>::to_vec);
        assert!(matches!(result, Err(DirError::Malformed(_))));
    }
}
