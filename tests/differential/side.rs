//! One of the two daemons, running the configuration of a file of cases.

use std::cell::Cell;
use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use regex::Regex;
use tempfile::TempDir;

use crate::answer;
use crate::backend::Backends;
use crate::case::{Case, Script};
use crate::support::deadline::wait_at_most;
use crate::support::{Daemon, Setup};

/// The time of the last change of all documents: Thu, 02 Jan 2020 03:04:05 GMT.
const CHANGED: Duration = Duration::from_secs(1_577_934_245);

pub struct Side {
    daemon: Daemon,
    /// Replacements in every line: this daemon's ports and folders.
    names: Vec<(Regex, String)>,
    /// Lines of the access log that earlier cases have read.
    seen: Cell<usize>,
}

/// The documents of a file of cases. A name that ends with `.gz` is compressed, one that ends with `/` is a folder.
pub fn documents(script: &Script) -> TempDir {
    let root = tempfile::Builder::new().prefix("pronghorn-test-").tempdir().expect("a temporary directory");
    for (name, content) in &script.files {
        let path = root.path().join(name);
        if name.ends_with('/') {
            std::fs::create_dir_all(&path).expect("the folder is ours");
            continue;
        }
        std::fs::create_dir_all(path.parent().expect("it is below the root")).expect("the folder is ours");
        let content = if name.ends_with(".gz") { compressed(content) } else { content.clone() };
        std::fs::write(&path, content).expect("the folder is ours");
    }
    make_old(root.path());
    root
}

/// Sets the time of a folder and all below it, the innermost first.
fn make_old(path: &Path) {
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        make_old(&entry.path());
    }
    let file = File::open(path).expect("the file is ours");
    file.set_modified(UNIX_EPOCH + CHANGED).expect("the file is ours");
}

fn compressed(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

impl Side {
    /// Starts a daemon; `nginx` is the other program.
    pub fn start(script: &Script, backends: &Backends, root: &Path, nginx: Option<&Path>) -> Self {
        let text = match nginx {
            Some(_) => for_nginx(&script.text),
            None => script.text.clone(),
        };
        let conf = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
        let mut setup = Setup::new(&text)
            .level("warn")
            .set("ROOT", root.display())
            .set("CONF", conf.display())
            .set("BACKEND_A", backends.a.address())
            .set("BACKEND_B", backends.b.address())
            .set("DEAD", format!("127.0.0.1:{}", backends.dead));
        for (name, application) in &backends.applications {
            setup = setup.set(name, application.address());
        }
        if let Some(program) = nginx {
            setup = setup.program(program);
        }
        let ports = (0..).take_while(|index| text.contains(&format!("%%PORT_{index}%%")));
        let ports: Vec<u16> = ports.map(|index| setup.port(index)).collect();
        let port = |number: u16| Regex::new(&format!(r"\b{number}\b")).expect("a number");
        let path = |path: &Path| Regex::new(&regex::escape(&path.to_string_lossy())).expect("escaped");
        let mut names = vec![
            (path(setup.folder()), "DIR".into()),
            (path(root), "ROOT".into()),
            (port(backends.a.port()), "BACKEND_A".into()),
            (port(backends.b.port()), "BACKEND_B".into()),
            (port(backends.dead), "DEAD".into()),
        ];
        for (name, application) in &backends.applications {
            names.push((port(application.port()), (*name).into()));
        }
        names
            .extend(ports.iter().enumerate().map(|(index, &number)| (port(number), format!("PORT_{index}"))));
        Self { daemon: setup.start(), names, seen: Cell::new(0) }
    }

    /// Runs a case: the responses, the requests at the backends, and the line of the log if the case wants
    /// it.
    pub fn ask(&self, case: &Case, backends: &Backends) -> Vec<String> {
        let port = self.daemon.port(case.port);
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the daemon listens");
        let _ = stream.set_nodelay(true);
        let bytes = self.filled(&case.bytes);
        let _ = stream.write_all(&bytes); // a daemon that refuses early may have closed; then the response shows it
        let mut lines = answer::read(&mut stream, case);
        let mut received = backends.take(case.backend);
        if case.backend > 1 {
            received.sort(); // several at the same time
        }
        lines.extend(received.into_iter().flatten());
        if case.log > 0 {
            let seen = self.seen.get();
            let is_there = || (self.log().len() >= seen + case.log).then_some(());
            let _ = wait_at_most(answer::PATIENCE, is_there);
            let log = self.log();
            let new = log.iter().skip(seen).take(case.log);
            lines.push("log:".into());
            lines.extend(new.cloned());
            self.seen.set((seen + case.log).min(log.len()));
        }
        let mut lines: Vec<String> = lines.into_iter().map(|line| self.anonymous(line)).collect();
        for mask in &case.masks {
            for line in &mut lines {
                *line = mask.replace_all(line, "*").into_owned();
            }
        }
        lines
    }

    /// The whole access log.
    pub fn log(&self) -> Vec<String> {
        let text = self.daemon.read("access.log");
        text.lines().map(|line| self.anonymous(line.to_owned())).collect()
    }

    fn anonymous(&self, line: String) -> String {
        self.names
            .iter()
            .fold(line, |line, (pattern, name)| pattern.replace_all(&line, name.as_str()).into_owned())
    }

    /// Replaces `%%PORT_0%%` in a request by this daemon's port.
    fn filled(&self, bytes: &[u8]) -> Vec<u8> {
        let Ok(mut text) = String::from_utf8(bytes.to_vec()) else { return bytes.to_vec() };
        for index in (0..).take_while(|index| text.contains(&format!("%%PORT_{index}%%"))).collect::<Vec<_>>()
        {
            text = text.replace(&format!("%%PORT_{index}%%"), &self.daemon.port(index).to_string());
        }
        text.into_bytes()
    }
}

/// The configuration, with the lines that an old nginx needs to behave like the newest: HTTP/1.1 to backends.
/// It may also write only below its own folder.
fn for_nginx(text: &str) -> String {
    let mut more = String::new();
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        more.push_str(&format!(" {kind}_temp_path %%DIR%%/{kind};"));
    }
    // At the level of http, which is indented once.
    if !text.lines().any(|line| line.starts_with("    proxy_http_version ")) {
        more.push_str(" proxy_http_version 1.1;");
    }
    text.replacen("http {", &format!("http {{{more}"), 1)
}
