//! The status page and the local API: the judgements of `core::status::http` over TCP and a Unix socket.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::client::Client;
use super::front::{Application, Listener, accept_all};
use super::neighbour::is_stranger;
use super::new_rng;
use crate::core::status::diagnose::Finding;
use crate::core::status::http::{
    Asked, Door, MAX_BODY, MAX_HEAD, Media, Refused, Token, Wanted, answer, back_to_the_page, judge,
};
use crate::core::status::page;
use crate::core::status::report::{API, CircuitList, FailureReport, NewIdentity, StreamList};

/// Connections at a time; more are closed at once.
const MAX_CONNECTIONS: usize = 64;
/// How long a request may take to arrive, and its answer to be taken.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const STRANGER: Refused = Refused { status: 403, why: "This client is another user's." };

/// Answers at one port or socket.
pub(super) struct StatusServer {
    client: Client,
    password: Option<Vec<u8>>,
    token: Token,
    destinations: bool,
    places: Arc<Semaphore>,
}

/// A part of the report, for programs.
#[derive(Serialize)]
struct Part<T> {
    api: u32,
    #[serde(flatten)]
    part: T,
}

#[derive(Serialize)]
struct Circuits {
    circuits: CircuitList,
}

#[derive(Serialize)]
struct Streams {
    streams: StreamList,
}

#[derive(Serialize)]
struct Explanation {
    findings: Vec<Finding>,
    failures: Vec<FailureReport>,
}

impl StatusServer {
    /// Its token is made anew. A port asks for the password; `destinations`: whether it may tell where streams lead.
    pub(super) fn new(client: Client, password: Option<Vec<u8>>, destinations: bool) -> Arc<Self> {
        let mut random = [0; 32];
        new_rng().fill_bytes(&mut random);
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        Arc::new(StatusServer { client, password, token: Token::new(random), destinations, places })
    }

    /// Serves for ever.
    pub(super) async fn serve(self: Arc<Self>, listener: Listener) {
        let server = self.clone();
        let handle = move |application, in_handshake| {
            let server = self.clone();
            async move {
                if let Err(error) = server.handle(application).await {
                    tracing::debug!(%error, "no answer to a request for the status");
                }
                drop(in_handshake);
            }
        };
        tokio::join!(accept_all(listener, handle), server.client.sample());
    }

    async fn handle(&self, mut application: Application) -> io::Result<()> {
        let Ok(place) = self.places.try_acquire() else { return Ok(()) };
        if let Some(tcp) = application.as_tcp()
            && is_stranger(tcp).await?
        {
            // A place is nothing for somebody else to hold.
            drop(place);
            return timeout(ANSWER_TIMEOUT, application.close_with(&STRANGER.answer())).await?;
        }
        let answer = match self.judge(&mut application).await? {
            Ok(asked) => self.answer(asked).await,
            Err(refused) => {
                tracing::debug!(status = refused.status, "a request for the status was refused");
                refused.answer()
            }
        };
        timeout(ANSWER_TIMEOUT, application.close_with(&answer)).await?
    }

    async fn judge(&self, application: &mut Application) -> io::Result<Result<Asked, Refused>> {
        let local = application.as_tcp().map(|tcp| tcp.local_addr()).transpose()?;
        let (password, token) = (self.password.clone(), self.token.clone());
        let door = Door { local, password, token, destinations: self.destinations };
        match timeout(REQUEST_TIMEOUT, read_request(application, &door)).await {
            Ok(judged) => judged,
            Err(_) => Ok(Err(Refused { status: 408, why: "The request did not come in time." })),
        }
    }

    async fn answer(&self, Asked { wanted, with_body }: Asked) -> Vec<u8> {
        let text = |media, body: &str| answer(media, body, with_body);
        let report = |destinations| self.client.report(destinations);
        match wanted {
            Wanted::Style => text(Media::Css, page::STYLE),
            Wanted::Script => text(Media::Script, page::SCRIPT),
            Wanted::Icon => text(Media::Svg, page::ICON),
            Wanted::Page => text(Media::Html, &page::page(&report(self.destinations).await, &self.token)),
            Wanted::Live => text(Media::Html, &page::live(&report(self.destinations).await)),
            Wanted::Status { destinations } => json(&report(destinations).await, with_body),
            Wanted::Circuits => {
                let circuits = report(false).await.circuits;
                json(&Part { api: API, part: Circuits { circuits } }, with_body)
            }
            Wanted::Streams { destinations } => {
                let streams = report(destinations).await.streams;
                json(&Part { api: API, part: Streams { streams } }, with_body)
            }
            Wanted::Explain => {
                let report = report(false).await;
                let part = Explanation { findings: report.findings, failures: report.failures };
                json(&Part { api: API, part }, with_body)
            }
            Wanted::NewIdentity => {
                let ended_circuits = self.client.new_identity().await;
                json(&NewIdentity { api: API, ended_circuits }, with_body)
            }
            Wanted::NewIdentityForm => {
                self.client.new_identity().await;
                back_to_the_page()
            }
        }
    }
}

fn json(value: &impl Serialize, with_body: bool) -> Vec<u8> {
    match serde_json::to_string(value) {
        Ok(body) => answer(Media::Json, &format!("{body}\n"), with_body),
        Err(_) => Refused { status: 503, why: "The report cannot be written." }.answer(),
    }
}

/// Reads until there is something to judge.
async fn read_request(application: &mut Application, door: &Door) -> io::Result<Result<Asked, Refused>> {
    let mut bytes = Vec::new();
    loop {
        match judge(&bytes, door) {
            Ok(None) if bytes.len() <= MAX_HEAD + MAX_BODY => {}
            Ok(None) => return Ok(Err(Refused { status: 413, why: "The request is too long." })),
            Ok(Some(asked)) => return Ok(Ok(asked)),
            Err(refused) => return Ok(Err(refused)),
        }
        if application.read_to(|more| bytes.extend_from_slice(more)).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
