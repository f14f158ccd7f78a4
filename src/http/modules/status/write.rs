//! The metrics as JSON, and in Prometheus' text format.
//!
//! Pure, apart from the shared memory that a metric's value comes from. The text format: prometheus.io, "Exposition
//! formats".

use std::io::Write;

use crate::base::json::{Json, push_seconds};
use crate::http::modules::status::metrics::{self, Kind, Metric, Times, Value};
use crate::http::modules::status::view::{Process, View};
use crate::shm::counter::Slot;
use crate::shm::detail::Detail;
use crate::shm::histogram::Snapshot;

/// The quantiles of a histogram in JSON.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)];

/// Upper bounds of the buckets of a histogram in the text, in microseconds.
const BOUNDS_US: [u64; 14] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000,
    30_000_000,
];

/// Everything as one JSON object.
pub fn json(view: &View) -> Vec<u8> {
    let mut out = Json::default();
    out.open('{');
    out.key("version").string(env!("CARGO_PKG_VERSION"));
    members(out.key("process").open('{'), metrics::PROCESS, &Process);
    out.close('}');
    out.key("workers").open('[');
    for worker in &view.workers {
        out.item().open('{');
        out.key("worker").number(u64::from(worker.number));
        out.key("pid").number(u64::from(worker.heartbeat.pid));
        out.key("generation").number(worker.heartbeat.generation);
        members(&mut out, metrics::WORKER, worker);
        out.close('}');
    }
    out.close(']');
    out.key("latency").open('{');
    for (name, _, snapshot) in &view.durations {
        times(out.key(name), snapshot);
    }
    out.close('}');
    out.key("zones").open('[');
    for zone in view.zones() {
        out.item().open('{');
        out.key("place").string(zone.place.name());
        out.key("name").string(zone.name);
        members(&mut out, metrics::RESPONSES, &zone.slot);
        members(&mut out, metrics::CLIENTS, &zone.slot);
        detail(&mut out, zone.slot, metrics::ZONE_TIMES);
        out.close('}');
    }
    out.close(']');
    out.key("resolvers").open('[');
    for zone in view.resolvers() {
        out.item().open('{');
        out.key("name").string(zone.name);
        members(&mut out, metrics::RESOLVER, &zone);
        out.close('}');
    }
    out.close(']');
    out.key("caches").open('[');
    for cache in view.caches() {
        out.item().open('{');
        out.key("name").string(cache.name);
        members(&mut out, metrics::CACHE, &cache);
        out.close('}');
    }
    out.close(']');
    out.key("servers").open('[');
    for server in view.servers() {
        out.item().open('{');
        out.key("name").string(server.name);
        out.key("address").string(server.address);
        members(&mut out, metrics::RESPONSES, &server.slot);
        members(&mut out, metrics::CLIENTS, &server.slot);
        out.close('}');
    }
    out.close(']');
    out.key("mail").open('[');
    for server in view.mail() {
        out.item().open('{');
        out.key("name").string(server.name);
        out.key("address").string(server.address);
        out.key("protocol").string(server.protocol);
        members(&mut out, metrics::MAIL, &server.slot);
        members(&mut out, metrics::CLIENTS, &server.slot);
        out.close('}');
    }
    out.close(']');
    out.key("upstreams").open('[');
    for upstream in view.upstreams() {
        out.item().open('{');
        out.key("name").string(&upstream.group.name);
        members(&mut out, metrics::RESPONSES, &upstream.slot);
        members(&mut out, metrics::UPSTREAM, &upstream);
        detail(&mut out, upstream.slot, metrics::UPSTREAM_TIMES);
        out.key("peers").open('[');
        for peer in view.peers(&upstream.group) {
            out.item().open('{');
            out.key("name").string(&peer.name);
            out.key("server").string(&peer.server().name);
            out.key("backup").boolean(peer.is_backup);
            out.key("state").string(peer.state().as_str());
            members(&mut out, metrics::RESPONSES, &peer.slot);
            members(&mut out, metrics::PEER, &peer);
            out.close('}');
        }
        out.close(']').close('}');
    }
    out.close(']').close('}');
    out.finish()
}

fn value(out: &mut Json, value: Value) {
    match value {
        Value::Number(number) => out.number(number),
        Value::Us(us) => out.seconds(us),
    };
}

fn members<E>(out: &mut Json, table: &[Metric<E>], of: &E) {
    for metric in table {
        value(out.key(metric.key), (metric.value)(of));
    }
}

fn times(out: &mut Json, snapshot: &Snapshot) {
    out.open('{').key("count").number(snapshot.count()).key("seconds").seconds(snapshot.sum_us);
    for (key, share) in QUANTILES {
        out.key(key).seconds(snapshot.quantile(share).unwrap_or(0));
    }
    out.close('}');
}

/// The further counts of a slot, and its histograms.
fn detail(out: &mut Json, slot: Option<Slot>, all: &[Times]) {
    let Some(detail) = slot.and_then(Slot::detail) else { return };
    for split in metrics::SPLITS {
        out.key(split.key).open('{');
        for (label, count) in (split.values)(detail) {
            out.key(&label).number(count);
        }
        out.close('}');
    }
    out.key("latency").open('{');
    for of in all {
        times(out.key(of.key), &detail.histogram(of.number).snapshot());
    }
    out.close('}');
}

/// Everything in Prometheus' text format.
pub fn prometheus(view: &View) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(
        b"# HELP pronghorn_build_info The version that runs.\n# TYPE pronghorn_build_info gauge\n",
    );
    let _ = writeln!(out, "pronghorn_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    family(&mut out, "", metrics::PROCESS, &[(Labels::default(), Process)]);
    let workers: Vec<_> = view
        .workers
        .iter()
        .map(|worker| {
            let labels = Labels::default()
                .with("worker", &worker.number.to_string())
                .with("generation", &worker.heartbeat.generation.to_string());
            (labels, worker)
        })
        .collect();
    family_of(&mut out, "worker_", metrics::WORKER, workers.iter().map(|(labels, worker)| (labels, *worker)));
    let servers: Vec<_> = view
        .servers()
        .map(|server| {
            (Labels::default().with("server", server.name).with("address", server.address), server.slot)
        })
        .collect();
    family(&mut out, "server_", metrics::RESPONSES, &servers);
    family(&mut out, "server_", metrics::CLIENTS, &servers);
    let mail: Vec<_> = view
        .mail()
        .map(|server| {
            let labels = Labels::default().with("server", server.name).with("address", server.address);
            (labels.with("protocol", server.protocol), server.slot)
        })
        .collect();
    family(&mut out, "mail_server_", metrics::MAIL, &mail);
    family(&mut out, "mail_server_", metrics::CLIENTS, &mail);
    let upstreams: Vec<_> = view
        .upstreams()
        .map(|upstream| (Labels::default().with("upstream", &upstream.group.name), upstream))
        .collect();
    let slots = upstreams.iter().map(|(labels, upstream)| (labels, &upstream.slot));
    family_of(&mut out, "upstream_", metrics::RESPONSES, slots);
    family(&mut out, "upstream_", metrics::UPSTREAM, &upstreams);
    let of_upstreams: Vec<_> = upstreams
        .iter()
        .filter_map(|(labels, upstream)| Some((labels.clone(), upstream.slot?.detail()?)))
        .collect();
    details(&mut out, "upstream_", &of_upstreams, metrics::UPSTREAM_TIMES);
    let zones: Vec<_> = view
        .zones()
        .map(|zone| (Labels::default().with("place", zone.place.name()).with("zone", zone.name), zone.slot))
        .collect();
    family(&mut out, "zone_", metrics::RESPONSES, &zones);
    family(&mut out, "zone_", metrics::CLIENTS, &zones);
    let of_zones: Vec<_> =
        zones.iter().filter_map(|(labels, slot)| Some((labels.clone(), (*slot)?.detail()?))).collect();
    details(&mut out, "zone_", &of_zones, metrics::ZONE_TIMES);
    let resolvers: Vec<_> =
        view.resolvers().map(|zone| (Labels::default().with("resolver", zone.name), zone)).collect();
    family(&mut out, "resolver_", metrics::RESOLVER, &resolvers);
    let caches: Vec<_> =
        view.caches().map(|cache| (Labels::default().with("cache", cache.name), cache)).collect();
    family(&mut out, "cache_", metrics::CACHE, &caches);
    let peers: Vec<_> = view
        .upstreams()
        .flat_map(|upstream| view.peers(&upstream.group).collect::<Vec<_>>())
        .map(|peer| (Labels::default().with("upstream", &peer.group.name).with("peer", &peer.name), peer))
        .collect();
    let slots = peers.iter().map(|(labels, peer)| (labels, &peer.slot));
    family_of(&mut out, "upstream_peer_", metrics::RESPONSES, slots);
    family(&mut out, "upstream_peer_", metrics::PEER, &peers);
    // Those of upstreams have the name of their upstream.
    for (name, help, snapshot) in view.durations.iter().filter(|(name, ..)| *name == "request") {
        let name = format!("pronghorn_{name}_duration_seconds");
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        histogram(&mut out, &name, &Labels::default(), snapshot);
    }
    out
}

/// The labels of a sample: `{a="b",c="d"}`.
#[derive(Clone, Default)]
struct Labels(String);

impl Labels {
    fn with(mut self, name: &str, value: &str) -> Self {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        self.0.push_str(name);
        self.0.push_str("=\"");
        for letter in value.chars() {
            match letter {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                letter => self.0.push(letter),
            }
        }
        self.0.push('"');
        self
    }
}

fn family<E>(out: &mut Vec<u8>, about: &str, table: &[Metric<E>], all: &[(Labels, E)]) {
    family_of(out, about, table, all.iter().map(|(labels, of)| (labels, of)));
}

/// Writes each metric of a table for all that it is about.
fn family_of<'a, E: 'a>(
    out: &mut Vec<u8>,
    about: &str,
    table: &[Metric<E>],
    all: impl Iterator<Item = (&'a Labels, &'a E)> + Clone,
) {
    for metric in table {
        let (name, help) = (metric.name, metric.help);
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let _ = writeln!(out, "# HELP pronghorn_{about}{name} {help}\n# TYPE pronghorn_{about}{name} {kind}");
        let sample = format!("pronghorn_{about}{name}");
        // Formatting macros would take most of the time: there are a dozen lines for each of ten thousand peers.
        for (Labels(labels), of) in all.clone() {
            out.extend_from_slice(sample.as_bytes());
            out.extend_from_slice(labels.as_bytes());
            out.extend_from_slice(if labels.is_empty() { b" " } else { b"} " });
            match (metric.value)(of) {
                Value::Number(number) => {
                    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
                }
                Value::Us(us) => push_seconds(out, us),
            }
            out.push(b'\n');
        }
    }
}

/// Writes the further counts and the histograms of all that have them.
fn details(out: &mut Vec<u8>, about: &str, all: &[(Labels, Detail)], times: &[Times]) {
    for split in metrics::SPLITS {
        let name = format!("pronghorn_{about}{}", split.name);
        let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} counter", split.help);
        for (labels, detail) in all {
            for (value, count) in (split.values)(*detail) {
                let Labels(labels) = labels.clone().with(split.label, &value);
                let _ = writeln!(out, "{name}{labels}}} {count}");
            }
        }
    }
    for of in times {
        let name = format!("pronghorn_{about}{}", of.name);
        let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} histogram", of.help);
        for (labels, detail) in all {
            histogram(out, &name, labels, &detail.histogram(of.number).snapshot());
        }
    }
}

fn histogram(out: &mut Vec<u8>, name: &str, labels: &Labels, snapshot: &Snapshot) {
    for bound_us in BOUNDS_US {
        let below = snapshot.buckets().filter(|(_, end, _)| *end <= bound_us + 1);
        let count: u64 = below.map(|(_, _, count)| count).sum();
        let mut bound = Vec::new();
        push_seconds(&mut bound, bound_us);
        let Labels(labels) = labels.clone().with("le", &String::from_utf8_lossy(&bound));
        let _ = writeln!(out, "{name}_bucket{labels}}} {count}");
    }
    let count = snapshot.count();
    let Labels(all) = labels.clone().with("le", "+Inf");
    let end = if labels.0.is_empty() { "" } else { "}" };
    let _ = write!(out, "{name}_bucket{all}}} {count}\n{name}_sum{}{end} ", labels.0);
    push_seconds(out, snapshot.sum_us);
    let _ = writeln!(out, "\n{name}_count{}{end} {count}", labels.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_with_any_byte_stay_inside_their_quotes() {
        let odd = "a\"b\\c\nd\u{1}é";
        assert_eq!(Labels::default().with("x", odd).with("y", "z").0, "{x=\"a\\\"b\\\\c\\nd\u{1}é\",y=\"z\"");
    }

    #[test]
    fn names_and_keys_of_metrics_are_unique_and_end_as_their_kind_does() {
        /// Names and keys, after those of other tables about the same.
        fn check<E>(table: &[Metric<E>], others: &[&str]) -> Vec<&'static str> {
            let mut seen: std::collections::HashSet<_> = others.iter().copied().collect();
            for metric in table {
                assert!(seen.insert(metric.name) && metric.help.ends_with('.'), "{}", metric.name);
                assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
                assert!(metric.key == metric.name || seen.insert(metric.key), "{}", metric.key);
            }
            table.iter().flat_map(|metric| [metric.name, metric.key]).collect()
        }
        let responses = check(metrics::RESPONSES, &[]);
        check(metrics::CLIENTS, &responses);
        check(metrics::UPSTREAM, &responses);
        check(metrics::PEER, &responses);
        check(metrics::CLIENTS, &check(metrics::MAIL, &[]));
        check(metrics::PROCESS, &[]);
        check(metrics::WORKER, &[]);
        check(metrics::RESOLVER, &[]);
        check(metrics::CACHE, &[]);
    }
}
