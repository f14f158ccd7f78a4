//! Where this process is: a signal makes its main thread write down the functions that it is in.
//!
//! The master asks a worker that does not answer. Only the worker itself can tell safely: a tracer would need privileges
//! that a container may lack, and would have to interpret memory that an attacker may have written. So the signal's
//! handler walks its own stack, looks the functions up in the symbol table of its own program, and writes their names
//! into shared memory, from where the master takes them as untrusted text (`shm/whereabouts.rs`).
//!
//! The handler may interrupt any instruction, so it allocates nothing, takes no lock, and waits for nothing but the
//! program's file. The unwinder finds its tables without a lock since glibc 2.35; before that the lock is one that the
//! same thread may take again. A thread that waits in the kernel runs the handler if a signal can wake it there; one
//! that waits for a disk, or is stopped, tells nothing, and its state says so.
//! Source: signal-safety(7), elf(5), Itanium C++ ABI (`_Unwind_Backtrace`).
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use libc::{SIGURG, c_int};

/// The signal. A process without a handler ignores it, and the kernel sends it only to those that ask for it.
const SIGNAL: c_int = SIGURG;

/// The most functions that are told, the innermost first.
const FRAMES_MAX: usize = 64;
/// The longest name that is looked up, in bytes. Longer ones are cut.
const NAME_BYTES_MAX: usize = 160;
/// The words of a report: the count of its bytes, and the bytes.
pub const WORDS: usize = 1024;
/// Bytes of the symbol table that are read at once.
const READ_BYTES: usize = 1024 * SYMBOL_BYTES;

/// Where the handler writes: the words of this process.
static REPORT: OnceLock<&'static [AtomicU64; WORDS]> = OnceLock::new();

// SAFETY: the signatures of the C++ ABI (<unwind.h>); the unwinder is linked to every program, since panics need it.
unsafe extern "C" {
    fn _Unwind_Backtrace(each: extern "C" fn(*mut c_void, *mut c_void) -> c_int, state: *mut c_void)
    -> c_int;
    fn _Unwind_GetIPInfo(context: *mut c_void, is_before: *mut c_int) -> usize;
}

/// Installs the handler, which writes into `report` from now on.
pub fn report_to(report: &'static [AtomicU64; WORDS]) -> io::Result<()> {
    let _ = REPORT.set(report);
    // SAFETY: the closure is safe in a signal handler, as the comment above says; it panics nowhere, since indexes are
    // checked by `get` and arithmetic wraps.
    unsafe { signal_hook::low_level::register(SIGNAL, write_down) }?;
    end_waiting()
}

/// Lets the signal end a system call that waits: one that a hostile process makes wait would go on after the handler.
fn end_waiting() -> io::Result<()> {
    // SAFETY: a sigaction of zeroes is valid, and both calls get a pointer to this one. The handler stays the one that was
    // registered, whose flags alone change.
    let outcome = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        match libc::sigaction(SIGNAL, std::ptr::null(), &raw mut action) {
            0 => {
                action.sa_flags &= !libc::SA_RESTART;
                libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut())
            }
            failed => failed,
        }
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the main thread of a process write down where it is. Errors: there is no such process.
pub fn ask(pid: i32, report: &[AtomicU64; WORDS]) -> io::Result<()> {
    report[0].store(0, Relaxed);
    // SAFETY: a plain system call. The main thread has the number of its process.
    match unsafe { libc::syscall(libc::SYS_tgkill, pid, pid, SIGNAL) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The report, a line for each function; `None`: there is none yet. Its bytes may be anything.
pub fn read(report: &[AtomicU64; WORDS]) -> Option<Vec<u8>> {
    let count = usize::try_from(report[0].load(Acquire)).ok()?.min((WORDS - 1) * 8);
    let mut bytes: Vec<u8> = report[1..].iter().flat_map(|word| word.load(Relaxed).to_le_bytes()).collect();
    bytes.truncate(count);
    (count > 0).then_some(bytes)
}

/// The stack of a thread: the addresses of its functions' next instructions.
struct Frames {
    list: [usize; FRAMES_MAX],
    count: usize,
    /// The interrupted function has been reached: those before it are the handler's.
    is_inside: bool,
}

extern "C" fn note(context: *mut c_void, state: *mut c_void) -> c_int {
    const GO_ON: c_int = 0; // _URC_NO_REASON
    const ENOUGH: c_int = 4; // _URC_NORMAL_STOP
    // SAFETY: `frames` is the value that `write_down` has passed, which nobody else refers to meanwhile.
    let frames = unsafe { &mut *state.cast::<Frames>() };
    let mut is_before = 0;
    // SAFETY: `context` is the unwinder's, valid during this call.
    let address = unsafe { _Unwind_GetIPInfo(context, &raw mut is_before) };
    // Only the interrupted function is about to run the instruction; the others have just called from the one before.
    frames.is_inside |= is_before != 0;
    if frames.is_inside {
        let Some(place) = frames.list.get_mut(frames.count) else { return ENOUGH };
        *place = if is_before != 0 { address } else { address.wrapping_sub(1) };
        frames.count += 1;
    }
    GO_ON
}

/// The signal's handler.
fn write_down() {
    let Some(report) = REPORT.get() else { return };
    // SAFETY: the location of this thread's errno, which the interrupted function may be about to read.
    let errno = unsafe { *libc::__errno_location() };
    let mut frames = Frames { list: [0; FRAMES_MAX], count: 0, is_inside: false };
    // SAFETY: `note` gets a pointer to `frames`, which outlives the call.
    unsafe { _Unwind_Backtrace(note, (&raw mut frames).cast()) };
    let mut names = [Found::default(); FRAMES_MAX];
    let addresses = frames.list.get(..frames.count).unwrap_or(&[]);
    let program = Program::open();
    if let Some(program) = &program {
        program.find(addresses, &mut names);
    }
    let mut out = Writer { report, count: 0 };
    for (address, found) in addresses.iter().zip(&names) {
        let mut name = [0; NAME_BYTES_MAX];
        match &program {
            Some(program) if found.bytes > 0 => out.put(program.name(found, &mut name)),
            // Without symbols, or in a library: the offset in the program, for addr2line(1).
            Some(program) => out.put_hex(address.wrapping_sub(program.base)),
            None => out.put_hex(*address),
        }
        out.put(b"\n");
    }
    report[0].store(out.count as u64, Release);
    drop(program);
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Writes bytes into the words behind the first.
struct Writer {
    report: &'static [AtomicU64; WORDS],
    count: usize,
}

impl Writer {
    fn put(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let Some(word) = self.report.get(1 + self.count / 8) else { return };
            let shift = self.count % 8 * 8;
            let rest = if shift == 0 { 0 } else { word.load(Relaxed) };
            word.store(rest | u64::from(*byte) << shift, Relaxed);
            self.count += 1;
        }
    }

    fn put_hex(&mut self, number: usize) {
        let mut digits = [0; 16];
        let mut left = number;
        let mut at = digits.len();
        while let Some(digit) = at.checked_sub(1).and_then(|at| digits.get_mut(at)) {
            *digit = *b"0123456789abcdef".get(left % 16).unwrap_or(&b'0');
            (left, at) = (left / 16, at - 1);
            if left == 0 {
                break;
            }
        }
        self.put(b"0x");
        self.put(digits.get(at..).unwrap_or(&[]));
    }
}

const HEADER_BYTES: usize = 64; // Elf64_Ehdr
const SECTION_BYTES: usize = 64; // Elf64_Shdr
const SYMBOL_BYTES: usize = 24; // Elf64_Sym
const SYMTAB: u32 = 2; // SHT_SYMTAB
const FUNCTION: u8 = 2; // STT_FUNC

/// The file of this program, with the places of its symbols in it.
struct Program {
    fd: c_int,
    /// The address at which the file's address 0 is in memory.
    base: usize,
    symbols: u64,
    symbol_bytes: u64,
    names: u64,
}

/// A symbol's name: where it is in the file.
#[derive(Clone, Copy, Default)]
struct Found {
    name: u32,
    /// Size of the function; 0: none was found.
    bytes: u64,
}

impl Program {
    /// `None`: the file cannot be read, or is no ELF file of 64 bits.
    fn open() -> Option<Self> {
        // SAFETY: a path that ends with zero. The descriptor is closed when it is dropped.
        let fd = unsafe { libc::open(c"/proc/self/exe".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
        if fd < 0 {
            return None;
        }
        let mut program = Self { fd, base: 0, symbols: 0, symbol_bytes: 0, names: 0 };
        let mut header = [0; HEADER_BYTES];
        program.read(0, &mut header);
        if header.first_chunk() != Some(b"\x7fELF\x02") {
            return None;
        }
        // SAFETY: takes no pointers. The program headers are in the first page of the file, and of its memory.
        let headers = unsafe { libc::getauxval(libc::AT_PHDR) } as usize;
        let is_movable = number::<2>(&header, 16) == 3; // ET_DYN
        if is_movable {
            program.base = headers.wrapping_sub(number::<8>(&header, 32) as usize);
        }
        let (sections, count) = (number::<8>(&header, 40), number::<2>(&header, 60));
        let section = |index: u64| {
            let mut bytes = [0; SECTION_BYTES];
            program.read(sections.wrapping_add(index * SECTION_BYTES as u64), &mut bytes);
            bytes
        };
        let symbols = (0..count).map(section).find(|bytes| number::<4>(bytes, 4) == u64::from(SYMTAB));
        if let Some(symbols) = symbols {
            let names = section(number::<4>(&symbols, 40));
            let places = (number::<8>(&symbols, 24), number::<8>(&symbols, 32), number::<8>(&names, 24));
            (program.symbols, program.symbol_bytes, program.names) = places;
        }
        Some(program)
    }

    /// Reads bytes at a place of the file; those behind its end are left as they are.
    fn read(&self, at: u64, bytes: &mut [u8]) -> usize {
        let at = libc::off_t::try_from(at).unwrap_or(libc::off_t::MAX);
        // SAFETY: the buffer has this length.
        let count = unsafe { libc::pread(self.fd, bytes.as_mut_ptr().cast(), bytes.len(), at) };
        usize::try_from(count).unwrap_or(0)
    }

    /// Finds the functions that have these addresses, in one pass over the symbols.
    fn find(&self, addresses: &[usize], found: &mut [Found; FRAMES_MAX]) {
        let mut buffer = [0; READ_BYTES];
        let mut at = 0;
        while at < self.symbol_bytes {
            let count = self.read(self.symbols.wrapping_add(at), &mut buffer);
            let (symbols, _) = buffer.get(..count).unwrap_or(&[]).as_chunks::<SYMBOL_BYTES>();
            if symbols.is_empty() {
                return;
            }
            for symbol in symbols.iter().filter(|symbol| symbol[4] & 15 == FUNCTION) {
                let start = number::<8>(symbol, 8);
                let bytes = number::<8>(symbol, 16);
                for (address, found) in addresses.iter().zip(found.iter_mut()) {
                    let offset = (address.wrapping_sub(self.base) as u64).wrapping_sub(start);
                    if offset < bytes {
                        *found = Found { name: number::<4>(symbol, 0) as u32, bytes };
                    }
                }
            }
            at += (symbols.len() * SYMBOL_BYTES) as u64;
        }
    }

    fn name<'a>(&self, found: &Found, buffer: &'a mut [u8; NAME_BYTES_MAX]) -> &'a [u8] {
        let count = self.read(self.names.wrapping_add(u64::from(found.name)), buffer);
        let name = buffer.get(..count).unwrap_or(&[]);
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        name.get(..end).unwrap_or(&[])
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours.
        unsafe { libc::close(self.fd) };
    }
}

/// A number of N bytes in the machine's order; 0 if it is not there.
fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let Some(field) = bytes.get(at..at.wrapping_add(N)) else { return 0 };
    let mut whole = [0; 8];
    let place = if cfg!(target_endian = "little") { whole.get_mut(..N) } else { whole.get_mut(8 - N..) };
    place.into_iter().for_each(|place| place.copy_from_slice(field));
    u64::from_ne_bytes(whole)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::AtomicBool;
    use std::sync::{Mutex, PoisonError};

    use super::*;

    static WORDS_OF_TEST: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];

    /// For one test at a time: a process has one report.
    static IN_USE: Mutex<()> = Mutex::new(());

    #[inline(never)]
    fn turns_round(is_over: &AtomicBool, turns: &AtomicU64) {
        while !is_over.load(Relaxed) {
            turns.store(turns.load(Relaxed).wrapping_add(1), Relaxed);
        }
    }

    #[test]
    fn a_thread_that_turns_round_tells_where() {
        let _alone = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        WORDS_OF_TEST[0].store(0, Relaxed);
        report_to(&WORDS_OF_TEST).expect("installed");
        let (is_over, turns) = (AtomicBool::new(false), AtomicU64::new(0));
        let text = std::thread::scope(|scope| {
            let (send, receive) = std::sync::mpsc::channel();
            let (is_over, turns) = (&is_over, &turns);
            scope.spawn(move || {
                // SAFETY: takes no arguments.
                send.send(unsafe { libc::syscall(libc::SYS_gettid) }).expect("received");
                turns_round(is_over, turns);
            });
            let thread = receive.recv().expect("sent");
            while turns.load(Relaxed) == 0 {
                std::thread::yield_now(); // it may still be sending
            }
            // The test's thread is not the main one, so it is asked by its own number.
            // SAFETY: a plain system call.
            unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, SIGNAL) };
            let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
            let bytes = loop {
                match read(&WORDS_OF_TEST) {
                    Some(bytes) => break bytes,
                    None => assert!(std::time::Instant::now() < end, "it says nothing"),
                }
                std::thread::yield_now();
            };
            is_over.store(true, Relaxed);
            String::from_utf8(bytes).expect("names of symbols")
        });
        let lines: Vec<_> = text.lines().collect();
        let at = lines.iter().position(|line| line.contains("turns_round")).expect(&text);
        assert!(at < 4, "the innermost function comes first: {text}");
        assert!(
            lines.iter().all(|line| !line.contains("write_down")),
            "the handler's own are left out: {text}"
        );
        assert!((2..=FRAMES_MAX).contains(&lines.len()), "{text}");
    }

    #[test]
    fn a_report_is_bounded_whatever_its_words_are() {
        let words: [AtomicU64; WORDS] = [const { AtomicU64::new(u64::MAX) }; WORDS];
        for count in [u64::MAX, 1 << 20] {
            words[0].store(count, Relaxed);
            assert_eq!(read(&words).map(|bytes| bytes.len()), Some((WORDS - 1) * 8));
        }
        words[0].store(3, Relaxed);
        assert!(read(&words) == Some(vec![0xff; 3]));
        words[0].store(0, Relaxed);
        assert_eq!(read(&words), None);
    }

    #[test]
    fn numbers_are_written_as_addr2line_reads_them() {
        static OUT: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];
        let mut out = Writer { report: &OUT, count: 0 };
        out.put_hex(0);
        out.put_hex(0x1f0e);
        out.put_hex(usize::MAX);
        OUT[0].store(out.count as u64, Relaxed);
        assert_eq!(read(&OUT).as_deref(), Some(&b"0x00x1f0e0xffffffffffffffff"[..]));
        out.put(&[b'a'; 2 * 8 * WORDS]);
        assert_eq!(out.count, (WORDS - 1) * 8, "it stops at the end");
    }

    #[test]
    fn a_call_that_waits_is_ended() {
        let _alone = IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        report_to(&WORDS_OF_TEST).expect("installed");
        let (mut socket, _peer) = UnixStream::pair().expect("a pair");
        std::thread::scope(|scope| {
            let (send, receive) = std::sync::mpsc::channel();
            let reader = scope.spawn(move || {
                // SAFETY: takes no arguments.
                send.send(unsafe { libc::syscall(libc::SYS_gettid) }).expect("received");
                socket.read(&mut [0]).expect_err("nobody writes").kind()
            });
            let thread = receive.recv().expect("sent");
            let stat = format!("/proc/self/task/{thread}/stat");
            while !reader.is_finished() {
                // Only while it sleeps: with one signal after the other it would not get as far.
                if std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") S ")) {
                    // SAFETY: a plain system call.
                    unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), thread, SIGNAL) };
                }
                std::thread::yield_now();
            }
            assert_eq!(reader.join().expect("it returned"), io::ErrorKind::Interrupted);
        });
    }
}
