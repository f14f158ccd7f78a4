//! Which answer a client gets instead of an error, and where that ends.

use crate::http::tests::stage::{Answer, Stage, answers, run};

async fn ask(stage: &Stage, request: &str, fields: &str) -> Answer {
    let bytes = format!("{request} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n");
    let mut answers = answers(&stage.serve(|client| client.sends(bytes.as_bytes())).await);
    assert_eq!(answers.len(), 1, "{request}: {answers:?}");
    answers.remove(0)
}

#[test]
fn the_page_of_a_status_takes_the_place_of_its_answer() {
    const PAGES: &str = "server { listen 127.0.0.1:1; error_page 404 /page; error_page 403 =200 /page; error_page 410 = /own; \
        error_page 409 @named; error_page 402 http://b/paid; error_page 406 =301 http://b/moved; \
        error_page 500 502 /missing; error_page 418 /$arg_to?x=1; \
        location = /page { return 200 \"page $status $request_method $args\"; } location = /own { return 201 own; } \
        location @named { return 203 \"named $uri\"; } location /to { return 202 \"$uri $args\"; } \
        location /402 { return 402; } location /403 { return 403; } location /404 { return 404; } \
        location /405 { return 405; } location /406 { return 406; } location /409 { return 409; } \
        location /410 { return 410; } location /418 { return 418; } location /500 { return 500; } \
        location /599 { return 599; } }";
    // Request, status, and how its body begins.
    let cases = [
        ("GET /404?q", 404, "page 404 GET "),
        ("POST /404", 404, "page 404 GET "),
        ("GET /403", 200, "page 200 GET "),
        ("GET /410", 201, "own"),
        ("GET /409", 409, "named /409"),
        ("GET /402", 302, "<html>"),
        ("GET /406", 301, "<html>"),
        ("GET /418?to=to/x", 418, "/to/x x=1"),
        ("GET /500", 404, "<html>\r\n<head><title>404 Not Found"),
        ("GET /405", 405, "<html>\r\n<head><title>405 Not Allowed"),
        ("GET /599", 599, ""),
        ("GET /nowhere", 404, "page 404 GET "),
    ];
    run(PAGES, async move |stage: Stage| {
        for (request, status, body) in cases {
            let answer = ask(&stage, request, "").await;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(answer.status == status && text.starts_with(body), "{request}: {} {text}", answer.status);
            assert!(answer.is_whole, "{request}");
        }
        let moved = ask(&stage, "GET /406", "").await;
        assert!(moved.head.contains("Location: http://b/moved"), "{}", moved.head);
    });
}

#[test]
fn pages_that_lead_to_errors_end() {
    const LOOPS: &str = "server { listen 127.0.0.1:1; recursive_error_pages on; error_page 404 /a; \
        location /a { error_page 403 /b; return 403; } location /b { error_page 410 /a; return 410; } \
        location /named { error_page 404 @none; return 404; } \
        location /once { recursive_error_pages off; error_page 403 /b; return 403; } }";
    run(LOOPS, async |stage: Stage| {
        for (path, status) in [("/x", 500), ("/a", 500), ("/once", 410), ("/named", 500)] {
            let answer = ask(&stage, &format!("GET {path}"), "").await;
            assert!(answer.status == status && answer.is_whole, "{path}: {answer:?}");
        }
    });
}

#[test]
fn pages_of_our_own_have_what_a_client_needs_and_no_more() {
    const OWN: &str = "server { listen 127.0.0.1:1; msie_refresh on; location /quiet { server_tokens off; return 404; } \
        location /short { msie_padding off; return 404; } location /away { return 302 \"http://b/<x>\"; } }";
    const MSIE: &str = "User-Agent: Mozilla/4.0 (compatible; MSIE 6.0; Windows)\r\n";
    run(OWN, async |stage: Stage| {
        let plain = ask(&stage, "GET /x", "").await;
        assert!(plain.body.ends_with(b"<hr><center>pronghorn/0.1.0</center>\r\n</body>\r\n</html>\r\n"));
        let quiet = ask(&stage, "GET /quiet", "").await;
        assert!(quiet.body.ends_with(b"<hr><center>pronghorn</center>\r\n</body>\r\n</html>\r\n"));
        let padded = ask(&stage, "GET /x", MSIE).await;
        assert!(padded.body.starts_with(&plain.body) && padded.body.len() > 512);
        assert_eq!(ask(&stage, "GET /short", MSIE).await.body, plain.body);
        assert_eq!(ask(&stage, "GET /x", "User-Agent: MSIE 6.0 Opera 9\r\n").await.body, plain.body);
        let refresh = ask(&stage, "GET /away", MSIE).await;
        assert!(refresh.status == 200 && !refresh.head.contains("Location"), "{}", refresh.head);
        assert!(
            memchr::memmem::find(&refresh.body, b"URL=http://b/%3Cx%3E\"").is_some(),
            "{:?}",
            refresh.body
        );
        assert_eq!(ask(&stage, "GET /away", "").await.status, 302);
    });
}
