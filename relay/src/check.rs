//! `tunic-relay check`: finds what would keep the relay from working, before it is started.

use std::net::SocketAddr;

use tunic_net::daemon::{Exit, bind, open_file_limit};
use tunic_net::keyfile::ensure_private_dir;
use tunic_net::keys::{KeysError, NodeKeys};
use tunic_proto::time::UnixTime;

use crate::config::Config;

/// Open files that channels to other relays and to clients may take.
const FILES_FOR_CHANNELS: u64 = 4_096;

/// Something that has to be mended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The code with which `check` ends if this is the first finding.
    pub exit: Exit,
    /// What is wrong and what to do about it.
    pub text: String,
}

/// Everything that has to be mended, the worst first. Makes no files, except that a signing certificate that is about
/// to end is renewed, as at every start.
pub fn findings(config: &Config, now: UnixTime) -> Vec<Finding> {
    let problems = config.problems(None).into_iter().map(|text| Finding { exit: Exit::Config, text });
    problems
        .chain(keys(config, now))
        .chain(listening(config.listen))
        .chain(files(config, open_file_limit()))
        .collect()
}

fn keys(config: &Config, now: UnixTime) -> Option<Finding> {
    let finding = |text| Some(Finding { exit: Exit::KeyFile, text });
    if !config.data_dir.exists() {
        return None;
    }
    if let Err(error) = ensure_private_dir(&config.data_dir) {
        return finding(error.to_string());
    }
    match NodeKeys::load(&config.key_dir(), now) {
        // The first start makes them.
        Ok(_) | Err(KeysError::Missing { .. }) => None,
        Err(error) => finding(error.to_string()),
    }
}

fn listening(address: SocketAddr) -> Option<Finding> {
    let error = bind(address, "listen").err()?;
    Some(Finding { exit: Exit::Unavailable, text: error.to_string() })
}

fn files(config: &Config, limit: Option<u64>) -> Option<Finding> {
    let streams =
        if config.exit.effective_policy().is_exit() { config.exit.max_exit_streams as u64 } else { 0 };
    let (needed, limit) = (streams.saturating_add(FILES_FOR_CHANNELS), limit?);
    (limit < needed).then(|| Finding {
        exit: Exit::Unavailable,
        text: format!(
            "{limit} files may be open at once, {needed} may be needed: raise the limit (LimitNOFILE={needed} under \
             systemd, ulimit -n in a shell), or lower `max_exit_streams`"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::sound;
    use std::fs;
    use std::net::TcpListener;
    use std::os::unix::fs::PermissionsExt;
    use tunic_proto::dir::ExitPolicy;

    const NOW: UnixTime = UnixTime(1_800_000_000);

    struct Fixture {
        dir: tempfile::TempDir,
        config: Config,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let config =
            Config { data_dir: dir.path().join("data"), listen: "127.0.0.1:0".parse().unwrap(), ..sound() };
        Fixture { dir, config }
    }

    #[track_caller]
    fn check(config: &Config, exit: Exit, expect: &str) {
        let findings = findings(config, NOW);
        assert!(
            findings.len() == 1 && findings[0].exit == exit && findings[0].text.contains(expect),
            "{findings:?}"
        );
    }

    #[test]
    fn a_relay_that_can_run_has_nothing_to_mend_and_nothing_is_made() {
        let Fixture { dir, config } = fixture();
        assert_eq!(findings(&config, NOW), []);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        ensure_private_dir(&config.data_dir).unwrap();
        assert_eq!(findings(&config, NOW), []);
        NodeKeys::create(&config.key_dir(), NOW).unwrap();
        assert_eq!(findings(&config, NOW), []);
    }

    #[test]
    fn wrong_settings_are_found() {
        let Fixture { mut config, dir: _dir } = fixture();
        config.nickname = "not a nickname".into();
        check(&config, Exit::Config, "`nickname`");
    }

    #[test]
    fn keys_that_others_can_read_are_found() {
        let Fixture { config, dir: _dir } = fixture();
        ensure_private_dir(&config.data_dir).unwrap();
        NodeKeys::create(&config.key_dir(), NOW).unwrap();
        let identity = config.key_dir().join("identity.key");
        fs::set_permissions(&identity, fs::Permissions::from_mode(0o644)).unwrap();
        check(&config, Exit::KeyFile, "identity.key");
        fs::set_permissions(&config.data_dir, fs::Permissions::from_mode(0o755)).unwrap();
        check(&config, Exit::KeyFile, "data");
    }

    #[test]
    fn an_address_in_use_is_found() {
        let Fixture { mut config, dir: _dir } = fixture();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        config.listen = taken.local_addr().unwrap();
        check(&config, Exit::Unavailable, "run already?");
    }

    #[test]
    fn too_few_open_files_are_found() {
        let Fixture { mut config, dir: _dir } = fixture();
        assert_eq!(files(&config, Some(4_096)), None);
        config.exit.policy = ExitPolicy::accept_all();
        assert_eq!(files(&config, Some(20_480)), None);
        assert_eq!(files(&config, None), None);
        assert!(files(&config, Some(20_479)).unwrap().text.contains("LimitNOFILE=20480"));
    }
}
