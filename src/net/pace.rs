//! A rate in bytes a second: how many may pass now, and how long to wait for more.
//!
//! Pure arithmetic on the loop's clock. Behaviour: nginx.org, `limit_rate`, `proxy_limit_rate`: the bytes of
//! one second may pass at once.

use std::task::{Context, Poll, ready};

use crate::base::frame::{Fields, put_option};
use crate::runtime::{self, Timer};

/// The bytes of a second come in this many parts, so that paced data flows evenly.
const PARTS: u64 = 10;

/// Counts the bytes that have passed against those that may.
#[derive(Debug)]
pub struct Pace {
    /// Bytes a second; not 0.
    rate: u64,
    /// Bytes that pass before the rate applies.
    free: u64,
    started_ms: u64,
    passed: u64,
    /// Only for turns: when the next one begins, in microseconds, since short turns take less than a tick.
    next_us: Option<u64>,
}

impl Pace {
    /// `None` for a rate of 0: no limit.
    pub fn new(rate: u64, free: u64) -> Option<Self> {
        (rate > 0).then(|| Self { rate, free, started_ms: runtime::now_ms(), passed: 0, next_us: None })
    }

    /// The rate of a stream, as nginx has it: the bytes of a second may pass at once, and then nothing passes for as long
    /// as they take at this rate.
    pub fn by_turns(rate: u64) -> Option<Self> {
        Some(Self { next_us: Some(0), ..Self::new(rate, 0)? })
    }

    /// Appends the rate and what has passed, for another process.
    pub fn save(&self, out: &mut Vec<u8>) {
        let now_ms = runtime::now_ms();
        for number in [self.rate, self.free, now_ms.saturating_sub(self.started_ms), self.passed] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        put_option(out, self.next_us.map(|next_us| next_us.saturating_sub(now_ms * 1000)));
    }

    /// Goes on with what [`Pace::save`] has written.
    pub fn restore(fields: &mut Fields<'_>) -> Option<Self> {
        let now_ms = runtime::now_ms();
        let rate = fields.u64().filter(|rate| *rate > 0)?;
        let (free, ago_ms, passed) = (fields.count()?, fields.u64()?, fields.count()?);
        let next_us = fields.option()?.map(|left_us| left_us.saturating_add(now_ms * 1000));
        Some(Self { rate, free, started_ms: now_ms.saturating_sub(ago_ms), passed, next_us })
    }

    /// The bytes that may pass now, at least 1, or, as the error, the milliseconds to wait for some.
    pub fn allowance(&self) -> Result<u64, u64> {
        if let Some(next_us) = self.next_us {
            return match next_us.saturating_sub(runtime::now_ms() * 1000) {
                0 => Ok(self.rate),
                us => Err(us.div_ceil(1000)),
            };
        }
        let elapsed_ms = runtime::now_ms().saturating_sub(self.started_ms);
        let earned = u128::from(self.rate) * u128::from(elapsed_ms + 1000) / 1000;
        let allowed = u64::try_from(earned).unwrap_or(u64::MAX).saturating_add(self.free);
        let part = (self.rate / PARTS).max(1);
        match allowed.saturating_sub(self.passed) {
            left if left >= part => Ok(left),
            left => Err(((part - left).saturating_mul(1000) / self.rate).max(1)),
        }
    }

    pub fn pass(&mut self, count: u64) {
        self.passed = self.passed.saturating_add(count);
        if let Some(next_us) = &mut self.next_us {
            let begun_us = (*next_us).max(runtime::now_ms() * 1000);
            *next_us = begun_us.saturating_add(count.saturating_mul(1_000_000) / self.rate);
        }
    }

    /// Ready with the number of bytes that may pass, once there are some.
    pub fn poll_wait(&self, cx: &mut Context<'_>, timer: &mut Timer) -> Poll<u64> {
        loop {
            match self.allowance() {
                Ok(count) => return Poll::Ready(count),
                Err(ms) => timer.set(runtime::now_ms() + ms),
            }
            ready!(timer.poll_expired(cx));
        }
    }
}
