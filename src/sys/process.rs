//! What a process is: its title, limits, priority, processors, user; forking, waiting, replacing itself.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsString, c_char, c_int};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Group, Pid, User};

/// The memory of argv and, behind it, of the environment, where the title is written.
static AREA: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
/// Bytes of argv alone, and with the environment.
static ARGUMENT_BYTES: AtomicUsize = AtomicUsize::new(0);
static AREA_BYTES: AtomicUsize = AtomicUsize::new(0);
/// Whether nothing of the environment is left in the area.
static IS_MOVED: AtomicBool = AtomicBool::new(false);

type Strings = *mut *mut c_char;

// SAFETY: glibc calls what stands in this section with the arguments of main, which is the signature here.
#[used]
#[unsafe(link_section = ".init_array")]
static REMEMBER: extern "C" fn(c_int, Strings, Strings) = remember;

/// glibc calls the functions of .init_array with main's arguments; std keeps no way to the original memory.
extern "C" fn remember(argc: c_int, argv: Strings, environment: Strings) {
    if argc < 1 || argv.is_null() || environment.is_null() {
        return;
    }
    // SAFETY: both are arrays of valid C strings that end with a null pointer (execve(2)); the strings lie one
    // after the other, and are only measured here.
    unsafe {
        let first = (*argv).cast::<u8>();
        let arguments_end = end_of_row(argv, first);
        let end = end_of_row(environment, arguments_end);
        AREA.store(first, Ordering::Relaxed);
        ARGUMENT_BYTES.store(arguments_end.offset_from(first) as usize, Ordering::Relaxed);
        AREA_BYTES.store(end.offset_from(first) as usize, Ordering::Relaxed);
    }
}

/// Where the strings that lie in a row from `start` on end.
///
/// # Safety
/// `strings` is an array of C strings that ends with a null pointer.
unsafe fn end_of_row(strings: Strings, start: *mut u8) -> *mut u8 {
    let mut end = start;
    for index in 0.. {
        // SAFETY: the null pointer that ends the array ends this loop; each pointer before it is a C string.
        unsafe {
            let string = (*strings.add(index)).cast::<u8>();
            if string.is_null() || string != end {
                return end;
            }
            end = string.add(CStr::from_ptr(string.cast()).to_bytes_with_nul().len());
        }
    }
    end
}

/// Moves the environment elsewhere, so that titles have its room too. Called while the process has one thread.
pub fn make_room_for_titles() {
    let all: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    set_environment(&all);
    IS_MOVED.store(true, Ordering::Relaxed);
}

/// Sets what `ps` shows. A title longer than there is room for is cut.
pub fn set_title(title: &str) {
    // A title that reaches the last byte of argv makes the kernel read on into the environment's memory, up to
    // the zero that ends it (proc(5)); one within argv ends there.
    let room = if IS_MOVED.load(Ordering::Relaxed) { &AREA_BYTES } else { &ARGUMENT_BYTES };
    let (area, size) = (AREA.load(Ordering::Relaxed), room.load(Ordering::Relaxed));
    if area.is_null() || size == 0 {
        return;
    }
    let length = title.len().min(size - 1);
    // SAFETY: AREA is the process's own memory of `size` bytes, writable and never freed. std copied the
    // arguments before main, and the environment is elsewhere when its memory counts as room.
    unsafe {
        std::ptr::copy_nonoverlapping(title.as_ptr(), area, length);
        std::ptr::write_bytes(area.add(length), 0, size - length);
    }
}

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Forked {
    Parent { child: i32 },
    Child,
}

/// Forks. Errors: more than one thread runs (a lock another one holds would stay locked for ever), or fork(2)'s.
pub fn fork() -> io::Result<Forked> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        return Err(io::Error::other(format!("{threads} threads run in a process that is about to fork")));
    }
    // SAFETY: the process has one thread, checked above, so the child's copy of memory is consistent.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Forked::Parent { child: child.as_raw() }),
        ForkResult::Child => Ok(Forked::Child),
    }
}

/// Forks a process that belongs to whoever looks after orphans: the first process, or a service manager. Errors: as
/// `fork`, or the process in between could not fork.
pub fn fork_detached() -> io::Result<Forked> {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    match fork()? {
        Forked::Child => match fork() {
            Ok(Forked::Child) => Ok(Forked::Child),
            Ok(Forked::Parent { child }) => {
                let _ = File::from(write).write_all(&child.to_ne_bytes());
                exit_at_once(0)
            }
            Err(_) => exit_at_once(1),
        },
        Forked::Parent { child: between } => {
            drop(write);
            let mut bytes = [0; 4];
            let told = File::from(read).read_exact(&mut bytes);
            // It has nothing more to do, and is gone when this returns: the new process has its new parent.
            while waitpid(Pid::from_raw(between), None) == Err(nix::Error::EINTR) {}
            told.map(|()| Forked::Parent { child: i32::from_ne_bytes(bytes) })
        }
    }
}

/// Ends this process as soon as its parent has ended; at once where it has already.
pub fn die_with(parent: i32) {
    let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    if nix::unistd::getppid().as_raw() != parent {
        exit_at_once(1);
    }
}

/// Kills a child and collects it. Nobody may have collected it before.
pub fn end_child(pid: i32) {
    let _ = nix::sys::signal::kill(Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    while waitpid(Pid::from_raw(pid), None) == Err(nix::Error::EINTR) {}
}

/// Ends this process without what belongs to the one it was forked from: buffers, handlers of the exit.
pub fn exit_at_once(code: i32) -> ! {
    // SAFETY: takes no pointers and does not return.
    unsafe { libc::_exit(code) }
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Exited(i32),
    Signaled { number: i32, core: bool },
}

/// Collects one child that has ended; `None` when there is none now.
pub fn reap() -> Option<(i32, Ended)> {
    loop {
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => return Some((pid.as_raw(), Ended::Exited(code))),
            Ok(WaitStatus::Signaled(pid, signal, core)) => {
                return Some((pid.as_raw(), Ended::Signaled { number: signal as i32, core }));
            }
            Ok(WaitStatus::StillAlive) | Err(nix::Error::ECHILD) => return None,
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(_) => return None,
        }
    }
}

/// Replaces this process by a program, which inherits exactly `fds`. Returns only on failure.
pub fn exec(
    program: &Path,
    arguments: &[OsString],
    environment: &[CString],
    fds: &[BorrowedFd<'_>],
) -> io::Error {
    let outcome = (|| {
        for fd in fds {
            nix::fcntl::fcntl(*fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
        }
        let program = CString::new(program.as_os_str().as_bytes())?;
        let arguments: Result<Vec<CString>, _> =
            arguments.iter().map(|a| CString::new(a.as_bytes())).collect();
        nix::unistd::execve(&program, &arguments?, environment)?;
        Ok(())
    })();
    match outcome {
        Ok(()) => io::Error::other("execve() returned"),
        Err(error) => error,
    }
}

/// Takes over a descriptor by number, as an environment variable names it; `None` when it is not open.
pub fn inherited(number: RawFd) -> Option<OwnedFd> {
    if number <= 2 {
        return None;
    }
    // SAFETY: the number is only used when fcntl says that it is open; the caller names each one once, at
    // start, before anything else could own it.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC)).ok()?;
    // SAFETY: as above.
    Some(unsafe { OwnedFd::from_raw_fd(fd.as_raw_fd()) })
}

/// Closes every descriptor from 3 on but these: what the starter, or the process it was forked from, left open.
///
/// For a process that has just begun: the caller has dropped, or lists, whatever owns a descriptor and lives on.
pub fn close_others(keep: &[RawFd]) {
    let mut kept: Vec<u32> = keep.iter().filter_map(|number| u32::try_from(*number).ok()).collect();
    kept.sort_unstable();
    let mut first = 3;
    for number in kept.into_iter().filter(|number| *number > 2).chain([u32::MAX]) {
        if first < number && close_range(first, number - 1).is_err() {
            return close_listed(keep);
        }
        first = number.saturating_add(1);
    }
}

/// The same for a kernel without close_range(2).
fn close_listed(keep: &[RawFd]) {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers: Vec<RawFd> =
        entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2 && !keep.contains(number)) {
        // SAFETY: as in `close_range`; closing the directory's own descriptor a second time is an EBADF.
        unsafe { nix::libc::close(number) };
    }
}

/// close_range(2): of kernel 5.9.
fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: the numbers belong to nobody who goes on, as the caller of `close_others` sees to.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Redirects a standard stream to what `target` refers to.
pub fn redirect(target: BorrowedFd<'_>, stream: RawFd) -> io::Result<()> {
    // SAFETY: dup2 of two valid descriptor numbers; 0, 1 and 2 belong to the process, not to a Rust owner.
    if unsafe { nix::libc::dup2(target.as_raw_fd(), stream) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Clears the environment but for these variables. Called while the process has one thread.
pub fn set_environment(keep: &[(OsString, OsString)]) {
    // One that no name may have (`=x=y`) came from the starter: nothing could name it, so it goes.
    let has_name = |(name, value): &&(OsString, OsString)| {
        let (name, value) = (name.as_bytes(), value.as_bytes());
        !name.is_empty() && !name.contains(&b'=') && !name.contains(&0) && !value.contains(&0)
    };
    // SAFETY: the process has one thread yet, so nobody reads the environment meanwhile.
    unsafe {
        libc::clearenv();
        for (name, value) in keep.iter().filter(has_name) {
            std::env::set_var(name, value);
        }
    }
}

/// Raises RLIMIT_NOFILE (both limits) to `count`.
pub fn set_nofile(count: u64) -> io::Result<()> {
    Ok(setrlimit(Resource::RLIMIT_NOFILE, count, count)?)
}

/// Raises the soft limit of open files to the hard one.
pub fn raise_nofile() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Files are created without these permission bits from now on.
pub fn set_umask(bits: u32) {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(bits));
}

pub fn nofile() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}

/// RLIMIT_CORE, and permission to dump where the user changes.
pub fn set_core(bytes: u64) -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, bytes, bytes)?;
    Ok(nix::sys::prctl::set_dumpable(true)?)
}

/// The scheduling priority, -20 to 20.
pub fn set_priority(nice: i32) -> io::Result<()> {
    // SAFETY: a plain system call on this process.
    if unsafe { nix::libc::setpriority(nix::libc::PRIO_PROCESS, 0, nice) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Binds this process to processors.
pub fn set_affinity(cpus: impl IntoIterator<Item = usize>) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(cpu)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// The processors that this process may run on.
pub fn allowed_cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return Vec::new() };
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect()
}

pub fn cpu_count() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A user and group to run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user: CString,
    pub uid: u32,
    pub gid: u32,
}

/// Looks a user up, and the group (the user's own unless named). Errors: the name that is unknown.
pub fn identity(user: &str, group: Option<&str>) -> Result<Identity, String> {
    let found = User::from_name(user).ok().flatten().ok_or_else(|| format!("getpwnam(\"{user}\") failed"))?;
    let gid = match group {
        Some(name) => {
            Group::from_name(name).ok().flatten().ok_or_else(|| format!("getgrnam(\"{name}\") failed"))?.gid
        }
        None => found.gid,
    };
    let user = CString::new(user).map_err(|_| format!("getpwnam(\"{user}\") failed"))?;
    Ok(Identity { user, uid: found.uid.as_raw(), gid: gid.as_raw() })
}

/// Becomes this user for good. `keeps_raw`: with CAP_NET_RAW, and no other capability.
pub fn become_user(identity: &Identity, keeps_raw: bool) -> io::Result<()> {
    if keeps_raw {
        nix::sys::prctl::set_keepcaps(true)?;
    }
    let gid = Gid::from_raw(identity.gid);
    nix::unistd::setgid(gid)?;
    nix::unistd::initgroups(&identity.user, gid)?;
    nix::unistd::setuid(identity.uid.into())?;
    if keeps_raw {
        set_capabilities(1 << CAP_NET_RAW)?;
    }
    Ok(())
}

const CAP_NET_RAW: u32 = 13; // linux/capability.h
const CAPABILITY_VERSION: u32 = 0x2008_0522; // _LINUX_CAPABILITY_VERSION_3: two words of each set

/// Sets the capabilities of the calling thread, permitted and effective, to these of the first 32.
fn set_capabilities(bits: u32) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let header = Header { version: CAPABILITY_VERSION, pid: 0 };
    let data = [Data { effective: bits, permitted: bits, inheritable: 0 }, Data::default()];
    // SAFETY: both live until the call returns, and have the layout that version 3 asks for (capset(2)).
    match unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

pub fn pid() -> i32 {
    nix::unistd::getpid().as_raw()
}

/// Whether files can be made in a folder. Errors: it is not there, or belongs to others.
pub fn may_write(folder: &Path) -> io::Result<()> {
    use nix::unistd::AccessFlags;
    // "" is the current directory.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    Ok(nix::unistd::access(folder, AccessFlags::W_OK | AccessFlags::X_OK)?)
}

/// A process that is no child of ours, held by a descriptor: its number may become another process's, this does not.
#[derive(Debug)]
pub struct ProcessFd(OwnedFd);

/// pidfd_open(2). Errors: there is no such process.
pub fn open(pid: i32) -> io::Result<ProcessFd> {
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just made it for us; it is closed on exec.
    Ok(ProcessFd(unsafe { OwnedFd::from_raw_fd(fd) }))
}

impl ProcessFd {
    /// Readable once the process has ended.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Whether it has ended, be it that nobody has asked for its exit status yet.
    pub fn has_ended(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }
}

/// The state letter and name of a process, as /proc tells: `T (stopped)`.
pub fn state(pid: i32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("State:")).unwrap_or("gone").trim().to_string()
}
