//! Variables of TLS, HTTP/2 and FastCGI on a plain site: they exist and are empty, as in nginx.

use crate::support::{Origin, Setup, fetch, get};

#[test]
fn variables_of_tls_are_known_and_have_no_value() {
    let origin = Origin::saying("x");
    let conf = r#"http {
        log_format tls "$ssl_protocol/$ssl_cipher [$http2] $ssl_session_reused $request_uri";
        map $ssl_client_verify $who { "" nobody; default somebody; }
        access_log %%DIR%%/access.log tls;
        server {
            listen 127.0.0.1:%%PORT_0%%;
            location / {
                proxy_set_header Early-Data $ssl_early_data;
                proxy_set_header X-Client-DN $ssl_client_s_dn;
                proxy_set_header X-Who $who;
                proxy_pass http://ORIGIN;
            }
            location /text { return 200 "[$ssl_server_name][$http2][$ssl_client_escaped_cert]"; }
        }
    }"#;
    let daemon = Setup::new(&conf.replace("ORIGIN", &origin.address())).start();
    assert_eq!(get(daemon.port(0), "/a").text(), "x");
    let request = origin.last();
    let names = request.names();
    assert!(
        !names.iter().any(|name| ["early-data", "x-client-dn"].contains(&&*name.to_lowercase())),
        "{names:?}"
    );
    assert_eq!(request.header("x-who"), Some("nobody"));
    assert_eq!(get(daemon.port(0), "/text").text(), "[][][]");
    daemon.wait_line("access.log", r"^-/- \[\] - /a$");
}

#[test]
fn the_script_of_fastcgi_is_the_uri_in_two_parts() {
    let conf = r#"http {
        fastcgi_index index.php;
        server {
            listen 127.0.0.1:%%PORT_0%%;
            root %%DIR%%/files;
            location / { return 200 "$fastcgi_script_name|$fastcgi_path_info"; }
            location ~ ^/split(.*) {
                fastcgi_split_path_info ^(.+?\.php)(/.*)$;
                set $path_info $fastcgi_path_info;
                try_files $fastcgi_script_name =404;
            }
            location ~ ^/shown(.*) {
                fastcgi_split_path_info ^(.+?\.php)(/.*)$;
                return 200 "$fastcgi_script_name|$fastcgi_path_info|$1";
            }
        }
    }"#;
    let daemon = Setup::new(conf).file("files/split.php", "script").start();
    for (path, expected) in [
        ("/a/b", "/a/b|"),
        ("/a/", "/a/index.php|"),
        ("/split.php/more", "script"),
        ("/shown.php/more/x", "/shown.php|/more/x|.php/more/x"),
        ("/shown.txt", "/shown.txt||.txt"),
    ] {
        assert_eq!(get(daemon.port(0), path).text(), expected, "{path}");
    }
    let request = "GET /split.txt/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(fetch(daemon.port(0), request).status, 404);
}
