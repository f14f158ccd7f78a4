//! The peer with the lowest time for its connections and its weight (`least_time`).
//!
//! `header` and `last_byte` estimate as nginx does: a moving average of the time to the head or to the end of
//! the response, in steps of 20 ms, times the connections in use and one more. With `inflight` the mean time
//! of the requests that are still waiting counts if it is higher. A peer that was left alone for its
//! `fail_timeout` seems twice as fast after each further one, so that it gets another chance.
//!
//! `ewma` ("peak EWMA", as in Finagle) is our own: the moving average of the time to the head, in
//! microseconds, which follows a slow response at once and forgets it by halves every five seconds.
//!
//! In a group with `zone` all workers share the averages; the requests that wait are each worker's own. Of
//! equal peers round robin chooses. Behaviour: nginx.org, least_time of ngx_http_upstream_module.

use crate::upstream::balance::{Eligible, Time, least_conn};
use crate::upstream::load::Load;

/// Times beyond this are equally bad.
const TIME_MS_MAX: u64 = 5_000;
/// Times within one step are equal.
const STEP_MS: u64 = 20;

pub(super) fn pick(eligible: &Eligible<'_>, time: Time, inflight: bool) -> Option<usize> {
    let usable = eligible.usable();
    if inflight {
        usable.iter().for_each(|load| {
            eligible
                .peer(load.index)
                .into_iter()
                .for_each(|peer| peer.timing().average_waiting(eligible.now_ms()));
        });
    }
    let conns = eligible.all_conns();
    let cost = |load: Load<'_>| cost(eligible, load.index, conns[load.index], time, inflight);
    least_conn::least(eligible, usable.iter(), cost)
}

/// The estimated time until a peer with `conns` connections in use has answered its present requests and another one.
pub(super) fn cost(eligible: &Eligible<'_>, index: usize, conns: i64, time: Time, inflight: bool) -> i64 {
    let Some(peer) = eligible.peer(index) else { return i64::MAX };
    let now_ms = eligible.now_ms();
    let one = match time {
        Time::Ewma => peer.peak_us(now_ms).saturating_add(1),
        Time::Header | Time::LastByte => {
            let mut average_ms = peer.average_us(time) / 1000;
            average_ms = average_ms.checked_shr(peer.timeouts_alone(now_ms)).unwrap_or(0);
            if inflight && let Some(waiting_ms) = peer.timing().waiting_ms() {
                average_ms = average_ms.max(waiting_ms);
            }
            if average_ms > TIME_MS_MAX { TIME_MS_MAX } else { average_ms + STEP_MS - average_ms % STEP_MS }
        }
    };
    i64::try_from(one).unwrap_or(i64::MAX).saturating_mul(1 + conns)
}
