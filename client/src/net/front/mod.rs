//! The port for applications: the codecs of `core::front` over TCP and Unix sockets.

mod accept;
mod application;
mod passing;
mod pending;
mod udp;
mod warnings;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use self::accept::InHandshake;
pub(super) use self::accept::{Listener, accept_all};
pub(super) use self::application::Application;
use self::passing::{forward, keep_alive, tunnel};
use self::udp::Association;
use self::warnings::Warnings;
use super::client::Client;
use super::dial::Early;
use super::monitor::StreamKind;
use crate::core::front::leaks::{Leak, LeakRules, Reaction};
use crate::core::front::socks5::ReplyCode;
use crate::core::front::{Command, Dialect, Event, Front, Request, Settings};
use crate::core::isolation::{IsolateBy, Isolation};
use tunic_proto::datagram::Datagram;
use tunic_proto::message::Target;
use tunic_proto::resolve::Query;

/// How long an application may take to say what it wants.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// What the port needs to know.
#[derive(Clone)]
pub(super) struct FrontServer {
    client: Client,
    password: Option<Vec<u8>>,
    rules: Arc<LeakRules>,
    isolate: IsolateBy,
    /// Tells the streams of this port from those of others, and of an embedding program, which are 0 unless it says
    /// otherwise.
    listener: u16,
    warnings: Warnings,
    associations: Arc<AtomicU64>,
}

impl FrontServer {
    pub(super) fn new(
        client: Client,
        password: Option<Vec<u8>>,
        rules: LeakRules,
        isolate: IsolateBy,
        listener: u16,
    ) -> Self {
        FrontServer {
            client,
            password,
            rules: Arc::new(rules),
            isolate,
            listener,
            warnings: Warnings::default(),
            associations: Arc::default(),
        }
    }

    /// Serves for ever.
    pub(super) async fn serve(self, listener: Listener) {
        let handle = |application, in_handshake| {
            let server = self.clone();
            async move {
                if let Err(error) = server.handle(application, in_handshake).await {
                    tracing::debug!(%error, "application connection ended");
                }
            }
        };
        accept_all(listener, handle).await;
    }

    async fn handle(&self, mut application: Application, in_handshake: InHandshake) -> io::Result<()> {
        let tcp = application.as_tcp();
        tcp.map_or(Ok(()), |tcp| tcp.set_nodelay(true).and_then(|()| keep_alive(tcp)))?;
        let local = tcp.map(|tcp| tcp.local_addr()).transpose()?;
        let settings = Settings { password: self.password.clone(), local };
        let greeted = timeout(HANDSHAKE_TIMEOUT, handshake(&mut application, settings, &self.warnings)).await;
        let Some((request, early)) = greeted.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?? else {
            return Ok(());
        };
        drop(in_handshake);
        if let Some(why) = self.leak(&request.command, request.bare_address) {
            let answer = request.dialect.failed(ReplyCode::NotAllowed, why);
            return application.close_with(&answer).await;
        }
        match &request.command {
            Command::Connect(target) => self.connect(application, target.clone(), &request, early).await,
            Command::Resolve(query) => self.resolve(application, query.clone(), &request).await,
            Command::Associate(port) => self.associate(application, *port, &request).await,
        }
    }

    async fn connect(
        &self,
        mut application: Application,
        target: Target,
        request: &Request,
        early: Vec<u8>,
    ) -> io::Result<()> {
        let isolation = self.isolation(&application, request, Some(Isolation::host(&target)));
        let listed = self.client.list_stream(StreamKind::Stream, Some(target.clone()));
        let mut early = match request.dialect {
            Dialect::HttpForward { .. } => Early::only(&application, early),
            _ => Early::new(&mut application, early),
        };
        let connected = self.client.connect_early(target, isolation, &mut early).await;
        let unsent = early.into_unsent();
        match connected {
            Ok((stream, lease)) => {
                listed.opened(lease.id, &stream);
                application.write_all(&request.dialect.opened()).await?;
                match request.dialect {
                    Dialect::HttpForward { body } => {
                        let meter = stream.meter();
                        forward(&mut application, (stream, meter), unsent, body).await
                    }
                    _ => tunnel(&application, stream, unsent).await,
                }
            }
            Err(error) => {
                tracing::debug!(%error, "application refused");
                let answer = request.dialect.failed(error.reply_code(), &error.to_string());
                application.close_with(&answer).await
            }
        }
    }

    async fn resolve(&self, mut application: Application, query: Query, request: &Request) -> io::Result<()> {
        let isolation = self.isolation(&application, request, Some(Isolation::looked_up(&query)));
        let listed = self.client.list_stream(StreamKind::Lookup, None);
        let mut early = Early::only(&application, Vec::new());
        let answer = match self.client.resolve_early(query, isolation, &mut early, Some(&listed)).await {
            Ok(answer) => request.dialect.resolved(&answer),
            Err(error) => {
                tracing::debug!(%error, "lookup failed");
                request.dialect.failed(error.reply_code(), &error.to_string())
            }
        };
        application.close_with(&answer).await
    }

    /// Each association is alone on its circuit: what one application sends in datagrams says nothing about another.
    async fn associate(&self, mut application: Application, port: u16, request: &Request) -> io::Result<()> {
        let Some(tcp) = application.as_tcp() else {
            // A Unix socket has no address beside which to receive datagrams.
            let answer = request.dialect.failed(ReplyCode::CommandNotSupported, "");
            return application.close_with(&answer).await;
        };
        let (local, mut peer) = (tcp.local_addr()?, tcp.peer_addr()?);
        peer = SocketAddr::new(peer.ip().to_canonical(), port);
        let alone = self.associations.fetch_add(1, Ordering::Relaxed) + 1;
        let isolation = Isolation { alone, ..self.isolation(&application, request, None) };
        let listed = self.client.list_stream(StreamKind::Datagrams, None);
        match Association::bind(self.client.clone(), isolation, listed, local, peer).await {
            Ok(association) => {
                let allowed = |datagram: &Datagram| {
                    let bare_address = matches!(datagram.peer, Target::Addr(_));
                    self.leak(&Command::Connect(datagram.peer.clone()), bare_address).is_none()
                };
                association.run(&mut application, allowed).await
            }
            Err(error) => {
                tracing::warn!(%error, "no UDP socket for an application");
                let answer = request.dialect.failed(ReplyCode::GeneralFailure, "");
                application.close_with(&answer).await
            }
        }
    }

    /// With whom a request may share a circuit.
    fn isolation(&self, application: &Application, request: &Request, host: Option<String>) -> Isolation {
        let mut credentials = request.credentials.clone();
        // A required password keeps others out; it says nothing about whom to keep apart.
        if let (Some(credentials), true) = (&mut credentials, self.password.is_some()) {
            credentials.password.clear();
        }
        Isolation {
            listener: self.listener,
            credentials,
            address: application.address(),
            destination: host.filter(|_| self.isolate.destination),
            ..Isolation::default()
        }
    }

    /// Warns of a leak, once of each kind; says why when the request is to be refused.
    fn leak(&self, command: &Command, bare_address: bool) -> Option<&'static str> {
        let (leak, reaction) = self.rules.judge(command, bare_address)?;
        self.client.note_leak(leak);
        self.warnings.leak(leak, reaction);
        (reaction == Reaction::Refuse).then_some(match leak {
            Leak::BareAddress => "addresses are refused here (safe_socks): let the proxy resolve names",
            Leak::Port(_) => "this port gives you away (leaky_ports)",
        })
    }
}

/// Talks until the application has said what it wants, and what it sent behind that; `None` if it got its answer.
async fn handshake(
    application: &mut Application,
    settings: Settings,
    warnings: &Warnings,
) -> io::Result<Option<(Request, Vec<u8>)>> {
    let mut front = Front::new(settings);
    loop {
        if application.read_to(|bytes| front.handle_input(bytes)).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while let Some(event) = front.poll_event() {
            match event {
                Event::Send(bytes) => application.write_all(&bytes).await?,
                Event::Request(request) => return Ok(Some((request, front.into_early_data()))),
                Event::Close { answer, error } => {
                    if let Some(error) = error {
                        warnings.refused(error);
                    }
                    application.close_with(&answer).await?;
                    return Ok(None);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
