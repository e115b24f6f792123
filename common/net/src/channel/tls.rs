//! TLS 1.3 as channels use it (docs/protocol.md §3.1): confidentiality and a session to bind identities to.
//!
//! The raw public key that the responder shows is made anew by each process and authenticates nothing. Who the peer is
//! follows from `AUTH`, whose signature covers this session's exporter; see `tunic_proto::channel::handshake`.

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
    ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, ServerConnection, SignatureScheme,
};

/// TLS as channels use it, for both directions.
pub struct Tls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    name: ServerName<'static>,
}

impl Tls {
    /// With a key that is made for it.
    ///
    /// # Errors
    /// If the cryptographic library cannot be set up.
    pub fn new() -> io::Result<Tls> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        Ok(Tls {
            client: Arc::new(client_config(provider.clone()).map_err(io::Error::other)?),
            server: Arc::new(server_config(provider)?),
            name: ServerName::try_from("tunic.invalid").map_err(io::Error::other)?,
        })
    }

    /// The side that opens the connection.
    ///
    /// # Errors
    /// If the cryptographic library refuses.
    pub fn initiate(&self) -> io::Result<rustls::Connection> {
        let tls = ClientConnection::new(self.client.clone(), self.name.clone()).map_err(io::Error::other)?;
        Ok(rustls::Connection::Client(tls))
    }

    /// The side that accepts it.
    ///
    /// # Errors
    /// As [`Tls::initiate`].
    pub fn respond(&self) -> io::Result<rustls::Connection> {
        let tls = ServerConnection::new(self.server.clone()).map_err(io::Error::other)?;
        Ok(rustls::Connection::Server(tls))
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
    use super::*;
    use rustls::NamedGroup;

    fn shake_hands(client: &mut rustls::Connection, server: &mut rustls::Connection) {
        while client.is_handshaking() || server.is_handshaking() {
            carry(client, server);
            carry(server, client);
        }
    }

    fn carry(from: &mut rustls::Connection, to: &mut rustls::Connection) {
        let mut wire = Vec::new();
        while from.wants_write() {
            from.write_tls(&mut wire).unwrap();
        }
        let mut wire = &wire[..];
        while !wire.is_empty() {
            to.read_tls(&mut wire).unwrap();
            to.process_new_packets().unwrap();
        }
    }

    #[test]
    fn sessions_are_post_quantum_and_say_nothing_after_the_handshake() {
        let tls = Tls::new().unwrap();
        let (mut client, mut server) = (tls.initiate().unwrap(), tls.respond().unwrap());
        shake_hands(&mut client, &mut server);
        let group = client.negotiated_key_exchange_group().map(|group| group.name());
        assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
        assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert!(!server.wants_write() && !client.wants_write(), "no tickets");
    }

    #[test]
    fn both_ends_export_the_same_secret_and_other_sessions_another() {
        let tls = Tls::new().unwrap();
        let export = || {
            let (mut client, mut server) = (tls.initiate().unwrap(), tls.respond().unwrap());
            shake_hands(&mut client, &mut server);
            let of = |tls: &rustls::Connection| tls.export_keying_material([0; 32], b"label", None).unwrap();
            assert_eq!(of(&client), of(&server));
            of(&client)
        };
        assert_ne!(export(), export());
    }
}
