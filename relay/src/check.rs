//! `tunic-relay check`: finds what would keep the relay from working, before or while it runs.
//!
//! 1. [`ports`] are tried with the rights that it was started with; then it becomes who the relay would be, as the relay does.
//!    Of those below 1024 ([`low_ports`]) it is told that the relay needs such rights too.
//! 2. [`findings`] looks at the rest of this machine: settings, keys, open files.
//! 3. [`crate::net::ask_network`] asks the network: authorities, clock, whether others reach the relay.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use rustix::process::geteuid;
use tunic_net::daemon::{Exit, bind, is_served, open_file_limit};
use tunic_net::keyfile::ensure_private_dir;
use tunic_net::keys::{KeysError, NodeKeys};
use tunic_net::sandbox::{UserError, become_user};
use tunic_proto::time::UnixTime;

use crate::config::Config;
use crate::core::files::Shares;
use crate::init::hidden_from;
use crate::net::control::control_path;
use crate::net::memory::available;

/// The first port that everybody may listen at, unless the system's administrator says otherwise.
const FIRST_FREE_PORT: u16 = 1_024;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Nothing has to be done.
    Fine,
    /// The relay runs, but not as well as it could.
    Warning,
    /// It has to be mended; `check` ends with the code of the first.
    Problem(Exit),
}

/// What `check` found out about one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub weight: Weight,
    /// What is so and, unless that is fine, what to do about it.
    pub text: String,
}

impl Finding {
    /// Nothing has to be done.
    pub fn fine(text: impl Into<String>) -> Self {
        Finding { weight: Weight::Fine, text: text.into() }
    }

    /// It could be better.
    pub fn warning(text: impl Into<String>) -> Self {
        Finding { weight: Weight::Warning, text: text.into() }
    }

    /// It has to be mended.
    pub fn problem(exit: Exit, text: impl Into<String>) -> Self {
        Finding { weight: Weight::Problem(exit), text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.weight {
            Weight::Fine => "ok",
            Weight::Warning => "warning",
            Weight::Problem(_) => "problem",
        };
        write!(f, "{word}: {}", self.text)
    }
}

/// Becomes who the relay would be, so that its files are looked at with its eyes. To be called before there are other threads.
///
/// # Errors
/// As the relay's start would fail.
pub fn become_relays_user(config: &Config) -> Result<(), UserError> {
    config.service.user.as_deref().map_or(Ok(()), |user| become_user(user, None))
}

/// What this machine would keep the relay from, but for its ports. Makes no files, except that a signing certificate that
/// is about to end is renewed, as at every start.
pub fn findings(config: &Config, now: UnixTime) -> Vec<Finding> {
    let problems = config.problems(None).into_iter().map(|text| Finding::problem(Exit::Config, text));
    let mut found: Vec<Finding> = problems.chain(keys(config, now)).collect();
    found.extend(files(config, open_file_limit()));
    found.extend(bandwidth(config));
    found.extend(memory(config, available()));
    found
}

/// What is to be said of these ports, which were refused: nothing to mend where this very relay runs and holds them.
pub fn unless_it_runs(config: &Config, refused: Vec<Finding>) -> Vec<Finding> {
    if refused.is_empty() || !is_served(&control_path(&config.data_dir)) {
        return refused;
    }
    vec![Finding::fine("this relay runs, so its ports cannot be tried")]
}

/// The worst first.
pub fn in_order(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by_key(|finding| match finding.weight {
        Weight::Problem(_) => 0,
        Weight::Warning => 1,
        Weight::Fine => 2,
    });
    findings
}

fn keys(config: &Config, now: UnixTime) -> Option<Finding> {
    let problem = |text| Some(Finding::problem(Exit::KeyFile, text));
    if !config.data_dir.exists() {
        return None;
    }
    if let Err(error) = ensure_private_dir(&config.data_dir) {
        return problem(error.to_string());
    }
    match NodeKeys::load(&config.key_dir(), now) {
        // The first start makes them.
        Ok(_) | Err(KeysError::Missing { .. }) => None,
        Err(error) => problem(error.to_string()),
    }
}

/// The ports that cannot be listened at.
pub fn ports(config: &Config) -> Vec<Finding> {
    let refused = wanted_ports(config).filter_map(|(at, setting)| bind(at, setting).err());
    refused.map(|error| Finding::problem(Exit::Unavailable, error.to_string())).collect()
}

/// The ports that root may listen at and that the relay's user may not, if this is root: the shipped unit never is.
pub fn low_ports(config: &Config) -> Vec<Finding> {
    if config.service.user.is_none() || !geteuid().is_root() {
        return Vec::new();
    }
    let low = wanted_ports(config).filter(|(at, _)| (1..FIRST_FREE_PORT).contains(&at.port()));
    low.map(|(at, setting)| Finding::warning(low_port(at, setting))).collect()
}

fn low_port(at: SocketAddr, setting: &str) -> String {
    format!(
        "`{setting}` is {at}: a relay that is started as root may listen there, one that the shipped unit starts may not. Give \
         the unit AmbientCapabilities= and CapabilityBoundingSet=CAP_NET_BIND_SERVICE, and PrivateUsers=no"
    )
}

fn wanted_ports(config: &Config) -> impl Iterator<Item = (SocketAddr, &'static str)> {
    let wanted = [
        (Some(config.listen), "listen"),
        (config.exit.notice, "exit.notice"),
        (config.metrics.listen, "metrics.listen"),
    ];
    wanted.into_iter().filter_map(|(at, setting)| Some((at?, setting)))
}

/// What keeps the relay's user, whom this process has become, from reading the configuration again, as SIGHUP asks for.
pub fn file(config: &Config, path: &Path) -> Option<Finding> {
    let hidden = hidden_from(config.service.user.as_deref()?, path)?;
    Some(Finding::problem(Exit::Config, format!("{}: {hidden}", path.display())))
}

fn bandwidth(config: &Config) -> Option<Finding> {
    let rate = config.bandwidth_rate.filter(|rate| *rate < config.bandwidth)?;
    Some(Finding::warning(format!(
        "`bandwidth` is {} bytes per second, `bandwidth_rate` {rate}: the relay states that it can carry {rate}. Lower the first or \
         raise the second",
        config.bandwidth
    )))
}

fn memory(config: &Config, available: u64) -> Option<Finding> {
    let max = config.memory_max?;
    (max > available).then(|| {
        Finding::warning(format!(
            "`memory_max` is {} MiB, and there are {} MiB here: the system would end the relay before it lets anything go. Lower it",
            max >> 20,
            available >> 20
        ))
    })
}

fn files(config: &Config, limit: Option<u64>) -> Option<Finding> {
    let wanted = config.wanted_files();
    let Shares { incoming, outgoing, streams } = wanted.within(limit);
    let limit = limit.filter(|_| wanted != wanted.within(limit))?;
    let needed = wanted.files();
    Some(Finding::warning(format!(
        "{limit} files may be open at once, {needed} may be needed: the relay would run with {incoming} incoming channels, \
         {outgoing} outgoing ones and {streams} streams. Raise the limit (LimitNOFILE={needed} under systemd, ulimit -n in a \
         shell), or lower `max_incoming_channels`, `max_outgoing_channels` and `max_exit_streams`"
    )))
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

    /// Without warnings: how many files may be open is this machine's affair.
    fn problems(config: &Config) -> Vec<Finding> {
        let mut found = [ports(config), findings(config, NOW)].concat();
        found.retain(|finding| matches!(finding.weight, Weight::Problem(_)));
        found
    }

    #[track_caller]
    fn check(config: &Config, exit: Exit, expect: &str) {
        let findings = problems(config);
        assert!(
            findings.len() == 1
                && findings[0].weight == Weight::Problem(exit)
                && findings[0].text.contains(expect),
            "{findings:?}"
        );
    }

    #[test]
    fn a_relay_that_can_run_has_nothing_to_mend_and_nothing_is_made() {
        let Fixture { dir, config } = fixture();
        assert_eq!(problems(&config), []);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        ensure_private_dir(&config.data_dir).unwrap();
        assert_eq!(problems(&config), []);
        NodeKeys::create(&config.key_dir(), NOW).unwrap();
        assert_eq!(problems(&config), []);
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
    fn every_port_is_tried() {
        let Fixture { mut config, dir: _dir } = fixture();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        config.metrics.listen = taken.local_addr().ok();
        check(&config, Exit::Unavailable, "metrics.listen");
        config.exit.notice = config.metrics.listen.take();
        check(&config, Exit::Unavailable, "exit.notice");
    }

    #[test]
    fn too_few_open_files_are_a_warning_that_says_what_is_left() {
        let Fixture { mut config, dir: _dir } = fixture();
        assert_eq!(files(&config, Some(20_480)), None);
        assert_eq!(files(&config, None), None);
        config.exit.policy = ExitPolicy::accept_all();
        let found = files(&config, Some(20_480)).unwrap();
        assert_eq!(found.weight, Weight::Warning);
        assert!(found.text.contains("LimitNOFILE=28736"), "{}", found.text);
        assert_eq!(files(&config, Some(28_736)), None);
    }

    #[test]
    fn more_stated_than_may_be_moved_is_a_warning() {
        let Fixture { mut config, dir: _dir } = fixture();
        assert_eq!(bandwidth(&config), None);
        config.bandwidth_rate = Some(config.bandwidth - 1);
        let found = bandwidth(&config).unwrap();
        assert!(found.weight == Weight::Warning && found.text.contains("12499999"), "{}", found.text);
    }

    #[test]
    fn more_memory_than_there_is_is_a_warning() {
        let Fixture { mut config, dir: _dir } = fixture();
        assert_eq!(memory(&config, 1), None);
        config.memory_max = Some(2 << 30);
        assert_eq!(memory(&config, 2 << 30), None);
        let found = memory(&config, 1 << 30).unwrap();
        assert!(found.weight == Weight::Warning && found.text.contains("1024 MiB"), "{}", found.text);
    }

    #[test]
    fn ports_that_this_relay_holds_are_no_problem() {
        let Fixture { config, dir: _dir } = fixture();
        ensure_private_dir(&config.data_dir).unwrap();
        let taken = vec![Finding::problem(Exit::Unavailable, "taken")];
        let says = || unless_it_runs(&config, taken.clone());
        assert_eq!(says(), taken);
        let control = std::os::unix::net::UnixListener::bind(control_path(&config.data_dir)).unwrap();
        assert_eq!(says()[0].weight, Weight::Fine);
        assert_eq!(unless_it_runs(&config, Vec::new()), []);
        drop(control);
        assert_eq!(says(), taken, "it has ended, and left its socket");
    }

    #[test]
    fn the_worst_comes_first() {
        let found = [Finding::warning("files"), Finding::fine("clock"), Finding::problem(Exit::Config, "x")];
        let texts = in_order(found.into()).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts, ["problem: x", "warning: files", "ok: clock"]);
    }
}
