//! `modern_browser` and `ancient_browser`: their variables in blocks; each result here is also nginx 1.22's.

use crate::support::{Daemon, fetch};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        modern_browser gecko 1.0.0;
        modern_browser msie 5.5;
        ancient_browser Lynx netscape4;
        modern_browser_value new;
        location / { return 200 "$modern_browser $ancient_browser $msie"; }
        location /unlisted { modern_browser unlisted; ancient_browser_value old; return 200 "$modern_browser $ancient_browser $msie"; }
    }
}
"#;

#[test]
fn browsers_are_old_or_new() {
    let daemon = Daemon::start(CONF);
    for (path, agent, expected) in [
        ("/", "Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1)", "new  1"),
        ("/", "Mozilla/4.0 (compatible; MSIE 5.01; Windows)", " 1 1"),
        ("/", "Mozilla/5.0 (X11; U; Linux i686; rv:1.7.6) Gecko", "new  "),
        ("/", "Mozilla/4.0 (compatible; MSIE 6.0; Windows; rv:0.9)", "new  1"),
        ("/", "Mozilla/4.0 (compatible; MSIE 6.0; Windows) Opera 8.5", " 1 "),
        ("/", "Lynx/2.8", " 1 "),
        ("/", "Unknown/1", " 1 "),
        ("/unlisted", "Unknown/1", "new  "),
        ("/unlisted", "Lynx/2.8", " old "),
        ("/unlisted", "Mozilla/4.72 [en] (X11; U)", " old "),
    ] {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: a\r\nUser-Agent: {agent}\r\nConnection: close\r\n\r\n");
        assert_eq!(fetch(daemon.port(0), &request).text(), expected, "{path} {agent}");
    }
}
