//! Asking a running client, over the Unix socket in its state directory (docs/client-api.md).

mod show;

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::de::DeserializeOwned;
use tunic_net::config;
use tunic_net::daemon::Settings;

use crate::config::{Config, EXAMPLE};
use crate::core::status::report::{NewIdentity, Report};
use crate::ports::control_path;

/// How long the client may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest answer that is read; a report has bounded lists and stays far below.
const MAX_ANSWER: u64 = 4 << 20;

/// What to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// How it is.
    Status,
    /// Which circuits and streams there are, and where these lead if that is wanted.
    Circuits {
        /// With the streams' destinations.
        destinations: bool,
    },
    /// What is wrong.
    Explain,
    /// To end every circuit.
    NewIdentity,
}

impl Question {
    fn request(self) -> &'static str {
        match self {
            Question::Status | Question::Explain | Question::Circuits { destinations: false } => {
                "GET /api/v1/status"
            }
            Question::Circuits { destinations: true } => "GET /api/v1/status?destinations=1",
            Question::NewIdentity => "POST /api/v1/new-identity",
        }
    }
}

/// Where the control socket is: as given, else in the state directory of this configuration, else in the usual one.
///
/// # Errors
/// If the configuration cannot be read, or nothing says where the state directory is.
pub fn socket(given: Option<PathBuf>, config_file: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path);
    }
    let config = config_file.map_or_else(|| Ok(Config::default()), |file| config::load(file, EXAMPLE))?;
    Ok(control_path(&Settings::state_dir(&config)?))
}

/// Asks the client at this socket, and gives what to print.
///
/// # Errors
/// If no client answers there, or not what was asked.
pub fn ask(socket: &Path, question: Question, json: bool) -> anyhow::Result<String> {
    let connected = UnixStream::connect(socket);
    let stream = connected.with_context(|| {
        format!(
            "no client answers at {}: is it running, and as this user? --config or --socket says where it is",
            socket.display()
        )
    })?;
    let body = exchange(stream, question.request()).context("the client did not answer")?;
    if json {
        return Ok(body);
    }
    Ok(match question {
        Question::Status => show::status(&parse::<Report>(&body)?),
        Question::Circuits { .. } => show::circuits(&parse::<Report>(&body)?),
        Question::Explain => show::explanation(&parse::<Report>(&body)?),
        Question::NewIdentity => show::new_identity(&parse::<NewIdentity>(&body)?),
    })
}

fn parse<T: DeserializeOwned>(body: &str) -> anyhow::Result<T> {
    serde_json::from_str(body).context("the answer cannot be understood: is the client of another version?")
}

/// One request, and the body of its answer.
fn exchange(mut stream: UnixStream, request: &str) -> anyhow::Result<String> {
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    let head = format!("{request} HTTP/1.1\r\nHost: tunic\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    let answer = String::from_utf8(answer).map_err(io::Error::other)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("it is no answer of HTTP")?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => bail!("it says: {}", body.trim()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn answered(answer: &'static [u8]) -> anyhow::Result<String> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let server = thread::spawn(move || {
            let mut request = [0; 512];
            let length = theirs.read(&mut request).unwrap();
            theirs.write_all(answer).unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let result = exchange(ours, Question::NewIdentity.request());
        assert!(server.join().unwrap().starts_with("POST /api/v1/new-identity HTTP/1.1\r\nHost: "));
        result
    }

    #[test]
    fn an_answer_is_its_body() {
        assert_eq!(answered(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n{}\n").unwrap(), "{}\n");
        let error =
            format!("{:#}", answered(b"HTTP/1.1 403 Forbidden\r\n\r\n{\"error\":\"no\"}\n").unwrap_err());
        assert!(error.contains("it says: {\"error\":\"no\"}"), "{error}");
        assert!(answered(b"garbage").is_err());
    }

    #[test]
    fn where_nobody_answers_it_is_said_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = format!("{:#}", ask(&dir.path().join("none"), Question::Status, false).unwrap_err());
        assert!(error.contains("is it running"), "{error}");
    }

    #[test]
    fn the_socket_is_in_the_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("client.toml");
        std::fs::write(&file, "state_dir = \"/there\"").unwrap();
        assert_eq!(socket(None, Some(&file)).unwrap(), Path::new("/there/control.sock"));
        assert_eq!(socket(Some("/x".into()), Some(&file)).unwrap(), Path::new("/x"));
    }
}
