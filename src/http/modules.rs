//! The modules of HTTP: one table names them, in the order in which they run.
//!
//! To add a module, add a file in `modules/` (`Conf`, `DIRECTIVES`, `VARIABLES`, its phase handlers) and a
//! line here.
//! A line also has what the module keeps of a request (`state`), and of the whole block while and after it is read
//! (`draft`, `table`).

use std::sync::{Arc, OnceLock};

use crate::config::table::{Module, Slot, Table};
use crate::config::{self, Inherits, Merge, RowInfo};
use crate::http::config::compile::{self, Cx};
use crate::http::request::Request;
use crate::http::request::states::State;
use crate::http::scope::Variable;
use crate::http::verdict::Verdict;
use crate::shared::connection;
use crate::shared::tls::variables;
use crate::shm::named::Used;

pub mod access;
pub mod access_log;
pub mod acme;
pub mod addition;
pub mod api;
pub mod auth_basic;
pub mod auth_jwt;
pub mod auth_oidc;
pub mod auth_request;
pub mod autoindex;
pub mod brotli;
pub mod browser;
pub mod cache;
pub mod charset;
pub mod counters;
pub mod dav;
pub mod disable_symlinks;
pub mod early_hints;
pub mod empty_gif;
pub mod fastcgi;
pub mod geo;
pub mod geoip;
pub mod geoip2;
pub mod grpc;
pub mod gunzip;
pub mod gzip;
pub mod gzip_static;
pub mod headers;
pub mod headers_more;
pub mod health_check;
pub mod http2;
pub mod http3;
pub mod http_core;
pub mod https_redirect;
pub mod image_filter;
pub mod index;
pub mod keyval;
pub mod limit_conn;
pub mod limit_rate;
pub mod limit_req;
pub mod map;
pub mod memcached;
pub mod mirror;
pub mod mp4;
pub mod open_file_cache;
pub mod otel;
pub mod post_action;
pub mod proxy;
pub mod proxy_pass;
pub mod pseudo_streaming;
pub mod random_index;
pub mod ranges;
pub mod realip;
pub mod referer;
pub mod request_body;
pub mod resolver;
pub mod rewrite;
pub mod rewrite_log;
pub mod scgi;
pub mod secure_link;
pub mod slice;
pub mod split_clients;
pub mod ssi;
pub mod ssl;
pub mod static_file;
pub mod status;
pub mod status_zone;
pub mod stub_status;
pub mod sub_filter;

pub mod trace_context;
pub mod try_files;
pub mod tunnel;
pub mod upstream;
pub mod userid;
pub mod uwsgi;
pub mod zstd;

/// A row of an HTTP module's table.
pub type Directive<C> = config::Directive<C, Cx>;

/// The settings of a module for one block.
///
/// Each module has a `Conf` that implements this. The setters of its rows fill one while a block is read;
/// then it is merged with the outer block's settings ([`Merge`]) and frozen. Afterwards it is immutable and
/// shared by all blocks that set nothing else; requests read it through their location.
pub trait BlockConf: Default + Merge {
    /// False: a block that sets nothing of this module has the defaults instead of inheriting.
    const INHERITS: bool = true;

    /// The same for the block of an `if` or a `limit_except`, which replaces the settings of its location.
    const INHERITS_NAMELESS: bool = Self::INHERITS;

    /// False: a block that sets nothing of this module does not share these values as they are, but is merged
    /// with them.
    fn is_shared(&self) -> bool {
        true
    }

    /// Called once per block after merging, to check directives against each other and to precompute values.
    fn freeze(&mut self, _cx: &mut Cx) {}

    /// False: with these settings the module's handlers and head step would do nothing, so they are not
    /// called.
    fn acts(&self) -> bool {
        true
    }
}

/// How a module's rows are inherited, unless a row says otherwise.
const fn inherits<C: BlockConf>() -> Inherits {
    match (C::INHERITS, C::INHERITS_NAMELESS) {
        (true, _) => Inherits::Everywhere,
        (false, true) => Inherits::Conditional,
        (false, false) => Inherits::Nowhere,
    }
}

/// The data of a module for the whole `http` block: the column `table` of the modules' table.
pub trait ModuleTable: Sized {
    /// Called once when everything is read, with the module's draft in `cx.drafts`.
    fn open(cx: &mut Cx) -> Self;

    /// Adds the shared memory zones that it uses.
    fn add_zones(&self, _zones: &mut Vec<Used>) {}

    /// Forgets what is out of date in the memory that the workers share. Called by the master once a minute, as
    /// long as the answer is true: something may get out of date.
    fn tidy(&self) -> bool {
        false
    }
}

/// A point of a request's processing at which modules decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    PostRead,
    ServerRewrite,
    Rewrite,
    Preaccess,
    Access,
    Precontent,
    Content,
}

const PHASE_COUNT: usize = 7;

pub type Handler = fn(&mut Request) -> Verdict;
/// A module's step for the response head, or for the log.
pub type Act = fn(&mut Request);

macro_rules! modules {
    ($($name:ident => [$($phase:ident $handler:ident),*] $(head_step $head:ident)? $(trailer_step $trailers:ident)? $(log_step $log:ident)?
        $(state $state:ident)? $(draft $draft:ident)? $(table $table:ident)?;)*) => {
        /// The settings of all modules in a block that is being read; an unset module costs one word.
        #[derive(Default)]
        pub struct Partial {
            pub structure: (),
            $(pub $name: Option<Box<$name::Conf>>,)*
        }

        impl Partial {
            /// True if the block sets nothing.
            pub fn is_empty(&self) -> bool {
                $(self.$name.is_none())&&*
            }
        }

        /// The settings in force in a block; it shares those that it does not set with the outer block.
        #[derive(Clone, Debug, Default)]
        pub struct Confs {
            $(pub $name: Arc<$name::Conf>,)*
            /// A bit for each of `HANDLERS`, followed by those for `HEAD_STEPS`, that has nothing to do here.
            idle: u64,
        }

        impl Confs {
            /// Completes a block's own settings with those of the outer block.
            pub fn complete(partial: Partial, outer: &Confs, cx: &mut Cx) -> Confs {
                let defaults = cx.defaults.clone();
                let confs = Confs {
                    $($name: complete(partial.$name, &outer.$name, $name::Conf::INHERITS, &defaults.$name, cx),)*
                    idle: 0,
                };
                Confs { idle: confs.idle_or_later(), ..confs }
            }

            /// The same for a block without a name of its own: an `if` or a `limit_except`.
            pub fn complete_nameless(partial: Partial, outer: &Confs, cx: &mut Cx) -> Confs {
                let defaults = cx.defaults.clone();
                let confs = Confs {
                    $($name: complete(partial.$name, &outer.$name, $name::Conf::INHERITS_NAMELESS, &defaults.$name, cx),)*
                    idle: 0,
                };
                Confs { idle: confs.idle_or_later(), ..confs }
            }

            fn idle(&self) -> u64 {
                let handlers = [$($((stringify!($handler), self.$name.acts()),)*)*];
                let heads = [$($((stringify!($head), self.$name.acts()),)?)*];
                let all = handlers.iter().chain(&heads).enumerate();
                all.filter(|(_, (_, acts))| !acts).map(|(index, _)| 1 << index).sum()
            }
        }

        /// The modules' states for one request.
        #[derive(Debug, Default)]
        pub struct States {
            $($(pub $name: $name::$state,)?)*
        }

        impl States {
            /// What a subrequest begins with that is made in its turn.
            pub fn lend(outer: &mut Request) -> Self {
                Self { $($($name: <$name::$state as State>::lend(outer),)?)* }
            }

            /// Takes back what was lent.
            pub fn take_back(outer: &mut Request, inner: &mut Request) {
                $($(<$name::$state as State>::take_back(outer, inner);)?)*
            }

            /// What a subrequest begins with that runs beside the outer request.
            pub fn copy(outer: &Request) -> Self {
                Self { $($($name: <$name::$state as State>::copy(outer),)?)* }
            }

            /// Takes out what a tunnel keeps for the log; `None`: there is nothing to keep.
            pub fn park(&mut self) -> Option<Box<Self>> {
                let mut parked = None::<Box<Self>>;
                $($(if let Some(state) = <$name::$state as State>::park(&mut self.$name) {
                    parked.get_or_insert_default().$name = state;
                })?)*
                parked
            }
        }

        /// The modules' drafts for the whole `http` block, filled while it is read.
        #[derive(Default)]
        pub struct Drafts {
            $($(pub $name: $name::$draft,)?)*
        }

        /// The modules' tables for the whole `http` block, made once it is read.
        #[derive(Debug)]
        pub struct Tables {
            $($(pub $name: $name::$table,)?)*
        }

        impl Tables {
            /// Makes the tables when everything is read.
            pub fn open(cx: &mut Cx) -> Self {
                Self { $($($name: <$name::$table as ModuleTable>::open(cx),)?)* }
            }

            /// The names of the shared memory zones in use, for `shm::named::sweep`.
            pub fn zones(&self) -> Vec<Used> {
                let mut zones = Vec::new();
                $($(<$name::$table as ModuleTable>::add_zones(&self.$name, &mut zones);)?)*
                zones
            }

            /// Forgets what is out of date in shared memory. False: nothing ever is.
            pub fn tidy(&self) -> bool {
                [$($(<$name::$table as ModuleTable>::tidy(&self.$name),)?)*].contains(&true)
            }
        }

        static SLOTS: &[&dyn Module<Partial, Cx>] = &[
            &Slot {
                name: "structure",
                rows: compile::DIRECTIVES,
                conf: |partial: &mut Partial| &mut partial.structure,
                inherits: Inherits::Nowhere,
            },
            $(&Slot {
                name: stringify!($name),
                rows: $name::DIRECTIVES,
                conf: |partial: &mut Partial| &mut **partial.$name.get_or_insert_default(),
                inherits: inherits::<$name::Conf>(),
            },)*
        ];

        /// The variables that modules declare.
        pub static VARIABLES: &[&[Variable]] = &[&connection::variables(), &variables::variables(), $($name::VARIABLES,)*];

        const HANDLERS: &[(Phase, Handler)] = &[$($((Phase::$phase, $name::$handler as Handler),)*)*];

        /// The names of the modules with a step in `HEAD_STEPS`.
        const HEADS: &[&str] = &[$($({
            let _: Act = $name::$head;
            stringify!($name)
        },)?)*];

        /// The names of `HANDLERS`, followed by those of `HEAD_STEPS`.
        #[cfg(test)]
        const NAMES: &[&str] = &[
            $($(concat!(stringify!($name), ".", stringify!($handler)),)*)*
            $($(concat!(stringify!($name), ".", stringify!($head)),)?)*
        ];

        /// The modules' steps for the head of every response, in order.
        pub const HEAD_STEPS: &[Act] = &[$($($name::$head,)?)*];

        /// The modules' steps after the body of a response that `has_trailers`, in order.
        pub static TRAILER_STEPS: &[Act] = &[$($($name::$trailers,)?)*];

        /// The log phase.
        pub static LOG_STEPS: &[Act] = &[$($($name::$log,)?)*];
    };
}

modules! {
    http_core   => [];
    http2       => [];
    http3       => [];
    resolver    => [];
    acme        => [PostRead answer] draft Table table Table;
    realip      => [PostRead find, Preaccess find];
    map         => [];
    geo         => [];
    geoip       => [] draft Databases table Databases;
    geoip2      => [] draft Draft table Settled;
    split_clients => [];
    referer     => [];
    secure_link => [];
    browser     => [];
    trace_context => [];
    ssl         => [] draft Loaded table Table;
    fastcgi     => [];
    uwsgi       => [];
    scgi        => [];
    memcached   => [];
    grpc        => [];
    tunnel      => [];
    otel        => [Rewrite start] log_step end state State draft Draft table Table;
    rewrite     => [ServerRewrite server_rewrite, Rewrite rewrite];
    rewrite_log => [];
    limit_req   => [Preaccess preaccess] state State draft Zones table Table;
    limit_conn  => [Preaccess preaccess] state State draft Zones table Table;
    access      => [Access access];
    auth_basic  => [Access access];
    auth_oidc   => [Access access] state State draft Draft table Table;
    keyval      => [] draft Draft table Zones;
    auth_jwt    => [Preaccess close, Access access] state State draft Draft;
    auth_request => [Access access];
    try_files   => [Precontent precontent];
    mirror      => [Precontent precontent];
    upstream    => [] draft Selections table Table;
    health_check => [] draft Draft table Table;
    cache       => [] log_step count draft Draft table Table;
    request_body => [PostRead read_early];
    limit_rate  => [] state State;
    post_action => [];
    early_hints => [];
    proxy       => [];
    proxy_pass  => [Content content];
    status_zone => [] draft Zones table Zones;
    status      => [Content content];
    api         => [Content content] draft Table table Table;
    stub_status => [Content content];
    empty_gif   => [Content content];
    mp4         => [];
    pseudo_streaming => [Content content];
    random_index => [Content content];
    index       => [Content content];
    autoindex   => [Content content];
    dav         => [Content content];
    gzip_static => [Content content] head_step head state State;
    static_file => [Content content];
    open_file_cache => [];
    disable_symlinks => [];
    slice       => [] head_step head state State;
    headers_more => [Rewrite rewrite] head_step head;
    headers     => [] head_step add trailer_step add_trailers;
    https_redirect => [PostRead redirect] head_step add;
    userid      => [] head_step send state State;
    gunzip      => [] head_step head;
    addition    => [] head_step head;
    sub_filter  => [] head_step head;
    image_filter => [] head_step head;
    charset     => [] head_step head state State;
    ssi         => [] head_step head state State;
    gzip        => [] head_step head;
    brotli      => [] head_step head;
    zstd        => [] head_step head;
    ranges      => [] head_step head state State;
    access_log  => [] log_step write draft Formats;
    counters    => [] log_step count table Durations;
}

impl Confs {
    /// True if access rules, passwords, tokens, logins or another service restrict the clients.
    pub fn are_guarded(&self) -> bool {
        let has_users = self.auth_basic.acts() || self.auth_jwt.acts() || self.auth_oidc.acts();
        self.access.acts() || has_users || self.auth_request.acts()
    }

    /// True if the handler with this index in the table has nothing to do here.
    #[inline]
    pub fn is_idle(&self, number: u32) -> bool {
        self.idle >> number & 1 == 1
    }

    /// True if all handlers of a phase have nothing to do here.
    #[inline]
    pub fn is_phase_idle(&self, phase: Phase) -> bool {
        let all = PHASES[phase as usize];
        self.idle & all == all
    }

    /// `idle`, which the steps behind `image_filter` seem to be if that acts: it runs them itself, when the head is known.
    fn idle_or_later(&self) -> u64 {
        self.idle() | if self.image_filter.acts() { LATER_HEADS << HANDLERS.len() } else { 0 }
    }

    /// The head steps behind `image_filter` that have something to do here, as bits by their index in [`HEAD_STEPS`].
    pub fn later_heads(&self) -> u64 {
        !self.idle() >> HANDLERS.len() & LATER_HEADS
    }

    /// The head steps that have something to do here, as bits by their index in [`HEAD_STEPS`].
    #[inline]
    pub fn acting_heads(&self) -> u64 {
        !self.idle >> HANDLERS.len() & ((1 << HEAD_STEPS.len()) - 1)
    }
}

/// The handlers of each phase, as bits.
const PHASES: [u64; PHASE_COUNT] = {
    let mut phases = [0; PHASE_COUNT];
    let mut number = 0;
    while number < HANDLERS.len() {
        phases[HANDLERS[number].0 as usize] |= 1 << number;
        number += 1;
    }
    phases
};

/// Runs the modules' steps for the head of a response; those behind `image_filter`, if that acts, when it tells.
pub fn run_heads(request: &mut Request) {
    run(request, request.location.confs.acting_heads());
}

/// Runs the steps behind `image_filter`.
pub fn run_later_heads(request: &mut Request) {
    run(request, request.location.confs.later_heads());
}

#[inline]
fn run(request: &mut Request, mut acting: u64) {
    while acting != 0 {
        HEAD_STEPS[acting.trailing_zeros() as usize](request);
        acting &= acting - 1;
    }
}

/// `==`, which is no constant function.
const fn is_same(one: &[u8], other: &[u8]) -> bool {
    match (one, other) {
        ([], []) => true,
        ([first, one @ ..], [second, other @ ..]) => *first == *second && is_same(one, other),
        _ => false,
    }
}

/// The head steps behind that of `image_filter`.
const LATER_HEADS: u64 = {
    let mut index = 0;
    while !is_same(HEADS[index].as_bytes(), b"image_filter") {
        index += 1;
    }
    ((1 << HEAD_STEPS.len()) - 1) & !((1 << (index + 1)) - 1)
};

const _: () = assert!(HANDLERS.len() + HEAD_STEPS.len() <= u64::BITS as usize);

/// The handlers of a phase with their indexes, in the order of the table.
pub fn handlers(phase: Phase) -> &'static [(u32, Handler)] {
    static BY_PHASE: OnceLock<[Vec<(u32, Handler)>; PHASE_COUNT]> = OnceLock::new();
    let by_phase = BY_PHASE.get_or_init(|| {
        let mut lists: [Vec<(u32, Handler)>; PHASE_COUNT] = Default::default();
        for (number, (phase, handler)) in HANDLERS.iter().enumerate() {
            lists[*phase as usize].push((number as u32, *handler));
        }
        lists
    });
    &by_phase[phase as usize]
}

/// Blocks that contain data and may be long.
pub const DATA_BLOCKS: &[&str] = &["map", "geo", "geoip2"];

/// The table of the `http` part of the language.
pub fn table() -> &'static Table<Partial, Cx> {
    static TABLE: OnceLock<Table<Partial, Cx>> = OnceLock::new();
    let elsewhere = || ELSEWHERE.get().cloned().unwrap_or_default();
    TABLE.get_or_init(|| Table::new(SLOTS.to_vec()).elsewhere(elsewhere()))
}

/// The rows of the other parts of the language, so that their directives are reported as misplaced instead of
/// unknown.
static ELSEWHERE: OnceLock<Vec<RowInfo>> = OnceLock::new();

/// Registers the rows of the other parts, before the first use of [`table`].
pub fn know_elsewhere(rows: Vec<RowInfo>) {
    let _ = ELSEWHERE.set(rows);
}

fn complete<C: BlockConf>(
    own: Option<Box<C>>,
    outer: &Arc<C>,
    inherits: bool,
    default: &Arc<C>,
    cx: &mut Cx,
) -> Arc<C> {
    match own {
        Some(mut conf) => {
            conf.merge(outer);
            conf.freeze(cx);
            Arc::from(conf)
        }
        None if inherits && outer.is_shared() => outer.clone(),
        None if inherits => {
            let mut conf = C::default();
            conf.merge(outer);
            conf.freeze(cx);
            Arc::new(conf)
        }
        None => default.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::config;

    /// The handlers that act in the location `/` of a server.
    fn acting(text: &str) -> (Vec<(Phase, &'static str)>, Vec<&'static str>) {
        let config = config(text);
        let locations: Vec<_> = config.servers.iter().flat_map(|server| server.locations()).collect();
        let location = locations.iter().find(|location| &*location.name == "/").expect("a location");
        let handlers = HANDLERS.iter().enumerate().map(|(number, (phase, _))| (*phase, number));
        let handlers = handlers.filter(|(_, number)| !location.confs.is_idle(*number as u32));
        let heads = (0..HEAD_STEPS.len()).filter(|index| location.confs.acting_heads() >> index & 1 == 1);
        (
            handlers.map(|(phase, number)| (phase, NAMES[number])).collect(),
            heads.map(|index| NAMES[HANDLERS.len() + index]).collect(),
        )
    }

    /// A phase in which a handler acts runs for every request: one that says so without need costs each of them.
    #[test]
    fn a_plain_proxy_runs_no_handlers_but_these() {
        let (handlers, heads) =
            acting("http { server { listen 127.0.0.1:1; location / { proxy_pass http://127.0.0.1:2; } } }");
        // Those of the content phase: the first one passes the request on, so the others are not reached.
        let content = ["proxy_pass.content", "index.content", "static_file.content"];
        assert_eq!(handlers, content.map(|name| (Phase::Content, name)));
        assert_eq!(heads, ["ranges.head"]);
    }

    #[test]
    fn a_directive_makes_its_handler_act() {
        let (handlers, _) = acting(
            "http { server { listen 127.0.0.1:1; location / { allow all; proxy_pass http://127.0.0.1:2; } } }",
        );
        assert!(handlers.contains(&(Phase::Access, "access.access")), "{handlers:?}");
        let (_, heads) = acting(
            "http { server { listen 127.0.0.1:1; location / { gzip on; proxy_pass http://127.0.0.1:2; } } }",
        );
        assert!(heads.contains(&"gzip.head"), "{heads:?}");
    }
}
