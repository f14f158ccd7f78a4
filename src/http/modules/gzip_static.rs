//! Encoded files next to the originals: `page.html.gz`, `.br` and `.zst` for `page.html`.
//!
//! Runs in the content phase, before static files. Touches: the file system.
//! Behaviour: nginx.org, ngx_http_gzip_static_module; the directives of the other codings work alike.

use nix::errno::Errno;

use crate::config::directive::one_of;
use crate::config::{Context, Setting, keywords, settings};
use crate::http::modules::open_file_cache::{self, Entry, Found};
use crate::http::modules::{BlockConf, Directive, static_file};
use crate::http::request::{Request, states};
use crate::http::response::coding::{self, Name};
use crate::http::scope::Variable;
use crate::http::verdict::{Reply, Verdict};
use crate::log;
use crate::proto::header::Id;

settings! {
    #[derive(Debug)]
    pub struct Conf {
        gzip: Setting<Mode> = Mode::Off,
        brotli: Setting<Mode> = Mode::Off,
        zstd: Setting<Mode> = Mode::Off,
    }
}

/// What is known of the file that a request is for.
#[derive(Debug, Default)]
pub struct State {
    /// It is there in another form for clients that accept other codings.
    varies: bool,
}

impl states::State for State {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Off,
    /// For clients that accept the coding.
    On,
    Always,
}

keywords!(Mode { "off" => Off, "on" => On, "always" => Always });

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    one_of("gzip_static", Context::ANY, |c| &mut c.gzip,
        "Sends FILE.gz instead of FILE if it exists: to clients that accept gzip (on), or to all clients (always)."),
    one_of("brotli_static", Context::ANY, |c| &mut c.brotli, "Does the same as gzip_static, with FILE.br and brotli."),
    one_of("zstd_static", Context::ANY, |c| &mut c.zstd, "Does the same as gzip_static, with FILE.zst and Zstandard."),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        Name::ALL.into_iter().any(|name| self.mode(name) != Mode::Off)
    }
}

impl Conf {
    fn mode(&self, name: Name) -> Mode {
        match name {
            Name::Zstd => self.zstd.get(),
            Name::Brotli => self.brotli.get(),
            Name::Gzip => self.gzip.get(),
        }
    }
}

fn extension(name: Name) -> &'static [u8] {
    match name {
        Name::Zstd => b".zst",
        Name::Brotli => b".br",
        Name::Gzip => b".gz",
    }
}

/// Responds with the encoded file that the client prefers; files that are sent to all clients (`always`) come
/// last.
pub fn content(request: &mut Request) -> Verdict {
    let location = request.location;
    // other faults of such requests are reported for the file itself
    let is_elsewhere = request.route.rewriting.left_location()
        && location.confs.http_core.root().is_some_and(|root| root.is_alias);
    if !request.method.is_get_or_head() || request.uri.last() == Some(&b'/') || is_elsewhere {
        return Verdict::Next;
    }
    let mut names = Name::ALL.map(|name| (coding::liking(request, name), name));
    names.sort_by_key(|(liking, _)| std::cmp::Reverse(*liking));
    let (wanted, others): (Vec<_>, Vec<_>) = names
        .into_iter()
        .filter(|(_, name)| location.confs.gzip_static.mode(*name) != Mode::Off)
        .partition(|(liking, _)| *liking > 0);
    let names: Vec<_> = wanted.into_iter().chain(others).collect();
    find_from(request, &names)
}

/// Looks for the remaining candidates.
fn find_from(request: &mut Request, names: &[(u16, Name)]) -> Verdict {
    let location = request.location;
    for (index, (liking, name)) in names.iter().enumerate() {
        let is_always = location.confs.gzip_static.mode(*name) == Mode::Always;
        let wish = Wish { name: *name, is_always, is_sent: is_always || *liking > 0 };
        // without `Vary` other forms need not be announced
        if !wish.is_sent && !location.confs.gzip.vary() {
            continue;
        }
        let mut path = Vec::new();
        static_file::file_name(request, &mut path);
        path.extend_from_slice(extension(*name));
        match open_file_cache::open(request, &path) {
            Ok(found) => match judge(request, wish, &path, found) {
                Verdict::Next => {}
                verdict => return verdict,
            },
            Err(lookup) => {
                let rest = names[index + 1..].to_vec();
                return lookup.then(move |request, found| match judge(request, wish, &path, found) {
                    Verdict::Next => find_from(request, &rest),
                    verdict => verdict,
                });
            }
        }
    }
    Verdict::Next
}

/// A file to look for.
#[derive(Clone, Copy)]
struct Wish {
    name: Name,
    is_always: bool,
    /// The file is sent if it exists; otherwise its existence is only announced.
    is_sent: bool,
}

fn judge(request: &mut Request, wish: Wish, path: &[u8], found: open_file_cache::Outcome) -> Verdict {
    match found {
        Ok(Found::File(entry)) => {
            request.states.gzip_static.varies |= !wish.is_always;
            match wish.is_sent {
                true => Verdict::Done(answer(request, &entry, wish.name)),
                false => Verdict::Next,
            }
        }
        Ok(Found::Directory) | Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG) => Verdict::Next,
        Ok(Found::Other) => {
            log::crit!(request.error_log(), &*request, "\"{}\" is not a regular file", log::Text(path));
            Verdict::Done(Reply::Status(404))
        }
        Err(errno) => {
            static_file::failed(request, path, errno);
            Verdict::Next
        }
    }
}

fn answer(request: &mut Request, entry: &Entry, name: Name) -> Reply {
    let mut reply = static_file::answer(request, entry);
    if let Reply::File(file) = &mut reply {
        file.response.headers.push_id(Id::ContentEncoding, name.token().as_bytes());
    }
    reply
}

/// Announces with `Vary` that other clients get another form of the file.
pub fn head(request: &mut Request) {
    if request.states.gzip_static.varies {
        coding::vary(request);
    }
}
