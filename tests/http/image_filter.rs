//! `image_filter`: images that are checked, measured, shrunk, cut and turned; responses that are none; hostile and damaged
//! ones; memory; clients and upstreams that take their time.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::daemon::is_stand_in;
use crate::support::{Client, Daemon, Origin, Response, Setup, deadline, fetch, get, process, wait_for};

const CONF: &str = r#"
worker_processes 1;
http {
    types { image/gif gif; image/png png; image/jpeg jpg; image/webp webp; text/plain txt; text/html html; }
    gzip_types application/json image/png;
    access_log off;
    server {
        listen 127.0.0.1:%%PORT_0%%;
        root %%DIR%%/site;
        add_header X-Added yes;
        location /plain/ { alias %%DIR%%/site/; }
        location /size/ { image_filter size; alias %%DIR%%/site/; }
        location /zipped/ { image_filter size; gzip on; gzip_min_length 1; alias %%DIR%%/site/; }
        location /test/ { image_filter test; alias %%DIR%%/site/; location /test/off/ { image_filter off; alias %%DIR%%/site/; } }
        location /zipped-test/ { image_filter test; gzip on; gzip_min_length 1; alias %%DIR%%/site/; }
        location /resize/ { image_filter resize 50 50; alias %%DIR%%/site/; }
        location /crop/ { image_filter crop 50 30; alias %%DIR%%/site/; }
        location /rotate/ { image_filter rotate 90; alias %%DIR%%/site/; }
        location /any/ { image_filter resize $arg_w $arg_h; image_filter rotate $arg_r; alias %%DIR%%/site/; }
        location /quality/ { image_filter rotate 180; image_filter_jpeg_quality $arg_q; image_filter_interlace on; alias %%DIR%%/site/; }
        location /sharp/ { image_filter rotate 180; image_filter_sharpen 100; alias %%DIR%%/site/; }
        location /opaque/ { image_filter rotate 180; image_filter_transparency off; alias %%DIR%%/site/; }
        location /short/ { image_filter resize 50 50; image_filter_buffer 100; alias %%DIR%%/site/; }
        location /few/ { image_filter resize 50 50; image_filter_max_pixels 11999; alias %%DIR%%/site/; }
        location /page/ { image_filter resize 50 50; error_page 415 /resize/a.png; alias %%DIR%%/site/; }
        location /instead/ { image_filter resize 50 50; error_page 415 = /none; alias %%DIR%%/site/; }
        location /loop/ { image_filter test; error_page 415 /loop/a.txt; recursive_error_pages on; alias %%DIR%%/site/; }
        location /more/ { image_filter test; addition_types *; add_after_body /plain/a.txt; alias %%DIR%%/site/; }
        location /before/ { image_filter resize 50 50; addition_types *; add_before_body /nowhere; alias %%DIR%%/site/; }
        location = /nowhere { proxy_pass http://127.0.0.1:1; }
        location = /none { return 204; }
        location = /moved { image_filter test; return 301 /elsewhere; }
        location = /ssi.html { ssi on; }
        location /far/ { image_filter resize 50 50; proxy_pass http://%%ORIGIN%%/; }
        location /far-size/ { image_filter size; image_filter_buffer 4k; proxy_pass http://%%ORIGIN%%/; }
        location /far-test/ { image_filter test; proxy_pass http://%%ORIGIN%%/; }
        location /drawn { return 200 $memory_drawn; }
    }
}
"#;

type Pixels = Vec<u8>;

/// Three bytes for each pixel, which tell its place.
fn pixels(width: u32, height: u32) -> Pixels {
    let places = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    places.flat_map(|(x, y)| [x as u8, y as u8, 100]).collect()
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, width, height);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&pixels(width, height)).unwrap();
    writer.finish().unwrap();
    out
}

fn jpeg(width: u16, height: u16, is_progressive: bool) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut out, 90);
    encoder.set_progressive(is_progressive);
    let data = pixels(width.into(), height.into());
    encoder.encode(&data, width, height, jpeg_encoder::ColorType::Rgb).unwrap();
    out
}

/// A GIF of some equal frames, half of each transparent.
fn gif(width: u16, height: u16, frames: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = gif::Encoder::new(&mut out, width, height, &[9, 8, 7, 200, 100, 50]).unwrap();
    let count = usize::from(width) * usize::from(height);
    let buffer: Vec<u8> = (0..count).map(|at| u8::from(at >= count / 2)).collect();
    let frame =
        gif::Frame { width, height, buffer: buffer.into(), transparent: Some(0), ..gif::Frame::default() };
    (0..frames).for_each(|_| encoder.write_frame(&frame).unwrap());
    drop(encoder);
    out
}

fn webp(width: u32, height: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let encoder = image_webp::WebPEncoder::new(&mut out);
    encoder.encode(&pixels(width, height), width, height, image_webp::ColorType::Rgb8).unwrap();
    out
}

fn site() -> [(&'static str, Vec<u8>); 5] {
    [
        ("a.png", png(100, 120)),
        ("a.jpg", jpeg(100, 120, false)),
        ("p.jpg", jpeg(100, 120, true)),
        ("a.gif", gif(100, 120, 3)),
        ("a.webp", webp(100, 120)),
    ]
}

fn setup() -> Setup {
    let mut setup =
        Setup::new(CONF).level("info").file("site/a.txt", "a text that is longer than a signature");
    setup = setup.file("site/ssi.html", "(<!--#include virtual=\"/size/a.png\" -->)");
    for (name, image) in site() {
        setup = setup.file(&format!("site/{name}"), image);
    }
    setup
}

fn start() -> Daemon {
    setup().set("ORIGIN", "127.0.0.1:1").start()
}

/// The width and the height of a PNG, and its pixels.
fn read_png(bytes: &[u8]) -> ((u32, u32), Pixels) {
    let mut decoder = png::Decoder::new(std::io::Cursor::new(bytes));
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().expect("a PNG");
    let mut pixels = vec![0; reader.output_buffer_size().expect("a size")];
    let info = reader.next_frame(&mut pixels).expect("pixels");
    ((info.width, info.height), pixels)
}

/// Width and height of an image, which the daemon's `size` says, too.
fn size(response: &Response) -> (u32, u32) {
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.length(), Some(response.body.len()));
    let body = &response.body;
    match response.header("content-type") {
        Some("image/png") => read_png(body).0,
        Some("image/gif") => {
            let mut decoder = gif::DecodeOptions::new().read_info(&body[..]).expect("a GIF");
            let frame = decoder.read_next_frame().expect("a GIF").expect("a frame");
            (frame.width.into(), frame.height.into())
        }
        Some("image/jpeg") => {
            let mut decoder = zune_jpeg::JpegDecoder::new(zune_core::bytestream::ZCursor::new(body));
            decoder.decode().expect("a JPEG");
            let info = decoder.info().expect("a JPEG");
            (info.width.into(), info.height.into())
        }
        Some("image/webp") => {
            image_webp::WebPDecoder::new(std::io::Cursor::new(body)).expect("a WebP").dimensions()
        }
        other => panic!("{other:?}"),
    }
}

fn ask(daemon: &Daemon, line: &str, fields: &str) -> Response {
    fetch(daemon.port(0), &format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{fields}\r\n"))
}

#[test]
fn images_become_smaller_in_their_own_format() {
    if is_stand_in() {
        return;
    }
    let daemon = start();
    for (name, image) in site() {
        for (path, expected) in
            [("resize", (41, 50)), ("crop", (50, 30)), ("rotate", (120, 100)), ("any", (20, 10))]
        {
            let args = if path == "any" { "?w=10&h=20&r=270" } else { "" };
            let response = get(daemon.port(0), &format!("/{path}/{name}{args}"));
            let expected = if path == "any" { (12, 10) } else { expected };
            assert_eq!(size(&response), expected, "/{path}/{name}");
            assert!(response.header("etag").is_some_and(|tag| tag.starts_with("W/\"")));
            assert_eq!((response.header("accept-ranges"), response.header("x-added")), (None, Some("yes")));
        }
        for args in ["?w=100&h=-", "?w=-&h=120", "?w=4000&h=4000"] {
            let whole = get(daemon.port(0), &format!("/any/{name}{args}"));
            assert!(whole.body == image, "{name}{args} is small enough");
            assert!(whole.header("etag").is_some_and(|tag| tag.starts_with('"')));
        }
        let tested = get(daemon.port(0), &format!("/test/{name}"));
        assert!(tested.body == image && size(&tested) == (100, 120));
        let kind = if name == "p.jpg" { "jpeg" } else { &name[2..] }.replace("jpg", "jpeg");
        let told = get(daemon.port(0), &format!("/size/{name}"));
        let expected =
            format!("{{ \"img\" : {{ \"width\": 100, \"height\": 120, \"type\": \"{kind}\" }} }}\r\n");
        assert_eq!((told.text(), told.length()), (expected.clone(), Some(expected.len())));
        for (field, value) in [("content-type", Some("application/json")), ("etag", None), ("x-added", None)]
        {
            assert_eq!(told.header(field), value);
        }
    }
    assert_eq!(daemon.complaints("error|crit|alert|emerg"), Vec::<String>::new());
}

#[test]
fn pixels_are_those_that_were_asked_for() {
    if is_stand_in() {
        return;
    }
    let daemon = start();
    let pixel = |path: &str, x: usize, y: usize| {
        let ((width, _), pixels) = read_png(&get(daemon.port(0), path).body);
        let at = (y * width as usize + x) * 3;
        pixels[at..at + 3].to_vec()
    };
    // counter-clockwise: the upper right corner comes to the left
    assert_eq!(pixel("/rotate/a.png", 0, 0), [99, 0, 100]);
    assert_eq!(pixel("/sharp/a.png", 50, 50), [49, 69, 100], "even slopes stay as they are");
    // shrunk to 50 x 60, of which the rows 15 to 44 are left
    assert_eq!(pixel("/crop/a.png", 0, 0), [1, 31, 100]);
    let transparent = |path: &str| {
        let body = get(daemon.port(0), path).body;
        let mut decoder = gif::DecodeOptions::new().read_info(&body[..]).expect("a GIF");
        decoder.read_next_frame().expect("a GIF").expect("a frame").transparent
    };
    assert!(transparent("/rotate/a.gif").is_some() && transparent("/opaque/a.gif").is_none());
    let quality = |args: &str| get(daemon.port(0), &format!("/quality/a.jpg{args}"));
    let (low, high) = (quality("?q=20"), quality("?q=1000"));
    assert!(low.body.len() * 2 < high.body.len(), "{} {}", low.body.len(), high.body.len());
    let has = |response: &Response, text: &[u8]| response.body.windows(text.len()).any(|part| part == text);
    assert!(has(&low, b"quality = 20") && has(&high, b"quality = 100") && has(&low, b"\xff\xc2"));
    for args in ["?q=0", "?q=-", ""] {
        assert_eq!(quality(args).status, 415, "{args}");
    }
}

#[test]
fn responses_that_are_no_images_get_415() {
    let daemon = start();
    let mut client = Client::connect(daemon.port(0));
    for path in
        ["/test/a.txt", "/resize/a.txt", "/resize/missing.png", "/moved", "/any/a.png?w=0&h=1", "/any/a.png"]
    {
        let response = client.get(path);
        assert_eq!((response.status, response.header("x-added")), (415, None), "{path}");
        assert!(response.text().contains("<h1>415 Unsupported Media Type</h1>"));
    }
    for path in ["/size/a.txt", "/size/missing.png"] {
        let response = client.get(path);
        assert_eq!((response.status, &*response.text()), (200, "{}\r\n"), "{path}");
        assert_eq!(response.header("x-added"), None);
    }
    assert_eq!(client.get("/test/off/a.txt").text(), "a text that is longer than a signature");
    daemon.wait_log("image filter: the response is no image.*/test/a.txt");
    // a page in another location is filtered there
    let page = client.get("/page/a.txt");
    assert_eq!((page.status, read_png(&page.body).0), (415, (41, 50)));
    assert_eq!(client.get("/instead/a.txt").status, 204);
    assert_eq!(client.get("/size/a.png").status, 200, "the connection goes on");
    if !is_stand_in() {
        // each page fails like the one before
        assert_eq!(get(daemon.port(0), "/loop/a.txt").status, 415);
        daemon.wait_log("redirection cycle while internally redirecting to \"/loop/a.txt\"");
    }
}

#[test]
fn requests_for_heads_parts_and_changes_only() {
    let daemon = start();
    let mut client = Client::connect(daemon.port(0));
    for path in ["/resize/a.png", "/test/a.png", "/size/a.gif", "/resize/a.txt", "/zipped/a.txt"] {
        let whole = get(daemon.port(0), path);
        let head = client.send(format!("HEAD {path} HTTP/1.1\r\nHost: a\r\n\r\n")).response_head();
        assert!(
            head.body.is_empty() && head.status == whole.status && head.length() == whole.length(),
            "{path}"
        );
        assert_eq!(head.header("content-type"), whole.header("content-type"));
    }
    let whole = get(daemon.port(0), "/resize/a.png");
    for path in ["/resize/a.png", "/test/a.png"] {
        let part = ask(&daemon, &format!("GET {path}"), "Range: bytes=0-9\r\n");
        assert_eq!((part.status, part.header("content-range")), (200, None));
    }
    let (tag, time) = (whole.header("etag").unwrap(), whole.header("last-modified").unwrap());
    for field in [format!("If-None-Match: {tag}\r\n"), format!("If-Modified-Since: {time}\r\n")] {
        let current = ask(&daemon, "GET /resize/a.png", &field);
        assert_eq!((current.status, current.header("content-type")), (304, None), "{field}");
        assert!(current.body.is_empty());
    }
}

#[test]
fn what_comes_after_the_image_sees_the_result() {
    let daemon = start();
    let accepting = |path: &str| ask(&daemon, &format!("GET {path}"), "Accept-Encoding: gzip\r\n");
    let zipped = accepting("/zipped/a.png");
    assert_eq!((zipped.header("content-encoding"), zipped.length()), (Some("gzip"), None));
    assert_eq!(accepting("/zipped-test/a.gif").header("content-encoding"), None, "it is no PNG");
    let tested = accepting("/zipped-test/a.png");
    assert_eq!(tested.header("content-encoding"), Some("gzip"));
    let mut png = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&tested.body[..]), &mut png).expect("gzip");
    assert_eq!(read_png(&png).0, (100, 120));
    assert_eq!(
        get(daemon.port(0), "/ssi.html").text(),
        "({ \"img\" : { \"width\": 100, \"height\": 120, \"type\": \"png\" } }\r\n)"
    );
}

#[test]
fn what_is_added_before_is_a_part_of_the_image() {
    let daemon = start();
    let more = get(daemon.port(0), "/more/a.png");
    let text = "a text that is longer than a signature";
    assert!(more.body == [&png(100, 120), text.as_bytes()].concat());
    assert_eq!(more.header("content-type"), Some("image/png"));
    // the page of an error inside it is no image, and the response is still to come
    assert_eq!(get(daemon.port(0), "/before/a.png").status, 415);
}

#[test]
fn limits_are_named_in_the_log() {
    let daemon = start();
    assert_eq!(get(daemon.port(0), "/short/a.png").status, 415);
    daemon.wait_log(r#"image filter: too big response: \d+ \("image_filter_buffer" is 100 at .*:\d+\)"#);
    if is_stand_in() {
        return;
    }
    assert_eq!(get(daemon.port(0), "/few/a.png").status, 415);
    daemon.wait_log(r#"too large image: 100 x 120 \("image_filter_max_pixels" is 11999 at .*:\d+\)"#);
}

/// An origin whose response is given piece by piece: each path has its own.
fn slow() -> (std::sync::mpsc::Sender<Vec<u8>>, Origin) {
    let (sender, pieces): (_, Receiver<Vec<u8>>) = channel();
    let pieces = Arc::new(Mutex::new(pieces));
    let origin = Origin::start(move |peer| {
        while peer.request().is_some() {
            if peer.try_send(b"HTTP/1.1 200 OK\r\nRefresh: 5\r\nConnection: close\r\n\r\n").is_err() {
                return;
            }
            while let Ok(piece) = pieces.lock().unwrap().recv_timeout(deadline()) {
                if piece.is_empty() || peer.try_send(&piece).is_err() {
                    return;
                }
            }
        }
    });
    (sender, origin)
}

#[test]
fn an_image_that_comes_slowly_is_waited_for() {
    let (pieces, origin) = slow();
    let daemon = setup().set("ORIGIN", origin.address()).start();
    for (path, image, expected) in
        [("/far/x", png(100, 120), (41, 50)), ("/far-test/x", gif(9, 9, 1), (9, 9))]
    {
        let mut client = Client::connect(daemon.port(0));
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let count = image.len();
        image.iter().for_each(|byte| pieces.send(vec![*byte]).unwrap());
        pieces.send(Vec::new()).unwrap();
        let response = client.response();
        assert_eq!((response.status, response.header("refresh")), (200, None));
        let is_whole = response.body.len() == count;
        assert!(path == "/far/x" || is_whole);
        let kind = response.header("content-type").expect("a type").to_owned();
        assert_eq!(kind, if path == "/far/x" { "image/png" } else { "image/gif" });
        if path == "/far/x" {
            assert_eq!(read_png(&response.body).0, expected);
        }
    }
}

#[test]
fn a_tested_image_is_passed_on_as_it_comes() {
    let (pieces, origin) = slow();
    let daemon = setup().set("ORIGIN", origin.address()).start();
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /far-test/x HTTP/1.1\r\nHost: a\r\n\r\n");
    pieces.send(b"GIF89a and some".to_vec()).unwrap(); // one byte less than a signature
    pieces.send(b" more".to_vec()).unwrap();
    let mut wire = client.into_wire();
    let head = wire.response_head();
    assert_eq!((head.status, head.header("content-type")), (200, Some("image/gif")));
    assert_eq!(wire.line(), b"14");
    assert_eq!(wire.exactly(20), b"GIF89a and some more");
    // far more than image_filter_buffer
    let chunk = vec![b'x'; 64 * 1024];
    let sender = std::thread::spawn(move || {
        for _ in 0..40 {
            if pieces.send(chunk.clone()).is_err() {
                return;
            }
        }
        let _ = pieces.send(Vec::new());
    });
    assert_eq!(wire.line(), b"");
    let mut rest = head;
    wire.body_into(&mut rest);
    assert_eq!(rest.body.len(), 40 * 64 * 1024);
    sender.join().unwrap();
}

#[test]
fn an_image_without_a_length_may_not_be_too_long() {
    let (pieces, origin) = slow();
    let daemon = setup().set("ORIGIN", origin.address()).start();
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /far/x HTTP/1.1\r\nHost: a\r\n\r\n");
    pieces.send(png(10, 10)).unwrap();
    (0..60).for_each(|_| pieces.send(vec![0; 64 * 1024]).unwrap());
    pieces.send(Vec::new()).unwrap();
    assert_eq!(client.response().status, 415);
    daemon.wait_log(r#"image filter: too big response \("image_filter_buffer" is 1048576 by default\)"#);
    origin.wait_ended(1);
    // what is no image at all is not read to its end
    let (pieces, origin) = slow();
    let daemon = setup().set("ORIGIN", origin.address()).start();
    for (path, status) in [("/far/x", 415), ("/far-size/x", 200)] {
        let mut client = Client::connect(daemon.port(0));
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        pieces.send(vec![b'x'; 5000]).unwrap();
        let response = client.response();
        assert_eq!(response.status, status, "{path}");
        assert!(status == 415 || response.text() == "{}\r\n");
        pieces.send(Vec::new()).unwrap();
    }
}

#[test]
fn a_client_that_goes_ends_the_exchange() {
    let (pieces, origin) = slow();
    let daemon = setup().set("ORIGIN", origin.address()).start();
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /far/x HTTP/1.1\r\nHost: a\r\n\r\n");
    pieces.send(png(100, 120)[..60].to_vec()).unwrap();
    origin.wait_requests(1);
    drop(client);
    daemon.wait_log("prematurely closed connection.*/far/x");
    pieces.send(Vec::new()).unwrap();
    origin.wait_ended(1);
    wait_for("the memory to be given back", || (get(daemon.port(0), "/drawn").text() == "0").then_some(()));
}

#[test]
fn an_upstream_that_breaks_off_is_no_image() {
    if is_stand_in() {
        return; // closes the connection
    }
    let origin = Origin::start(|peer| {
        if peer.request().is_some() {
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n";
            let _ = peer.try_send(&[&head[..], &png(100, 120)[..100]].concat());
        }
    });
    let daemon = setup().set("ORIGIN", origin.address()).start();
    let mut client = Client::connect(daemon.port(0));
    client.send("GET /far/x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status, 415, "the page of the 502 is none either");
    daemon.wait_log("upstream prematurely closed connection.*/far/x");
}

#[test]
fn damaged_images_do_no_harm() {
    if is_stand_in() {
        return;
    }
    let mut setup = setup().set("ORIGIN", "127.0.0.1:1");
    let mut names = Vec::new();
    for (name, image) in site() {
        for end in (0..image.len()).step_by(100) {
            let cut = format!("cut-{end}-{name}");
            setup = setup.file(&format!("site/{cut}"), &image[..end]);
            names.push(cut);
        }
        for at in (0..image.len()).step_by(97) {
            let damaged = format!("bad-{at}-{name}");
            let mut image = image.clone();
            image[at] ^= 0x5a;
            setup = setup.file(&format!("site/{damaged}"), &image);
            names.push(damaged);
        }
    }
    let daemon = setup.start();
    let worker = daemon.worker();
    let mut client = Client::connect(daemon.port(0));
    for name in &names {
        for path in ["resize", "rotate", "size", "test"] {
            let status = client.get(&format!("/{path}/{name}")).status;
            assert!(status == 200 || status == 415, "/{path}/{name}: {status}");
        }
    }
    assert_eq!((daemon.worker(), daemon.complaints("crit|alert|emerg")), (worker, Vec::new()));
    assert_eq!(get(daemon.port(0), "/drawn").text(), "0");
}

/// A chunk of a PNG.
fn chunk(kind: &[u8], data: &[u8]) -> Vec<u8> {
    let body = [kind, data].concat();
    let mut sum = flate2::Crc::new();
    sum.update(&body);
    [&(data.len() as u32).to_be_bytes(), &body[..], &sum.sum().to_be_bytes()].concat()
}

/// A PNG of this size whose pixels are as many zeros as fit into some bytes.
fn bomb(width: u32, height: u32) -> Vec<u8> {
    let head = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let mut deflate = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(9));
    std::io::Write::write_all(&mut deflate, &vec![0; 900_000]).unwrap();
    let data = deflate.finish().unwrap();
    let parts = [chunk(b"IHDR", &head), chunk(b"IDAT", &data), chunk(b"IEND", b"")].concat();
    [&b"\x89PNG\r\n\x1a\n"[..], &parts].concat()
}

/// A progressive JPEG in which one scan is repeated as often as it fits into a megabyte.
fn scans() -> Vec<u8> {
    let image = jpeg(1000, 1000, true);
    let starts: Vec<usize> =
        (0..image.len() - 1).filter(|at| image[*at] == 0xff && image[at + 1] == 0xda).collect();
    // the shortest scan, with the tables in front of it
    let scan = starts.windows(2).map(|pair| &image[pair[0]..pair[1]]).min_by_key(|scan| scan.len()).unwrap();
    let (front, back) = image.split_at(starts[1]);
    let count = (1_000_000_usize.saturating_sub(image.len())) / scan.len();
    [front, &scan.repeat(count.max(200)), back].concat()
}

#[test]
fn bombs_are_refused_in_time() {
    if is_stand_in() {
        return;
    }
    let daemon = setup()
        .set("ORIGIN", "127.0.0.1:1")
        .file("site/wide.png", bomb(60_000, 60_000))
        .file("site/false.png", bomb(3_999, 4_000))
        .file("site/many.gif", gif(60, 60, 3_000))
        .file("site/scans.jpg", scans())
        .start();
    let worker = daemon.worker();
    let before = process::rss_kib(worker);
    let begun = Instant::now();
    for (name, status) in [("wide.png", 415), ("false.png", 415), ("many.gif", 200), ("scans.jpg", 415)] {
        assert_eq!(get(daemon.port(0), &format!("/resize/{name}")).status, status, "{name}");
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    daemon.wait_log(r#"too large image: 60000 x 60000 \("image_filter_max_pixels" is 16000000 by default\)"#);
    daemon.wait_log("the image cannot be changed: .*false.png");
    daemon.wait_log("the image cannot be changed: .*scans.jpg");
    let (held, worker_now) = (process::rss_kib(worker).saturating_sub(before), daemon.worker());
    assert!(worker_now == worker && held < 200 * 1024, "{held} KiB");
}

#[test]
fn a_hundred_at_once_take_turns() {
    if is_stand_in() {
        return;
    }
    let large = png(600, 400);
    let daemon = setup().set("ORIGIN", "127.0.0.1:1").file("site/large.png", &large).start();
    let worker = daemon.worker();
    get(daemon.port(0), "/resize/large.png");
    let before = process::rss_kib(worker);
    let mut clients: Vec<Client> = (0..100)
        .map(|_| {
            let mut client = Client::connect(daemon.port(0));
            client.send("GET /resize/large.png HTTP/1.1\r\nHost: a\r\n\r\n");
            client
        })
        .collect();
    let leaving = clients.split_off(90);
    // the loop is free meanwhile; one image is decoded, and the others wait as they came
    let decoder = 12 * 600 * 400;
    let drawn: usize = get(daemon.port(0), "/drawn").text().parse().unwrap();
    assert!(drawn <= decoder + 100 * large.len(), "{drawn} bytes");
    drop(leaving);
    let mut most = 0;
    for mut client in clients {
        assert_eq!(size(&client.response()), (50, 33));
        most = most.max(process::rss_kib(worker).saturating_sub(before) as usize);
    }
    let allowed = (decoder + 100 * large.len()) / 1024 + 16 * 1024;
    assert!(most < allowed, "{most} KiB of {allowed}");
    wait_for("the memory to be given back", || (get(daemon.port(0), "/drawn").text() == "0").then_some(()));
}

#[test]
fn an_image_that_does_not_fit_the_budget_gets_503() {
    if is_stand_in() {
        return;
    }
    let conf = "worker_memory_budget 1m; http { server { listen 127.0.0.1:%%PORT_0%%; root %%DIR%%/site;
        location / { image_filter resize 50 50; image_filter_buffer 4m; } location /size/ { alias %%DIR%%/site/; image_filter size; } } }";
    let noise: Vec<u8> =
        png(50, 50).into_iter().chain((0..700_000_u32).map(|at| ((at * 31) >> 3) as u8)).collect();
    let daemon = Setup::new(conf)
        .level("info")
        .file("site/wide.png", png(400, 400))
        .file("site/long.png", noise)
        .file("site/small.png", png(100, 100))
        .start();
    assert_eq!(get(daemon.port(0), "/wide.png").status, 503);
    daemon.wait_log("images are not changed: .* KiB of the worker's memory budget are in use: raise \"worker_memory_budget\"");
    assert_eq!(get(daemon.port(0), "/long.png").status, 503, "half of the budget");
    assert_eq!(get(daemon.port(0), "/small.png").status, 200);
    assert_eq!(get(daemon.port(0), "/size/wide.png").status, 200, "nothing is decoded");
}

#[test]
fn a_cached_image_is_changed_each_time() {
    let origin = Origin::replying(|_| {
        let head = "HTTP/1.1 200 OK\r\nCache-Control: max-age=100\r\nETag: \"x\"\r\nAccept-Ranges: bytes\r\n";
        let image = png(100, 120);
        [format!("{head}Content-Length: {}\r\n\r\n", image.len()).as_bytes(), &image].concat()
    });
    let conf = "http { proxy_cache_path %%DIR%%/cache keys_zone=c:1m; server { listen 127.0.0.1:%%PORT_0%%;
        proxy_cache c; add_header X-Cache $upstream_cache_status; proxy_pass_header ETag;
        location / { image_filter resize $arg_w -; proxy_cache_key $uri; proxy_pass http://%%ORIGIN%%; } } }";
    let daemon = Setup::new(conf).set("ORIGIN", origin.address()).start();
    for (width, cached) in [(50, "MISS"), (20, "HIT"), (10, "HIT")] {
        let response = get(daemon.port(0), &format!("/a.png?w={width}"));
        assert_eq!(response.header("x-cache"), Some(cached));
        assert_eq!((response.header("accept-ranges"), response.header("etag")), (None, Some("W/\"x\"")));
        if !is_stand_in() {
            assert_eq!(read_png(&response.body).0.0, width);
        }
    }
    assert_eq!(origin.requests().len(), 1);
}
