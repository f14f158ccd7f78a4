//! `$traceparent`: a valid trace of the client is continued, otherwise a new one begins; log and backend get
//! the same.

use crate::support::{Daemon, fetch};

const CONF: &str = r#"
http {
    log_format trace "$trace_id|$parent_id|$span_id|$request_id|$traceparent";
    server {
        listen 127.0.0.1:%%PORT_1%%;
        access_log off;
        return 200 "$http_traceparent";
    }
    server {
        listen 127.0.0.1:%%PORT_0%%;
        access_log %%DIR%%/trace.log trace;
        location / {
            proxy_set_header traceparent $traceparent;
            proxy_pass http://127.0.0.1:%%PORT_1%%;
        }
    }
}
"#;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

#[test]
fn a_trace_goes_on_or_begins() {
    let daemon = Daemon::start(CONF);
    let parent = format!("traceparent: 00-{TRACE}-{SPAN}-00\r\n");
    for (index, (fields, is_kept)) in [
        (parent.as_str(), true),
        ("", false),
        ("traceparent: 00-00000000000000000000000000000000-b7ad6b7169203331-01\r\n", false),
        (&parent.repeat(2), false),
    ]
    .into_iter()
    .enumerate()
    {
        let request = format!("GET /{index} HTTP/1.1\r\nHost: a\r\n{fields}Connection: close\r\n\r\n");
        let told = fetch(daemon.port(0), &request).text();
        let line = daemon.wait_line("trace.log", &format!("(?m)^.*{told}$"));
        let line = line.lines().last().expect("a line");
        let [trace, parent, span, id, whole] = line.split('|').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        assert_eq!(whole, told);
        assert_ne!(span, SPAN);
        if is_kept {
            assert_eq!((trace, parent, &*told), (TRACE, SPAN, &*format!("00-{TRACE}-{span}-00")));
        } else {
            assert_eq!((trace, parent, &*told), (id, "-", &*format!("00-{id}-{span}-01")));
        }
    }
}
