//! Which system calls a daemon may make, by seccomp.
//!
//! 1. What only an intruder asks for — running a program, tracing, modules, mounts, entering namespaces — ends the process.
//! 2. What a daemon needs is allowed, some of it with certain arguments only.
//! 3. `clone3` fails with `ENOSYS`: its arguments lie in memory, where no filter looks, and libraries do with `clone`.
//! 4. Everything else fails with `EPERM`. It does not end the process: a library that tries something new, and does
//!    without when it is refused, must not become a way to stop relays from afar.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

/// Why system calls cannot be confined.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallsError {
    #[error("there is no filter for {}", std::env::consts::ARCH)]
    Architecture,
    #[error("the filter cannot be made: {0}")]
    Filter(seccompiler::BackendError),
    #[error("this kernel refuses: {0}")]
    Kernel(seccompiler::Error),
}

pub(super) fn confine() -> Result<(), CallsError> {
    let arch = std::env::consts::ARCH.try_into().map_err(|_| CallsError::Architecture)?;
    let deadly = DEADLY.iter().map(|call| (*call, Vec::new())).collect();
    let deadly = compile(deadly, SeccompAction::Allow, SeccompAction::KillProcess, arch)?;
    let unknown = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let unknown = compile(unknown, SeccompAction::Allow, errno(libc::ENOSYS), arch)?;
    let allowed =
        compile(allowed().map_err(CallsError::Filter)?, errno(libc::EPERM), SeccompAction::Allow, arch)?;
    // The kernel asks all filters and takes the strictest answer. Once the last one holds, there is no further one.
    for filter in [&deadly, &unknown, &allowed] {
        apply_filter(filter).map_err(CallsError::Kernel)?;
    }
    Ok(())
}

fn errno(error: i32) -> SeccompAction {
    SeccompAction::Errno(error.cast_unsigned())
}

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

fn compile(
    rules: Rules,
    others: SeccompAction,
    these: SeccompAction,
    arch: TargetArch,
) -> Result<BpfProgram, CallsError> {
    let filter = SeccompFilter::new(rules, others, these, arch).map_err(CallsError::Filter)?;
    filter.try_into().map_err(CallsError::Filter)
}

/// An empty list of rules allows the call with any arguments; else one of the rules has to fit.
fn allowed() -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = ALWAYS.iter().chain(LEGACY).map(|call| (*call, Vec::new())).collect();
    let one_of = |argument, values: &[u64]| -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
        values.iter().map(|value| SeccompRule::new(vec![equals(argument, *value)?])).collect()
    };
    let mut sockets = one_of(0, &SOCKETS.map(i64::from).map(i64::cast_unsigned))?;
    sockets.push(SeccompRule::new(vec![equals(0, NETLINK.0)?, equals(2, NETLINK.1)?])?);
    rules.insert(libc::SYS_socket, sockets);
    rules.insert(libc::SYS_ioctl, one_of(1, &IOCTLS)?);
    // No memory is writable and executable at once, or becomes executable later. (A file that was written can still be mapped.)
    let without = |bits: i32| SeccompRule::new(vec![lacks(2, bits.cast_unsigned().into())?]);
    rules.insert(libc::SYS_mmap, vec![without(libc::PROT_WRITE)?, without(libc::PROT_EXEC)?]);
    rules.insert(libc::SYS_mprotect, vec![without(libc::PROT_EXEC)?]);
    // Threads, but no namespaces.
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![lacks(0, NAMESPACES)?])?]);
    Ok(rules)
}

fn equals(argument: u8, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

fn lacks(argument: u8, bits: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(bits), 0)
}

/// Unix sockets for the service manager and applications, IP for the network.
const SOCKETS: [i32; 3] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6];

/// The family and protocol of the netlink sockets by which the resolver learns which addresses this machine has. (The
/// other protocols are ways into more of the kernel.)
const NETLINK: (u64, u64) = (libc::AF_NETLINK as u64, libc::NETLINK_ROUTE as u64);

/// The flags by which `clone` makes namespaces; that of a new time namespace is no flag of `clone`.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// Blocking or not, bytes to read, close on exec, and whether this is a terminal and how wide.
const IOCTLS: [u64; 5] = [libc::FIONBIO, libc::FIONREAD, libc::FIOCLEX, libc::TCGETS, libc::TIOCGWINSZ];

const DEADLY: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_reboot,
    libc::SYS_open_by_handle_at,
];

const ALWAYS: &[c_long] = &[
    // Files.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_flock,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_mkdirat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_utimensat,
    libc::SYS_umask,
    libc::SYS_fcntl,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    // Sockets.
    libc::SYS_socketpair,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    // Waiting.
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    libc::SYS_signalfd4,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mlock,
    libc::SYS_munlock,
    libc::SYS_mincore,
    libc::SYS_membarrier,
    // Threads.
    // Refused by a filter of its own; this one must not be stricter.
    libc::SYS_clone3,
    libc::SYS_set_tid_address,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Signals. Landlock and the kernel's own rules say to whom.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_kill,
    libc::SYS_tgkill,
    // Itself and its machine.
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getgroups,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_capget,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_getrlimit,
    libc::SYS_getrusage,
    libc::SYS_times,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrandom,
];

/// Older forms of the same calls, which libraries still use where they exist.
#[cfg(target_arch = "x86_64")]
const LEGACY: &[c_long] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_unlink,
    libc::SYS_mkdir,
    libc::SYS_chmod,
    libc::SYS_dup2,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_inotify_init,
    libc::SYS_time,
    libc::SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const LEGACY: &[c_long] = &[];
