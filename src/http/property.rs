//! Properties of every rewriting configuration and every value with variables, for the fuzz targets (`fuzz/`)
//! and the property tests here.
//!
//! Runs the phases of a request without a socket. Touches no file: configurations that name one are not run.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::mem::ManuallyDrop;

use crate::config::convert::nginx_word;
use crate::config::{LoadOptions, Node, load_text};
use crate::http::compile;
use crate::http::pipeline::{self, Entry, Step};
use crate::http::request::body::Body;
use crate::http::request::route::INTERNAL_REDIRECTS_MAX;
use crate::http::request::target;
use crate::http::request::{Connection, Request};
use crate::http::verdict::Reply;
use crate::http::{CompileOptions, Worker};
use crate::log::Logger;
use crate::proto::h1::request::{self, Limits, Progress};
use crate::proto::head::RequestHead;
use crate::proto::uri;
use crate::runtime::Runtime;
use crate::runtime::buffer::Buffer;

/// Maximum number of configurations to run in one process, since each stays in memory, as a worker's does.
/// Later ones are only read.
const CONFIGS_MAX: usize = 20_000;

/// The directives that an input may contain.
const DIRECTIVES: [&str; 9] = [
    "rewrite",
    "if",
    "set",
    "return",
    "break",
    "location",
    "rewrite_log",
    "uninitialized_variable_warn",
    "internal",
];

thread_local! {
    /// Never dropped, so that leak checkers still find a reference to everything at the end.
    static CONFIGS: ManuallyDrop<RefCell<HashMap<String, Option<&'static Worker>>>> = ManuallyDrop::default();
    static COUNT: Cell<usize> = const { Cell::new(0) };
    /// Requests ask it for the time.
    static RUNTIME: RefCell<Option<&'static mut Runtime>> = const { RefCell::new(None) };
}

/// Panics if a configuration of rewriting steps breaks a promise: either it is refused with diagnostics, or
/// each request ends after a bounded number of changes of its path.
///
/// The first line is the request's target; then follow the server, up to an empty line, and a location.
pub fn rewrites(text: &str) {
    let (target, rest) = text.split_once('\n').unwrap_or((text, ""));
    let (server, location) = rest.split_once("\n\n").unwrap_or((rest, ""));
    let Some(worker) = worker(&format!("{server}\nlocation / {{ {location}\n}}")) else { return };
    let Some((_, redirects)) = answer(worker, target) else { return };
    assert!(redirects <= INTERNAL_REDIRECTS_MAX + 1, "{redirects} redirects");
}

/// Panics if a value with variables differs from a plain replacement of their names.
pub fn evaluates(text: &str) {
    let expanded = expand(text);
    if expanded == Err(Unknown::Variable) {
        return;
    }
    let expected = expanded.ok().filter(|_| !text.contains('\0')); // a configuration must not contain it
    let mut word = String::new();
    nginx_word(&mut word, text);
    let server = format!("set $v \"<$arg_x>\"; rewrite ^/(.)(.*) /$2$1; return 200 {word};");
    let worker = worker(&server);
    let is_full = COUNT.get() >= CONFIGS_MAX;
    assert!(worker.is_some() == expected.is_some() || (worker.is_none() && is_full), "{text:?}");
    let (Some(worker), Some(expected)) = (worker, expected) else { return };
    match answer(worker, "/abc?x=y").expect("a good request").0 {
        Step::Answer(Reply::Response(response, body)) => {
            assert_eq!((response.status, body.as_bytes()), (200, expected.as_bytes()), "{text:?}");
        }
        other => panic!("{text:?}: {other:?}"),
    }
}

/// Why [`expand`] has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unknown {
    /// The value is refused.
    Value,
    /// It may use an unknown variable.
    Variable,
}

/// The result that [`evaluates`] expects.
fn expand(text: &str) -> Result<String, Unknown> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((plain, after)) = rest.split_once('$') {
        out.push_str(plain);
        let is_name = |char: char| char.is_ascii_alphanumeric() || char == '_';
        let (name, after) = match (after.strip_prefix('{'), after.as_bytes().first()) {
            (Some(braced), _) => braced.split_once('}').ok_or(Unknown::Value)?,
            (None, Some(b'1'..=b'9')) => after.split_at(1),
            (None, _) => after.split_at(after.find(|char| !is_name(char)).unwrap_or(after.len())),
        };
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(Unknown::Value);
        }
        out.push_str(match name {
            "v" => "<y>",
            "uri" => "/bca",
            "args" => "x=y",
            "0" => "/abc",
            "1" => "a",
            "2" => "bc",
            "3" | "4" | "5" | "6" | "7" | "8" | "9" => "",
            _ => return Err(Unknown::Variable),
        });
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// The worker for the configuration of one server, compiled once; `None` if it has errors or must not be run.
fn worker(server: &str) -> Option<&'static Worker> {
    if let Some(known) = CONFIGS.with(|configs| configs.borrow().get(server).copied()) {
        return known;
    }
    let text = format!(
        "http {{ access_log off; error_log stderr emerg; server {{ listen 127.0.0.1:1; {server}\n}} }}"
    );
    let (tree, mut out) =
        load_text("fuzz.conf", &text, &LoadOptions { keep_includes: true, ..LoadOptions::default() });
    let options = CompileOptions {
        prefix: "/nonexistent".into(),
        folder: "/nonexistent".into(),
        error_log: Logger::none(),
        names: Default::default(),
        test_only: true,
    };
    let is_one = matches!(&tree.nodes[..], [http] if matches!(http.children(), [_, _, server] if is_allowed(server.children())));
    if out.has_errors() || !is_one {
        return None;
    }
    let compiled = compile(&tree.nodes[0], &options, &mut out);
    if out.has_errors() || COUNT.get() >= CONFIGS_MAX {
        return None;
    }
    COUNT.set(COUNT.get() + 1);
    let worker: &'static Worker = Box::leak(Box::new(Worker::new(Box::leak(Box::new(compiled)))));
    CONFIGS.with(|configs| configs.borrow_mut().insert(server.to_owned(), Some(worker)));
    Some(worker)
}

fn is_allowed(nodes: &[Node]) -> bool {
    nodes.iter().all(|node| {
        let name = &*node.name.text;
        (DIRECTIVES.contains(&name) || name == "listen") && is_allowed(node.children())
    })
}

/// A client's request for a target, with its path; `None`: it is none.
pub(in crate::http) fn request(worker: &'static Worker, target: &str) -> Option<Box<Request>> {
    read(worker, &format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"), Body::none())
}

/// The request with this head and body, as it comes from a connection; `None`: the head is not valid.
pub(in crate::http) fn read(worker: &'static Worker, text: &str, body: Body) -> Option<Box<Request>> {
    let mut head = Box::new(RequestHead::default());
    let Ok(Progress::Complete(length)) = request::parse(text.as_bytes(), &Limits::default(), &mut head)
    else {
        return None;
    };
    let mut input = Buffer::take(length);
    input.extend(&text.as_bytes()[..length]);
    let target = uri::parse(head.method, &input.data()[head.target.clone()]).ok()?;
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
    let connection = Connection {
        number: 1,
        probe: None,
        peer: address.into(),
        proxy: None,
        tls: None,
        local: address.into(),
        listen: &worker.config.listens[0],
        requests: 1,
        opened_ms: 0,
        is_pipelined: false,
    };
    let mut request = Request::new(worker, &worker.config.servers[0], || connection, input, head, || body);
    target::set_target(&mut request, &target).is_ok().then_some(request)
}

/// The answer to a request, and how often its path was changed; `None`: it is not a valid request.
fn answer(worker: &'static Worker, target: &str) -> Option<(Step, u8)> {
    let target = target.to_owned();
    RUNTIME.with_borrow_mut(|runtime| {
        let runtime =
            runtime.get_or_insert_with(|| Box::leak(Box::new(Runtime::new().expect("an epoll instance"))));
        runtime.block_on(async move {
            let mut request = request(worker, &target)?;
            let step = pipeline::begin(&mut request, Entry::Client);
            Some((step, request.route.redirects))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: [&str; 24] = [
        "rewrite ^ /a;",
        "rewrite ^/(.*)$ /x/$1 last;",
        "rewrite (a)(?<n>b)? /$2$1$n break;",
        "rewrite ^/x /?a=$1?;",
        "rewrite . $uri/ redirect;",
        "rewrite a http://h/$1 permanent;",
        "set $a $b$1;",
        "set $b \"$a$uri\";",
        "set $args $a;",
        "set $n $args;",
        "if ($a) {",
        "if ($uri ~ ^/(.)(?<n>.)) {",
        "if ($a = $b) {",
        "if ($n !~* A) {",
        "}",
        "break;",
        "return 404;",
        "return 200 $n;",
        "return $a;",
        "return 301 /$1;",
        "\n\n",
        "rewrite ^(.*)+$ $1;",
        "internal;",
        "rewrite ^/(?!x)(a|b)\\1 /y;",
    ];

    #[test]
    fn any_steps_come_to_an_end() {
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
            let steps: Vec<&str> = bytes.iter().map(|byte| STEPS[usize::from(*byte) % STEPS.len()]).collect();
            let target = ["/", "/ab?c=%41", "/x%2fy", "/aa"][bytes.len() % 4];
            rewrites(&format!("{target}\n{}", steps.concat()));
            rewrites(&String::from_utf8_lossy(bytes));
        });
    }

    #[test]
    fn any_value_is_what_its_parts_are() {
        const PARTS: [&str; 16] = [
            "$v", "${v}", "$uri", "$1", "$12", "${2}", "$", "{", "}", "a", "_", "\"", "'", "\\", " ",
            "$args;",
        ];
        bolero::check!().with_type::<Vec<u8>>().for_each(|bytes| {
            let parts: Vec<&str> = bytes.iter().map(|byte| PARTS[usize::from(*byte) % PARTS.len()]).collect();
            evaluates(&parts.concat());
        });
    }
}
