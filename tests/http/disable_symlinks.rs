//! `disable_symlinks`: links on the way to a file, in the file's own name, above and below `from`.

use std::os::unix::fs::{lchown, symlink};

use crate::support::daemon::is_stand_in;
use crate::support::{Daemon, Setup, get};

const CONF: &str = r#"
http {
    server {
        listen 127.0.0.1:%%PORT_0%%;
        location /any/ { alias %%DIR%%/way/site/; }
        location /on/ { disable_symlinks on; alias %%DIR%%/site/; }
        location /above/ { disable_symlinks on; alias %%DIR%%/way/site/; }
        location /from/ { disable_symlinks on from=%%DIR%%/way; alias %%DIR%%/way/site/; }
        location /part/ { disable_symlinks on from=%%DIR%%/wa; alias %%DIR%%/way/site/; }
        location /owner/ { disable_symlinks if_not_owner; alias %%DIR%%/way/site/; }
        location /tried/ {
            disable_symlinks on; alias %%DIR%%/site/; try_files $uri /on/plain.txt;
        }
    }
}
"#;

fn start() -> Daemon {
    let setup = Setup::new(CONF)
        .file("site/plain.txt", "plain")
        .file("site/folder/inner.txt", "inner")
        .file("site/folder/index.html", "index")
        .file("outside/secret.txt", "secret");
    let at = |name: &str| setup.folder().join(name);
    symlink(setup.folder(), at("way")).unwrap();
    symlink("plain.txt", at("site/link.txt")).unwrap();
    symlink("folder", at("site/linked")).unwrap();
    symlink(at("outside/secret.txt"), at("site/secret.txt")).unwrap();
    symlink("nowhere", at("site/broken")).unwrap();
    setup.start()
}

#[test]
fn links_are_followed_unless_told_otherwise() {
    let daemon = start();
    for (path, status) in [
        ("/any/plain.txt", 200),
        ("/any/link.txt", 200),
        ("/any/linked/inner.txt", 200),
        ("/any/secret.txt", 200),
        ("/any/broken", 404),
        ("/on/plain.txt", 200),
        ("/on/folder/inner.txt", 200),
        ("/on/folder/", 200),
        ("/on/folder", 301),
        ("/on/missing", 404),
        ("/on/link.txt", 403),
        ("/on/linked/inner.txt", 404),
        ("/on/linked/", 404),
        ("/on/secret.txt", 403),
        ("/on/broken", 403),
        ("/above/plain.txt", 404),
        ("/from/plain.txt", 200),
        ("/from/link.txt", 403),
        ("/part/plain.txt", 404),
        ("/owner/link.txt", 200),
        ("/owner/linked/", 200),
    ] {
        assert_eq!(get(daemon.port(0), path).status, status, "{path}");
        assert_eq!(get(daemon.port(0), path).status, status, "{path} once more");
    }
}

#[test]
fn a_link_must_belong_to_the_owner_of_what_it_leads_to() {
    if !nix::unistd::geteuid().is_root() {
        return; // only root can give files away
    }
    let daemon = start();
    let give = |name: &str, owner| lchown(daemon.path(name), Some(owner), None).unwrap();
    give("site/link.txt", 65_534);
    assert_eq!(get(daemon.port(0), "/owner/link.txt").status, 403);
    assert_eq!(get(daemon.port(0), "/owner/plain.txt").status, 200);
    give("site/plain.txt", 65_534);
    assert_eq!(get(daemon.port(0), "/owner/link.txt").status, 200, "both are the same user's");
    give("site/linked", 65_534);
    assert_eq!(get(daemon.port(0), "/owner/linked/inner.txt").status, 403);
}

#[test]
fn mistakes_are_named() {
    if is_stand_in() {
        return; // its messages differ
    }
    for (text, expected) in [
        ("disable_symlinks from=/x;", "must have"),
        ("disable_symlinks maybe;", "invalid parameter \"maybe\""),
        ("disable_symlinks off from=/x;", "\"off\""),
        ("disable_symlinks on from=;", "invalid parameter"),
    ] {
        let conf = format!("http {{ server {{ listen 127.0.0.1:%%PORT_0%%; {text} }} }}");
        let exit = Setup::new(&conf).try_start().err().unwrap_or_else(|| panic!("{text} is taken"));
        assert!(exit.stderr.contains(expected), "{text}: {}", exit.stderr);
    }
}
