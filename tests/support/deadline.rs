//! The deadline for every wait of a test, and the one loop that polls for conditions without an event.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The longest that any wait of a test may take: `PRONGHORN_TEST_DEADLINE` seconds, or else 30. A loaded
/// machine is slow, and only a failing test waits that long.
pub fn deadline() -> Duration {
    static DEADLINE: OnceLock<Duration> = OnceLock::new();
    *DEADLINE.get_or_init(|| {
        let seconds = std::env::var("PRONGHORN_TEST_DEADLINE").ok().and_then(|text| text.parse().ok());
        Duration::from_secs(seconds.unwrap_or(30))
    })
}

/// Calls `look` until it finds something, which is returned; panics with `what` when the deadline has passed.
pub fn wait_for<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_at_most(deadline(), look).unwrap_or_else(|| panic!("waited {:?} in vain for {what}", deadline()))
}

/// Calls `look` until it finds something; `None` when `limit` has passed without that.
pub fn wait_at_most<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
