//! The keys of a relay or an authority on disk.
//!
//! | file | holds | replaced |
//! |---|---|---|
//! | `identity.key` | the identity's secret; may be taken away (offline) while a valid `signing.key` is there | never |
//! | `signing.key` | the signing secret and its certificate | when less than a week of its 30 days is left |
//! | `onion.key` | onion secrets with the time at which each was made, current first | by [`NodeKeys::rotate_onion`] |
//!
//! Each line is a word that says what it is, then values; another word is an error, so files cannot be mixed up.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rand::CryptoRng;
use tunic_proto::keys::{CERT_LEN, IdentityKey, KeyError, OnionSecret, Signer, UncheckedCert};
use tunic_proto::time::UnixTime;
use zeroize::Zeroizing;

use crate::keyfile::{self, KeyFileError};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a signing certificate holds.
pub const SIGNING_LIFETIME: Duration = DAY.saturating_mul(30);
/// With less time than this left, a new signing key is made.
pub const SIGNING_RENEWAL: Duration = DAY.saturating_mul(7);
/// How long an onion key is listed.
pub const ONION_LIFETIME: Duration = DAY.saturating_mul(28);
/// How long a replaced onion key still answers those who have an older consensus.
pub const ONION_GRACE: Duration = DAY.saturating_mul(7);

const IDENTITY: &str = "tunic-identity-secret-v1";
const SIGNING: &str = "tunic-signing-secret-v1";
const CERTIFICATE: &str = "tunic-signing-cert-v1";
const ONION: &str = "tunic-onion-secret-v1";

/// Keys that could not be made or loaded.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A file is missing, or must not be used.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// Keys are there already and would be overwritten.
    #[error(
        "{} holds keys already; overwriting them would end this identity. Choose another directory, \
         or move it away",
        dir.display()
    )]
    Exists {
        /// The directory.
        dir: PathBuf,
    },
    /// A file does not hold what its name says.
    #[error("{} is damaged: {what}. Restore it from a copy, or remove it to have new keys made", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was expected.
        what: &'static str,
    },
    /// The signing certificate is over and the identity that could renew it is not here.
    #[error(
        "the certificate in {} has expired. Put identity.key beside it, or a signing.key made where the identity is",
        path.display()
    )]
    Expired {
        /// The file.
        path: PathBuf,
    },
    /// Neither an identity nor a signing key is there.
    #[error("{} holds no keys; make them with `keygen`", dir.display())]
    Missing {
        /// The directory.
        dir: PathBuf,
    },
    /// The signing key was certified by another identity.
    #[error(
        "{} was certified by another identity than {}: they belong to different nodes",
        signing.display(), identity.display()
    )]
    Mixed {
        /// `signing.key`.
        signing: PathBuf,
        /// `identity.key`.
        identity: PathBuf,
    },
}

/// What a relay and an authority keep on disk, loaded.
#[derive(Debug, Clone)]
pub struct NodeKeys {
    /// Signs what the node says.
    pub signer: Arc<Signer>,
    /// Answers circuit handshakes: the current key, then at most one previous.
    pub onion: Vec<OnionSecret>,
    onion_made: Vec<UnixTime>,
}

impl NodeKeys {
    /// Makes all keys in this directory, which is made if it is not there.
    ///
    /// # Errors
    /// If keys are there already, or the system refuses.
    pub fn create(dir: &Path, now: UnixTime) -> Result<Self, KeysError> {
        Self::create_with(dir, now, &mut system_rng())
    }

    /// As [`NodeKeys::create`], from a given source of randomness: the same source makes the same keys.
    ///
    /// # Errors
    /// As [`NodeKeys::create`].
    pub fn create_with<R: CryptoRng>(dir: &Path, now: UnixTime, rng: &mut R) -> Result<Self, KeysError> {
        keyfile::ensure_private_dir(dir)?;
        if exists(dir) || onion_path(dir).exists() {
            return Err(KeysError::Exists { dir: dir.to_path_buf() });
        }
        let identity = IdentityKey::generate(rng);
        let secret = Zeroizing::new(hex_line(IDENTITY, &*identity.dangerously_to_bytes()));
        let signer = identity.certify(now.plus(SIGNING_LIFETIME), rng);
        let onion = OnionSecret::generate(rng);
        keyfile::write_private(&identity_path(dir), secret.as_bytes())?;
        write_signer(dir, &signer)?;
        write_onion(dir, std::slice::from_ref(&onion), &[now])?;
        Ok(NodeKeys { signer: Arc::new(signer), onion: vec![onion], onion_made: vec![now] })
    }

    /// Loads the keys. Makes a new signing key when the identity is here and the old one has less than
    /// [`SIGNING_RENEWAL`] left, and an onion key when there is none.
    ///
    /// # Errors
    /// If a file is missing, damaged, or may be accessed by others; if the certificate has expired and the identity is
    /// not here to renew it.
    pub fn load(dir: &Path, now: UnixTime) -> Result<Self, KeysError> {
        Self::load_with(dir, now, &mut system_rng())
    }

    fn load_with<R: CryptoRng>(dir: &Path, now: UnixTime, rng: &mut R) -> Result<Self, KeysError> {
        if !exists(dir) {
            return Err(KeysError::Missing { dir: dir.to_path_buf() });
        }
        keyfile::ensure_private_dir(dir)?;
        let signer = load_signer(dir, now, rng)?;
        let (onion, onion_made) = if onion_path(dir).exists() {
            read_onion(dir)?
        } else {
            let fresh = (vec![OnionSecret::generate(rng)], vec![now]);
            write_onion(dir, &fresh.0, &fresh.1)?;
            fresh
        };
        Ok(NodeKeys { signer: Arc::new(signer), onion, onion_made })
    }

    /// Loads the keys if there are any, else makes them.
    ///
    /// # Errors
    /// As [`NodeKeys::load`] and [`NodeKeys::create`].
    pub fn load_or_create(dir: &Path, now: UnixTime) -> Result<Self, KeysError> {
        if exists(dir) { Self::load(dir, now) } else { Self::create(dir, now) }
    }

    /// Replaces an onion key that has been listed for [`ONION_LIFETIME`], and forgets a previous one after
    /// [`ONION_GRACE`]. True if the keys changed. For relays: the onion keys of authorities stand in configurations.
    ///
    /// # Errors
    /// If the new keys could not be written; then the old ones stay in use.
    pub fn rotate_onion(&mut self, dir: &Path, now: UnixTime) -> Result<bool, KeysError> {
        self.rotate_onion_with(dir, now, &mut system_rng())
    }

    fn rotate_onion_with<R: CryptoRng>(
        &mut self,
        dir: &Path,
        now: UnixTime,
        rng: &mut R,
    ) -> Result<bool, KeysError> {
        let (mut onion, mut made) = (self.onion.clone(), self.onion_made.clone());
        let age = made.first().map_or(Duration::MAX, |made| now.since(*made));
        if age >= ONION_LIFETIME {
            onion.insert(0, OnionSecret::generate(rng));
            made.insert(0, now);
            onion.truncate(2);
            made.truncate(2);
        } else if onion.len() > 1 && age >= ONION_GRACE {
            onion.truncate(1);
            made.truncate(1);
        } else {
            return Ok(false);
        }
        write_onion(dir, &onion, &made)?;
        (self.onion, self.onion_made) = (onion, made);
        Ok(true)
    }
}

#[expect(clippy::disallowed_methods, reason = "keys of real nodes come from the system's randomness")]
fn system_rng() -> impl CryptoRng {
    rand::rng()
}

fn identity_path(dir: &Path) -> PathBuf {
    dir.join("identity.key")
}

fn signing_path(dir: &Path) -> PathBuf {
    dir.join("signing.key")
}

fn onion_path(dir: &Path) -> PathBuf {
    dir.join("onion.key")
}

fn exists(dir: &Path) -> bool {
    identity_path(dir).exists() || signing_path(dir).exists()
}

fn load_signer<R: CryptoRng>(dir: &Path, now: UnixTime, rng: &mut R) -> Result<Signer, KeysError> {
    let path = signing_path(dir);
    let stored = if path.exists() { read_signer(&path, now)? } else { None };
    let fresh_enough = |signer: &Signer| signer.cert().expires().since(now) >= SIGNING_RENEWAL;
    if !identity_path(dir).exists() {
        return stored.ok_or(KeysError::Expired { path });
    }
    let identity = read_identity(&identity_path(dir))?;
    match stored {
        Some(signer) if signer.id() != identity.id() => {
            Err(KeysError::Mixed { signing: path, identity: identity_path(dir) })
        }
        Some(signer) if fresh_enough(&signer) => Ok(signer),
        _ => {
            let signer = identity.certify(now.plus(SIGNING_LIFETIME), rng);
            write_signer(dir, &signer)?;
            Ok(signer)
        }
    }
}

fn read_identity(path: &Path) -> Result<IdentityKey, KeysError> {
    let damaged = |what| KeysError::Damaged { path: path.to_path_buf(), what };
    let text = keyfile::read_private(path)?;
    let mut lines = Lines::of(&text).ok_or(damaged("it is no text"))?;
    let secret = lines.secret(IDENTITY).ok_or(damaged("one line with an identity secret is expected"))?;
    lines.end().ok_or(damaged("there is more than one line"))?;
    Ok(IdentityKey::from_bytes(&secret))
}

/// `None` if the certificate has expired.
fn read_signer(path: &Path, now: UnixTime) -> Result<Option<Signer>, KeysError> {
    let damaged = |what| KeysError::Damaged { path: path.to_path_buf(), what };
    let text = keyfile::read_private(path)?;
    let mut lines = Lines::of(&text).ok_or(damaged("it is no text"))?;
    let secret = lines.secret(SIGNING).ok_or(damaged("its first line is no signing secret"))?;
    let cert = lines.hex::<CERT_LEN>(CERTIFICATE).ok_or(damaged("its second line is no certificate"))?;
    lines.end().ok_or(damaged("there are more than two lines"))?;
    let unchecked = UncheckedCert::from_bytes(&*cert).map_err(|_| damaged("the certificate is malformed"))?;
    match unchecked.check(now) {
        Ok(cert) => Signer::from_parts(cert, &secret)
            .map(Some)
            .map_err(|_| damaged("the certificate is for another key")),
        Err(KeyError::Expired) => Ok(None),
        Err(_) => Err(damaged("the certificate is malformed")),
    }
}

fn write_signer(dir: &Path, signer: &Signer) -> Result<(), KeyFileError> {
    let mut text = Zeroizing::new(hex_line(SIGNING, &*signer.dangerously_to_bytes()));
    text.push_str(&hex_line(CERTIFICATE, signer.cert().as_bytes()));
    keyfile::write_private(&signing_path(dir), text.as_bytes())
}

fn read_onion(dir: &Path) -> Result<(Vec<OnionSecret>, Vec<UnixTime>), KeysError> {
    let path = onion_path(dir);
    let damaged = |what| KeysError::Damaged { path: path.clone(), what };
    let text = keyfile::read_private(&path)?;
    let mut lines = Lines::of(&text).ok_or(damaged("it is no text"))?;
    let mut keys = (Vec::new(), Vec::new());
    while lines.end().is_none() {
        let (made, secret) = lines.dated_secret(ONION).ok_or(damaged("a line is no onion secret"))?;
        keys.0.push(OnionSecret::from_bytes(*secret));
        keys.1.push(made);
    }
    if keys.0.is_empty() || keys.0.len() > 2 {
        return Err(damaged("one or two onion secrets are expected"));
    }
    Ok(keys)
}

fn write_onion(dir: &Path, keys: &[OnionSecret], made: &[UnixTime]) -> Result<(), KeyFileError> {
    let mut text = Zeroizing::new(String::with_capacity(512));
    for (key, made) in keys.iter().zip(made) {
        let word = format!("{ONION} {}", made.0);
        text.push_str(&Zeroizing::new(hex_line(&word, &*key.dangerously_to_bytes())));
    }
    keyfile::write_private(&onion_path(dir), text.as_bytes())
}

fn hex_line(word: &str, bytes: &[u8]) -> String {
    // Enough for every line at once: growing would leave copies of the secret that nobody wipes.
    let mut line = String::with_capacity(1024);
    line.push_str(word);
    line.push(' ');
    for byte in bytes {
        let _ = write!(line, "{byte:02x}");
    }
    line.push('\n');
    line
}

/// Reads `word value…` lines, one after the other.
struct Lines<'a>(std::iter::Peekable<std::str::Lines<'a>>);

impl<'a> Lines<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        Some(Lines(std::str::from_utf8(bytes).ok()?.lines().peekable()))
    }

    fn after(&mut self, word: &str) -> Option<&'a str> {
        self.0.next()?.strip_prefix(word)?.strip_prefix(' ')
    }

    fn hex<const N: usize>(&mut self, word: &str) -> Option<Zeroizing<[u8; N]>> {
        from_hex(self.after(word)?)
    }

    fn secret(&mut self, word: &str) -> Option<Zeroizing<[u8; 32]>> {
        self.hex(word)
    }

    fn dated_secret(&mut self, word: &str) -> Option<(UnixTime, Zeroizing<[u8; 32]>)> {
        let (time, secret) = self.after(word)?.split_once(' ')?;
        Some((UnixTime(time.parse().ok()?), from_hex(secret)?))
    }

    fn end(&mut self) -> Option<()> {
        self.0.peek().is_none().then_some(())
    }
}

fn from_hex<const N: usize>(text: &str) -> Option<Zeroizing<[u8; N]>> {
    if text.len() != 2 * N || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = Zeroizing::new([0; N]);
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const NOW: UnixTime = UnixTime(1_800_000_000);

    struct Fixture {
        _root: tempfile::TempDir,
        dir: PathBuf,
    }

    fn fixture() -> Fixture {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("keys");
        Fixture { _root: root, dir }
    }

    fn public(keys: &NodeKeys) -> Vec<[u8; 32]> {
        keys.onion.iter().map(|key| key.public().0).collect()
    }

    #[test]
    fn created_keys_are_loaded_again() {
        let Fixture { dir, _root } = fixture();
        assert!(matches!(NodeKeys::load(&dir, NOW), Err(KeysError::Missing { .. })));
        let made = NodeKeys::load_or_create(&dir, NOW).unwrap();
        let loaded = NodeKeys::load_or_create(&dir, NOW).unwrap();
        assert_eq!(loaded.signer.cert(), made.signer.cert());
        assert_eq!(public(&loaded), public(&made));
        assert!(matches!(NodeKeys::create(&dir, NOW), Err(KeysError::Exists { .. })));
    }

    #[test]
    fn the_same_source_makes_the_same_keys() {
        use rand::SeedableRng;
        use rand::rngs::StdRng;
        let (a, b) = (fixture(), fixture());
        let first = NodeKeys::create_with(&a.dir, NOW, &mut StdRng::seed_from_u64(3)).unwrap();
        let again = NodeKeys::create_with(&b.dir, NOW, &mut StdRng::seed_from_u64(3)).unwrap();
        assert_eq!((first.signer.id(), public(&first)), (again.signer.id(), public(&again)));
    }

    #[test]
    fn the_certificate_is_renewed_in_its_last_week_and_not_before() {
        let Fixture { dir, _root } = fixture();
        let made = NodeKeys::create(&dir, NOW).unwrap();
        let renewal = NOW.plus(SIGNING_LIFETIME).minus(SIGNING_RENEWAL);
        let before = NodeKeys::load(&dir, renewal).unwrap();
        assert_eq!(before.signer.cert(), made.signer.cert());
        let after = NodeKeys::load(&dir, UnixTime(renewal.0 + 1)).unwrap();
        assert_ne!(after.signer.cert(), made.signer.cert());
        assert_eq!(after.signer.id(), made.signer.id());
        let much_later = NOW.plus(DAY * 400);
        assert_eq!(NodeKeys::load(&dir, much_later).unwrap().signer.id(), made.signer.id());
    }

    #[test]
    fn the_identity_may_be_elsewhere_while_the_certificate_holds() {
        let Fixture { dir, _root } = fixture();
        let made = NodeKeys::create(&dir, NOW).unwrap();
        fs::remove_file(dir.join("identity.key")).unwrap();
        let last = NOW.plus(SIGNING_LIFETIME);
        assert_eq!(NodeKeys::load(&dir, last).unwrap().signer.id(), made.signer.id());
        assert!(matches!(NodeKeys::load(&dir, UnixTime(last.0 + 1)), Err(KeysError::Expired { .. })));
        // And it is never silently replaced by another identity.
        assert!(matches!(
            NodeKeys::load_or_create(&dir, UnixTime(last.0 + 1)),
            Err(KeysError::Expired { .. })
        ));
    }

    #[test]
    fn an_onion_key_is_listed_28_days_and_answers_7_more() {
        let Fixture { dir, _root } = fixture();
        let mut keys = NodeKeys::create(&dir, NOW).unwrap();
        let first = public(&keys)[0];
        assert!(!keys.rotate_onion(&dir, NOW.plus(ONION_LIFETIME).minus(Duration::from_secs(1))).unwrap());
        let rotated = NOW.plus(ONION_LIFETIME);
        assert!(keys.rotate_onion(&dir, rotated).unwrap());
        assert_eq!(public(&keys).len(), 2);
        assert_eq!(public(&keys)[1], first);
        assert_eq!(public(&NodeKeys::load(&dir, rotated).unwrap()), public(&keys));
        assert!(!keys.rotate_onion(&dir, rotated.plus(DAY * 6)).unwrap());
        assert!(keys.rotate_onion(&dir, rotated.plus(ONION_GRACE)).unwrap());
        assert_eq!(public(&keys).len(), 1);
        assert_ne!(public(&keys)[0], first);
    }

    #[test]
    fn damaged_and_mixed_files_are_refused_by_name() {
        let (a, b) = (fixture(), fixture());
        NodeKeys::create(&a.dir, NOW).unwrap();
        NodeKeys::create(&b.dir, NOW).unwrap();
        let file = |name| a.dir.join(name);
        for name in ["identity.key", "signing.key", "onion.key"] {
            let good = fs::read(file(name)).unwrap();
            let longer = [good.clone(), b"x\n".to_vec()].concat();
            for bad in [&good[..good.len() / 2], b"", b"\xff\n", longer.as_slice()] {
                keyfile::write_private(&file(name), bad).unwrap();
                let error = NodeKeys::load(&a.dir, NOW).unwrap_err().to_string();
                assert!(error.contains(name) && error.contains("damaged"), "{name}: {error}");
            }
            keyfile::write_private(&file(name), &good).unwrap();
        }
        fs::copy(b.dir.join("signing.key"), file("signing.key")).unwrap();
        assert!(matches!(NodeKeys::load(&a.dir, NOW), Err(KeysError::Mixed { .. })));
    }
}
