//! A compiled configuration: the settings of the process, and the blocks of the protocols.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cache::zone::Zone;
use crate::config::Span;
use crate::cycle::settings::Settings;
use crate::http;
use crate::log::Owner;
use crate::mail;
use crate::net::acme::Plan;
use crate::net::listener::{Listener, Serves};
use crate::net::tls::certificate::Certificate;
use crate::net::tls::ocsp::stapling::Ignored;
use crate::net::tls::watch::{self, Pair, Trusted};
use crate::script::keyval::Declared;
use crate::shared::control::Allowed;
use crate::shm::named::Used;
use crate::stream;
use crate::sys::socket::ListenOptions;
use crate::upstream::Group;
use crate::upstream::edits::{Difference, Edit, Edits, Made, Part, Refusal};
use crate::upstream::groups::{Followed, Groups};

/// A compiled configuration.
///
/// The master asks it for what must be opened, made or kept for it (`listeners`, `folders`, `slots`, `zones`), in terms
/// that know no protocol. A worker takes the protocols' blocks out of it and serves them; it never changes there.
#[derive(Debug, Default)]
pub struct Config {
    pub settings: Settings,
    pub http: Option<http::Config>,
    pub stream: Option<stream::Config>,
    pub mail: Option<mail::Config>,
    /// The server of the control socket.
    pub control: Option<http::Config>,
    pub prefix: PathBuf,
    /// Identifies the contents of its files.
    pub checksum: u32,
    /// Those of all protocols.
    listeners: Vec<Listener>,
    /// Those of all protocols: HTTP's come first, then those of streams, then those of mail.
    pairs: Vec<Pair>,
}

/// A pair of one protocol.
enum PairOf {
    Http(usize),
    Stream(usize),
    Mail(usize),
}

/// Open files of a worker besides connections and those that it has at its start: logs that it opens, files that it sends.
const FILES_SPARE: usize = 32;

impl Config {
    pub fn new(
        settings: Settings,
        http: Option<http::Config>,
        control: Option<http::Config>,
        prefix: PathBuf,
    ) -> Self {
        let of_operators = |listener: Listener| {
            let serves = match listener.serves {
                Serves::Http(index)
                | Serves::Control(index)
                | Serves::Stream(index)
                | Serves::Mail(index) => Serves::Control(index),
            };
            let options = ListenOptions { mode: settings.control_mode(), ..listener.options };
            Listener { serves, options, span: settings.control_span(), ..listener }
        };
        let operators = control.iter().flat_map(http::Config::listeners).map(of_operators);
        let listeners = http.iter().flat_map(http::Config::listeners).chain(operators).collect();
        let pairs = http.iter().flat_map(|http| http.pairs.iter().cloned()).collect();
        Self { settings, http, stream: None, mail: None, control, prefix, checksum: 0, listeners, pairs }
    }

    /// Adds the `stream` block.
    #[must_use]
    pub fn with_stream(mut self, stream: Option<stream::Config>) -> Self {
        self.listeners.extend(stream.iter().flat_map(stream::Config::listeners));
        self.pairs.extend(stream.iter().flat_map(|stream| stream.pairs.iter().cloned()));
        Self { stream, ..self }
    }

    /// Adds the `mail` block, after the `stream` block.
    #[must_use]
    pub fn with_mail(mut self, mail: Option<mail::Config>) -> Self {
        self.listeners.extend(mail.iter().flat_map(mail::Config::listeners));
        self.pairs.extend(mail.iter().flat_map(|mail| mail.pairs.iter().cloned()));
        Self { mail, ..self }
    }

    /// Each address once. Messages between processes name a listener by its index here.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// The index of the listener that serves this.
    pub fn listener_index(&self, serves: Serves) -> usize {
        let count = |http: &Option<http::Config>| http.as_ref().map_or(0, |http| http.listens.len());
        match serves {
            Serves::Http(index) => index, // HTTP's listeners come first
            Serves::Control(index) => count(&self.http) + index,
            Serves::Stream(index) => count(&self.http) + count(&self.control) + index,
            Serves::Mail(index) => {
                let streams = self.stream.as_ref().map_or(0, |stream| stream.listens.len());
                count(&self.http) + count(&self.control) + streams + index
            }
        }
    }

    /// The index of the first group of `stream` among those of all protocols: messages between processes name a group
    /// by its index there.
    pub fn stream_groups(&self) -> usize {
        self.http.as_ref().map_or(0, |http| http.upstreams.len())
    }

    /// Directories that must be there before anything is served.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        self.http.iter().flat_map(|http| &http.folders).map(PathBuf::as_path)
    }

    /// Directories that the process can run without, each with the feature that is lost then.
    pub fn wanted_folders(&self) -> impl Iterator<Item = (&Path, &'static str)> {
        let http = self.http.iter().filter_map(|http| http.wanted_folder.as_deref());
        http.map(|path| (path, "(client_body_temp_path): long request bodies go to one upstream only"))
    }

    /// The counters' slots in use, for `shm::counter::sweep`.
    pub fn slots(&self) -> impl Iterator<Item = u32> {
        let http = self.http.iter().chain(&self.control).flat_map(http::Config::slots);
        let stream = self.stream.iter().flat_map(stream::Config::slots);
        http.chain(stream).chain(self.mail.iter().flat_map(mail::Config::slots))
    }

    /// The places of upstreams' peers in use, for `shm::peers::sweep`.
    pub fn peers(&self) -> impl Iterator<Item = u32> {
        self.upstreams().flat_map(Groups::places)
    }

    /// The zones of shared memory in use.
    pub fn zones(&self) -> impl Iterator<Item = Used> {
        let http = self.http.iter().chain(&self.control).flat_map(http::Config::zones);
        let stream = self.stream.iter().flat_map(stream::Config::zones);
        http.chain(stream).chain(self.mail.iter().flat_map(mail::Config::zones))
    }

    /// Forgets what is out of date in the memory that the workers share, such as old keys. For the master, once a
    /// minute. False: nothing ever is.
    pub fn tidy(&self) -> bool {
        let http = self.http.as_ref().is_some_and(|http| http.tables.tidy());
        let stream = self.stream.as_ref().is_some_and(|stream| stream.tables.tidy());
        self.mail.as_ref().is_some_and(|mail| mail.tables.tidy()) || stream || http
    }

    /// The servers whose names the prober looks up.
    pub fn followed_servers(&self) -> impl Iterator<Item = Followed> {
        let first = self.stream_groups();
        let stream = self.stream.iter().flat_map(|stream| stream.upstreams.followed_servers());
        let stream = stream.map(move |server| Followed { group: first + server.group, ..server });
        self.http.iter().flat_map(|http| http.upstreams.followed_servers()).chain(stream)
    }

    /// The upstream groups of all protocols.
    fn upstreams(&self) -> impl Iterator<Item = &Groups> {
        let http = self.http.iter().map(|http| &http.upstreams);
        http.chain(self.stream.iter().map(|stream| &stream.upstreams))
    }

    /// A server of each upstream that could be reached with the configuration `before` this one, and cannot
    /// be now.
    pub fn newly_unreachable<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a str> {
        let unreachable = |config: &'a Self| config.upstreams().flat_map(Groups::unreachable);
        let was_so = move |name: &str| unreachable(before).any(|group| group.full_name() == name);
        let groups = unreachable(self).filter(move |group| !was_so(&group.full_name()));
        groups.filter_map(|group| Some(&*group.servers.first()?.name))
    }

    /// Changes a server of an upstream group. For the master, before it tells the processes that are alive.
    ///
    /// # Errors
    /// Nothing was changed.
    pub fn edit_upstream(
        &mut self,
        edits: &mut Edits,
        (part, upstream): (Part, &str),
        edit: &Edit,
    ) -> Result<(Made, Difference), Refusal> {
        let groups = self.upstreams_of(part).ok_or(Refusal::NoGroup)?;
        edits.make(groups, (part, upstream), edit)
    }

    fn upstreams_of(&mut self, part: Part) -> Option<&mut Groups> {
        match part {
            Part::Http => self.http.as_mut().map(|http| &mut http.upstreams),
            Part::Stream => self.stream.as_mut().map(|stream| &mut stream.upstreams),
        }
    }

    /// The index in messages of a group of one protocol.
    pub fn upstream_index(&self, part: Part, group: usize) -> usize {
        match part {
            Part::Http => group,
            Part::Stream => self.stream_groups() + group,
        }
    }

    /// Puts a group back as it was before a change.
    pub fn put_upstream_back(&mut self, part: Part, made: &Made) {
        if let Some(groups) = self.upstreams_of(part) {
            groups.replace(made.group, Arc::clone(&made.before));
        }
    }

    /// Makes earlier changes of upstream groups. Returns what is forgotten because it does not fit, and why.
    pub fn apply_edits(&mut self, edits: &mut Edits) -> Vec<String> {
        let mut forgotten = Vec::new();
        for part in [Part::Http, Part::Stream] {
            forgotten.append(&mut match self.upstreams_of(part) {
                Some(groups) => edits.apply(part, groups),
                None => edits.apply(part, &mut Groups::default()),
            });
        }
        forgotten
    }

    /// The key-value zones of all protocols.
    pub fn keyval_zones(&self) -> impl Iterator<Item = (Part, &Declared)> {
        let http = self.http.iter().flat_map(|http| &http.tables.keyval.0);
        let stream = self.stream.iter().flat_map(|stream| &stream.tables.keyval.0);
        http.map(|zone| (Part::Http, zone)).chain(stream.map(|zone| (Part::Stream, zone)))
    }

    /// An upstream group, by its index in messages.
    pub fn upstream(&self, index: usize) -> Option<&Arc<Group>> {
        match index.checked_sub(self.stream_groups()) {
            Some(index) => self.stream.as_ref()?.upstreams.get(index),
            None => self.http.as_ref()?.upstreams.get(index),
        }
    }

    /// The number of open files that a worker needs so that it can have `worker_connections`, if it has `open` already:
    /// a quarter of what is left is kept for files and pipes.
    pub fn files_needed(&self, open: usize) -> u64 {
        let connections = self.settings.worker_connections() as u64;
        (connections / 3).saturating_add(connections).saturating_add((open + FILES_SPARE) as u64 + 4)
    }

    /// The number of connections that a worker may have with this limit on open files, if it has `open` already.
    pub fn connections_possible(&self, files: u64, open: usize) -> usize {
        let left = usize::try_from(files).unwrap_or(usize::MAX).saturating_sub(open + FILES_SPARE);
        self.settings.worker_connections().min((left / 4 * 3).max(1))
    }

    /// A warning if `worker_connections` needs more open files than a worker may have.
    pub fn files_missing(&self, files: u64, open: usize) -> Option<String> {
        let (wanted, possible) = (self.settings.worker_connections(), self.connections_possible(files, open));
        (possible < wanted).then(|| {
            let needed = self.files_needed(open);
            let remedy = match self.settings.worker_rlimit_nofile() {
                Some(_) => format!("set \"worker_rlimit_nofile\" to {needed}"),
                None => format!("raise the limit of the process that starts it (ulimit -n {needed}, LimitNOFILE={needed})"),
            };
            format!(
                "{wanted} worker_connections need {needed} open files, but a worker may have {files}: it takes {possible} \
                 connections at a time; {remedy}"
            )
        })
    }

    /// The orders that the clients of workers may give by `api`.
    pub fn allowed_orders(&self) -> Allowed {
        self.http.as_ref().map_or(Allowed::Nothing, |http| http.tables.api.allowed)
    }

    /// The caches of responses.
    pub fn caches(&self) -> impl Iterator<Item = &Zone> {
        self.http.iter().flat_map(|http| http.tables.cache.iter())
    }

    /// Each cache of this configuration whose files would be looked for where the one `before` has not put them, with
    /// the reason in nginx's words.
    pub fn moved_caches<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = (Span, String)> {
        let moved = |zone: &'a Zone| {
            let same = |old: &&Zone| {
                old.name() == zone.name() && old.settings.keys_bytes == zone.settings.keys_bytes
            };
            let (old, new) = (&before.caches().find(same)?.settings, &zone.settings);
            let name = zone.name();
            let why = if old.folder != new.folder {
                let [old, new] = [old, new].map(|settings| settings.folder.display());
                format!(
                    "cache \"{name}\" uses the \"{new}\" cache path while previously it used the \"{old}\" cache path"
                )
            } else if old.levels != new.levels {
                format!("cache \"{name}\" had previously different levels")
            } else {
                return None;
            };
            Some((new.span, why))
        };
        self.caches().filter_map(moved)
    }

    /// The certificates that are asked for of authorities.
    pub fn acme(&self) -> Option<&Plan> {
        self.http.as_ref().map(|http| &http.tables.acme.plan).filter(|plan| !plan.is_empty())
    }

    /// True if there is anything for a prober to do.
    pub fn has_probes(&self) -> bool {
        self.upstreams().any(Groups::has_checks) || self.followed_servers().next().is_some()
    }

    /// Brings the health of upstreams' peers in shared memory to where this configuration has its checks begin.
    /// For the master, before the workers start. `is_new`: a prober of another generation is about to start.
    pub fn forget_health(&self, is_new: bool) {
        self.upstreams().for_each(|groups| groups.forget_health(is_new));
    }

    /// True if workers bind to addresses that do not belong to this machine, which needs CAP_NET_RAW.
    pub fn is_transparent(&self) -> bool {
        self.http.as_ref().is_some_and(|http| http.is_transparent)
            || self.stream.as_ref().is_some_and(|stream| stream.is_transparent)
    }

    /// True if this process has the keys of certificates in its memory.
    pub fn has_keys(&self) -> bool {
        self.http.as_ref().is_some_and(|http| http.servers.iter().any(|server| server.tls.is_some()))
            || self.stream.as_ref().is_some_and(|it| it.servers.iter().any(|server| server.tls.is_some()))
            || self.mail.as_ref().is_some_and(|mail| mail.servers.iter().any(|server| server.tls.is_some()))
    }

    /// The certificates of all protocols that come from files, to be watched for changes. Messages between
    /// processes name one by its index here.
    pub fn certificates(&self) -> &[Pair] {
        &self.pairs
    }

    /// The files by which peers' certificates are judged, of all protocols.
    pub fn trusted(&self) -> impl Iterator<Item = &Trusted> {
        let http = self.http.iter().flat_map(|http| &http.trusted);
        let stream = self.stream.iter().flat_map(|stream| &stream.trusted);
        http.chain(stream).chain(self.mail.iter().flat_map(|mail| &mail.trusted))
    }

    /// The protocol that a pair belongs to, and its index there.
    fn pair_of(&self, pair: usize) -> PairOf {
        let http = self.http.as_ref().map_or(0, |http| http.pairs.len());
        let stream = self.stream.as_ref().map_or(0, |stream| stream.pairs.len());
        match (pair.checked_sub(http), pair.checked_sub(http + stream)) {
            (None, _) => PairOf::Http(pair),
            (Some(pair), None) => PairOf::Stream(pair),
            (Some(_), Some(pair)) => PairOf::Mail(pair),
        }
    }

    /// The certificate of a pair that is in force.
    pub fn certificate(&self, pair: usize) -> Option<Certificate> {
        match self.pair_of(pair) {
            PairOf::Http(pair) => self.http.as_ref()?.certificate(pair),
            PairOf::Stream(pair) => self.stream.as_ref()?.certificate(pair),
            PairOf::Mail(pair) => self.mail.as_ref()?.certificate(pair),
        }
    }

    /// Puts a newer certificate in force, in this process, wherever this pair is used. Returns why nothing is
    /// stapled with it although it should be.
    pub fn replace_certificate(&self, pair: usize, certificate: &Certificate) -> Option<Ignored> {
        match self.pair_of(pair) {
            PairOf::Http(pair) => self.http.as_ref()?.replace_certificate(pair, certificate),
            PairOf::Stream(pair) => self.stream.as_ref()?.replace_certificate(pair, certificate),
            PairOf::Mail(pair) => self.mail.as_ref()?.replace_certificate(pair, certificate),
        }
    }

    /// The warnings due at `now_s` about certificates that expire soon.
    pub fn endings(&self, now_s: i64) -> impl Iterator<Item = watch::Ending> {
        let pairs = self.certificates().iter().enumerate();
        pairs.filter_map(move |(index, pair)| {
            let certificate = self.certificate(index).filter(|it| !it.is_pending())?;
            watch::ending(&pair.files.certificate, &certificate, now_s)
        })
    }

    /// The user whose files logs and temporary files are; `None`: of the process.
    pub fn owner(&self) -> Option<Owner> {
        self.settings.user().map(|identity| (identity.uid, identity.gid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cycle::Source;

    fn config(text: &'static str) -> Config {
        let source = Source {
            path: "test.conf".into(),
            prefix: std::env::temp_dir(),
            globals: Vec::new(),
            error_log: None,
            embedded: Some(crate::cycle::Embedded { text, is_demo: false }),
            control: None,
        };
        let loaded = crate::cycle::read(&source, true);
        loaded.config.unwrap_or_else(|| panic!("refused: {:?}", loaded.diagnostics))
    }

    #[test]
    fn a_listener_says_whom_it_serves_and_where_it_is_asked_for() {
        let text = "events {} http { access_log off; server { listen 127.0.0.1:81; listen 127.0.0.1:82; } \
                    server { listen 127.0.0.1:82; listen 127.0.0.1:83 backlog=7; } }";
        let config = config(text);
        let ports: Vec<_> = config.listeners().iter().filter_map(|it| it.address.port()).collect();
        assert_eq!(ports, [81, 82, 83], "each address once");
        for (index, listener) in config.listeners().iter().enumerate() {
            assert_eq!(config.listener_index(listener.serves), index);
            let Serves::Http(place) = listener.serves else { panic!("{listener:?}") };
            let http = config.http.as_ref().map(|http| &http.listens[place].address);
            assert_eq!(http, Some(&listener.address));
            let span = listener.span.expect("a line");
            let line = &text[span.start as usize..span.end as usize];
            assert!(line.contains(&listener.address.to_string()), "{line}");
        }
        assert_eq!(config.listeners()[2].options.backlog, 7);
    }

    #[test]
    fn a_server_without_a_line_has_an_address_and_no_place() {
        let config = config("events {} http { access_log off; server { } }");
        let [listener] = config.listeners() else { panic!("one") };
        assert_eq!((listener.address.port(), listener.span), (Some(80), None));
    }

    #[test]
    fn a_configuration_without_protocols_needs_nothing() {
        let config = config("events {}");
        assert!(config.listeners().is_empty() && !config.is_transparent());
        assert_eq!((config.folders().count(), config.wanted_folders().count()), (0, 0));
        assert_eq!((config.slots().count(), config.peers().count(), config.zones().count()), (0, 0, 0));
    }
}
