//! `proxy_pass`: what the origin is asked, and what the client gets.

use crate::support::{Client, Origin, Setup};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { proxy_pass http://%%ORIGIN%%; }
    }
}
"#;

#[test]
fn an_answer_comes_through() {
    let origin = Origin::saying("hello\n");
    let daemon = Setup::new(CONF).set("ORIGIN", origin.address()).start();
    let mut client = Client::connect(daemon.port(0));
    for _ in 0..3 {
        let response = client.get("/path?x=1");
        assert_eq!((response.status, response.text().as_str()), (200, "hello\n"));
    }
    assert_eq!(origin.last().target, "/path?x=1");
    assert_eq!(origin.requests().len(), 3);
}
