//! A worker's memory stays flat under many requests.

use crate::support::{Client, Origin, Setup, process};

const CONF: &str = r#"
http {
    upstream u { server %%ORIGIN%%; keepalive 8; }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        keepalive_requests 1000000;
        location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; }
    }
}
"#;

#[test]
fn memory_is_flat_over_twenty_thousand_requests() {
    let origin = Origin::saying(&"x".repeat(1_000));
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).level("notice").start();
    let worker = daemon.worker();
    let mut client = Client::connect(daemon.port(0));
    let mut ask = |count: usize| {
        for _ in 0..count {
            assert_eq!(client.get("/some/path?with=arguments").status, 200);
        }
    };
    ask(2_000);
    let before = process::private_kib(worker);
    ask(18_000);
    let after = process::private_kib(worker);
    assert!(after <= before + 256, "{before} KiB grew to {after} KiB");
}
