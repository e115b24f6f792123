//! A relay from its start to its end.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tunic_net::channel::{Node, NodeConfig, Places};
use tunic_net::config::{ConfigError, Place};
use tunic_net::daemon::{RunOptions, Settings, Status, listen, open_file_limit, unix_now, watch};
use tunic_net::keyfile::ensure_private_dir;
use tunic_net::keys::NodeKeys;
use tunic_net::processor;
use tunic_proto::dir::AuthoritySet;
use tunic_proto::padding::{Limits, PaddingRole};

use super::accountant::Accountant;
use super::authorities::Authorities;
use super::clock;
use super::connector::Connector;
use super::control;
use super::counters::Counters;
use super::dns::Dns;
use super::fetcher::Fetcher;
use super::keyring::KeyRing;
use super::memory;
use super::metrics::Sources;
use super::pages::Pages;
use super::publisher::Publisher;
use super::resolver::Resolver;
use super::responder::RelayResponder;
use super::view::SharedView;
use crate::config::{Config, ExitConfig, Ipv6};
use crate::core::directory_view::DirectoryView;
use crate::core::exit::ExitRules;
use crate::core::files::Shares;
use crate::core::memory::queue_budget;

/// How long circuits and channels may take to end.
const GRACE: Duration = Duration::from_secs(5);
/// How often the relay looks after its keys and says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(60 * 60);
/// With less time left than this on the signing certificate, the operator is told to restart the relay.
const CERTIFICATE_WARNING: Duration = Duration::from_secs(4 * 24 * 60 * 60);

/// Runs a relay until `shutdown` completes; then takes no more circuits, gives those that there are
/// [`Config::drain_s`] seconds, and ends them and its channels.
///
/// # Errors
/// If the settings are wrong ([`ConfigError`]), keys cannot be used, or the address cannot be listened at.
pub async fn run(
    config: Config,
    options: RunOptions,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let (_running, settings) = watch::channel(config);
    run_with(settings, options, shutdown).await
}

/// As [`run`], with settings that may change meanwhile: those of [`Settings::RELOADABLE`].
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    settings: watch::Receiver<Config>,
    options: RunOptions,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let config = settings.borrow().clone();
    let listener = listen(&options, config.listen, "listen")?;
    let listening = listener.local_addr().context("the listening socket has no address")?;
    if let Some(message) = config.problems(Some(listening)).into_iter().next() {
        return Err(ConfigError::Invalid { place: Place::default(), message }.into());
    }
    let pages = Pages::bind(&config, &options)?;
    let relay = Relay::new(settings, options, listening)?;
    let mut tasks = relay.start();
    pages.serve(relay.sources(), &mut tasks);
    control::start(relay.sources(), &mut tasks);
    let mut serving = Box::pin(relay.node.serve(listener));
    relay.options.tell(Status::Listening(listening));
    relay.accountant.remind();
    tracing::info!("listening on port {}", listening.port());
    if let Some(consensus) = relay.view.read().current(unix_now()) {
        let relays = consensus.relays.len();
        tracing::info!("starting with the stored consensus: {relays} relays");
        relay.options.tell(Status::Consensus { relays });
    }
    tokio::select! {
        () = shutdown => {}
        () = &mut serving => bail!("channels are no longer accepted"),
        _ = tasks.join_next() => bail!("a task of the relay ended"),
    }
    relay.end(serving).await;
    Ok(())
}

/// What channels and streams get of the open files that the system allows.
fn shares(config: &Config) -> Shares {
    let wanted = config.wanted_files();
    let limit = open_file_limit();
    let shares = wanted.within(limit);
    if let Some(limit) = limit.filter(|_| shares != wanted) {
        let Shares { incoming, outgoing, streams } = shares;
        tracing::warn!(
            "the system allows {limit} open files: at most {incoming} incoming channels, {outgoing} outgoing ones and {streams} \
             streams at a time. Raise it with LimitNOFILE= or ulimit -n"
        );
    }
    shares
}

struct Relay {
    settings: watch::Receiver<Config>,
    options: RunOptions,
    addresses: Vec<SocketAddr>,
    own: Vec<SocketAddr>,
    connector: Arc<Connector>,
    places: Arc<Places>,
    keys: Arc<KeyRing>,
    view: Arc<SharedView>,
    counters: Arc<Counters>,
    node: Node,
    padding: Arc<Limits>,
    memory_max: u64,
    accountant: Arc<Accountant>,
    changed: Arc<Notify>,
}

impl Relay {
    fn new(
        settings: watch::Receiver<Config>,
        options: RunOptions,
        listening: SocketAddr,
    ) -> anyhow::Result<Self> {
        let config = settings.borrow().clone();
        ensure_private_dir(&config.data_dir)?;
        let keys = NodeKeys::load_or_create(&config.key_dir(), unix_now())?;
        let keys = Arc::new(KeyRing::new(keys, config.key_dir()));
        let authorities = AuthoritySet::new(config.authorities.iter().map(|authority| authority.identity));
        let view = DirectoryView::new(keys.signer().id(), authorities, config.allow_private_relays);
        let view = Arc::new(SharedView::new(view, config.data_dir.join("consensus")));
        view.load(unix_now())?;
        let addresses = config.advertised(listening);
        let own = [addresses.as_slice(), &[listening]].concat();
        let rules = rules(&config, &own);
        let dns = Dns::new(&config.exit).context("names cannot be resolved")?;
        let counters = Arc::new(Counters::default());
        let resolver = Resolver::new(dns, Arc::clone(&counters.dns));
        if rules.is_exit() {
            tokio::spawn(tell_complaint(resolver.clone()));
        }
        let shares = shares(&config);
        let connector = Arc::new(Connector::new(rules, Arc::clone(&view), resolver));
        let places = Places::new(shares.streams);
        let responder = RelayResponder::new(
            Arc::clone(&connector),
            Arc::clone(&view),
            Arc::clone(&keys),
            Arc::clone(&counters),
            Arc::clone(&places),
        );
        let memory_max = memory::max(&config);
        tracing::info!("memory: up to {} MiB", memory_max >> 20);
        tracing::info!("cells are sealed with {}", processor::layer_cipher());
        let node = Node::new(NodeConfig {
            signer: Some(keys.signer()),
            responder: Some(Arc::new(responder)),
            memory_budget: queue_budget(config.memory_budget, memory_max),
        })
        .context("TLS cannot be set up")?;
        let padding = Limits::new(config.padding.limits(&view.params()));
        node.set_padding(PaddingRole::Relay(Arc::clone(&padding), Arc::default()));
        node.limits().set_channels(shares.incoming, shares.outgoing);
        node.limits().set_overrides(config.limits.clone());
        node.traffic().set_limit(config.throughput());
        if let Some(consensus) = view.read().current(unix_now()) {
            node.limits().set_consensus(&consensus.params);
        }
        let changed = Arc::new(Notify::new());
        let accountant = Accountant::new(&config, node.clone(), options.clone(), Arc::clone(&changed))?;
        Ok(Relay {
            settings,
            options,
            addresses,
            own,
            connector,
            places,
            keys,
            view,
            counters,
            node,
            padding,
            memory_max,
            accountant: Arc::new(accountant),
            changed,
        })
    }

    fn sources(&self) -> Sources {
        Sources {
            settings: self.settings.clone(),
            keys: Arc::clone(&self.keys),
            view: Arc::clone(&self.view),
            counters: Arc::clone(&self.counters),
            node: self.node.clone(),
            memory_max: self.memory_max,
            accountant: Arc::clone(&self.accountant),
            started: unix_now(),
        }
    }

    /// Starts what runs beside serving; dropping the set ends it.
    fn start(&self) -> JoinSet<()> {
        let authorities =
            Arc::new(Authorities::new(self.node.clone(), self.settings.borrow().authorities.clone()));
        let mut tasks = JoinSet::new();
        let publisher = Publisher {
            settings: self.settings.clone(),
            addresses: self.addresses.clone(),
            keys: Arc::clone(&self.keys),
            authorities: Arc::clone(&authorities),
            node: self.node.clone(),
            changed: Arc::clone(&self.changed),
            options: self.options.clone(),
        };
        tasks.spawn(publisher.run());
        tasks.spawn(memory::watch(self.node.clone(), self.memory_max));
        tasks.spawn(Arc::clone(&self.accountant).run(self.settings.clone()));
        let fetcher = Fetcher {
            authorities,
            node: self.node.clone(),
            view: Arc::clone(&self.view),
            unlisted: Arc::clone(&self.changed),
            padding: (self.settings.borrow().padding.clone(), Arc::clone(&self.padding)),
            options: self.options.clone(),
        };
        tasks.spawn(fetcher.run());
        let heartbeat = Heartbeat {
            keys: Arc::clone(&self.keys),
            view: Arc::clone(&self.view),
            counters: Arc::clone(&self.counters),
            node: self.node.clone(),
            changed: Arc::clone(&self.changed),
            started: clock(),
        };
        tasks.spawn(heartbeat.run());
        let reloads = Reloads {
            settings: self.settings.clone(),
            lookups: self.settings.borrow().exit.clone(),
            own: self.own.clone(),
            connector: Arc::clone(&self.connector),
            places: Arc::clone(&self.places),
            keys: Arc::clone(&self.keys),
            node: self.node.clone(),
            changed: Arc::clone(&self.changed),
        };
        tasks.spawn(reloads.run());
        tasks
    }

    /// The end in order, as far as the operator waits for it. Meanwhile connections are still accepted, so that whoever
    /// calls is told at once to look elsewhere.
    async fn end(&self, serving: impl Future<Output = ()>) {
        let limit = self.settings.borrow().drain();
        let drained = self.node.drain(limit);
        let (circuits, seconds) = (self.node.circuit_count(), limit.as_secs());
        tracing::info!("ending: no new circuits; {circuits} have up to {seconds} s");
        let grace = tokio::select! {
            () = drained => GRACE,
            () = serving => GRACE,
            () = self.options.hurry.ordered() => Duration::ZERO,
        };
        tracing::info!("ending: closing circuits");
        self.node.shutdown(grace).await;
        self.accountant.end();
    }
}

fn rules(config: &Config, own: &[SocketAddr]) -> ExitRules {
    ExitRules::new(config.exit.effective_policy(), config.exit.allow_private, own)
        .preferring_ipv6(config.exit.ipv6 == Ipv6::Prefer)
}

/// Takes over what the operator changes while the relay runs.
struct Reloads {
    settings: watch::Receiver<Config>,
    /// By which names are looked up.
    lookups: ExitConfig,
    own: Vec<SocketAddr>,
    connector: Arc<Connector>,
    places: Arc<Places>,
    keys: Arc<KeyRing>,
    node: Node,
    changed: Arc<Notify>,
}

impl Reloads {
    async fn run(mut self) {
        while self.settings.changed().await.is_ok() {
            self.allow();
            match self.keys.read_signer(unix_now()) {
                Ok(Some(signer)) => {
                    self.node.set_signer(signer);
                    tracing::info!("a new signing certificate is in use");
                }
                Ok(None) => {}
                Err(error) => tracing::error!("the signing key cannot be read: {error}"),
            }
            self.changed.notify_one();
        }
        // These settings are for good.
        std::future::pending().await
    }

    fn allow(&mut self) {
        let config = self.settings.borrow_and_update();
        self.connector.set_rules(rules(&config, &self.own));
        let shares = shares(&config);
        self.places.set_limit(shares.streams);
        self.node.limits().set_channels(shares.incoming, shares.outgoing);
        self.node.limits().set_overrides(config.limits.clone());
        self.node.traffic().set_limit(config.throughput());
        if !config.exit.looks_up_like(&self.lookups) {
            tracing::warn!(
                "names are looked up as before: what `exit.ipv6` and `exit.allow_private` mean for them, only a restart changes"
            );
        }
    }
}

/// Tells the operator, once, if the name servers are of no use.
async fn tell_complaint(resolver: Resolver<Dns>) {
    if let Some(complaint) = resolver.upstream().complaint().await {
        tracing::warn!("{complaint}");
    }
}

/// Looks after the keys and says that the relay lives.
struct Heartbeat {
    keys: Arc<KeyRing>,
    view: Arc<SharedView>,
    counters: Arc<Counters>,
    node: Node,
    changed: Arc<Notify>,
    started: Instant,
}

impl Heartbeat {
    async fn run(self) {
        self.look_after_keys();
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            self.look_after_keys();
            let hours = clock().duration_since(self.started).as_secs() / 3600;
            let relays = self.view.read().current(unix_now()).map_or(0, |consensus| consensus.relays.len());
            let (channels, refused) = (self.node.channel_count(), self.node.counters());
            tracing::info!(
                "up {hours} h; consensus: {relays} relays; {channels} channels; {}; refused by kind: {refused}",
                self.counters
            );
        }
    }

    fn look_after_keys(&self) {
        let now = unix_now();
        match self.keys.rotate(now) {
            Ok(true) => self.changed.notify_one(),
            Ok(false) => {}
            Err(error) => tracing::error!("the onion key could not be replaced: {error}"),
        }
        match self.keys.renew_signer(now) {
            Ok(Some(signer)) => {
                self.node.set_signer(signer);
                self.changed.notify_one();
            }
            Ok(None) => {}
            Err(error) => tracing::error!("the signing key could not be renewed: {error}"),
        }
        let left = self.keys.certificate_left(now);
        if left < CERTIFICATE_WARNING {
            let hours = left.as_secs() / 3600;
            tracing::warn!(
                "the signing certificate ends in {hours} h: renew it with the identity key and put both files in place"
            );
        }
    }
}
