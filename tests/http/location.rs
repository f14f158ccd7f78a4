//! `location`: which of `=`, `^~`, prefixes, `~`, `~*`, nested and named locations handles a request.

use crate::support::{Daemon, get};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location / { return 200 "slash"; }
        location = / { return 200 "exactly slash"; }
        location = /exact { return 200 "exact"; }
        location /exact { return 200 "prefix of exact"; }
        location /long { return 200 "long"; }
        location /longer/ { return 200 "longer"; }
        location ^~ /images/ { return 200 "images"; }
        location ~ \.(gif|JPG)$ { return 200 "case $1"; }
        location ~* \.(gif|jpg)$ { return 200 "any case $1"; }
        location ~ ^/(?<first>[a-z]+)/capture$ { return 200 "captured $first"; }
        location /nested/ {
            return 200 "nested";
            location /nested/inner/ { return 200 "inner"; }
            location ~ \.txt$ { return 200 "nested text"; }
        }
        location "/with space/" { return 200 "space"; }
        location /dir/ { proxy_pass http://127.0.0.1:%%PORT_0%%/long; }
        location /dir-a { return 200 "beside"; }
        location /dir-b { return 200 "beside"; }
        location /both { return 200 "both"; }
        location /both/ { proxy_pass http://127.0.0.1:%%PORT_0%%/long; }
        location @named { return 200 "named $uri"; }
        location /to-named { error_page 418 = @named; return 418; }
    }
}
"#;

#[test]
fn the_best_location_takes_the_request() {
    let daemon = Daemon::start(CONF);
    for (path, expected) in [
        ("/", "exactly slash"),
        ("/?x", "exactly slash"),
        ("/other", "slash"),
        ("/exact", "exact"),
        ("/exact/", "prefix of exact"),
        ("/exactly", "prefix of exact"),
        ("/long", "long"),
        ("/longer", "long"),
        ("/longer/", "longer"),
        ("/longer/x", "longer"),
        ("/images/a.gif", "images"),
        ("/x/a.gif", "case gif"),
        ("/x/a.JPG", "case JPG"),
        ("/x/a.jpg", "any case jpg"),
        ("/x/a.GIF", "any case GIF"),
        ("/letters/capture", "captured letters"),
        ("/letters7/capture", "slash"),
        ("/nested/x", "nested"),
        ("/nested/inner/x", "inner"),
        ("/nested/x.txt", "nested text"),
        ("/x.txt", "slash"),
        ("/nested/x.gif", "case gif"),
        ("/with%20space/x", "space"),
        ("/to-named", "named /to-named"),
        ("/@named", "slash"),
    ] {
        assert_eq!(get(daemon.port(0), path).text(), expected, "{path}");
    }
}

#[test]
fn the_path_is_normalised_before_the_choice() {
    let daemon = Daemon::start(CONF);
    for (path, expected) in [
        ("/x/../exact", "exact"),
        ("/./exact", "exact"),
        ("//exact", "exact"),
        ("/%65xact", "exact"),
        ("/images/../x/a.gif", "case gif"),
        ("/longer//x", "longer"),
        ("/exact#fragment", "exact"),
    ] {
        assert_eq!(get(daemon.port(0), path).text(), expected, "{path}");
    }
}

#[test]
fn a_proxied_directory_redirects_to_its_slash() {
    let daemon = Daemon::start(CONF);
    let port = daemon.port(0);
    let response = get(port, "/dir?x=1");
    let target = format!("http://localhost:{port}/dir/?x=1");
    assert_eq!((response.status, response.header("location")), (301, Some(&*target)));
    assert_eq!(get(port, "/dir/").text(), "long");
    assert_eq!(get(port, "/dir-a").text(), "beside");
    assert_eq!(get(port, "/dir-").text(), "slash");
    assert_eq!(get(port, "/both").text(), "both", "a location of this very name needs no slash");
}
