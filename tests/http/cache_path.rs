//! `proxy_cache_path` and its like: what is read, and what is refused in nginx's words.

use crate::support::{Setup, get};

fn conf(directives: &str) -> String {
    format!("http {{ {directives} server {{ listen 127.0.0.1:%%PORT_0%%; location / {{ return 204; }} }} }}")
}

#[test]
fn every_family_has_caches_with_all_parameters() {
    let directives = "
        proxy_cache_path %%DIR%%/a/ keys_zone=a:8k;
        proxy_cache_path b levels=1:2:2 use_temp_path=off keys_zone=b:1m inactive=1h30m max_size=10g min_free=64m
            manager_files=1 manager_sleep=5 manager_threshold=10ms loader_files=1 loader_sleep=1s loader_threshold=1m;
        fastcgi_cache_path c levels= keys_zone=c:16k use_temp_path=on;
        uwsgi_cache_path d levels=2 keys_zone=d:16k;
        scgi_cache_path e keys_zone=f:16k;";
    let daemon = Setup::new(&conf(directives)).level("info").start();
    assert_eq!(get(daemon.port(0), "/").status, 204);
    for folder in ["a", "b", "c", "d", "e"] {
        assert!(daemon.path(folder).is_dir(), "{folder}");
    }
}

#[test]
fn what_is_wrong_is_said_in_nginx_s_words() {
    let cases = [
        ("proxy_cache_path a;", "invalid number of arguments in \"proxy_cache_path\" directive"),
        ("proxy_cache_path a levels=1:2;", "\"proxy_cache_path\" must have \"keys_zone\" parameter"),
        ("proxy_cache_path a keys_zone=:1m;", "\"proxy_cache_path\" must have \"keys_zone\" parameter"),
        ("proxy_cache_path a keys_zone=a;", "invalid keys zone size \"keys_zone=a\""),
        ("proxy_cache_path a keys_zone=a:x;", "invalid keys zone size \"keys_zone=a:x\""),
        ("proxy_cache_path a keys_zone=a:8191;", "keys zone \"keys_zone=a:8191\" is too small"),
        ("proxy_cache_path a keys_zone=a:1m levels=3;", "invalid \"levels\" \"levels=3\""),
        ("proxy_cache_path a keys_zone=a:1m levels=1:;", "invalid \"levels\" \"levels=1:\""),
        ("proxy_cache_path a keys_zone=a:1m levels=1:1:1:1;", "invalid \"levels\" \"levels=1:1:1:1\""),
        (
            "proxy_cache_path a keys_zone=a:1m use_temp_path=yes;",
            "invalid use_temp_path value \"use_temp_path=yes\", it must be \"on\" or \"off\"",
        ),
        ("proxy_cache_path a keys_zone=a:1m inactive=1x;", "invalid inactive value \"inactive=1x\""),
        ("proxy_cache_path a keys_zone=a:1m inactive=5ms;", "invalid inactive value \"inactive=5ms\""),
        ("proxy_cache_path a keys_zone=a:1m max_size=big;", "invalid max_size value \"max_size=big\""),
        ("proxy_cache_path a keys_zone=a:1m min_free=-1;", "invalid min_free value \"min_free=-1\""),
        (
            "proxy_cache_path a keys_zone=a:1m loader_files=x;",
            "invalid loader_files value \"loader_files=x\"",
        ),
        (
            "proxy_cache_path a keys_zone=a:1m manager_sleep=x;",
            "invalid manager_sleep value \"manager_sleep=x\"",
        ),
        ("proxy_cache_path a keys_zone=a:1m size=1m;", "invalid parameter \"size=1m\""),
        ("proxy_cache_path a keys_zone=a:1m on;", "invalid parameter \"on\""),
        ("proxy_cache_path a keys_zone=a:1m; proxy_cache_path b keys_zone=a:1m;", "duplicate zone \"a\""),
        ("proxy_cache_path a keys_zone=a:1m; proxy_cache_path a/ keys_zone=b:1m;", "the same path name \""),
        ("proxy_cache_path a keys_zone=a:1m; proxy_temp_path a/;", "a\" used in the zone \"a\""),
        ("client_body_temp_path x/y 1 2; scgi_cache_path x//y/ keys_zone=a:1m;", "the same path name \""),
        (
            "proxy_cache_path a keys_zone=a:1m; uwsgi_cache_path b keys_zone=a:1m;",
            "the shared memory zone \"a\" is already declared for a different use",
        ),
        (
            "limit_req_zone $arg_a zone=a:1m rate=1r/s; proxy_cache_path a keys_zone=a:1m;",
            "the shared memory zone \"a\" is already declared for a different use",
        ),
        (
            "proxy_cache_path nowhere/at/all keys_zone=a:1m;",
            "nowhere/at/all\" failed (2: No such file or directory)",
        ),
    ];
    for (directives, expected) in cases {
        let Err(exit) = Setup::new(&conf(directives)).try_start() else { panic!("{directives}: it started") };
        assert!(exit.stderr.contains(expected), "{directives}: {}", exit.stderr);
    }
}

#[test]
fn a_cache_inside_of_another_one_is_warned_of_and_temporary_files_there_are_not() {
    let directives = "
        proxy_cache_path %%DIR%%/a/b keys_zone=inner:8k;
        fastcgi_cache_path %%DIR%%/a levels=1 keys_zone=outer:8k;
        uwsgi_cache_path %%DIR%%/ab keys_zone=other:8k;
        proxy_temp_path %%DIR%%/a/temp;";
    let setup = Setup::new(&conf(directives));
    let output = setup.run(&["-t"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("a/b\" lies in the directory of the zone \"outer\""), "{text}");
    assert_eq!(text.matches("lies in").count(), 1, "{text}");
}
