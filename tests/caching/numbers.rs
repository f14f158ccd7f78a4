//! The numbers of a cache: `status` as JSON and as Prometheus' text.

use serde_json::Value;

use super::{ask, ask_with, setup_with, storable, wait_stored};
use crate::support::daemon::is_stand_in;
use crate::support::{get, wait_for};

#[test]
fn the_status_has_what_a_cache_holds_and_how_requests_fared() {
    if is_stand_in() {
        return;
    }
    let origin = storable();
    let server = "proxy_cache_bypass $http_x_bypass;
        location /status { status json; } location /metrics { status prometheus; }";
    let daemon = setup_with(&origin, server, "max_size=1m").level("info").start();
    daemon.wait_log("loaded 0 files");
    for (expected, count) in [("MISS", 1), ("HIT", 1), ("HIT", 1)] {
        assert_eq!(ask(&daemon, "/p"), (expected.into(), format!("/p {count}")));
        wait_stored(&daemon, 1);
    }
    ask_with(&daemon, "/p", "X-Bypass: 1\r\n");
    let cache = || -> Value {
        let all: Value = serde_json::from_str(&get(daemon.port(0), "/status").text()).expect("JSON");
        assert_eq!(all["caches"].as_array().map(Vec::len), Some(1), "{all}");
        all["caches"][0].clone()
    };
    let now = wait_for("the counts", || Some(cache()).filter(|now| now["bypass_responses_stored"] == 1));
    for (key, expected) in [
        ("files", 1),
        ("max_size_bytes", 1 << 20),
        ("cold", 0),
        ("hit_responses", 2),
        ("hit_bytes", 8),
        ("miss_responses", 1),
        ("miss_bytes", 4),
        ("miss_responses_stored", 1),
        ("miss_bytes_stored", 4),
        ("bypass_responses", 1),
        ("bypass_bytes_stored", 4),
        ("expired_responses", 0),
        ("stale_responses", 0),
        ("updating_bytes", 0),
        ("revalidated_responses", 0),
    ] {
        assert_eq!(now[key], expected, "{key} in {now}");
    }
    assert_eq!(now["name"], "c");
    let bytes = now["size_bytes"].as_u64().expect("a number");
    assert!((512..=1 << 20).contains(&bytes), "{now}");
    let text = get(daemon.port(0), "/metrics").text();
    for line in [
        "# TYPE pronghorn_cache_hit_responses_total counter",
        "pronghorn_cache_hit_responses_total{cache=\"c\"} 2",
        "# TYPE pronghorn_cache_size_bytes gauge",
        &format!("pronghorn_cache_size_bytes{{cache=\"c\"}} {bytes}"),
    ] {
        assert!(text.lines().any(|have| have == line), "{line} in {text}");
    }
}
