//! Requests of a program to the Valgrind that runs it, for tests that count instructions.
//!
//! Without Valgrind they do nothing: the sequence of instructions leaves every register unchanged. The
//! numbers come from valgrind.h and callgrind.h.

/// Resets Callgrind's counts.
const ZERO_STATS: usize = 0x4354_0001;
/// Makes Callgrind write its counts into a file with this text in its header.
const DUMP_STATS_AT: usize = 0x4354_0003;
const RUNNING_ON_VALGRIND: usize = 0x1001;

pub fn is_running() -> bool {
    ask(RUNNING_ON_VALGRIND, 0) > 0
}

/// Counts the instructions of `work`; the file of counts carries this name, which must not contain a NUL.
pub fn count<T>(name: &str, work: impl FnOnce() -> T) -> T {
    let name = [name.as_bytes(), b"\0"].concat();
    ask(ZERO_STATS, 0);
    let result = work();
    ask(DUMP_STATS_AT, name.as_ptr().addr());
    result
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
fn ask(request: usize, argument: usize) -> usize {
    let words = [request, argument, 0, 0, 0, 0];
    let answer;
    // SAFETY: the four rotations add up to 128 bits, so that rdi ends as it began, and exchanging a register
    // with itself changes nothing. Valgrind reads the words, and the text that the argument points to, which
    // both outlive the call; it writes only rdx.
    unsafe {
        std::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") words.as_ptr(),
            inout("rdx") 0usize => answer,
        );
    }
    answer
}

#[cfg(target_arch = "aarch64")]
#[allow(unsafe_code)]
fn ask(request: usize, argument: usize) -> usize {
    let words = [request, argument, 0, 0, 0, 0];
    let answer;
    // SAFETY: as above, with x12 and x10; only x3 is written.
    unsafe {
        std::arch::asm!(
            "ror x12, x12, #3",
            "ror x12, x12, #13",
            "ror x12, x12, #51",
            "ror x12, x12, #61",
            "orr x10, x10, x10",
            in("x4") words.as_ptr(),
            inout("x3") 0usize => answer,
        );
    }
    answer
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn ask(_: usize, _: usize) -> usize {
    0
}
