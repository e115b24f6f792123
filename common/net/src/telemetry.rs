//! Logs: one plain line per event on stderr, for people, journald and grep alike.
//!
//! At the default level no line holds an address, host name, key, id or nickname of others (docs/threat-model.md). Finer
//! levels may, and say so once.

use std::fmt;
use std::io::IsTerminal;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::recent::Tee;

/// The environment variable that wins over the configured level.
pub const ENV_VAR: &str = "TUNIC_LOG";

/// Replaces the filter of the running log.
static CHANGE: OnceLock<Box<dyn Fn(EnvFilter) -> bool + Send + Sync>> = OnceLock::new();

/// What gets logged: `error`, `warn`, `info`, `debug` or `trace`, or directives such as `info,tunic::path=debug`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LogFilter(String);

impl Default for LogFilter {
    fn default() -> Self {
        LogFilter("info".to_owned())
    }
}

impl TryFrom<String> for LogFilter {
    type Error = BadLogFilter;

    fn try_from(text: String) -> Result<Self, BadLogFilter> {
        if filter(&text).1 { Err(BadLogFilter(text)) } else { Ok(LogFilter(text)) }
    }
}

impl From<LogFilter> for String {
    fn from(filter: LogFilter) -> String {
        filter.0
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text that is no log level.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no log level; there are \"error\", \"warn\", \"info\", \"debug\" and \"trace\"")]
pub struct BadLogFilter(String);

/// Starts logging to stderr. [`ENV_VAR`] wins over what is configured; if that cannot be understood it counts as
/// `info`, with a warning. A second call changes nothing.
pub fn init(configured: &LogFilter) {
    let wanted = std::env::var(ENV_VAR).ok().filter(|value| !value.is_empty());
    let wanted = wanted.as_deref().unwrap_or(&configured.0);
    let (filter, bad) = filter(wanted);
    let verbose = is_verbose(&filter);
    let started = tracing_subscriber::fmt()
        .with_writer(Tee)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(verbose)
        .with_env_filter(filter)
        .with_filter_reloading();
    let handle = started.reload_handle();
    if started.try_init().is_err() {
        return;
    }
    let _ = CHANGE.set(Box::new(move |filter| handle.reload(filter).is_ok()));
    if bad {
        tracing::warn!(
            "log level {wanted:?} is not understood, `info` is used; try error, warn, info or debug"
        );
    }
    if verbose {
        warn_of_names();
    }
}

/// Libraries whose warnings hold the names that they were asked for. They are heard only where somebody asks for them.
const TALKATIVE: [&str; 3] = ["hickory_net", "hickory_proto", "hickory_resolver"];
fn warn_of_names() {
    tracing::warn!(
        "the log level is finer than `info`: lines may hold addresses and names; do not keep or share them"
    );
}

/// Changes what is logged from now on, unless [`ENV_VAR`] says it.
pub fn change(configured: &LogFilter) {
    if std::env::var(ENV_VAR).is_ok_and(|value| !value.is_empty()) {
        return;
    }
    let (filter, _) = filter(&configured.0);
    let verbose = is_verbose(&filter);
    if CHANGE.get().is_some_and(|change| change(filter)) && verbose {
        warn_of_names();
    }
}

fn is_verbose(filter: &EnvFilter) -> bool {
    filter.max_level_hint().is_none_or(|level| level > LevelFilter::INFO)
}

/// The filter, and whether the text was not understood.
fn filter(text: &str) -> (EnvFilter, bool) {
    // A bare word that is no level would be taken as the name of a target, and everything else be silent.
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
    let understood = text.split(',').all(|part| part.contains(['=', '[']) || is_level(part.trim()));
    let quiet = |text: &str| {
        let off = TALKATIVE.iter().filter(|name| !text.contains(**name)).map(|name| format!(",{name}=off"));
        EnvFilter::builder().parse(off.fold(text.to_owned(), |text, off| text + &off))
    };
    match quiet(text) {
        Ok(filter) if !text.is_empty() && understood => (filter, false),
        _ => (quiet("info").unwrap_or_else(|_| EnvFilter::new("info")), true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Option<LevelFilter>, bad: bool) {
        let (filter, was_bad) = filter(text);
        assert_eq!((filter.max_level_hint(), was_bad), (expect, bad), "{text:?}");
    }

    #[test]
    fn a_configured_level_must_be_one() {
        #[derive(Debug, Deserialize)]
        struct Config {
            log: LogFilter,
        }
        let error = crate::config::parse::<Config>("log = \"loud\"", "").unwrap_err().to_string();
        assert!(error.starts_with("line 1, `log`: \"loud\" is no log level; there are \"error\""), "{error}");
        let config: Config = crate::config::parse("log = \"debug\"", "").unwrap();
        assert_eq!(config.log.to_string(), "debug");
    }

    #[test]
    fn libraries_that_would_log_names_are_silent_unless_they_are_asked_for() {
        for text in ["info", "warn", "", "info,tunic::path=debug"] {
            let shown = filter(text).0.to_string();
            assert!(TALKATIVE.iter().all(|name| shown.contains(&format!("{name}=off"))), "{shown}");
        }
        assert!(filter("info,hickory_net=debug").0.to_string().contains("hickory_net=debug"));
    }

    #[test]
    fn levels_and_directives_are_understood_and_the_rest_is_info() {
        check("error", Some(LevelFilter::ERROR), false);
        check("info", Some(LevelFilter::INFO), false);
        check("info,tunic::path=debug", Some(LevelFilter::DEBUG), false);
        check("", Some(LevelFilter::INFO), true);
        check("a=b=c", Some(LevelFilter::INFO), true);
        check("loud", Some(LevelFilter::INFO), true);
    }
}
