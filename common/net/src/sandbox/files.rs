//! Which files a daemon may open, by Landlock (Linux 5.13; later versions confine more).

use landlock::{
    ABI, Access, AccessFs, BitFlags, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
    Scope, path_beneath_rules,
};

use super::{Hold, Paths, folder_of};
use crate::daemon::lock_path;

/// The newest version of Landlock that this was written against; older kernels enforce what they know of it.
const VERSION: ABI = ABI::V6;

/// What the system's libraries and the runtime read: the resolver's files, name service modules, the number of cores,
/// this process's own figures.
const SYSTEM: &[&str] = &[
    "/etc",
    // Often a link to somewhere else, such as what the folders of /run below hold; a link is followed when it is opened.
    "/etc/resolv.conf",
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/proc/self",
    "/proc/stat",
    "/proc/meminfo",
    "/proc/cpuinfo",
    "/proc/uptime",
    "/proc/sys",
    "/sys/fs/cgroup",
    "/sys/devices/system",
    "/dev/urandom",
    "/dev/random",
];

/// Nothing is executed from anywhere, and no signal goes to a process outside.
pub(super) fn confine(paths: &Paths) -> Result<Hold, RulesetError> {
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = AccessFs::from_all(VERSION) & !BitFlags::from(AccessFs::Execute);
    let folders = paths.sockets.iter().map(|socket| folder_of(socket));
    let locks = paths.sockets.iter().map(|socket| lock_path(socket));
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(VERSION))?
        .scope(Scope::Signal)?
        .create()?
        .add_rules(path_beneath_rules(SYSTEM, read))?
        .add_rules(path_beneath_rules(["/dev/null"], AccessFs::ReadFile | AccessFs::WriteFile))?
        .add_rules(path_beneath_rules(&paths.read, read))?
        .add_rules(path_beneath_rules(&paths.write, write))?
        .add_rules(path_beneath_rules(folders, AccessFs::MakeSock | AccessFs::RemoveFile))?
        .add_rules(path_beneath_rules(locks, AccessFs::WriteFile))?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Hold::Full,
        RulesetStatus::PartiallyEnforced => Hold::Partial,
        RulesetStatus::NotEnforced => Hold::None("this kernel has no Landlock".to_owned()),
    })
}
