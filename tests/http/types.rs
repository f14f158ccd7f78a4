//! `types`: blocks of one level form one table and replace those of an outer level.

use crate::support::{Setup, get};

#[test]
fn blocks_of_one_level_add_to_each_other() {
    let conf = r"
        http {
            types { text/html html; text/plain txt; }
            types { text/javascript mjs; text/x-plain txt; }
            default_type a/default;
            server {
                listen 127.0.0.1:%%PORT_0%%;
                root %%DIR%%/files;
                location /own/ { types { a/own own; } types { b/own bown; } }
            }
        }";
    let names = ["a.html", "a.txt", "a.mjs", "own/a.own", "own/a.bown", "own/a.html"];
    let setup = names.iter().fold(Setup::new(conf), |setup, name| setup.file(&format!("files/{name}"), "x"));
    let daemon = setup.start();
    let kinds = ["text/html", "text/x-plain", "text/javascript", "a/own", "b/own", "a/default"];
    for (name, kind) in names.iter().zip(kinds) {
        assert_eq!(get(daemon.port(0), &format!("/{name}")).header("content-type"), Some(kind), "{name}");
    }
}

#[test]
fn the_first_of_two_named_locations_counts() {
    let conf = r#"
        http { server {
            listen 127.0.0.1:%%PORT_0%%;
            location / { error_page 418 = @a; return 418; }
            location @a { return 200 "first"; }
            location @a { return 200 "second"; }
        } }"#;
    let daemon = Setup::new(conf).start();
    assert_eq!(get(daemon.port(0), "/").text(), "first");
}
