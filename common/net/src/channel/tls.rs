//! TLS 1.3 as channels use it (docs/protocol.md §3.1): confidentiality and a session to bind identities to.
//!
//! The raw public key that the responder shows is made anew by each process and authenticates nothing. Who the peer is
//! follows from `AUTH`, whose signature covers this session's exporter; see `tunic_proto::channel::handshake`.
//!
//! `rustls` does the handshake and leaves its traffic secrets; from then on [`Records`] carry what is sent.

mod buffer;
mod handshake;
mod records;

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, ServerConfig, ServerConnection,
    SignatureScheme,
};

pub use buffer::Buffer;
pub use handshake::TlsHandshake;
use handshake::TrafficSecrets;
pub(super) use records::{MAX_RECORD_LEN, RECORD_LEN, RECORD_OVERHEAD, record_len};
pub use records::{RecordError, Records};

/// TLS as channels use it, for both directions.
pub struct Tls {
    client: ClientConfig,
    server: ServerConfig,
    name: ServerName<'static>,
}

impl Tls {
    /// With a key that is made for it.
    ///
    /// # Errors
    /// If the cryptographic library cannot be set up.
    pub fn new() -> io::Result<Tls> {
        Tls::with(aws_lc_rs::default_provider())
    }

    fn with(provider: CryptoProvider) -> io::Result<Tls> {
        let provider = Arc::new(provider);
        Ok(Tls {
            client: client_config(provider.clone()).map_err(io::Error::other)?,
            server: server_config(provider)?,
            name: ServerName::try_from("tunic.invalid").map_err(io::Error::other)?,
        })
    }

    /// The side that opens the connection.
    ///
    /// # Errors
    /// If the cryptographic library refuses.
    pub fn initiate(&self) -> io::Result<TlsHandshake> {
        let (mut config, secrets) = (self.client.clone(), Arc::new(TrafficSecrets::default()));
        config.key_log = secrets.clone();
        let tls = ClientConnection::new(Arc::new(config), self.name.clone()).map_err(io::Error::other)?;
        Ok(TlsHandshake::new(Connection::Client(tls), secrets))
    }

    /// The side that accepts it.
    ///
    /// # Errors
    /// As [`Tls::initiate`].
    pub fn respond(&self) -> io::Result<TlsHandshake> {
        let (mut config, secrets) = (self.server.clone(), Arc::new(TrafficSecrets::default()));
        config.key_log = secrets.clone();
        let tls = ServerConnection::new(Arc::new(config)).map_err(io::Error::other)?;
        Ok(TlsHandshake::new(Connection::Server(tls), secrets))
    }
}

fn client_config(provider: Arc<CryptoProvider>) -> Result<ClientConfig, rustls::Error> {
    let algorithms = provider.signature_verification_algorithms;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyRawKey(algorithms)))
        .with_no_client_auth();
    config.enable_sni = false;
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_secret_extraction = true;
    Ok(config)
}

fn server_config(provider: Arc<CryptoProvider>) -> io::Result<ServerConfig> {
    let random = ::aws_lc_rs::rand::SystemRandom::new();
    let pkcs8 = ::aws_lc_rs::signature::Ed25519KeyPair::generate_pkcs8(&random).map_err(io::Error::other)?;
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pkcs8.as_ref().to_vec()));
    let key = provider.key_provider.load_private_key(der).map_err(io::Error::other)?;
    let public = key.public_key().ok_or_else(|| io::Error::other("Ed25519 key without a public half"))?;
    let shown = CertifiedKey::new(vec![CertificateDer::from(public.to_vec())], key);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::new(shown))));
    // Tickets would be records that are no whole cells.
    config.send_tls13_tickets = 0;
    config.enable_secret_extraction = true;
    Ok(config)
}

/// Accepts any raw public key whose owner signed the TLS handshake.
#[derive(Debug)]
struct AnyRawKey(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyRawKey {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = SubjectPublicKeyInfoDer::from(cert.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use rustls::crypto::tls13::OkmBlock;
    use rustls::{CipherSuite, NamedGroup};

    /// Sessions with each cipher suite that we speak.
    pub(super) fn all_suites() -> impl Iterator<Item = Tls> {
        let default = aws_lc_rs::default_provider();
        let suites = default.cipher_suites.clone().into_iter().filter(|suite| suite.tls13().is_some());
        suites.map(move |suite| {
            Tls::with(CryptoProvider { cipher_suites: vec![suite], ..default.clone() }).unwrap()
        })
    }

    /// The same for a peer that is nothing but rustls.
    pub(super) fn rustls_peer(tls: &Tls, is_client: bool) -> Connection {
        if is_client {
            let config = Arc::new(tls.client.clone());
            Connection::Client(ClientConnection::new(config, tls.name.clone()).unwrap())
        } else {
            Connection::Server(ServerConnection::new(Arc::new(tls.server.clone())).unwrap())
        }
    }

    /// Everything that it has to say.
    pub(super) fn said(peer: &mut Connection) -> Vec<u8> {
        let mut wire = Vec::new();
        while peer.wants_write() {
            peer.write_tls(&mut wire).unwrap();
        }
        wire
    }

    /// What it opened.
    pub(super) fn hear(peer: &mut Connection, mut wire: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        while !wire.is_empty() {
            peer.read_tls(&mut wire).unwrap();
            let count = peer.process_new_packets().unwrap().plaintext_bytes_to_read();
            let before = plain.len();
            plain.resize(before + count, 0);
            peer.reader().read_exact(&mut plain[before..]).unwrap();
        }
        plain
    }

    fn opened(tls: &Tls) -> (TlsHandshake, TlsHandshake) {
        let ends = (tls.initiate().unwrap(), tls.respond().unwrap());
        shake_hands(ends)
    }

    fn shake_hands((mut client, mut server): (TlsHandshake, TlsHandshake)) -> (TlsHandshake, TlsHandshake) {
        while !client.is_done() || !server.is_done() {
            carry(&mut client, &mut server);
            carry(&mut server, &mut client);
        }
        (client, server)
    }

    fn carry(from: &mut TlsHandshake, to: &mut TlsHandshake) {
        let mut wire = Vec::new();
        from.send(&mut wire);
        assert_eq!(to.receive(&wire).unwrap(), wire.len());
    }

    #[test]
    fn sessions_are_post_quantum() {
        let (client, server) = opened(&Tls::new().unwrap());
        for end in [&client, &server] {
            assert_eq!(end.group(), Some(NamedGroup::X25519MLKEM768));
        }
    }

    #[test]
    fn a_server_that_wants_another_key_gets_it() {
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups.retain(|group| group.name() == NamedGroup::secp384r1);
        let other = Tls::with(provider).unwrap();
        let (client, server) =
            shake_hands((Tls::new().unwrap().initiate().unwrap(), other.respond().unwrap()));
        assert_eq!(client.group(), Some(NamedGroup::secp384r1));
        let (mut client, mut server) = (client.finish().unwrap(), server.finish().unwrap());
        let (mut wire, mut plain) = (Buffer::new(), Buffer::new());
        client.seal(b"there", &mut wire).unwrap();
        assert_eq!(server.open(&wire, &mut plain), Ok(wire.len()));
        assert_eq!(&*plain, b"there");
    }

    #[test]
    fn a_session_that_has_records_already_is_refused() {
        let mut tls = Tls::new().unwrap();
        tls.server.send_tls13_tickets = 1;
        let (mut client, mut server) = (tls.initiate().unwrap(), tls.respond().unwrap());
        carry(&mut client, &mut server);
        carry(&mut server, &mut client);
        carry(&mut client, &mut server);
        assert!(client.is_done() && server.is_done());
        server.send(&mut Vec::new());
        assert!(server.finish().is_err(), "a ticket was its first record");
    }

    #[test]
    fn every_suite_of_tls_1_3_is_spoken() {
        let spoken: Vec<_> = all_suites().map(|tls| opened(&tls).0.finish().unwrap().suite()).collect();
        for suite in [
            CipherSuite::TLS13_AES_256_GCM_SHA384,
            CipherSuite::TLS13_AES_128_GCM_SHA256,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        ] {
            assert!(spoken.contains(&suite), "{suite:?}");
        }
    }

    #[test]
    fn both_ends_export_the_same_secret_and_other_sessions_another() {
        let tls = Tls::new().unwrap();
        let export = || {
            let (client, server) = opened(&tls);
            let of = |end: &TlsHandshake| end.export([0; 32], b"label").unwrap();
            assert_eq!(of(&client), of(&server));
            of(&client)
        };
        assert_ne!(export(), export());
    }

    #[test]
    fn there_are_no_records_before_the_handshake_is_done() {
        let tls = Tls::new().unwrap();
        assert!(tls.initiate().unwrap().finish().is_err());
        let (mut client, mut server) = (tls.initiate().unwrap(), tls.respond().unwrap());
        carry(&mut client, &mut server);
        assert!(server.finish().is_err(), "the client has not finished");
    }

    #[test]
    fn secrets_are_not_printed() {
        let secrets = TrafficSecrets::default();
        rustls::KeyLog::log(&secrets, "CLIENT_TRAFFIC_SECRET_0", &[], OkmBlock::new(&[7; 32]).as_ref());
        assert_eq!(format!("{secrets:?}"), "TrafficSecrets");
    }
}
