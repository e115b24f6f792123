//! SIGHUP: the configuration is read again. What changed is logged by its key, never by its value; what a running
//! daemon cannot take over is said, and stays as it is.

use std::path::Path;

use tokio::sync::watch;
use toml::{Table, Value};

use super::{Settings, notify};
use crate::config;
use crate::telemetry;

/// What the file says now, beside what runs.
#[derive(Debug)]
struct Changes<S> {
    /// What runs from now on.
    settings: S,
    /// Keys that are taken over.
    taken: Vec<String>,
    /// Keys that need a restart.
    refused: Vec<String>,
}

/// Reads the file again and tells the daemon; a file that is wrong changes nothing.
pub(super) fn reload<S: Settings>(path: &Path, running: &watch::Sender<S>) {
    notify::reloading();
    let changes = config::load(path, S::EXAMPLE)
        .map_err(|error| error.to_string())
        .and_then(|wanted| compare(&*running.borrow(), &wanted));
    match changes {
        Ok(changes) => take_over(changes, running),
        Err(why) => tracing::error!("the configuration is not taken over, the old one stays in force: {why}"),
    }
    notify::reloaded();
}

fn take_over<S: Settings>(changes: Changes<S>, running: &watch::Sender<S>) {
    let list = |keys: &[String]| keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
    if !changes.refused.is_empty() {
        tracing::warn!("only a restart can change {}", list(&changes.refused));
    }
    match changes.taken.as_slice() {
        [] => tracing::info!("configuration read again: nothing to take over"),
        keys => tracing::info!("configuration read again: changed {}", list(keys)),
    }
    telemetry::change(changes.settings.log());
    // Also without a change: SIGHUP has files looked at that are not settings, such as a new certificate.
    running.send_replace(changes.settings);
}

/// Keys are told apart down to the last table; lists count as a whole.
fn compare<S: Settings>(running: &S, wanted: &S) -> Result<Changes<S>, String> {
    let problems = wanted.problems();
    if !problems.is_empty() {
        return Err(problems.join("; "));
    }
    let table = |settings: &S| Table::try_from(settings).map_err(|error| error.to_string());
    let (mut merged, wanted) = (table(running)?, table(wanted)?);
    let mut changed = Vec::new();
    differences("", &merged, &wanted, &mut changed);
    let can_be_taken = |key: &String| {
        let below =
            |taken: &str| key == taken || key.strip_prefix(taken).is_some_and(|rest| rest.starts_with('.'));
        key == "log" || S::RELOADABLE.iter().copied().any(below)
    };
    let (taken, refused): (Vec<_>, Vec<_>) = changed.into_iter().partition(can_be_taken);
    for key in &taken {
        copy(key, &wanted, &mut merged);
    }
    let settings = Value::Table(merged).try_into().map_err(|error: toml::de::Error| error.to_string())?;
    Ok(Changes { settings, taken, refused })
}

fn differences(above: &str, old: &Table, new: &Table, changed: &mut Vec<String>) {
    let added = new.keys().filter(|key| !old.contains_key(*key));
    for key in old.keys().chain(added) {
        let path = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
        match (old.get(key), new.get(key)) {
            (Some(Value::Table(old)), Some(Value::Table(new))) => differences(&path, old, new, changed),
            (old, new) if old != new => changed.push(path),
            _ => {}
        }
    }
}

/// Makes a key of one table what it is in the other. Tables that differ only in being there are no settings.
fn copy(key: &str, from: &Table, to: &mut Table) {
    match key.split_once('.') {
        Some((table, rest)) => {
            if let (Some(Value::Table(from)), Some(Value::Table(to))) = (from.get(table), to.get_mut(table)) {
                copy(rest, from, to);
            }
        }
        None => {
            match from.get(key) {
                Some(value) => to.insert(key.to_owned(), value.clone()),
                None => to.remove(key),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::{ServiceConfig, Switch};
    use crate::telemetry::LogFilter;
    use serde::{Deserialize, Serialize};
    use std::net::SocketAddr;

    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default)]
    struct Config {
        nickname: Option<String>,
        policy: Vec<u16>,
        log: LogFilter,
        service: ServiceConfig,
    }

    impl Settings for Config {
        const EXAMPLE: &'static str = "nickname = \"\"\npolicy = []\nlog = \"\"\n[service]\n";
        const RELOADABLE: &'static [&'static str] = &["nickname", "policy"];

        fn log(&self) -> &LogFilter {
            &self.log
        }

        fn service(&self) -> &ServiceConfig {
            &self.service
        }

        fn listen(&self) -> (SocketAddr, &'static str) {
            (([127, 0, 0, 1], 0).into(), "listen")
        }

        fn state_dir(&self) -> Result<std::path::PathBuf, crate::config::ConfigError> {
            Ok("/nonexistent".into())
        }

        fn problems(&self) -> Vec<String> {
            let wrong = self.policy.contains(&0);
            if wrong { vec!["`policy` holds port 0".to_owned()] } else { Vec::new() }
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Config), taken: &[&str], refused: &[&str]) -> Config {
        let mut wanted = Config::default();
        change(&mut wanted);
        let changes = compare(&Config::default(), &wanted).unwrap();
        assert_eq!(changes.taken, taken);
        assert_eq!(changes.refused, refused);
        changes.settings
    }

    #[test]
    fn what_can_change_changes_and_the_rest_is_named_and_stays() {
        check(|_| {}, &[], &[]);
        let settings = check(|config| config.nickname = Some("x".into()), &["nickname"], &[]);
        assert_eq!(settings.nickname.as_deref(), Some("x"));
        let settings = check(
            |config| {
                config.policy = vec![80];
                config.service = ServiceConfig { sandbox: Switch::Off, user: Some("x".into()) };
            },
            &["policy"],
            &["service.sandbox", "service.user"],
        );
        assert_eq!(settings, Config { policy: vec![80], ..Config::default() });
    }

    #[test]
    fn a_key_that_is_taken_away_is_a_change() {
        let old = Config { nickname: Some("x".into()), ..Config::default() };
        let changes = compare(&old, &Config::default()).unwrap();
        assert_eq!((changes.taken, changes.settings.nickname), (vec!["nickname".to_owned()], None));
    }

    #[test]
    fn a_file_that_is_wrong_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.toml");
        let (running, seen) = watch::channel(Config::default());
        for wrong in ["policy = [0]", "policy = 7", "polic = []"] {
            std::fs::write(&file, wrong).unwrap();
            reload(&file, &running);
            assert!(!seen.has_changed().unwrap(), "{wrong}");
        }
        std::fs::write(&file, "policy = [443]").unwrap();
        reload(&file, &running);
        assert_eq!(seen.borrow().policy, [443]);
    }
}
