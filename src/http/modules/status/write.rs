//! The metrics as JSON, and in Prometheus' text format.
//!
//! Pure, apart from the shared memory that a metric's value comes from. The text format: prometheus.io, "Exposition
//! formats".

use std::fmt::Write;

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
    out.key("process").object(metrics::PROCESS, &Process);
    out.key("workers").open('[');
    for worker in &view.workers {
        out.item().open('{');
        out.key("worker").number(u64::from(worker.number));
        out.key("pid").number(u64::from(worker.heartbeat.pid));
        out.key("generation").number(worker.heartbeat.generation);
        out.members(metrics::WORKER, worker);
        out.close('}');
    }
    out.close(']');
    out.key("latency").open('{');
    for (name, _, snapshot) in &view.durations {
        out.key(name).times(snapshot);
    }
    out.close('}');
    out.key("zones").open('[');
    for zone in view.zones() {
        out.item().open('{');
        out.key("place").string(zone.place.name());
        out.key("name").string(zone.name);
        out.members(metrics::ZONE, &zone);
        out.detail(zone.slot, metrics::ZONE_TIMES);
        out.close('}');
    }
    out.close(']');
    out.key("resolvers").open('[');
    for zone in view.resolvers() {
        out.item().open('{');
        out.key("name").string(zone.name);
        out.members(metrics::RESOLVER, &zone);
        out.close('}');
    }
    out.close(']');
    out.key("caches").open('[');
    for cache in view.caches() {
        out.item().open('{');
        out.key("name").string(cache.name);
        out.members(metrics::CACHE, &cache);
        out.close('}');
    }
    out.close(']');
    out.key("servers").open('[');
    for server in view.servers() {
        out.item().open('{');
        out.key("name").string(server.name);
        out.key("address").string(server.address);
        out.members(metrics::SERVER, &server);
        out.close('}');
    }
    out.close(']');
    out.key("upstreams").open('[');
    for upstream in view.upstreams() {
        out.item().open('{');
        out.key("name").string(&upstream.group.name);
        out.members(metrics::UPSTREAM, &upstream);
        out.detail(upstream.slot, metrics::UPSTREAM_TIMES);
        out.key("peers").open('[');
        for peer in view.peers(&upstream.group) {
            out.item().open('{');
            out.key("name").string(&peer.name);
            out.key("server").string(&peer.server().name);
            out.key("backup").raw(if peer.is_backup { "true" } else { "false" });
            out.key("state").string(peer.state().as_str());
            out.members(metrics::PEER, &peer);
            out.close('}');
        }
        out.close(']').close('}');
    }
    out.close(']').close('}');
    out.text.push('\n');
    out.text.into_bytes()
}

/// JSON under construction. Commas are set by what was written before.
#[derive(Default)]
struct Json {
    text: String,
    /// Something precedes in the present object or list.
    has_before: bool,
}

impl Json {
    fn open(&mut self, bracket: char) -> &mut Self {
        self.text.push(bracket);
        self.has_before = false;
        self
    }

    fn close(&mut self, bracket: char) -> &mut Self {
        self.text.push(bracket);
        self.has_before = true;
        self
    }

    /// Begins an element of a list.
    fn item(&mut self) -> &mut Self {
        if std::mem::replace(&mut self.has_before, true) {
            self.text.push(',');
        }
        self
    }

    fn key(&mut self, key: &str) -> &mut Self {
        self.item().string(key).text.push(':');
        self
    }

    fn raw(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    fn number(&mut self, number: u64) -> &mut Self {
        self.raw(itoa::Buffer::new().format(number))
    }

    fn value(&mut self, value: Value) -> &mut Self {
        match value {
            Value::Number(number) => self.number(number),
            Value::Us(us) => {
                push_seconds(&mut self.text, us);
                self
            }
        }
    }

    fn string(&mut self, text: &str) -> &mut Self {
        let _ = write!(self.text, "{}", serde_json::Value::from(text));
        self
    }

    fn members<E>(&mut self, table: &[Metric<E>], of: &E) {
        for metric in table {
            self.key(metric.key).value((metric.value)(of));
        }
    }

    fn times(&mut self, snapshot: &Snapshot) {
        self.open('{');
        self.key("count").number(snapshot.count());
        self.key("seconds").value(Value::Us(snapshot.sum_us));
        for (key, share) in QUANTILES {
            let us = snapshot.quantile(share).unwrap_or(0);
            self.key(key).value(Value::Us(us));
        }
        self.close('}');
    }

    /// The further counts of a slot, and its histograms.
    fn detail(&mut self, slot: Option<Slot>, times: &[Times]) {
        let Some(detail) = slot.and_then(Slot::detail) else { return };
        for split in metrics::SPLITS {
            self.key(split.key).open('{');
            for (label, count) in (split.values)(detail) {
                self.key(&label).number(count);
            }
            self.close('}');
        }
        self.key("latency").open('{');
        for of in times {
            self.key(of.key).times(&detail.histogram(of.number).snapshot());
        }
        self.close('}');
    }

    fn object<E>(&mut self, table: &[Metric<E>], of: &E) {
        self.open('{').members(table, of);
        self.close('}');
    }
}

/// Microseconds as seconds.
fn push_seconds(out: &mut String, us: u64) {
    let _ = write!(out, "{}.{:06}", us / 1_000_000, us % 1_000_000);
}

/// Everything in Prometheus' text format.
pub fn prometheus(view: &View) -> Vec<u8> {
    let mut out = String::new();
    out.push_str("# HELP pronghorn_build_info The version that runs.\n# TYPE pronghorn_build_info gauge\n");
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
        .map(|server| (Labels::default().with("server", server.name).with("address", server.address), server))
        .collect();
    family(&mut out, "server_", metrics::SERVER, &servers);
    let upstreams: Vec<_> = view
        .upstreams()
        .map(|upstream| (Labels::default().with("upstream", &upstream.group.name), upstream))
        .collect();
    family(&mut out, "upstream_", metrics::UPSTREAM, &upstreams);
    let of_upstreams: Vec<_> = upstreams
        .iter()
        .filter_map(|(labels, upstream)| Some((labels.clone(), upstream.slot?.detail()?)))
        .collect();
    details(&mut out, "upstream_", &of_upstreams, metrics::UPSTREAM_TIMES);
    let zones: Vec<_> = view
        .zones()
        .map(|zone| (Labels::default().with("place", zone.place.name()).with("zone", zone.name), zone))
        .collect();
    family(&mut out, "zone_", metrics::ZONE, &zones);
    let of_zones: Vec<_> =
        zones.iter().filter_map(|(labels, zone)| Some((labels.clone(), zone.slot?.detail()?))).collect();
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
    family(&mut out, "upstream_peer_", metrics::PEER, &peers);
    // Those of upstreams have the name of their upstream.
    for (name, help, snapshot) in view.durations.iter().filter(|(name, ..)| *name == "request") {
        let name = format!("pronghorn_{name}_duration_seconds");
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        histogram(&mut out, &name, &Labels::default(), snapshot);
    }
    out.into_bytes()
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

fn family<E>(out: &mut String, about: &str, table: &[Metric<E>], all: &[(Labels, E)]) {
    family_of(out, about, table, all.iter().map(|(labels, of)| (labels, of)));
}

/// Writes each metric of a table for all that it is about.
fn family_of<'a, E: 'a>(
    out: &mut String,
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
        for (Labels(labels), of) in all.clone() {
            let _ =
                write!(out, "pronghorn_{about}{name}{labels}{} ", if labels.is_empty() { "" } else { "}" });
            match (metric.value)(of) {
                Value::Number(number) => out.push_str(itoa::Buffer::new().format(number)),
                Value::Us(us) => push_seconds(out, us),
            }
            out.push('\n');
        }
    }
}

/// Writes the further counts and the histograms of all that have them.
fn details(out: &mut String, about: &str, all: &[(Labels, Detail)], times: &[Times]) {
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

fn histogram(out: &mut String, name: &str, labels: &Labels, snapshot: &Snapshot) {
    let mut bound = String::new();
    for bound_us in BOUNDS_US {
        let below = snapshot.buckets().filter(|(_, end, _)| *end <= bound_us + 1);
        let count: u64 = below.map(|(_, _, count)| count).sum();
        bound.clear();
        push_seconds(&mut bound, bound_us);
        let Labels(labels) = labels.clone().with("le", &bound);
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
    fn labels_and_strings_with_any_byte_stay_inside_their_quotes() {
        let odd = "a\"b\\c\nd\u{1}é";
        assert_eq!(Labels::default().with("x", odd).with("y", "z").0, "{x=\"a\\\"b\\\\c\\nd\u{1}é\",y=\"z\"");
        let mut json = Json::default();
        json.open('{').key(odd).string(odd);
        json.close('}');
        let parsed: serde_json::Value = serde_json::from_str(&json.text).expect("JSON");
        assert_eq!(parsed[odd], odd);
    }

    #[test]
    fn times_are_seconds() {
        let mut out = String::new();
        [0, 1, 1_500_000].iter().for_each(|us| {
            push_seconds(&mut out, *us);
            out.push(' ');
        });
        assert_eq!(out, "0.000000 0.000001 1.500000 ");
    }

    #[test]
    fn names_and_keys_of_metrics_are_unique_and_end_as_their_kind_does() {
        fn check<E>(table: &[Metric<E>]) {
            let mut seen = std::collections::HashSet::new();
            for metric in table {
                assert!(seen.insert(metric.name) && metric.help.ends_with('.'), "{}", metric.name);
                assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
            }
            let keys: std::collections::HashSet<_> = table.iter().map(|metric| metric.key).collect();
            assert_eq!(keys.len(), table.len());
        }
        check(metrics::PROCESS);
        check(metrics::WORKER);
        check(metrics::SERVER);
        check(metrics::UPSTREAM);
        check(metrics::PEER);
        check(metrics::ZONE);
        check(metrics::RESOLVER);
        check(metrics::CACHE);
    }
}
