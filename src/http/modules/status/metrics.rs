//! The metrics that there are: names, kinds and meanings, and where each value comes from.
//!
//! JSON, Prometheus' text and the manual are written from these tables. Names follow Prometheus' conventions
//! (prometheus.io, "Metric and label naming"): base units, `_total` for what only grows. Touches: shared memory.

use crate::cache::status::{Status, Sum};
use crate::http::modules::status::view::{Cache, Named, Peer, Process, Upstream, Worker};
use crate::shm::counter::{Slot, Total, Word, total};
use crate::shm::detail::Detail;
use crate::shm::gauges::Present;
use crate::shm::heartbeat;

/// The way in which a value changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, over reloads and upgrades too.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// One number about an `E`.
pub struct Metric<E> {
    /// Its name in Prometheus' text, after `pronghorn_` and the name of what it is about.
    pub name: &'static str,
    /// Its key in JSON.
    pub key: &'static str,
    pub kind: Kind,
    pub help: &'static str,
    /// Seconds are given in microseconds.
    pub value: fn(&E) -> Value,
}

/// A value with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    Number(u64),
    /// Written as seconds.
    Us(u64),
}

const fn counter<E>(
    name: &'static str,
    key: &'static str,
    value: fn(&E) -> Value,
    help: &'static str,
) -> Metric<E> {
    Metric { name, key, kind: Kind::Counter, help, value }
}

const fn gauge<E>(
    name: &'static str,
    key: &'static str,
    value: fn(&E) -> Value,
    help: &'static str,
) -> Metric<E> {
    Metric { name, key, kind: Kind::Gauge, help, value }
}

/// Counts of a zone or an upstream by another label, such as the status.
pub struct Split {
    pub name: &'static str,
    pub key: &'static str,
    pub label: &'static str,
    pub help: &'static str,
    pub values: fn(Detail) -> Vec<(String, u64)>,
}

/// A histogram of a zone or an upstream.
pub struct Times {
    pub name: &'static str,
    pub key: &'static str,
    pub help: &'static str,
    /// Its number in the detail.
    pub number: usize,
}

#[rustfmt::skip]
pub static SPLITS: &[Split] = &[
    Split { name: "responses_by_status_total", key: "statuses", label: "status", help: "Responses, or sessions, by their status.",
        values: |detail| detail.statuses().map(|(status, count)| (status.to_string(), count)).collect() },
    Split { name: "requests_by_protocol_total", key: "protocols", label: "protocol", help: "Requests, or sessions, by the protocol of the client.",
        values: |detail| detail.protocols().map(|(name, count)| (name.to_owned(), count)).collect() },
    Split { name: "requests_by_end_total", key: "ends", label: "end",
        help: "Requests, or sessions, by the side that ended them and how, the first part of $termination_reason; ok is a complete response.",
        values: |detail| detail.ends().map(|(name, count)| (name.to_owned(), count)).collect() },
];

#[rustfmt::skip]
pub static ZONE_TIMES: &[Times] = &[
    Times { name: "duration_seconds", key: "duration", help: "Time from the first byte of a request to the end of its response, or of a session.", number: 0 },
];

#[rustfmt::skip]
pub static UPSTREAM_TIMES: &[Times] = &[
    Times { name: "connect_duration_seconds", key: "connect", help: "Time to connect to a server of the upstream.", number: 0 },
    Times { name: "header_duration_seconds", key: "header", help: "Time from the choice of a server to the end of its response head.", number: 1 },
    Times { name: "response_duration_seconds", key: "response", help: "Time from the choice of a server to the end of its response.", number: 2 },
];

fn of(slot: Option<Slot>, word: Word) -> Value {
    Value::Number(slot.map_or(0, |slot| slot.get(word)))
}

fn us_of(slot: Option<Slot>, word: Word) -> Value {
    Value::Us(slot.map_or(0, |slot| slot.get(word)))
}

fn sum(of: Total) -> Value {
    Value::Number(total(of))
}

#[rustfmt::skip]
pub static PROCESS: &[Metric<Process>] = &[
    counter("connections_accepted_total", "connections_accepted", |_| sum(Total::Accepted), "Client connections that have been accepted."),
    counter("connections_handled_total", "connections_handled", |_| sum(Total::Handled), "Client connections that have been served."),
    counter("connections_reused_total", "connections_reused", |_| sum(Total::Reused),
        "Idle connections that were asked to close because others needed their places."),
    counter("requests_total", "requests", |_| sum(Total::Requests), "Requests of clients."),
    gauge("connections_active", "connections_active", |_| sum(Total::Active), "Client connections now, including idle ones."),
    gauge("connections_reading", "connections_reading", |_| sum(Total::Reading), "Connections whose request head is being read."),
    gauge("connections_writing", "connections_writing", |_| sum(Total::Writing), "Connections whose request is being answered."),
    gauge("connections_waiting", "connections_waiting", |_| sum(Total::Waiting), "Idle connections."),
    gauge("memory_drawn_bytes", "memory_drawn_bytes", |_| sum(Total::Drawn), "Memory that requests draw from their budgets."),
    counter("memory_degraded_total", "memory_degraded", |_| sum(Total::Degraded), "Requests that had to make do with less memory."),
    counter("tls_handshakes_total", "tls_handshakes", |_| sum(Total::Handshakes), "TLS handshakes with clients that succeeded."),
    counter("tls_handshakes_resumed_total", "tls_handshakes_resumed", |_| sum(Total::Resumed), "Those of them that resumed a session."),
    counter("tls_handshakes_failed_total", "tls_handshakes_failed", |_| sum(Total::HandshakesFailed), "TLS handshakes with clients that failed."),
    counter("tls_no_certificate_total", "tls_no_certificate", |_| sum(Total::VerifyNoCertificate), "TLS clients without the certificate that they must have."),
    counter("tls_certificates_expired_total", "tls_certificates_expired", |_| sum(Total::VerifyExpired),
        "Certificates of clients and upstreams that were refused since they have expired."),
    counter("tls_certificates_revoked_total", "tls_certificates_revoked", |_| sum(Total::VerifyRevoked), "Those that are revoked."),
    counter("tls_certificates_other_name_total", "tls_certificates_other_name", |_| sum(Total::VerifyOtherName),
        "Certificates of upstreams for another name than the one asked for."),
    counter("tls_certificates_refused_total", "tls_certificates_refused", |_| sum(Total::VerifyOther),
        "Certificates of clients and upstreams that were refused for another reason."),
    gauge("loop_turn_max_seconds", "loop_turn_max_seconds", |_| Value::Us(heartbeat::longest_turn_us()),
        "The longest turn of an event loop of any running worker."),
];

#[rustfmt::skip]
pub static WORKER: &[Metric<Worker>] = &[
    counter("connections_accepted_total", "connections_accepted", |w| w.total(Total::Accepted),
        "Client connections that the workers of this lane have accepted."),
    counter("requests_total", "requests", |w| w.total(Total::Requests), "Requests that the workers of this lane have answered."),
    gauge("connections_active", "connections_active", |w| w.total(Total::Active), "Client connections of the worker now."),
    gauge("connections_waiting", "connections_waiting", |w| w.total(Total::Waiting), "Idle connections of the worker."),
    gauge("full", "full", |w| Value::Number(u64::from(w.heartbeat.is_full)), "1 if the worker can take no more connections."),
    gauge("loop_turn_max_seconds", "loop_turn_max_seconds", |w| Value::Us(w.longest_turn_us), "The longest turn of the worker's event loop."),
];

/// The responses of servers, zones, upstreams and peers.
#[rustfmt::skip]
pub static RESPONSES: &[Metric<Option<Slot>>] = &[
    counter("requests_total", "requests", |slot| of(*slot, Word::Requests), "Requests that have been answered."),
    counter("responses_1xx_total", "responses_1xx", |slot| of(*slot, Word::Status1xx), "Responses with a status from 100 to 199."),
    counter("responses_2xx_total", "responses_2xx", |slot| of(*slot, Word::Status2xx), "Responses with a status from 200 to 299."),
    counter("responses_3xx_total", "responses_3xx", |slot| of(*slot, Word::Status3xx), "Responses with a status from 300 to 399."),
    counter("responses_4xx_total", "responses_4xx", |slot| of(*slot, Word::Status4xx), "Responses with a status from 400 to 499."),
    counter("responses_5xx_total", "responses_5xx", |slot| of(*slot, Word::Status5xx), "Responses with a status from 500 to 599."),
];

/// The clients of servers and zones.
#[rustfmt::skip]
pub static CLIENTS: &[Metric<Option<Slot>>] = &[
    counter("received_bytes_total", "received_bytes", |slot| of(*slot, Word::BytesIn), "Bytes received from clients."),
    counter("sent_bytes_total", "sent_bytes", |slot| of(*slot, Word::BytesOut), "Bytes sent to clients."),
    counter("tls_handshakes_total", "tls_handshakes", |slot| of(*slot, Word::HANDSHAKES), "TLS handshakes with clients that succeeded."),
    counter("tls_handshakes_failed_total", "tls_handshakes_failed", |slot| of(*slot, Word::HANDSHAKES_FAILED), "Those that failed."),
    counter("tls_handshakes_resumed_total", "tls_handshakes_resumed", |slot| of(*slot, Word::RESUMED), "Those that resumed a session."),
    counter("tls_clients_refused_total", "tls_clients_refused", |slot| of(*slot, Word::VERIFY_FAILED), "TLS clients whose certificate is refused or missing."),
];

/// The sessions of servers of mail.
#[rustfmt::skip]
pub static MAIL: &[Metric<Option<Slot>>] = &[
    counter("sessions_total", "sessions", |slot| of(*slot, Word::Requests), "Sessions that have ended."),
    gauge("sessions_active", "sessions_active", |slot| Value::Number(slot.map_or(0, |slot| slot.present(Present::Processing).into())), "Sessions now."),
    counter("sessions_2xx_total", "sessions_2xx", |slot| of(*slot, Word::Status2xx), "Ended sessions whose client had logged in."),
    counter("sessions_4xx_total", "sessions_4xx", |slot| of(*slot, Word::Status4xx), "Those whose client had not, by its own doing."),
    counter("sessions_5xx_total", "sessions_5xx", |slot| of(*slot, Word::Status5xx),
        "Those that failed by the authentication server, the client's server or us."),
    counter("logins_total", "logins", |slot| of(*slot, Word::LOGINS), "Clients that have logged in, or may send mail without."),
    counter("logins_failed_total", "logins_failed", |slot| of(*slot, Word::LOGINS_FAILED), "Attempts to log in that the authentication server has refused."),
];

/// Upstreams, besides their responses.
#[rustfmt::skip]
pub static UPSTREAM: &[Metric<Upstream>] = &[
    counter("retries_total", "retries", |e| of(e.slot, Word::Retries), "Requests that were passed on to another server after a failure."),
    counter("response_seconds_total", "response_seconds", |e| us_of(e.slot, Word::ResponseUs), "Sum of the times to the end of the responses."),
    counter("queue_overflows_total", "queue_overflows", |e| of(e.slot, Word::QUEUE_OVERFLOWS), "Requests that found the queue full (queue)."),
];

/// Peers, besides their responses.
#[rustfmt::skip]
pub static PEER: &[Metric<Peer>] = &[
    counter("received_bytes_total", "received_bytes", |e| of(e.slot, Word::BytesIn), "Bytes received from the server."),
    counter("sent_bytes_total", "sent_bytes", |e| of(e.slot, Word::BytesOut), "Bytes sent to the server."),
    counter("response_seconds_total", "response_seconds", |e| us_of(e.slot, Word::ResponseUs), "Sum of the times to the end of the responses."),
    counter("failures_total", "failures", |e| of(e.slot, Word::Failures), "Failed attempts (max_fails)."),
    counter("unavailable_total", "unavailable", |e| of(e.slot, Word::UNAVAILABLE), "The times that failures have made it unavailable."),
    gauge("connections_active", "connections_active", |e| Value::Number(e.active()), "Connections in use."),
    gauge("weight", "weight", |e| Value::Number(e.weight), "The weight in force."),
    gauge("up", "up", |e| Value::Number(u64::from(e.state().is_up())), "1 unless the server is down, draining, unhealthy or left out for its failures."),
    counter("checks_total", "checks", |e| of(e.slot, Word::CHECKS), "Active checks of its health."),
    counter("checks_failed_total", "checks_failed", |e| of(e.slot, Word::CHECKS_FAILED), "Those that failed."),
    counter("unhealthy_total", "unhealthy", |e| of(e.slot, Word::UNHEALTHY), "The times that checks have found it unhealthy."),
    counter("down_seconds_total", "down_seconds", |e| Value::Us(e.down_ms().1.saturating_mul(1000)),
        "Time for which it was left out for its failures, unhealthy, or waited for its first check."),
];

#[rustfmt::skip]
pub static RESOLVER: &[Metric<Named>] = &[
    counter("names_total", "names", |e| of(e.slot, Word::NAMES), "Lookups of names at the name servers; those that the cache answers are not counted."),
    counter("hosts_total", "hosts", |e| of(e.slot, Word::HOSTS), "Lookups of the names of addresses (PTR records)."),
    counter("services_total", "services", |e| of(e.slot, Word::SERVICES), "Lookups of services (SRV records)."),
    counter("found_total", "found", |e| of(e.slot, Word::NO_ERROR), "Lookups that found something."),
    counter("no_name_total", "no_name", |e| of(e.slot, Word::NO_NAME), "Lookups of names that do not exist, or have no such record."),
    counter("format_errors_total", "format_errors", |e| of(e.slot, Word::FORMAT_ERROR), "Lookups that ended with a format error."),
    counter("server_failures_total", "server_failures", |e| of(e.slot, Word::SERVER_FAILURE), "Lookups that ended with a failure of the name server."),
    counter("not_implemented_total", "not_implemented", |e| of(e.slot, Word::NOT_IMPLEMENTED), "Lookups of a kind that the name server does not know."),
    counter("refused_total", "refused", |e| of(e.slot, Word::REFUSED), "Lookups that the name server refused."),
    counter("timed_out_total", "timed_out", |e| of(e.slot, Word::TIMED_OUT), "Lookups that nobody waits for any more, since no answer came."),
    counter("other_errors_total", "other_errors", |e| of(e.slot, Word::OTHER_ERROR), "Lookups that ended with another error."),
];

/// The responses of a cache that were stored.
fn stored(cache: &Cache, status: Status) -> Sum {
    cache.counts.written(status).unwrap_or_default()
}

#[rustfmt::skip]
pub static CACHE: &[Metric<Cache>] = &[
    gauge("size_bytes", "size_bytes", |c| Value::Number(c.size.bytes), "Bytes that its files take on the disk."),
    gauge("max_size_bytes", "max_size_bytes", |c| Value::Number(c.max_bytes), "The limit of that (max_size); 0: there is none."),
    gauge("files", "files", |c| Value::Number(c.size.files), "Stored responses."),
    gauge("cold", "cold", |c| Value::Number(u64::from(c.is_cold)), "1 until all files that were there at the start are known."),
    counter("hit_responses_total", "hit_responses", |c| Value::Number(c.counts.sum(Status::Hit).responses),
        "Responses that were served from the cache, fresh."),
    counter("hit_bytes_total", "hit_bytes", |c| Value::Number(c.counts.sum(Status::Hit).bytes), "Bytes of their bodies."),
    counter("stale_responses_total", "stale_responses", |c| Value::Number(c.counts.sum(Status::Stale).responses),
        "Expired responses that were served, since the upstream failed or is asked in the background."),
    counter("stale_bytes_total", "stale_bytes", |c| Value::Number(c.counts.sum(Status::Stale).bytes), "Bytes of their bodies."),
    counter("updating_responses_total", "updating_responses", |c| Value::Number(c.counts.sum(Status::Updating).responses),
        "Expired responses that were served while another request updated them."),
    counter("updating_bytes_total", "updating_bytes", |c| Value::Number(c.counts.sum(Status::Updating).bytes), "Bytes of their bodies."),
    counter("revalidated_responses_total", "revalidated_responses", |c| Value::Number(c.counts.sum(Status::Revalidated).responses),
        "Expired responses that the upstream has confirmed."),
    counter("revalidated_bytes_total", "revalidated_bytes", |c| Value::Number(c.counts.sum(Status::Revalidated).bytes), "Bytes of their bodies."),
    counter("miss_responses_total", "miss_responses", |c| Value::Number(c.counts.sum(Status::Miss).responses),
        "Responses of the upstream, since nothing was stored."),
    counter("miss_bytes_total", "miss_bytes", |c| Value::Number(c.counts.sum(Status::Miss).bytes), "Bytes of their bodies."),
    counter("miss_responses_stored_total", "miss_responses_stored", |c| Value::Number(stored(c, Status::Miss).responses), "Those that were stored."),
    counter("miss_bytes_stored_total", "miss_bytes_stored", |c| Value::Number(stored(c, Status::Miss).bytes), "Bytes of their bodies."),
    counter("expired_responses_total", "expired_responses", |c| Value::Number(c.counts.sum(Status::Expired).responses),
        "Responses of the upstream, since what was stored had expired."),
    counter("expired_bytes_total", "expired_bytes", |c| Value::Number(c.counts.sum(Status::Expired).bytes), "Bytes of their bodies."),
    counter("expired_responses_stored_total", "expired_responses_stored", |c| Value::Number(stored(c, Status::Expired).responses), "Those that were stored."),
    counter("expired_bytes_stored_total", "expired_bytes_stored", |c| Value::Number(stored(c, Status::Expired).bytes), "Bytes of their bodies."),
    counter("bypass_responses_total", "bypass_responses", |c| Value::Number(c.counts.sum(Status::Bypass).responses),
        "Responses of the upstream, since the cache was not asked (proxy_cache_bypass and its like)."),
    counter("bypass_bytes_total", "bypass_bytes", |c| Value::Number(c.counts.sum(Status::Bypass).bytes), "Bytes of their bodies."),
    counter("bypass_responses_stored_total", "bypass_responses_stored", |c| Value::Number(stored(c, Status::Bypass).responses), "Those that were stored."),
    counter("bypass_bytes_stored_total", "bypass_bytes_stored", |c| Value::Number(stored(c, Status::Bypass).bytes), "Bytes of their bodies."),
];
