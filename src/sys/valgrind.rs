//! Requests of a program to the valgrind it runs under, for tests that count instructions.
//!
//! Without valgrind they do nothing: the sequence of instructions leaves every register as it was. valgrind.h and
//! callgrind.h have the numbers.

/// Callgrind's counts begin anew.
const ZERO_STATS: usize = 0x4354_0001;
/// Callgrind writes its counts into a file that has this text in its head.
const DUMP_STATS_AT: usize = 0x4354_0003;
const RUNNING_ON_VALGRIND: usize = 0x1001;

pub fn is_running() -> bool {
    ask(RUNNING_ON_VALGRIND, 0) > 0
}

/// Counts the instructions of `work` under a name that the file of counts will have. The name must not have a NUL.
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
    // SAFETY: the four rotations are 128 bits together, so that rdi is as before, and a register that is exchanged with
    // itself too. Valgrind reads the words, and the text that an argument points to, both of which outlive this, and
    // writes rdx alone.
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
    // SAFETY: as above, with x12 and x10; x3 alone is written.
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
