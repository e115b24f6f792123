//! `tunic-relay init`: a commented configuration and keys for a new relay.
//!
//! 1. [`Flags`] say what the command line said; what it left out is asked where somebody can answer ([`ask`]).
//! 2. `render` writes the answers into the commented example.
//! 3. The file is made, then the directory with the keys. Nothing that is there is overwritten.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, bail, ensure};
use bytesize::ByteSize;
use clap::Args;
use serde::Deserialize;
use tunic_net::config::{AuthorityConfig, ConfigError};
use tunic_net::daemon::{Settings, unix_now};
use tunic_net::keys::NodeKeys;
use tunic_net::{keyfile, sandbox};
use tunic_proto::ids::RelayId;

use crate::config::{Config, EXAMPLE};

/// How often a question is asked again when the answer makes no sense.
const MAX_TRIES: usize = 5;
/// The configuration holds no secret, and whoever the daemon becomes has to read it.
const CONFIG_MODE: u32 = 0o644;

/// What `tunic-relay init` may be told on the command line.
#[derive(Debug, Clone, Default, Args)]
pub struct Flags {
    /// Where to write the configuration (TOML); must not be there yet
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// What people call the relay: 1 to 19 letters and digits
    #[arg(long)]
    pub nickname: Option<String>,
    /// How to reach you
    #[arg(long)]
    pub contact: Option<String>,
    /// Where others reach the relay, such as 198.51.100.7:9001; may be repeated
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub address: Vec<SocketAddr>,
    /// Bytes per second that the relay states it can carry, such as 12500000 or "12.5 MB"
    #[arg(long, value_name = "SIZE")]
    pub bandwidth: Option<ByteSize>,
    /// Bytes per second that it may move in each direction at the most, such as "10 MB"
    #[arg(long, value_name = "SIZE")]
    pub bandwidth_rate: Option<ByteSize>,
    /// Bytes that it may move at once after a pause; a second's worth if not given
    #[arg(long, value_name = "SIZE")]
    pub bandwidth_burst: Option<ByteSize>,
    /// Be an exit, with the reduced policy
    #[arg(long)]
    pub exit: bool,
    /// Where to keep keys and state
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// A file with the `[[authority]]` tables of your network, such as another relay's configuration
    #[arg(long, value_name = "FILE")]
    pub authorities: Option<PathBuf>,
    /// Who the relay becomes when it is started as root; owns the keys
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Ask nothing: what is not given is the default
    #[arg(long)]
    pub no_questions: bool,
}

/// What was made, and what is left to do.
#[derive(Debug)]
pub struct Made {
    /// Who the relay is.
    pub identity: RelayId,
    /// What has to be mended in the file before the relay can run.
    pub left: Vec<String>,
}

/// Makes configuration and keys.
///
/// # Errors
/// If the configuration is there already, an answer makes no sense, or a file cannot be made.
pub fn init(flags: &Flags) -> anyhow::Result<Made> {
    let authorities = flags.authorities.as_deref().map(authority_tables).transpose()?.unwrap_or_default();
    let text = render(flags, &authorities)?;
    let config: Config = tunic_net::config::parse(&text, EXAMPLE)?;
    let mut left = Settings::problems(&config);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(CONFIG_MODE)
        .open(&flags.config)
        .with_context(|| format!("{} is not written", flags.config.display()))?;
    file.write_all(text.as_bytes()).context("the configuration cannot be written")?;
    // Whatever the umask of whoever is at the keyboard.
    file.set_permissions(Permissions::from_mode(CONFIG_MODE))
        .context("the configuration cannot be written")?;
    if let Some(user) = &flags.user {
        sandbox::become_user(user, Some(&config.data_dir))?;
        left.extend(hidden_from(user, &flags.config));
    }
    keyfile::ensure_private_dir(&config.data_dir)?;
    let keys = NodeKeys::load_or_create(&config.key_dir(), unix_now())?;
    Ok(Made { identity: keys.signer.id(), left })
}

/// What keeps the user that this process has become from reading the configuration.
pub(crate) fn hidden_from(user: &str, file: &Path) -> Option<String> {
    let error = fs::File::open(file).err()?;
    let folder = sandbox::folder_of(file);
    let (folder, file) = (folder.display(), file.display());
    Some(format!("{user} cannot read it ({error}): chmod 755 {folder}, chmod 644 {file}"))
}

/// Asks for what the command line left out. An empty answer takes what is in brackets.
///
/// # Errors
/// If the answers end, or one makes no sense time and again.
pub fn ask(mut flags: Flags, answers: &mut impl BufRead, out: &mut impl Write) -> anyhow::Result<Flags> {
    let mut questions = Questions { answers, out };
    let example = Config::default();
    if flags.nickname.is_none() {
        let text = "Nickname, 1 to 19 letters and digits";
        flags.nickname = Some(questions.ask(text, &example.nickname)?);
    }
    if flags.contact.is_none() {
        let contact: String = questions.ask("How to reach you, such as a mail address", "")?;
        flags.contact = Some(contact).filter(|contact| !contact.is_empty());
    }
    if flags.address.is_empty() {
        let text = "Public address and port, such as 198.51.100.7:9001; several with commas between";
        flags.address = questions.ask::<Addresses>(text, "")?.0;
    }
    if flags.bandwidth.is_none() {
        let text = "Bytes per second that the relay states it can carry, such as 12.5 MB";
        flags.bandwidth = Some(questions.ask(text, &example.bandwidth.to_string())?);
    }
    if flags.bandwidth_rate.is_none() {
        let text = "Bytes per second that it may move in each direction at the most, such as 10 MB; or no";
        flags.bandwidth_rate = questions.ask::<Limit>(text, "no")?.0;
    }
    if !flags.exit {
        flags.exit = questions.ask::<YesOrNo>("Be an exit: connect to sites for others? yes or no", "no")?.0;
    }
    Ok(flags)
}

struct Questions<'a, R, W> {
    answers: &'a mut R,
    out: &'a mut W,
}

impl<R: BufRead, W: Write> Questions<'_, R, W> {
    fn ask<T: FromStr<Err: std::fmt::Display>>(
        &mut self,
        question: &str,
        default: &str,
    ) -> anyhow::Result<T> {
        for _ in 0..MAX_TRIES {
            write!(self.out, "{question} [{default}]: ")?;
            self.out.flush()?;
            let mut answer = String::new();
            ensure!(self.answers.read_line(&mut answer)? > 0, "the answers end before the questions");
            let answer = Some(answer.trim()).filter(|answer| !answer.is_empty()).unwrap_or(default);
            match answer.parse() {
                Ok(answer) => return Ok(answer),
                Err(error) => writeln!(self.out, "{answer:?}: {error}")?,
            }
        }
        bail!("no answer to this made sense: {question}")
    }
}

struct Addresses(Vec<SocketAddr>);

impl FromStr for Addresses {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(str::parse).collect::<Result<_, _>>().map(Addresses)
    }
}

struct Limit(Option<ByteSize>);

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "no" { Ok(Limit(None)) } else { text.parse().map(|size| Limit(Some(size))) }
    }
}

struct YesOrNo(bool);

impl FromStr for YesOrNo {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "yes" | "y" => Ok(YesOrNo(true)),
            "no" | "n" => Ok(YesOrNo(false)),
            _ => Err("say yes or no"),
        }
    }
}

/// The commented example with the answers in it.
///
/// # Errors
/// If an answer cannot stand in a configuration.
fn render(flags: &Flags, authorities: &[AuthorityConfig]) -> anyhow::Result<String> {
    let text = |value: &str| toml::Value::from(value).to_string();
    let path = |path: &Path| path.to_str().map(text).context("a path is no UTF-8");
    let mut settings: Vec<(&str, &str, String)> = Vec::new();
    settings.extend(flags.nickname.as_deref().map(|name| ("", "nickname", text(name))));
    settings.extend(flags.contact.as_deref().map(|contact| ("", "contact", text(contact))));
    if let Some(first) = flags.address.first() {
        let all: Vec<String> = flags.address.iter().map(|at| text(&at.to_string())).collect();
        settings.push(("", "address", format!("[{}]", all.join(", "))));
        let any = if flags.address.iter().any(SocketAddr::is_ipv6) { "[::]" } else { "0.0.0.0" };
        settings.push(("", "listen", text(&format!("{any}:{}", first.port()))));
    }
    let sizes = [
        ("bandwidth", flags.bandwidth),
        ("bandwidth_rate", flags.bandwidth_rate),
        ("bandwidth_burst", flags.bandwidth_burst),
    ];
    settings.extend(sizes.iter().filter_map(|(name, size)| Some(("", *name, (*size)?.0.to_string()))));
    if let Some(dir) = &flags.data_dir {
        settings.push(("", "data_dir", path(dir)?));
    }
    settings.extend(flags.user.as_deref().map(|user| ("service", "user", text(user))));
    if flags.exit {
        settings.push(("exit", "enabled", "true".to_owned()));
    }
    let mut written = set(EXAMPLE, settings)?;
    if !authorities.is_empty() {
        let tables = Tables { authority: authorities.to_vec() };
        written.push_str(&format!(
            "\n{}",
            toml::to_string(&tables).context("the authorities cannot be written")?
        ));
    }
    Ok(written)
}

/// The example with these lines replaced: table, key, value. Each is there once, perhaps commented out.
fn set(example: &str, mut settings: Vec<(&str, &str, String)>) -> anyhow::Result<String> {
    let (mut table, mut written) = ("", String::new());
    for line in example.lines() {
        let uncommented = line.strip_prefix('#').unwrap_or(line);
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            table = name;
        }
        let key = uncommented.split_once(" = ").map(|(key, _)| key);
        let place = settings.iter().position(|(of, name, _)| *of == table && Some(*name) == key);
        match place.map(|place| settings.swap_remove(place)) {
            Some((_, name, value)) => written.push_str(&format!("{name} = {value}\n")),
            None => written.push_str(&format!("{line}\n")),
        }
    }
    ensure!(settings.is_empty(), "the example lacks {settings:?}");
    Ok(written)
}

#[derive(serde::Serialize, Deserialize)]
struct Tables {
    #[serde(default)]
    authority: Vec<AuthorityConfig>,
}

fn authority_tables(path: &Path) -> anyhow::Result<Vec<AuthorityConfig>> {
    let length = fs::metadata(path).map(|file| file.len());
    let length = length.with_context(|| format!("{} cannot be read", path.display()))?;
    ensure!(length <= tunic_net::config::MAX_FILE_LEN, "{} is too long", path.display());
    let text = fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let tables: Tables = toml::from_str(&text).map_err(|error| ConfigError::Invalid {
        place: tunic_net::config::Place::default(),
        message: format!("{}: {error}", path.display()),
    })?;
    ensure!(!tables.authority.is_empty(), "{} has no [[authority]] table", path.display());
    Ok(tables.authority)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::sound;

    fn flags(dir: &Path) -> Flags {
        Flags {
            config: dir.join("relay.toml"),
            nickname: Some("flags".into()),
            address: vec!["8.8.8.8:443".parse().unwrap()],
            data_dir: Some(dir.join("data")),
            ..Flags::default()
        }
    }

    #[test]
    fn answers_stand_in_a_file_that_keeps_every_comment() {
        let all = Flags {
            contact: Some("a \"quoted\" contact".into()),
            address: vec!["8.8.8.8:443".parse().unwrap(), "[2001:4860::8]:443".parse().unwrap()],
            bandwidth: Some(ByteSize(7_000_000)),
            bandwidth_rate: Some(ByteSize(8_000_000)),
            exit: true,
            user: Some("somebody".into()),
            ..flags(Path::new("/nowhere"))
        };
        let text = render(&all, &sound().authorities).unwrap();
        let config: Config = tunic_net::config::parse(&text, EXAMPLE).unwrap();
        assert_eq!((config.nickname.as_str(), config.contact), ("flags", all.contact));
        assert_eq!((config.address, config.listen), (all.address, "[::]:443".parse().unwrap()));
        assert_eq!((config.bandwidth, config.data_dir), (7_000_000, "/nowhere/data".into()));
        assert_eq!((config.bandwidth_rate, config.bandwidth_burst), (Some(8_000_000), None));
        assert!(config.exit.effective_policy().is_exit());
        assert_eq!(config.service.user.as_deref(), Some("somebody"));
        assert_eq!(config.authorities, sound().authorities);
        let comments = |text: &str| text.lines().filter(|line| line.starts_with("# ")).count();
        assert_eq!(comments(&text), comments(EXAMPLE));
    }

    #[test]
    fn nothing_is_overwritten_and_keys_belong_to_their_owner() {
        let dir = tempfile::tempdir().unwrap();
        let flags = flags(dir.path());
        let made = init(&flags).unwrap();
        assert!(made.left.len() == 1 && made.left[0].contains("[[authority]]"), "{made:?}");
        let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("data"), 0o700);
        assert_eq!(mode("data/keys/identity.key"), 0o600);
        let before = fs::read(&flags.config).unwrap();
        let again = Flags { nickname: Some("other".into()), ..flags.clone() };
        let error = format!("{:#}", init(&again).unwrap_err());
        assert!(error.contains("is not written") && error.contains("exists"), "{error}");
        assert_eq!(fs::read(&flags.config).unwrap(), before);
        // Keys that are there already are this relay's.
        fs::remove_file(&flags.config).unwrap();
        assert_eq!(init(&flags).unwrap().identity, made.identity);
    }

    #[test]
    fn authorities_come_from_another_file() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("other.toml");
        let tables = Tables { authority: sound().authorities };
        fs::write(&other, format!("nickname = \"x\"\n{}", toml::to_string(&tables).unwrap())).unwrap();
        let flags = Flags { authorities: Some(other.clone()), ..flags(dir.path()) };
        assert_eq!(init(&flags).unwrap().left, Vec::<String>::new());
        fs::write(&other, "nickname = \"x\"\n").unwrap();
        assert!(format!("{:#}", authority_tables(&other).unwrap_err()).contains("no [[authority]]"));
    }

    #[track_caller]
    fn dialogue(answers: &str) -> (anyhow::Result<Flags>, String) {
        let mut said = Vec::new();
        let flags = ask(Flags::default(), &mut answers.as_bytes(), &mut said);
        (flags, String::from_utf8(said).unwrap())
    }

    #[test]
    fn what_the_command_line_left_out_is_asked() {
        let (flags, said) =
            dialogue("bob\nme@example.org\n8.8.8.8\n8.8.8.8:1, [::1]:2\n\n10 apples\n10 MB\nperhaps\nyes\n");
        let flags = flags.unwrap();
        assert_eq!(
            (flags.nickname.as_deref(), flags.contact.as_deref()),
            (Some("bob"), Some("me@example.org"))
        );
        assert_eq!((flags.address.len(), flags.bandwidth, flags.exit), (2, Some(ByteSize(12_500_000)), true));
        assert_eq!(flags.bandwidth_rate, Some(ByteSize::mb(10)));
        assert!(said.contains("\"10 apples\": "), "{said}");
        assert!(said.contains("\"perhaps\": say yes or no") && said.contains("\"8.8.8.8\": "), "{said}");
        assert!(dialogue("bob\n").0.unwrap_err().to_string().contains("the answers end"));
    }
}
