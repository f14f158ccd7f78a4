//! `autoindex` and `random_index`: directory listings in four formats, and a random file of a directory.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{File, FileTimes};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::time::{Duration, UNIX_EPOCH};

use nix::sys::stat::Mode;

use crate::support::{Client, Daemon, Setup, fetch, get};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        autoindex on;
        location / { root %%DIR%%/site; }
        location /plain/ { alias %%DIR%%/site/; autoindex off; }
        location /short/ { alias %%DIR%%/site/; autoindex_exact_size off; }
        location /utf8/ { alias %%DIR%%/site/; charset utf-8; }
        location /json/ { alias %%DIR%%/site/; autoindex_format json; }
        location /jsonp/ { alias %%DIR%%/site/; autoindex_format jsonp; }
        location /xml/ { alias %%DIR%%/site/; autoindex_format xml; }
        location /random/ { alias %%DIR%%/site/; random_index on; }
    }
}
"#;

/// The third of February 2001, 04:05:06.
const TIME: Duration = Duration::from_secs(981_173_106);

fn start() -> Daemon {
    let setup = Setup::new(CONF)
        .file("site/some/a", "12345")
        .file("site/some/.hidden", "")
        .file("site/some/<&\">'%?", "")
        .file("site/some/big", vec![b'x'; 10_752])
        .file(&format!("site/some/{}", "x".repeat(50)), "")
        .file(&format!("site/some/{}", "y".repeat(51)), "")
        .file("site/some/inner/file", "")
        .file("site/wide/a", "")
        .file(&format!("site/wide/{}", "ж".repeat(60)), "")
        .file("site/files/one", "1")
        .file("site/files/two", "2")
        .file("site/files/.three", "3")
        .file("site/files/four/none", "4");
    let some = setup.folder().join("site/some");
    symlink("inner", some.join("link")).unwrap();
    std::fs::create_dir(setup.folder().join("site/empty")).unwrap();
    nix::unistd::mkfifo(&some.join("fifo"), Mode::S_IRUSR).unwrap();
    let times = FileTimes::new().set_modified(UNIX_EPOCH + TIME);
    for name in ["a", "big", "inner"] {
        File::open(some.join(name)).unwrap().set_times(times).unwrap();
    }
    setup.start()
}

fn body(daemon: &Daemon, path: &str) -> String {
    let response = get(daemon.port(0), path);
    assert_eq!(response.status, 200, "{path}");
    String::from_utf8(response.body.clone()).expect("UTF-8")
}

#[test]
fn html_shows_names_times_and_sizes_in_columns() {
    let daemon = start();
    let page = body(&daemon, "/some/");
    assert!(page.starts_with(
        "<html>\r\n<head><title>Index of /some/</title></head>\r\n<body>\r\n<h1>Index of /some/</h1><hr><pre><a href=\"../\">../</a>\r\n"
    ));
    assert!(page.ends_with("</pre><hr></body>\r\n</html>\r\n"));
    let fifty = |name: &str| format!("{name}</a>{}", " ".repeat(50 - name.len()));
    for line in [
        format!("<a href=\"inner/\">{} 03-Feb-2001 04:05                   -\r\n", fifty("inner/")),
        format!("<a href=\"a\">{} 03-Feb-2001 04:05                   5\r\n", fifty("a")),
        format!("<a href=\"big\">{} 03-Feb-2001 04:05               10752\r\n", fifty("big")),
        "<a href=\"%3C%26%22%3E%27%25%3F\">&lt;&amp;&quot;&gt;'%?</a>".to_owned(),
        format!("<a href=\"{0}\">{0}</a> ", "x".repeat(50)),
        format!("<a href=\"{}\">{}..&gt;</a> ", "y".repeat(51), "y".repeat(47)),
    ] {
        assert!(page.contains(&line), "{line}\n{page}");
    }
    assert!(!page.contains("hidden"));
    let order: Vec<_> = ["inner/", "link/", "%3C", "\"a\"", "big"].map(|name| page.find(name)).to_vec();
    assert!(order.is_sorted() && order.iter().all(Option::is_some), "{order:?}");
    assert!(body(&daemon, "/short/some/").contains("03-Feb-2001 04:05     11K\r\n"));
    let odd = daemon.path("site/<b>");
    std::fs::create_dir(odd).unwrap();
    assert!(body(&daemon, "/%3Cb%3E/").contains("<title>Index of /&lt;b&gt;/</title>"));
}

#[test]
fn names_are_counted_in_characters_where_the_charset_says_so() {
    let daemon = start();
    assert!(body(&daemon, "/utf8/wide/").contains(&format!(">{}..&gt;</a> ", "ж".repeat(47))));
    let bytes = get(daemon.port(0), "/wide/").body.clone();
    assert!(std::str::from_utf8(&bytes).is_err(), "without one they are bytes, as in nginx");
}

#[test]
fn json_and_xml_say_the_same() {
    let daemon = start();
    let json = body(&daemon, "/json/some/");
    let time = "Sat, 03 Feb 2001 04:05:06 GMT";
    assert!(json.starts_with("[\r\n{ ") && json.ends_with(" }\r\n]"));
    for line in [
        format!("{{ \"name\":\"inner\", \"type\":\"directory\", \"mtime\":\"{time}\" }},\r\n"),
        format!("{{ \"name\":\"a\", \"type\":\"file\", \"mtime\":\"{time}\", \"size\":5 }}"),
        "\"name\":\"<&\\\">'%?\"".to_owned(),
        "\"name\":\"fifo\", \"type\":\"other\"".to_owned(),
        "\"name\":\"link\", \"type\":\"directory\"".to_owned(),
    ] {
        assert!(json.contains(&line), "{line}\n{json}");
    }
    let response = get(daemon.port(0), "/xml/some/");
    assert_eq!(response.header("content-type"), Some("text/xml; charset=utf-8"));
    let xml = response.text();
    assert!(xml.starts_with("<?xml version=\"1.0\"?>\r\n<list>\r\n") && xml.ends_with("</list>\r\n"));
    assert!(xml.contains("<file mtime=\"2001-02-03T04:05:06Z\" size=\"5\">a</file>\r\n"), "{xml}");
    assert!(xml.contains(">&lt;&amp;&quot;&gt;'%?</file>"));
    assert_eq!(body(&daemon, "/json/empty/"), "[\r\n]");
    assert_eq!(body(&daemon, "/xml/empty/"), "<?xml version=\"1.0\"?>\r\n<list>\r\n</list>\r\n");
}

#[test]
fn jsonp_calls_names_and_nothing_else() {
    let daemon = start();
    assert_eq!(body(&daemon, "/jsonp/empty/?callback=foo.bar"), "/* callback */\r\nfoo.bar([\r\n]);");
    let response = get(daemon.port(0), "/jsonp/empty/?callback=");
    assert_eq!(
        (response.text().as_str(), response.header("content-type")),
        ("[\r\n]", Some("application/json"))
    );
    for callback in ["alert(1)", "a-b", "%61", &"x".repeat(129)] {
        let response = get(daemon.port(0), &format!("/jsonp/empty/?callback={callback}"));
        assert_eq!(response.status, 400, "{callback}");
    }
}

#[test]
fn what_cannot_be_listed_is_not() {
    let daemon = start();
    for (path, status) in [
        ("/missing/", 404),
        ("/some/a/", 404),
        ("/some/fifo/", 404),
        ("/some", 301),
        ("/plain/some/", 403),
        ("/plain/missing/", 404),
    ] {
        assert_eq!(get(daemon.port(0), path).status, status, "{path}");
    }
    let mut client = Client::connect(daemon.port(0));
    client.send("HEAD /some/ HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response_head().status, 200);
    assert_eq!(client.get("/files/one").text(), "1");
    let post = "POST /some/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(fetch(daemon.port(0), post).status, 403);
}

#[test]
fn a_directory_of_many_files_is_listed_whole() {
    let daemon = start();
    let folder = daemon.path("site/many");
    std::fs::create_dir(&folder).unwrap();
    for number in 0..3000 {
        File::create(folder.join(OsStr::from_bytes(format!("file-{number:05}").as_bytes()))).unwrap();
    }
    let page = body(&daemon, "/many/");
    assert_eq!(page.matches("<a href=\"file-").count(), 3000);
}

#[test]
fn a_random_index_is_each_of_the_files_in_time() {
    let daemon = start();
    let mut client = Client::connect(daemon.port(0));
    let seen: BTreeSet<String> = (0..64).map(|_| client.get("/random/files/").text()).collect();
    assert_eq!(seen, BTreeSet::from(["1".to_owned(), "2".to_owned()]));
    assert!(client.get("/random/empty/").text().contains("Index of"), "none: the list");
    assert_eq!(client.get("/random/missing/").status, 404);
}
