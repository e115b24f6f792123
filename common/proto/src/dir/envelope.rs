//! The signed-document format (docs/protocol.md §9.1): a header line, exact JSON bytes, signature lines.

use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::{Digest as _, Sha256};

use super::{DirError, ensure};
use crate::ids::RelayId;
use crate::keys::{CERT_LEN, SIGNATURE_LEN, Signer, UncheckedCert};
use crate::time::UnixTime;

/// Signature lines that one document may have.
pub const MAX_SIGNATURES: usize = 64;
/// Bytes of the longest header line, its line feed included: `tunic-descriptor 1 16777216`.
const MAX_HEADER_LEN: usize = 32;
const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// SHA-256 of a document's JSON bytes.
pub type Digest = [u8; 32];

/// SHA-256, as documents are named.
pub fn digest(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

/// The three kinds of signed documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A relay about itself.
    Descriptor,
    /// An authority about all relays.
    Vote,
    /// What the authorities agreed on.
    Consensus,
}

impl Kind {
    /// The longest document of this kind in bytes, header and signatures included.
    pub const fn max_len(self) -> usize {
        match self {
            Kind::Descriptor => 16 * KIB,
            Kind::Vote => 8 * MIB,
            Kind::Consensus => 16 * MIB,
        }
    }

    /// What the header line starts with, the length following.
    fn header(self) -> &'static str {
        match self {
            Kind::Descriptor => "tunic-descriptor 1 ",
            Kind::Vote => "tunic-vote 1 ",
            Kind::Consensus => "tunic-consensus 1 ",
        }
    }

    fn context(self) -> &'static [u8] {
        match self {
            Kind::Descriptor => b"tunic-descriptor-v1\0",
            Kind::Vote => b"tunic-vote-v1\0",
            Kind::Consensus => b"tunic-consensus-v1\0",
        }
    }

    fn max_signatures(self) -> usize {
        match self {
            Kind::Descriptor | Kind::Vote => 1,
            Kind::Consensus => MAX_SIGNATURES,
        }
    }
}

/// `signature <certificate, base64> <signature, base64>`, nothing verified yet.
#[derive(Clone, PartialEq, Eq)]
pub struct SignatureLine {
    cert: [u8; CERT_LEN],
    signature: [u8; SIGNATURE_LEN],
}

impl SignatureLine {
    /// Signs the JSON bytes of a document of this kind.
    pub fn sign(kind: Kind, body: &[u8], signer: &Signer) -> Self {
        SignatureLine { cert: *signer.cert().as_bytes(), signature: signer.sign(kind.context(), body) }
    }

    /// Reads one line, without its line feed.
    ///
    /// # Errors
    /// [`DirError::Malformed`] for anything but the two canonical base64 fields.
    pub fn parse(line: &[u8]) -> Result<Self, DirError> {
        const BAD: DirError = DirError::Malformed("signature line");
        let fields = line.strip_prefix(b"signature ").ok_or(BAD)?;
        let space = fields.iter().position(|byte| *byte == b' ').ok_or(BAD)?;
        Ok(SignatureLine {
            cert: decode_base64(&fields[..space]).ok_or(BAD)?,
            signature: decode_base64(&fields[space + 1..]).ok_or(BAD)?,
        })
    }

    /// The line, without a line feed.
    pub fn encode(&self) -> String {
        format!("signature {} {}", BASE64.encode(self.cert), BASE64.encode(self.signature))
    }

    /// Who the line says has signed. True only if [`SignatureLine::check`] agrees.
    pub fn claimed_signer(&self) -> RelayId {
        let mut id = [0; 32];
        id.copy_from_slice(&self.cert[1..33]);
        RelayId(id)
    }

    /// Verifies certificate and signature, and tells who signed.
    ///
    /// # Errors
    /// [`DirError::Key`] with what does not hold.
    pub fn check(&self, kind: Kind, body: &[u8], now: UnixTime) -> Result<RelayId, DirError> {
        let cert = UncheckedCert::from_bytes(&self.cert)?.check(now)?;
        cert.verify(kind.context(), body, &self.signature)?;
        Ok(cert.identity())
    }
}

impl std::fmt::Debug for SignatureLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SignatureLine(by {:?})", self.claimed_signer())
    }
}

fn decode_base64<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    // The engine wants room for its estimate, which rounds up to whole groups of three.
    let mut buffer = [0; CERT_LEN + 3];
    let len = BASE64.decode_slice(text, &mut buffer).ok()?;
    buffer[..len].try_into().ok()
}

/// A document taken apart into its three parts, of which none is verified.
#[derive(Debug, Clone)]
pub(super) struct Envelope {
    bytes: Vec<u8>,
    body: Range<usize>,
    signatures: Vec<SignatureLine>,
}

impl Envelope {
    /// Puts a document together.
    pub(super) fn assemble(kind: Kind, body: &[u8], signatures: &[SignatureLine]) -> Result<Self, DirError> {
        let mut bytes = format!("{}{}\n", kind.header(), body.len()).into_bytes();
        let start = bytes.len();
        bytes.extend_from_slice(body);
        bytes.push(b'\n');
        for line in signatures {
            bytes.extend_from_slice(line.encode().as_bytes());
            bytes.push(b'\n');
        }
        check_signers(kind, signatures)?;
        if bytes.len() > kind.max_len() {
            return Err(DirError::TooLong);
        }
        Ok(Envelope { bytes, body: start..start + body.len(), signatures: signatures.to_vec() })
    }

    /// Takes a document apart. Every byte must belong to it.
    pub(super) fn parse(kind: Kind, bytes: &[u8]) -> Result<Self, DirError> {
        if bytes.len() > kind.max_len() {
            return Err(DirError::TooLong);
        }
        let body = body_range(kind, bytes)?;
        let mut signatures = Vec::new();
        let mut rest = &bytes[body.end + 1..];
        while !rest.is_empty() {
            ensure(signatures.len() < kind.max_signatures(), "too many signatures")?;
            let end = rest.iter().position(|byte| *byte == b'\n');
            let end = end.ok_or(DirError::Malformed("signature line"))?;
            signatures.push(SignatureLine::parse(&rest[..end])?);
            rest = &rest[end + 1..];
        }
        check_signers(kind, &signatures)?;
        Ok(Envelope { bytes: bytes.to_vec(), body, signatures })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(super) fn body(&self) -> &[u8] {
        &self.bytes[self.body.clone()]
    }

    pub(super) fn signatures(&self) -> &[SignatureLine] {
        &self.signatures
    }

    /// For documents with one signature: verifies that it is by this identity.
    pub(super) fn check_only_signer(&self, kind: Kind, id: RelayId, now: UnixTime) -> Result<(), DirError> {
        let [line] = self.signatures() else { return Err(DirError::Malformed("number of signatures")) };
        if line.claimed_signer() != id {
            return Err(DirError::WrongSigner);
        }
        line.check(kind, self.body(), now).map(drop)
    }
}

/// Where the body lies that the header line announces; the byte behind it is a line feed.
fn body_range(kind: Kind, bytes: &[u8]) -> Result<Range<usize>, DirError> {
    let line_feed = bytes.iter().take(MAX_HEADER_LEN).position(|byte| *byte == b'\n');
    let line_feed = line_feed.ok_or(DirError::Malformed("header line"))?;
    let header = std::str::from_utf8(&bytes[..line_feed]).ok();
    let length = header.and_then(|header| header.strip_prefix(kind.header()));
    let length = length.ok_or(DirError::Malformed("kind or version"))?;
    let parsed: u32 = length.parse().map_err(|_| DirError::Malformed("length"))?;
    // One spelling only: no sign, no leading zeros.
    ensure(parsed.to_string() == length, "length")?;
    let start = line_feed + 1;
    let end = start + parsed as usize;
    ensure(bytes.get(end) == Some(&b'\n'), "length does not fit")?;
    Ok(start..end)
}

/// One signature at least, not more than the kind allows, and none twice by the same signer.
fn check_signers(kind: Kind, signatures: &[SignatureLine]) -> Result<(), DirError> {
    ensure((1..=kind.max_signatures()).contains(&signatures.len()), "number of signatures")?;
    let mut signers: Vec<_> = signatures.iter().map(SignatureLine::claimed_signer).collect();
    signers.sort_unstable();
    ensure(signers.windows(2).all(|pair| pair[0] != pair[1]), "an authority signed twice")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dir::testing::signer;

    const NOW: UnixTime = UnixTime(1_000);

    fn document(kind: Kind, body: &[u8], signers: &[u64]) -> Vec<u8> {
        let lines: Vec<_> =
            signers.iter().map(|seed| SignatureLine::sign(kind, body, &signer(*seed))).collect();
        Envelope::assemble(kind, body, &lines).unwrap().into_bytes()
    }

    #[test]
    fn a_document_is_readable_text_with_exact_bytes() {
        let bytes = document(Kind::Descriptor, b"{}", &[1]);
        let text = std::str::from_utf8(&bytes).unwrap();
        assert!(text.starts_with("tunic-descriptor 1 2\n{}\nsignature A"), "{text}");
        let envelope = Envelope::parse(Kind::Descriptor, &bytes).unwrap();
        assert_eq!((envelope.body(), envelope.bytes()), (&b"{}"[..], &bytes[..]));
        assert_eq!(envelope.check_only_signer(Kind::Descriptor, signer(1).id(), NOW), Ok(()));
        let other = envelope.check_only_signer(Kind::Descriptor, signer(2).id(), NOW);
        assert_eq!(other, Err(DirError::WrongSigner));
    }

    #[test]
    fn a_signature_for_one_kind_does_not_fit_another() {
        let line = SignatureLine::sign(Kind::Vote, b"{}", &signer(1));
        assert!(line.check(Kind::Vote, b"{}", NOW).is_ok());
        assert!(line.check(Kind::Consensus, b"{}", NOW).is_err());
    }

    #[test]
    fn what_is_not_exactly_one_document_is_refused() {
        let good = document(Kind::Consensus, b"{}", &[1, 2]);
        let text = String::from_utf8(good.clone()).unwrap();
        let refused = |bytes: &[u8]| assert!(Envelope::parse(Kind::Consensus, bytes).is_err());
        assert!(Envelope::parse(Kind::Vote, &good).is_err());
        (0..good.len())
            .filter(|end| good[..*end].last() != Some(&b'\n'))
            .for_each(|end| refused(&good[..end]));
        refused(&[&good[..], b"\n"].concat());
        refused(&[&good[..], &good[..]].concat());
        refused(text.replace("1 2\n", "1 02\n").as_bytes());
        refused(text.replace("1 2\n", "1 +2\n").as_bytes());
        refused(text.replace("1 2\n", "1 3\n").as_bytes());
        refused(text.replace("1 2\n", "1 4294967295\n").as_bytes());
        refused(text.replace("consensus 1", "consensus 2").as_bytes());
        refused(text.replace('\n', "\r\n").as_bytes());
        let last_line = text.lines().last().unwrap();
        refused(format!("{text}{last_line}\n").as_bytes());
        refused(b"tunic-consensus 1 2\n{}\n");
    }

    #[test]
    fn more_than_64_signatures_are_refused() {
        let lines: Vec<_> =
            (0..65).map(|seed| SignatureLine::sign(Kind::Consensus, b"{}", &signer(seed))).collect();
        assert!(Envelope::assemble(Kind::Consensus, b"{}", &lines[..64]).is_ok());
        assert!(Envelope::assemble(Kind::Consensus, b"{}", &lines).is_err());
    }
}
