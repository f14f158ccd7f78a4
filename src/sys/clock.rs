//! The clocks: the monotonic one for timers, the wall clock for logs.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Milliseconds of CLOCK_MONOTONIC.
pub fn monotonic_ms() -> u64 {
    monotonic_us() / 1000
}

/// Seconds of CLOCK_MONOTONIC.
pub fn monotonic_s() -> u64 {
    monotonic_ms() / 1000
}

/// Microseconds of CLOCK_MONOTONIC.
pub fn monotonic_us() -> u64 {
    match clock_gettime(ClockId::CLOCK_MONOTONIC) {
        Ok(time) => time.tv_sec() as u64 * 1_000_000 + time.tv_nsec() as u64 / 1000,
        Err(_) => 0, // cannot fail for this clock (clock_gettime(2))
    }
}

/// Seconds since 1970, at most a few milliseconds late, at half the cost of [`wall`].
pub fn wall_seconds() -> i64 {
    match clock_gettime(ClockId::CLOCK_REALTIME_COARSE) {
        Ok(time) => time.tv_sec(),
        Err(_) => wall().0,
    }
}

/// Milliseconds since 1970.
pub fn wall_ms() -> u64 {
    let (seconds, nanoseconds) = wall();
    seconds.unsigned_abs() * 1000 + u64::from(nanoseconds) / 1_000_000
}

/// Seconds since 1970 and nanoseconds.
pub fn wall() -> (i64, u32) {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => (since.as_secs() as i64, since.subsec_nanos()),
        Err(_) => (0, 0), // a clock before 1970
    }
}
