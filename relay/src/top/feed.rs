//! Samples from a relay's control socket.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::core::top::{MAX_SAMPLE_LEN, Sample};

/// How long a sample may take to come; they come each second.
const PATIENCE: Duration = Duration::from_secs(15);

/// A connection to a relay.
pub(super) struct Feed(BufReader<UnixStream>);

impl Feed {
    /// Connects to the relay with this control socket.
    pub(super) async fn open(path: &Path) -> anyhow::Result<Feed> {
        let stream = UnixStream::connect(path).await.with_context(|| {
            format!(
                "no relay answers at {}: is it running, and are you its user or root? --config or --socket says where it is",
                path.display()
            )
        })?;
        Ok(Feed(BufReader::new(stream)))
    }

    /// The next sample.
    pub(super) async fn next(&mut self) -> anyhow::Result<Sample> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.0).take(MAX_SAMPLE_LEN);
        let read = timeout(PATIENCE, bounded.read_until(b'\n', &mut line)).await;
        read.context("the relay says nothing")?.context("the relay cannot be heard")?;
        if line.last() != Some(&b'\n') {
            bail!("the relay has ended, or too many watch it");
        }
        serde_json::from_slice(&line).context("the relay cannot be understood: is it of another version?")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    fn pair() -> (Feed, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Feed(BufReader::new(ours)), theirs)
    }

    #[tokio::test]
    async fn lines_are_samples() {
        let (mut feed, mut relay) = pair();
        relay.write_all(b"{\"nickname\":\"one\"}\n{\"nickname\":\"two\"}\n{").await.unwrap();
        drop(relay);
        assert_eq!(feed.next().await.unwrap().nickname, "one");
        assert_eq!(feed.next().await.unwrap().nickname, "two");
        assert!(feed.next().await.unwrap_err().to_string().contains("has ended"));
    }

    #[tokio::test]
    async fn what_is_no_sample_is_refused() {
        let (mut feed, mut relay) = pair();
        relay.write_all(b"hello\n").await.unwrap();
        assert!(feed.next().await.unwrap_err().to_string().contains("cannot be understood"));
        let (mut feed, mut relay) = pair();
        let flood = async { relay.write_all(&vec![b'x'; 2 * MAX_SAMPLE_LEN as usize]).await };
        let (_, refused) =
            tokio::join!(async { timeout(Duration::from_secs(1), flood).await }, async { feed.next().await });
        assert!(refused.is_err());
    }

    #[tokio::test]
    async fn where_nobody_answers_it_is_said_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = Feed::open(&dir.path().join("none")).await.err().unwrap();
        assert!(error.to_string().contains("is it running"), "{error}");
    }
}
