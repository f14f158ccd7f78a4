//! Processes: title, limits, priority, CPU affinity, user; fork, wait and exec.

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

/// The memory of argv, followed by that of the environment: the title is written there.
static AREA: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
/// Bytes of argv alone.
static ARGUMENT_BYTES: AtomicUsize = AtomicUsize::new(0);
/// Bytes of argv and the environment.
static AREA_BYTES: AtomicUsize = AtomicUsize::new(0);
/// The environment has been moved out of the area.
static IS_MOVED: AtomicBool = AtomicBool::new(false);

type Strings = *mut *mut c_char;

// SAFETY: glibc calls the functions in this section with main's arguments, which is the signature here.
#[used]
#[unsafe(link_section = ".init_array")]
static REMEMBER: extern "C" fn(c_int, Strings, Strings) = remember;

/// Remembers where argv and the environment lie. std gives no access to that memory later.
extern "C" fn remember(argc: c_int, argv: Strings, environment: Strings) {
    if argc < 1 || argv.is_null() || environment.is_null() {
        return;
    }
    // SAFETY: both are arrays of valid C strings that end with a null pointer (execve(2)). The strings are
    // only measured here.
    unsafe {
        let first = (*argv).cast::<u8>();
        let arguments_end = end_of_row(argv, first);
        let end = end_of_row(environment, arguments_end);
        AREA.store(first, Ordering::Relaxed);
        ARGUMENT_BYTES.store(arguments_end.offset_from(first) as usize, Ordering::Relaxed);
        AREA_BYTES.store(end.offset_from(first) as usize, Ordering::Relaxed);
    }
}

/// The end of the strings, as far as they lie one after the other from `start` on.
///
/// # Safety
/// `strings` is an array of C strings that ends with a null pointer.
unsafe fn end_of_row(strings: Strings, start: *mut u8) -> *mut u8 {
    let mut end = start;
    for index in 0.. {
        // SAFETY: the loop ends at the array's null pointer; each pointer before it is a C string.
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

/// Moves the environment elsewhere, so that titles can use its memory too. Call while the process has one
/// thread.
pub fn make_room_for_titles() {
    let all: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    set_environment(&all);
    IS_MOVED.store(true, Ordering::Relaxed);
}

/// Sets the title that `ps` shows. It is truncated to the available room.
pub fn set_title(title: &str) {
    // A title that reaches the last byte of argv makes the kernel read on into the environment's memory up to
    // the next zero (proc(5)); a shorter one ends within argv.
    let room = if IS_MOVED.load(Ordering::Relaxed) { &AREA_BYTES } else { &ARGUMENT_BYTES };
    let (area, size) = (AREA.load(Ordering::Relaxed), room.load(Ordering::Relaxed));
    if area.is_null() || size == 0 {
        return;
    }
    let length = title.len().min(size - 1);
    // SAFETY: AREA is `size` bytes of the process's own memory, writable and never freed. std copied the
    // arguments before main, and the environment has been moved if its memory counts as room.
    unsafe {
        std::ptr::copy_nonoverlapping(title.as_ptr(), area, length);
        std::ptr::write_bytes(area.add(length), 0, size - length);
    }
}

/// The side of a fork that is running.
#[derive(Debug)]
pub enum Forked {
    Parent { child: i32 },
    Child,
}

/// Forks. Errors: more than one thread runs (a lock held by another thread would stay locked forever in the
/// child), or those of fork(2).
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

/// Forks a process that is not our child: it is adopted by init or by a service manager (a subreaper).
/// Errors: as `fork`, or the intermediate process could not fork.
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
            // Wait until the intermediate process is gone, so that the new process has been adopted.
            while waitpid(Pid::from_raw(between), None) == Err(nix::Error::EINTR) {}
            told.map(|()| Forked::Parent { child: i32::from_ne_bytes(bytes) })
        }
    }
}

/// Makes this process end when its parent does; ends it at once if the parent is gone already.
pub fn die_with(parent: i32) {
    let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    if nix::unistd::getppid().as_raw() != parent {
        exit_at_once(1);
    }
}

/// Kills a child and reaps it. It must not have been reaped before.
pub fn end_child(pid: i32) {
    let _ = nix::sys::signal::kill(Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    while waitpid(Pid::from_raw(pid), None) == Err(nix::Error::EINTR) {}
}

/// Ends this process without flushing buffers or running exit handlers, which it has inherited from its
/// parent.
pub fn exit_at_once(code: i32) -> ! {
    // SAFETY: takes no pointers and does not return.
    unsafe { libc::_exit(code) }
}

/// The way a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Exited(i32),
    Signaled { number: i32, core: bool },
}

/// Reaps one child that has ended; `None` if there is none now.
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

/// Replaces this process by a program, which inherits `fds` in addition to the standard streams. Returns only
/// on failure.
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

/// Takes ownership of an inherited descriptor by its number, which came in an environment variable. `None` if
/// it is not open, or is a standard stream.
pub fn inherited(number: RawFd) -> Option<OwnedFd> {
    if number <= 2 {
        return None;
    }
    // SAFETY: fcntl checks that the number is open; the caller passes each one once, at start-up, before
    // anything else could own it.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC)).ok()?;
    // SAFETY: as above.
    Some(unsafe { OwnedFd::from_raw_fd(fd.as_raw_fd()) })
}

/// Closes every descriptor from 3 on except these: those that a parent, or the program that started us, left
/// open.
///
/// For a process that has just started: any owner of a descriptor that lives on must be listed in `keep`.
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
        // SAFETY: as in `close_range`. Closing the descriptor of the directory a second time only gives
        // EBADF.
        unsafe { nix::libc::close(number) };
    }
}

/// close_range(2), since Linux 5.9.
fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: no owner of these descriptors lives on; the caller of `close_others` sees to that.
    match unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Redirects a standard stream to the open file of `target`.
pub fn redirect(target: BorrowedFd<'_>, stream: RawFd) -> io::Result<()> {
    // SAFETY: dup2 of two valid descriptor numbers; 0, 1 and 2 belong to the process, not to a Rust owner.
    if unsafe { nix::libc::dup2(target.as_raw_fd(), stream) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Clears the environment except for these variables. Call while the process has one thread.
pub fn set_environment(keep: &[(OsString, OsString)]) {
    // An entry without a valid name (`=x=y`), which the parent may have passed, cannot be set and is dropped.
    let has_name = |(name, value): &&(OsString, OsString)| {
        let (name, value) = (name.as_bytes(), value.as_bytes());
        !name.is_empty() && !name.contains(&b'=') && !name.contains(&0) && !value.contains(&0)
    };
    // SAFETY: the process still has one thread, so no other code reads the environment meanwhile.
    unsafe {
        libc::clearenv();
        for (name, value) in keep.iter().filter(has_name) {
            std::env::set_var(name, value);
        }
    }
}

/// Sets RLIMIT_NOFILE (both limits) to `count`.
pub fn set_nofile(count: u64) -> io::Result<()> {
    Ok(setrlimit(Resource::RLIMIT_NOFILE, count, count)?)
}

/// Raises the soft limit on open files to the hard one.
pub fn raise_nofile() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// The largest number of open files that this process may give itself: its hard limit.
pub fn nofile_max() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(_, hard)| hard)
}

/// Number of files that this process has open.
pub fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(64, Iterator::count)
}

/// Sets the umask: files are created without these permission bits from now on.
pub fn set_umask(bits: u32) {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(bits));
}

pub fn nofile() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft)
}

/// Sets RLIMIT_CORE, and allows core dumps after a change of user.
pub fn set_core(bytes: u64) -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, bytes, bytes)?;
    Ok(nix::sys::prctl::set_dumpable(true)?)
}

/// Lets no other process of the same user read this one's memory, and lets the kernel write none of it into a
/// core file.
pub fn hide_memory() -> io::Result<()> {
    Ok(nix::sys::prctl::set_dumpable(false)?)
}

/// Sets the scheduling priority, -20 to 20.
pub fn set_priority(nice: i32) -> io::Result<()> {
    // SAFETY: a plain system call on this process.
    if unsafe { nix::libc::setpriority(nix::libc::PRIO_PROCESS, 0, nice) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Puts this thread behind all others of its process, and of other processes with the same priority: while they are busy it
/// gets a tenth of their time.
pub fn give_way() {
    // SAFETY: a number in and out; on Linux it concerns the calling thread alone (nice(2)). It fails for no lower priority.
    let _ = unsafe { nix::libc::nice(GIVE_WAY) };
}

/// Ten steps of 1.25 each.
const GIVE_WAY: i32 = 10;

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

/// Looks up a user, and a group (by default the user's own). Errors: a name is unknown, in nginx's words.
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

/// Changes to this user, for good. `keeps_raw` keeps CAP_NET_RAW and no other capability.
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

/// Sets the permitted and effective capabilities of the calling thread; `bits` are the first 32.
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

/// The process that has started this one, while it lives.
pub fn parent_pid() -> i32 {
    nix::unistd::getppid().as_raw()
}

/// True if there is a process of this number, whoever it belongs to.
pub fn is_alive(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 0) else { return false };
    !matches!(nix::sys::signal::kill(Pid::from_raw(pid), None), Err(nix::errno::Errno::ESRCH))
}

pub fn pid() -> i32 {
    nix::unistd::getpid().as_raw()
}

/// Checks that files can be created in a directory. Errors: it does not exist, or we lack permission.
pub fn may_write(folder: &Path) -> io::Result<()> {
    use nix::unistd::AccessFlags;
    // "" is the current directory.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    Ok(nix::unistd::access(folder, AccessFlags::W_OK | AccessFlags::X_OK)?)
}

/// A process that is not our child, held by a pidfd: a number may be reused for another process, a descriptor
/// cannot.
#[derive(Debug)]
pub struct ProcessFd(OwnedFd);

/// Opens a process (pidfd_open(2)). Errors: there is no such process.
pub fn open(pid: i32) -> io::Result<ProcessFd> {
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel has just created it for us; it is closed on exec.
    Ok(ProcessFd(unsafe { OwnedFd::from_raw_fd(fd) }))
}

impl ProcessFd {
    /// Readable once the process has ended.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Whether the process has ended, even if it has not been reaped.
    pub fn has_ended(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }
}

/// The state of a process as /proc shows it: `T (stopped)`, with the function of the kernel that it waits in, if the
/// kernel tells that.
pub fn state(pid: i32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let state = status.lines().find_map(|line| line.strip_prefix("State:")).unwrap_or("gone").trim();
    match std::fs::read_to_string(format!("/proc/{pid}/wchan")) {
        Ok(function) if !matches!(&*function, "" | "0") => format!("{state} in the kernel's {function}"),
        _ => state.to_owned(),
    }
}
