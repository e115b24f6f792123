//! Configuration files: TOML that is explained by a commented example.
//!
//! 1. The file is parsed into the role's own type; what its keys mean is that type's business.
//! 2. A key that the type did not take is an error, because a misspelt setting that is silently ignored is worse
//!    than a daemon that does not start.
//! 3. The example text that `--print-config` prints is also the list of known keys, so a key that is missing there
//!    is never suggested: the text that people read cannot fall behind unnoticed.

use std::fs;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::de::{DeTable, DeValue};
use tunic_proto::ids::RelayId;
use tunic_proto::keys::OnionKey;

/// The largest configuration file that is read, in bytes.
pub const MAX_FILE_LEN: u64 = 1 << 20;

/// An authority that the network trusts, as the three daemons' files name it in `[[authority]]` tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityConfig {
    /// What people call it. Shown, never compared.
    pub name: String,
    /// Who it is.
    pub identity: RelayId,
    /// The key with which circuits to it are made. Long-lived, other than that of a relay.
    pub onion_key: OnionKey,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
}

/// What is wrong with the `[[authority]]` tables of a relay or client, each with what to do about it.
pub fn authority_problems(authorities: &[AuthorityConfig]) -> Vec<&'static str> {
    let repeats =
        |at: usize| authorities[..at].iter().any(|other| other.identity == authorities[at].identity);
    let checks = [
        (authorities.is_empty(), "there is no [[authority]]: copy those of your network into the file"),
        (
            authorities.iter().any(|authority| authority.addresses.is_empty()),
            "an [[authority]] has no address",
        ),
        ((0..authorities.len()).any(repeats), "two [[authority]] tables have the same identity"),
    ];
    checks.into_iter().filter(|(wrong, _)| *wrong).map(|(_, text)| text).collect()
}

/// A configuration that cannot be used. Says where, what, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error(
        "cannot read the configuration {}: {cause}. Start from the commented example that --print-config prints",
        path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// It is not TOML, or a value is missing, of the wrong type or out of range.
    #[error("{place}{message}. --print-config shows every setting with its meaning")]
    Invalid {
        /// Where, as far as it is known.
        place: Place,
        /// What is wrong there.
        message: String,
    },
    /// A key that no setting has.
    #[error("{place}unknown key `{key}`; {advice}")]
    UnknownKey {
        /// Where.
        place: Place,
        /// The key with its tables, for example `cache.size`.
        key: String,
        /// The nearest known key.
        advice: String,
    },
}

/// A place in a configuration file. Displayed it ends in ": " (or is empty), to stand in front of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The file, if the text came from one.
    pub file: Option<PathBuf>,
    /// The line, from 1.
    pub line: Option<usize>,
    /// The key on that line.
    pub key: Option<String>,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            self.file.as_ref().map(|file| file.display().to_string()),
            self.line.map(|line| format!("line {line}")),
            self.key.as_ref().map(|key| format!("`{key}`")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() { Ok(()) } else { write!(f, "{}: ", parts.join(", ")) }
    }
}

/// Reads a configuration file, at most [`MAX_FILE_LEN`] bytes.
///
/// # Errors
/// [`ConfigError`], naming the file.
pub fn load<T: DeserializeOwned>(path: &Path, example: &str) -> Result<T, ConfigError> {
    let text = read_bounded(path).map_err(|cause| ConfigError::Read { path: path.to_path_buf(), cause })?;
    parse(&text, example).map_err(|mut error| {
        if let ConfigError::Invalid { place, .. } | ConfigError::UnknownKey { place, .. } = &mut error {
            place.file = Some(path.to_path_buf());
        }
        error
    })
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_FILE_LEN + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_LEN {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"));
    }
    Ok(text)
}

/// Parses the text of a configuration file.
///
/// # Errors
/// [`ConfigError`] without a file name. Of several unknown keys the first in the order of the tables is told.
pub fn parse<T: DeserializeOwned>(text: &str, example: &str) -> Result<T, ConfigError> {
    let invalid = |error: &toml::de::Error| ConfigError::Invalid {
        place: place_of(text, error.span().map(|span| span.start)),
        message: explained(error.message()),
    };
    let deserializer = toml::Deserializer::parse(text).map_err(|error| invalid(&error))?;
    let mut unknown: Vec<Vec<String>> = Vec::new();
    let outcome = serde_ignored::deserialize(deserializer, |path| unknown.push(segments(&path)));
    match unknown.first() {
        // Told first: a misspelt key is often the reason for a missing one.
        Some(path) => Err(unknown_key(text, path, example)),
        None => outcome.map_err(|error| invalid(&error)),
    }
}

/// What the parser says, in one line, with an example where its words are of no help.
fn explained(message: &str) -> String {
    let line = message.trim_end().replace('\n', ", ");
    if line.contains("socket address") {
        return format!("{line}; write an IP address and a port, as in \"127.0.0.1:9150\"");
    }
    line
}

/// Keys and indices from the root to the ignored value.
fn segments(path: &serde_ignored::Path<'_>) -> Vec<String> {
    use serde_ignored::Path;
    let (parent, last) = match path {
        Path::Root => return Vec::new(),
        Path::Seq { parent, index } => (parent, Some(index.to_string())),
        Path::Map { parent, key } => (parent, Some(key.clone())),
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            (parent, None)
        }
    };
    segments(parent).into_iter().chain(last).collect()
}

fn place_of(text: &str, offset: Option<usize>) -> Place {
    let Some(before) = offset.and_then(|offset| text.get(..offset)) else { return Place::default() };
    let line = before.matches('\n').count();
    let key = text.lines().nth(line).and_then(|line| line.split_once('=')).map(|(key, _)| key.trim());
    let key = key.filter(|key| is_key(key)).map(str::to_owned);
    Place { file: None, line: Some(line + 1), key }
}

fn unknown_key(text: &str, path: &[String], example: &str) -> ConfigError {
    let is_index = |segment: &&String| segment.parse::<usize>().is_err();
    let names: Vec<&str> = path.iter().filter(is_index).map(String::as_str).collect();
    let (key, table) = names.split_last().map_or(("", String::new()), |(key, table)| (*key, table.join(".")));
    let line = offset_of(text, path).and_then(|offset| place_of(text, Some(offset)).line);
    ConfigError::UnknownKey {
        place: Place { file: None, line, key: None },
        key: names.join("."),
        advice: advice(&KnownKey { table, key: key.to_owned() }, &known_keys(example)),
    }
}

/// Where the last key of this path stands in the text, in bytes.
fn offset_of(text: &str, path: &[String]) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let (mut table, mut list) = (Some(root.get_ref()), None);
    let mut offset = None;
    for segment in path {
        let value = match (table, list) {
            (Some(entries), _) => {
                let (key, value) = entries.iter().find(|(key, _)| key.get_ref() == segment)?;
                offset = Some(key.span().start);
                value.get_ref()
            }
            (None, Some(values)) => {
                let values: &toml::de::DeArray<'_> = values;
                values.get(segment.parse::<usize>().ok()?)?.get_ref()
            }
            (None, None) => return offset,
        };
        (table, list) = match value {
            DeValue::Table(entries) => (Some(entries), None),
            DeValue::Array(values) => (None, Some(values)),
            _ => (None, None),
        };
    }
    offset
}

/// A key and the table that it stands in (empty for the top of the file).
#[derive(Debug, Clone, PartialEq, Eq)]
struct KnownKey {
    table: String,
    key: String,
}

impl std::fmt::Display for KnownKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.table.as_str() {
            "" => write!(f, "`{}`", self.key),
            table => write!(f, "`{}` in [{table}]", self.key),
        }
    }
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Every `key = …` and `[table]` of the example, commented out or not.
fn known_keys(example: &str) -> Vec<KnownKey> {
    let mut known: Vec<KnownKey> = Vec::new();
    let mut table = String::new();
    for line in example.lines() {
        let line = line.trim_start_matches('#').trim();
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            let name = name.trim_start_matches('[');
            if name.split('.').all(is_key) {
                table = name.to_owned();
                let (parent, key) = name.rsplit_once('.').unwrap_or(("", name));
                known.push(KnownKey { table: parent.to_owned(), key: key.to_owned() });
            }
        } else if let Some((key, _)) = line.split_once('=')
            && is_key(key.trim())
        {
            known.push(KnownKey { table: table.clone(), key: key.trim().to_owned() });
        }
    }
    known
}

fn advice(wrong: &KnownKey, known: &[KnownKey]) -> String {
    if let Some(elsewhere) = known.iter().find(|known| known.key == wrong.key && known.table != wrong.table) {
        return match elsewhere.table.as_str() {
            "" => "that key belongs at the top of the file, before the first table".to_owned(),
            table => format!("that key belongs in the table [{table}]"),
        };
    }
    let distance = |known: &&KnownKey| {
        let other_table = usize::from(known.table != wrong.table);
        strsim::damerau_levenshtein(&known.key, &wrong.key) + other_table
    };
    let near = known.iter().min_by_key(distance).filter(|known| distance(known) <= 1 + wrong.key.len() / 3);
    match near {
        Some(known) => format!("did you mean {known}?"),
        None => "no known key is like it; --print-config shows them all".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "\
# What others call this relay.
nickname = \"onion\"
# Where it listens.
# listen = \"0.0.0.0:9001\"

# [limits]
# circuits = 10

# [[authority]]
# name = \"a\"
";

    #[derive(Debug, Deserialize)]
    struct Limits {
        #[expect(dead_code, reason = "only its being known matters")]
        circuits: Option<u32>,
    }

    #[derive(Debug, Deserialize)]
    struct Authority {
        #[expect(dead_code, reason = "only its being known matters")]
        name: String,
    }

    #[derive(Debug, Deserialize)]
    struct Config {
        nickname: String,
        #[expect(dead_code, reason = "only its being known matters")]
        listen: Option<SocketAddr>,
        #[expect(dead_code, reason = "only its being known matters")]
        limits: Option<Limits>,
        #[serde(default)]
        #[expect(dead_code, reason = "only its being known matters")]
        authority: Vec<Authority>,
    }

    #[track_caller]
    fn check(text: &str, expect: &str) {
        let error = parse::<Config>(text, EXAMPLE).unwrap_err().to_string();
        assert_eq!(error, expect);
    }

    #[test]
    fn a_good_file_is_taken() {
        let config: Config =
            parse("nickname = \"x\"\nlisten = \"[::1]:1\"\n[limits]\ncircuits = 3", EXAMPLE).unwrap();
        assert_eq!(config.nickname, "x");
    }

    #[test]
    fn an_unknown_key_names_its_line_and_the_nearest_known_key() {
        check(
            "nickname = \"x\"\n\nlissten = \"[::1]:1\"\n",
            "line 3: unknown key `lissten`; did you mean `listen`?",
        );
        check(
            "nickname = \"x\"\n[limits]\ncircuit = 1",
            "line 3: unknown key `limits.circuit`; did you mean `circuits` in [limits]?",
        );
        check(
            "nickname = \"x\"\n[[authority]]\nname = \"b\"\n[[authority]]\nname = \"c\"\nnames = 1",
            "line 6: unknown key `authority.names`; did you mean `name` in [authority]?",
        );
        check("nickname = \"x\"\n[limit]\n", "line 2: unknown key `limit`; did you mean `limits`?");
    }

    #[test]
    fn a_key_in_the_wrong_table_is_sent_to_the_right_one() {
        check(
            "nickname = \"x\"\ncircuits = 1",
            "line 2: unknown key `circuits`; that key belongs in the table [limits]",
        );
        check(
            "nickname = \"x\"\n[limits]\nlisten = \"[::1]:1\"",
            "line 3: unknown key `limits.listen`; that key belongs at the top of the file, before the first table",
        );
    }

    #[test]
    fn a_key_like_no_other_is_not_guessed_at() {
        check(
            "nickname = \"x\"\nbandwidth_in_bytes = 1",
            "line 2: unknown key `bandwidth_in_bytes`; no known key is like it; --print-config shows them all",
        );
    }

    #[test]
    fn the_misspelt_key_is_told_rather_than_the_missing_one() {
        check("nickmane = \"x\"", "line 1: unknown key `nickmane`; did you mean `nickname`?");
    }

    #[test]
    fn a_wrong_value_names_line_and_key() {
        check(
            "nickname = \"x\"\nlisten = \"here\"",
            "line 2, `listen`: invalid socket address syntax; write an IP address and a port, as in \"127.0.0.1:9150\". \
             --print-config shows every setting with its meaning",
        );
    }

    #[test]
    fn a_missing_key_is_named() {
        let error = parse::<Config>("", EXAMPLE).unwrap_err().to_string();
        assert!(error.contains("missing field `nickname`"), "{error}");
    }

    #[test]
    fn an_unreadable_file_is_named() {
        let error = load::<Config>(Path::new("/nonexistent/relay.toml"), EXAMPLE).unwrap_err();
        let error = format!("{:#}", anyhow::Error::from(error));
        assert!(error.contains("/nonexistent/relay.toml") && error.contains("--print-config"), "{error}");
        assert_eq!(error.matches("No such file").count(), 1, "{error}");
    }

    #[test]
    fn a_file_without_end_is_not_read_into_memory() {
        let error = load::<Config>(Path::new("/dev/zero"), EXAMPLE).unwrap_err().to_string();
        assert!(error.contains("larger than 1 MiB"), "{error}");
    }
}
