//! How the nodes of a new network learn who its authorities are, when nobody has told them.
//!
//! 1. An authority tells its own public keys to whoever connects, and asks the others for theirs.
//! 2. Once it knows all of them it tells the whole list too.
//! 3. A relay or client asks all of them, and takes the list that more than half of them tell.
//!
//! Whoever asks believes the network's names, once: there is nothing yet to check the answer with. That is enough where
//! the names are the container engine's. What was learned is kept, and nobody is asked again. For networks over the
//! internet, `[[authority]]` tables travel by hand (docs/private-network.md).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tunic_net::keyfile;
use tunic_proto::ids::RelayId;
use tunic_proto::keys::OnionKey;

use super::INTRODUCTION_PORT;

/// More than an introduction of as many authorities as can sign takes.
const MAX_LEN: u64 = 64 << 10;
/// How long one authority may take to answer, or a visitor to listen.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// Between two rounds of questions.
const RETRY: Duration = Duration::from_millis(250);
/// Rounds after which the log says what is missing, and again each time that they have doubled.
const TELL_AFTER: u32 = 64;
/// Where the list is kept.
const FILE: &str = "authorities.toml";

/// What is public of an authority, or of any node that keeps keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    /// Its host name.
    pub(super) name: String,
    /// Who it is.
    pub(super) identity: RelayId,
    /// With what circuits to it are made.
    pub(super) onion_key: OnionKey,
}

/// What an authority tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Introduction {
    own: Known,
    /// All authorities, in the order of the names that the network was started with; empty until all are known.
    #[serde(default)]
    all: Vec<Known>,
}

/// The list that is kept, as a file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct List {
    authority: Vec<Known>,
}

/// Learns who the authorities with these names are, as one of them. What is sent on `tell` shall be told with [`tell_all`].
///
/// # Errors
/// If the list cannot be kept.
pub(super) async fn among_authorities(
    names: &[String],
    own: &Known,
    dir: &Path,
    tell: &watch::Sender<Introduction>,
) -> anyhow::Result<Vec<Known>> {
    let all = match load(names, dir)? {
        Some(all) => all,
        None => {
            let all = ask_until(names, |said| everyone(names, own, said)).await;
            keep(&all, dir)?;
            all
        }
    };
    ensure!(all.contains(own), "{} does not list this authority's own keys: remove the volume", FILE);
    tell.send_modify(|introduction| introduction.all.clone_from(&all));
    Ok(all)
}

/// Learns who the authorities with these names are, from them.
///
/// # Errors
/// If the list cannot be kept.
pub(super) async fn from_authorities(names: &[String], dir: &Path) -> anyhow::Result<Vec<Known>> {
    if let Some(all) = load(names, dir)? {
        return Ok(all);
    }
    let all = ask_until(names, |said| agreed(names, said)).await;
    keep(&all, dir)?;
    Ok(all)
}

/// What an authority tells at first.
pub(super) fn introduction(own: &Known) -> watch::Sender<Introduction> {
    watch::Sender::new(Introduction { own: own.clone(), all: Vec::new() })
}

/// Tells whoever connects; never ends by itself.
pub(super) async fn tell_all(listener: TcpListener, introduction: watch::Receiver<Introduction>) {
    loop {
        let Ok((visitor, _)) = listener.accept().await else {
            sleep(RETRY).await;
            continue;
        };
        let text = toml::to_string(&*introduction.borrow()).unwrap_or_default();
        // One at a time, each for so long: there are few visitors, and they come once.
        let _ = timeout(ANSWER_LIMIT, answer(visitor, &text)).await;
    }
}

async fn answer(mut visitor: TcpStream, text: &str) -> io::Result<()> {
    visitor.write_all(text.as_bytes()).await?;
    visitor.shutdown().await
}

/// Asks everybody, again and again, until what they say is enough.
async fn ask_until(
    names: &[String],
    enough: impl Fn(&[Option<Introduction>]) -> Option<Vec<Known>>,
) -> Vec<Known> {
    let mut round: u32 = 0;
    loop {
        let said = ask_all(names).await;
        if let Some(all) = enough(&said) {
            return all;
        }
        round = round.saturating_add(1);
        if round >= TELL_AFTER && round.is_power_of_two() {
            let silent = said.iter().filter(|said| said.is_none()).count();
            tracing::warn!("still waiting for the authorities: {silent} of {} say nothing", names.len());
        }
        sleep(RETRY).await;
    }
}

async fn ask_all(names: &[String]) -> Vec<Option<Introduction>> {
    let mut questions = JoinSet::new();
    for (number, name) in names.iter().cloned().enumerate() {
        questions.spawn(async move { (number, timeout(ANSWER_LIMIT, ask(&name)).await) });
    }
    let mut said = vec![None; names.len()];
    while let Some(answered) = questions.join_next().await {
        if let Ok((number, Ok(Ok(introduction)))) = answered {
            said[number] = Some(introduction);
        }
    }
    said
}

async fn ask(name: &str) -> anyhow::Result<Introduction> {
    let connection = TcpStream::connect((name, INTRODUCTION_PORT)).await?;
    let mut text = String::new();
    connection.take(MAX_LEN).read_to_string(&mut text).await?;
    Ok(toml::from_str(&text)?)
}

/// Whether the authority in this container tells who it is.
///
/// # Errors
/// If it does not.
pub(super) async fn introduces_itself(own: &Known) -> anyhow::Result<()> {
    ensure!(ask("127.0.0.1").await?.own == *own, "another authority answers here");
    Ok(())
}

/// All authorities, once each has told of itself under the name at which it was asked.
fn everyone(names: &[String], own: &Known, said: &[Option<Introduction>]) -> Option<Vec<Known>> {
    let known = names.iter().zip(said).map(|(name, said)| {
        if *name == own.name {
            return Some(own.clone());
        }
        said.as_ref().filter(|said| said.own.name == *name).map(|said| said.own.clone())
    });
    known.collect()
}

/// The list that more than half of the authorities tell, if it has the right names.
fn agreed(names: &[String], said: &[Option<Introduction>]) -> Option<Vec<Known>> {
    let told = |list: &[Known]| said.iter().flatten().filter(|said| said.all == *list).count();
    let fits = |list: &[Known]| list.iter().map(|known| &known.name).eq(names.iter());
    let lists = said.iter().flatten().map(|said| &said.all);
    lists.into_iter().find(|list| fits(list) && told(list) > names.len() / 2).cloned()
}

/// The list that was kept.
pub(super) fn kept(dir: &Path) -> anyhow::Result<Option<Vec<Known>>> {
    let path = path(dir);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let list: List = toml::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
    Ok(Some(list.authority))
}

fn load(names: &[String], dir: &Path) -> anyhow::Result<Option<Vec<Known>>> {
    let Some(all) = kept(dir)? else { return Ok(None) };
    let fits = all.iter().map(|known| &known.name).eq(names.iter());
    ensure!(fits, "{} lists other authorities than --authorities: remove the volume", path(dir).display());
    Ok(Some(all))
}

fn keep(all: &[Known], dir: &Path) -> anyhow::Result<()> {
    let text = toml::to_string(&List { authority: all.to_vec() })?;
    Ok(keyfile::write_private(&path(dir), text.as_bytes())?)
}

fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: u8) -> Vec<String> {
        (1..=count).map(|n| format!("authority{n}")).collect()
    }

    fn known(name: &str, key: u8) -> Known {
        Known { name: name.into(), identity: RelayId([key; 32]), onion_key: OnionKey([key; 32]) }
    }

    fn all(count: u8) -> Vec<Known> {
        (1..=count).map(|n| known(&format!("authority{n}"), n)).collect()
    }

    fn said(own: u8, all: &[Known]) -> Option<Introduction> {
        Some(Introduction { own: known(&format!("authority{own}"), own), all: all.to_vec() })
    }

    #[test]
    fn an_authority_waits_until_each_has_told_of_itself() {
        let own = known("authority1", 1);
        let check = |said: &[Option<Introduction>], expect: Option<Vec<Known>>| {
            assert_eq!(everyone(&names(3), &own, said), expect);
        };
        check(&[None, said(2, &[]), None], None);
        check(&[None, said(2, &[]), said(3, &[])], Some(all(3)));
        // One that calls itself like another gets no second place.
        check(&[None, said(2, &[]), said(2, &[])], None);
    }

    #[test]
    fn a_list_counts_when_more_than_half_tell_it() {
        let check = |said: &[Option<Introduction>], expect: Option<Vec<Known>>| {
            assert_eq!(agreed(&names(3), said), expect);
        };
        let mut forged = all(3);
        forged[0] = known("authority1", 99);
        check(&[said(1, &all(3)), None, said(3, &[])], None);
        check(&[said(1, &forged), said(2, &all(3)), None], None);
        check(&[said(1, &forged), said(2, &all(3)), said(3, &all(3))], Some(all(3)));
        check(&[said(1, &all(2)), said(2, &all(2)), None], None);
        check(&[said(1, &[]), said(2, &[]), said(3, &[])], None);
    }

    #[tokio::test]
    async fn what_was_learned_is_kept_and_nobody_is_asked_again() {
        let dir = tempfile::tempdir().unwrap();
        keep(&all(2), dir.path()).unwrap();
        assert_eq!(from_authorities(&names(2), dir.path()).await.unwrap(), all(2));
        let error = from_authorities(&names(3), dir.path()).await.unwrap_err().to_string();
        assert!(error.contains("lists other authorities"), "{error}");
    }

    #[tokio::test]
    async fn an_introduction_is_told_to_whoever_connects() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let telling = introduction(&known("authority1", 1));
        let server = tokio::spawn(tell_all(listener, telling.subscribe()));
        for list in [vec![], all(3)] {
            telling.send_modify(|introduction| introduction.all.clone_from(&list));
            let mut text = String::new();
            TcpStream::connect(address).await.unwrap().read_to_string(&mut text).await.unwrap();
            assert_eq!(toml::from_str::<Introduction>(&text).ok(), said(1, &list));
        }
        server.abort();
    }
}
