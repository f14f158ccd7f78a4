//! The findings of `-t`: nginx's first lines where nginx reports something, and nothing where it does not.
//!
//! Each case is a piece of a configuration with the expected lines, without their places.

use crate::support::Setup;
use crate::support::daemon::is_stand_in;

/// The exit code and the findings (`[level] message`, without place) for a whole configuration.
pub fn findings(conf: &str) -> (i32, Vec<String>) {
    let output = Setup::new(conf).run(&["-t"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines = text.lines().filter_map(|line| line.strip_prefix("pronghorn: ["));
    let plain = |line: &str| {
        let line = line
            .rsplit_once(" in /")
            .filter(|(_, place)| place.contains(".conf:"))
            .map_or(line, |(line, _)| line);
        format!("[{line}")
    };
    (output.status.code().unwrap_or(-1), lines.map(plain).collect())
}

/// Wraps the directives of a block into a configuration.
fn within(block: &str, text: &str) -> String {
    match block {
        "main" => text.to_owned() + "\n",
        "events" => format!("events {{ {text} }}\n"),
        "http" => format!("http {{ {text} }}\n"),
        "server" => within("http", &format!("server {{ listen 127.0.0.1:%%PORT_0%%; {text} }}")),
        "location" => within("server", &format!("location / {{ {text} }}")),
        _ => panic!("{block}"),
    }
}

/// `(block, text, findings)`; findings that begin with `[emerg]` refuse the configuration.
fn check(cases: &[(&str, &str, &[&str])]) {
    if is_stand_in() {
        return; // nginx stops at the first error, and logs at other levels
    }
    for (block, text, expected) in cases {
        let (code, found) = findings(&within(block, text));
        assert_eq!(found, *expected, "{block}: {text}");
        let is_error = expected.iter().any(|line| line.starts_with("[emerg]"));
        assert_eq!(code, i32::from(is_error), "{block}: {text}");
    }
}

#[test]
fn what_nginx_takes_twice_may_stand_twice() {
    check(&[
        (
            "http",
            "types { text/html html; } types { text/javascript mjs; text/x html; }",
            &[
                "[warn] duplicate extension \"html\", content type: \"text/x\", previous content type: \"text/html\"",
            ],
        ),
        (
            "http",
            "types { a/b a b c; } types { a/b a b c; }",
            &["[warn] duplicate extension \"a\", content type: \"a/b\", previous content type: \"a/b\""],
        ),
        ("server", "location @a { return 200; } location @a { }", &["[warn] duplicate location \"@a\""]),
        ("location", "stub_status; stub_status;", &[]),
        ("location", "empty_gif; empty_gif;", &[]),
        (
            "location",
            "proxy_next_upstream error; proxy_next_upstream error http_502;",
            &["[warn] duplicate value \"error\""],
        ),
        ("location", "proxy_ignore_headers Expires expires;", &["[warn] duplicate value \"expires\""]),
        (
            "location",
            "keepalive_disable none; keepalive_disable none safari;",
            &["[warn] duplicate value \"none\""],
        ),
        ("http", "gzip_types text/html;", &["[warn] duplicate MIME type \"text/html\""]),
        ("server", "server_name a a;", &[]),
        ("events", "debug_connection 127.0.0.1; debug_connection 127.0.0.1;", &[]),
        ("main", "worker_processes 0;", &["[warn] worker_processes 0 is taken for 1"]),
    ]);
}

#[test]
fn there_are_only_so_many_workers() {
    if is_stand_in() {
        return; // nginx starts any number
    }
    let (code, found) = findings(&within("main", "worker_processes 300;"));
    assert_eq!(code, 0);
    // A machine may lack the memory for so many, which is another warning.
    assert!(found.iter().any(|line| line == "[warn] worker_processes 300 is taken for 256"), "{found:?}");
}

#[test]
fn what_nginx_refuses_twice_is_refused_also_where_it_has_no_effect() {
    check(&[
        ("http", "tcp_nopush on; tcp_nopush on;", &["[emerg] \"tcp_nopush\" directive is duplicate"]),
        ("http", "tcp_nopush on; server { tcp_nopush on; }", &[]),
        (
            "http",
            "server_names_hash_max_size 512; server_names_hash_max_size 512;",
            &["[emerg] \"server_names_hash_max_size\" directive is duplicate"],
        ),
        ("events", "multi_accept on; multi_accept on;", &["[emerg] \"multi_accept\" directive is duplicate"]),
        ("main", "lock_file a; lock_file b;", &["[emerg] \"lock_file\" directive is duplicate"]),
        (
            "main",
            "thread_pool a threads=2; thread_pool b threads=2; thread_pool a threads=2;",
            &["[emerg] duplicate thread pool \"a\""],
        ),
        ("location", "valid_referers a.b a.b;", &["[emerg] conflicting parameter \"a.b\""]),
    ]);
}

#[test]
fn a_header_that_is_never_sent_may_have_any_name() {
    check(&[
        (
            "location",
            "proxy_set_header X-By: \"\"; proxy_set_header \"\" \"\";",
            &["[warn] \"X-By:\" is not a valid header name", "[warn] \"\" is not a valid header name"],
        ),
        ("location", "proxy_set_header X-By: a;", &["[emerg] \"X-By:\" is not a valid header name"]),
        ("location", "proxy_set_header \"X By\" $uri;", &["[emerg] \"X By\" is not a valid header name"]),
    ]);
}

/// The whole output of `-t` for a configuration.
fn printed(conf: &str) -> String {
    String::from_utf8_lossy(&Setup::new(conf).run(&["-t"]).stderr).into_owned()
}

#[test]
fn what_images_become_is_checked() {
    let wrong = |text: &'static str| ["[emerg] invalid ", text].concat();
    let cases = [
        ("image_filter on;", wrong("parameter \"on\"")),
        ("image_filter resize 10;", wrong("parameter \"resize\"")),
        ("image_filter test 1;", wrong("parameter \"test\"")),
        ("image_filter crop 10 0;", wrong("parameter \"0\"")),
        ("image_filter resize x 10;", wrong("parameter \"x\"")),
        ("image_filter rotate 45;", wrong("parameter \"45\"")),
        ("image_filter_jpeg_quality 0;", wrong("value \"0\"")),
        ("image_filter_webp_quality -;", wrong("value \"-\"")),
        ("image_filter_sharpen -1;", wrong("value \"-1\"")),
    ];
    for (text, expected) in &cases {
        check(&[("location", text, &[expected])]);
    }
    check(&[
        ("location", "image_filter resize - 10; image_filter rotate 90; image_filter_sharpen 0;", &[]),
        ("location", "image_filter rotate $arg_r; image_filter_jpeg_quality $arg_q;", &[]),
        ("http", "image_filter_buffer 1m; image_filter_interlace on; image_filter_webp_quality 80;", &[]),
        ("main", "load_module modules/ngx_http_image_filter_module.so;", &[]),
    ]);
}

#[test]
fn settings_of_what_is_not_in_use_are_warnings() {
    check(&[
        (
            "http",
            "xslt_types a/b; ssl_ech_file a; perl_modules a;",
            &[
                "[warn] \"xslt_types\" has no effect",
                "[warn] \"ssl_ech_file\" has no effect",
                "[warn] \"perl_modules\" has no effect",
            ],
        ),
        (
            "main",
            "google_perftools_profiles /tmp/a; ssl_engine pkcs11;",
            &["[warn] \"google_perftools_profiles\" has no effect", "[warn] \"ssl_engine\" has no effect"],
        ),
        (
            "events",
            "epoll_events 64; kqueue_changes 8; devpoll_events 8; eventport_events 8;",
            &["[warn] \"kqueue_changes\" has no effect"],
        ),
        (
            "main",
            "events { } http { degradation sbrk=500m; open_file_cache_events on; ssi_ignore_recycled_buffers on; }",
            &["[warn] \"degradation\" has no effect"],
        ),
        ("main", "stream { proxy_downstream_buffer 8k; proxy_upstream_buffer 8k; }", &[]),
        ("main", "load_module modules/ngx_http_brotli_filter_module.so;", &[]),
        ("main", "load_module modules/ngx_otel_module.so;", &[]),
        (
            "main",
            "load_module modules/ngx_http_echo_module.so;",
            &["[warn] \"modules/ngx_http_echo_module.so\" is not loaded, modules of nginx cannot be"],
        ),
    ]);
}

#[test]
fn one_missing_feature_is_told_once_for_each_server() {
    check(&[
        (
            "http",
            "server { listen 127.0.0.1:%%PORT_0%%; location /a { include /dev/null; xslt_stylesheet a; xslt_types a/b; }
                      location /b { xslt_stylesheet a; xslt_types a/b; } }",
            &["[emerg] the \"xslt_stylesheet\" directive is not available yet"],
        ),
        ("server", "ssl_ech_file a;", &["[warn] \"ssl_ech_file\" has no effect"]),
        ("location", "degrade 204;", &["[emerg] the \"degrade\" directive is not available yet"]),
        (
            "location",
            "content_by_lua_block { local t = { a = \"x}\", b = '{' } -- it's
               ngx.say(\"it's \" .. t.a) } access_by_lua_file a.lua; bad on;",
            &["[emerg] unknown directive \"content_by_lua_block\"", "[emerg] unknown directive \"bad\""],
        ),
        ("http", "vod_mode local;", &["[emerg] unknown directive \"vod_mode\""]),
        ("location", "return 200 $echo_request_uri;", &["[emerg] unknown \"echo_request_uri\" variable"]),
        (
            "server",
            "xslt_types a/b; location / { xslt_stylesheet a; xslt_param a b; }",
            &["[emerg] the \"xslt_stylesheet\" directive is not available yet"],
        ),
    ]);
}

#[test]
fn lines_are_counted_and_a_table_says_what_is_needed() {
    if is_stand_in() {
        return;
    }
    let text = printed(
        "http {
            xslt_types a/b;
            server {
                listen 127.0.0.1:%%PORT_0%%;
                xslt_param a b;
                xslt_last_modified on;
                location /u { xslt_stylesheet a; }
                location / { perl a; }
            }
        }
        ",
    );
    assert!(text.contains(" XSLT: 3 lines, ") && !text.contains("Perl: "), "{text}");
    let (_, table) =
        text.split_once("this configuration needs features that are not available yet:\n").expect("a table");
    let rows: Vec<&str> = table.lines().take(2).collect();
    assert!(rows[0].starts_with("  XSLT  4 lines in 1 server, /"), "{text}");
    assert!(rows[1].starts_with("  Perl  1 line in 1 server, /"), "{text}");
    assert!(!printed("http { xslt_types a/b; }\n").contains("needs features that are not available"));
}

#[test]
fn the_configuration_of_debian_s_package_passes() {
    if is_stand_in() {
        return;
    }
    let conf = "
        load_module modules/ngx_http_headers_more_filter_module.so;
        load_module modules/ngx_http_image_filter_module.so;
        load_module modules/ngx_http_perl_module.so;
        events { worker_connections 768; }
        http {
            sendfile on; tcp_nopush on; types_hash_max_size 2048; server_tokens build;
            types { text/html html; } default_type application/octet-stream;
            ssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3;
            ssl_prefer_server_ciphers on;
            access_log %%DIR%%/access.log;
            gzip on;
            server {
                listen 127.0.0.1:%%PORT_0%% default_server;
                root /var/www/html;
                index index.html index.htm index.nginx-debian.html;
                server_name _;
                location / { try_files $uri $uri/ =404; }
            }
        }
        ";
    let (code, found) = findings(conf);
    assert_eq!(code, 0, "{found:?}");
    assert_eq!(
        found,
        ["[warn] \"modules/ngx_http_perl_module.so\" is not loaded, modules of nginx cannot be"]
    );
}

#[test]
fn paths_that_nginx_has_built_in_are_asked_for() {
    if is_stand_in() {
        return;
    }
    let setup = Setup::new("events { } http { server { listen 127.0.0.1:%%PORT_0%%; } }\n").bare();
    std::fs::remove_dir(setup.folder().join("logs")).expect("it is empty");
    let conf = setup.folder().join("pronghorn.conf");
    std::fs::write(&conf, "events { } http { server { listen 127.0.0.1:0; } }\n").expect("it is ours");
    let output = std::process::Command::new(crate::support::daemon::binary())
        .args(["-t", "-p", &setup.folder().display().to_string(), "-c", &conf.display().to_string()])
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr);
    let start =
        format!("[warn] \"{}\" is no folder: errors go to stderr, ", setup.folder().join("logs").display());
    assert!(text.contains(&start) && text.contains("the pid file is /run/pronghorn.pid\n"), "{text}");
    assert!(text.contains("[warn] requests are not logged: "), "{text}");
}

#[test]
fn mistakes_have_nginx_s_words() {
    check(&[
        ("server", "server_name *example.test;", &["[emerg] server name \"*example.test\" is invalid"]),
        ("server", "server_name .;", &["[emerg] server name \".\" is invalid"]),
        ("server", "server_name ~;", &["[emerg] empty regex in server name \"~\""]),
        ("server", "server_name a/b;", &["[warn] server name \"a/b\" has suspicious symbols"]),
        ("server", "server_name $hostname a;", &[]),
        (
            "server",
            "location ~ /re { location /b { } }",
            &["[emerg] location \"/b\" is outside location \"/re\""],
        ),
        ("server", "location ~ /re { location /reb { } location ~ x { } }", &[]),
        (
            "server",
            "location = /a { location @b { } }",
            &["[emerg] location \"@b\" cannot be inside the exact location \"/a\""],
        ),
        ("location", "return $arg_u;", &["[emerg] invalid return code \"$arg_u\""]),
        ("location", "return $scheme://a;", &[]),
        ("http", "upstream a { keepalive 2; }", &["[emerg] no servers are inside upstream"]),
        ("http", "upstream a { server a b; }", &["[emerg] invalid parameter \"b\""]),
        ("http", "worker_processes 2;", &["[emerg] \"worker_processes\" directive is not allowed here"]),
        ("location", "multi_accept on;", &["[emerg] \"multi_accept\" directive is not allowed here"]),
        ("location", "expires soon;", &["[emerg] \"expires\" directive invalid value"]),
        ("location", "gzip_buffers a b;", &["[emerg] \"gzip_buffers\" directive invalid value"]),
        ("location", "output_buffers 0 1k;", &["[emerg] \"output_buffers\" directive invalid value"]),
        (
            "location",
            "gzip_hash 1;",
            &["[emerg] \"gzip_hash\" directive must be 512, 1k, 2k, 4k, 8k, 16k, 32k, 64k, or 128k"],
        ),
        ("location", "open_file_cache x;", &["[emerg] invalid \"open_file_cache\" parameter \"x\""]),
        ("location", "index \"\";", &["[emerg] index \"\" in \"index\" directive is invalid"]),
        (
            "location",
            "index /a b;",
            &["[warn] only the last index in \"index\" directive should be absolute"],
        ),
        ("location", "aio sometimes;", &["[emerg] \"aio\" directive invalid value"]),
        ("location", "directio on;", &["[emerg] \"directio\" directive invalid value"]),
        ("events", "use select;", &["[emerg] invalid event type \"select\""]),
        (
            "events",
            "worker_connections x;",
            &["[emerg] invalid number \"x\" in \"worker_connections\" directive"],
        ),
        ("main", "debug_points go;", &["[emerg] invalid value \"go\""]),
        ("main", "worker_cpu_affinity 01x1;", &["[emerg] invalid character \"x\" in \"01x1\""]),
        ("main", "error_log stderr info warn;", &["[emerg] duplicate log level \"warn\""]),
        ("main", "error_log stderr debug_core debug_http;", &[]),
        ("location", "limit_conn none 0;", &["[emerg] invalid number of connections \"0\""]),
    ]);
}

#[test]
fn tls_to_upstreams_is_checked_where_it_is_used() {
    const NONE: &str = "[emerg] no proxy_ssl_trusted_certificate for proxy_ssl_verify";
    check(&[
        ("location", "proxy_pass https://127.0.0.1; proxy_ssl_verify on;", &[NONE]),
        ("location", "set $up https://127.0.0.1; proxy_pass $up; proxy_ssl_verify on;", &[NONE]),
        ("location", "proxy_pass http://127.0.0.1; proxy_ssl_verify on;", &[]),
        ("location", "set $up a; proxy_pass http://$up; proxy_ssl_verify on;", &[]),
        (
            "server",
            "proxy_ssl_verify on; location /a { proxy_pass https://127.0.0.1; } location /b { proxy_pass https://127.0.0.1; }",
            &[NONE; 2],
        ),
        (
            "location",
            "proxy_pass https://127.0.0.1; proxy_ssl_certificate data:x;",
            &["[emerg] no \"proxy_ssl_certificate_key\" is defined for certificate \"data:x\""],
        ),
        (
            "location",
            "proxy_pass https://127.0.0.1; proxy_ssl_certificate data:x; proxy_ssl_certificate_key data:y;",
            &[
                "[emerg] cannot load certificate \"data:\": there is no certificate in it (\"-----BEGIN CERTIFICATE-----\")",
            ],
        ),
        (
            "location",
            "proxy_pass https://127.0.0.1; proxy_ssl_protocols TLSv1;",
            &[
                "[emerg] TLS before 1.2 is not supported, since its ciphers are broken: write \"TLSv1.2 TLSv1.3\"",
            ],
        ),
        (
            "location",
            "proxy_pass https://127.0.0.1; proxy_ssl_certificate_cache inactive=1s;",
            &["[emerg] \"proxy_ssl_certificate_cache\" must have the \"max\" parameter"],
        ),
        (
            "location",
            "proxy_pass https://$arg_host;",
            &["[warn] the host of \"proxy_pass\" begins with \"$arg_host\", which a client chooses"],
        ),
    ]);
}

#[test]
fn a_server_that_asks_itself_is_told() {
    if is_stand_in() {
        return;
    }
    let leads = |conf: &str| {
        let (code, found) = findings(conf);
        assert_eq!(code, 0, "{found:?}");
        found.iter().filter(|line| line.contains("leads back to this server")).count()
    };
    let server =
        |own: &str, other: &str| format!("server {{ listen 127.0.0.1:{own}; location / {{ {other} }} }}");
    let pass = |port: &str| format!("proxy_pass http://127.0.0.1:{port};");
    let (one, two) = ("%%PORT_0%%", "%%PORT_1%%");
    assert_eq!(leads(&within("http", &server(one, &pass(one)))), 1);
    assert_eq!(leads(&within("http", &(server(one, &pass(two)) + &server(two, &pass(one))))), 2);
    assert_eq!(leads(&within("http", &(server(one, &pass(two)) + &server(two, "return 200;")))), 0);
    let named = "upstream u { server localhost:%%PORT_0%%; } ".to_owned();
    assert_eq!(leads(&within("http", &(named + &server(one, "proxy_pass http://u;")))), 1);
}

#[test]
fn names_of_servers_are_compared_where_servers_share_an_address() {
    let two = |first: &str, second: &str| {
        format!(
            "server {{ listen 127.0.0.1:%%PORT_0%%; {first} }} server {{ listen 127.0.0.1:%%PORT_0%%; {second} }}"
        )
    };
    let conf = |first, second| findings(&within("http", &two(first, second)));
    if is_stand_in() {
        return;
    }
    for (first, second, name) in [
        ("", "", ""),
        ("server_name \"\";", "", ""),
        ("server_name a;", "server_name b a;", "a"),
        ("server_name .a;", "server_name a;", "a"),
    ] {
        let (code, found) = conf(first, second);
        assert_eq!(code, 0);
        let start = format!("[warn] conflicting server name \"{name}\" on 127.0.0.1:");
        assert!(found.len() == 1 && found[0].starts_with(&start), "{found:?}");
    }
    assert_eq!(conf("server_name a;", "server_name b;").1, [""; 0]);
    let (code, found) = conf("server_name a.*.b;", "");
    assert!(
        code == 1 && found[0].starts_with("[emerg] invalid server name or wildcard \"a.*.b\" on "),
        "{found:?}"
    );
}
