//! The modules of streams: one table names them, in the order in which they run.
//!
//! To add a module, add a file in `modules/` (`Conf`, `DIRECTIVES`, `VARIABLES`, its phase handlers) and a line here. A
//! line also has what the module keeps of a session (`state`), and of the whole block while and after it is read
//! (`draft`, `table`).

use std::sync::{Arc, OnceLock};

use crate::config::table::{Module, Slot, Table};
use crate::config::{self, Inherits, Merge, RowInfo};
use crate::shared::connection;
use crate::shared::tls::variables;
use crate::shm::named::Used;
use crate::stream::config::compile::{self, Cx};
use crate::stream::scope::Variable;
use crate::stream::session::Session;
use crate::stream::verdict::Verdict;

pub mod access;
pub mod access_log;
pub mod core;
pub mod counters;
pub mod ftp;
pub mod geo;
pub mod geoip;
pub mod geoip2;
pub mod health_check;
pub mod keyval;
pub mod limit_conn;
pub mod map;
pub mod mqtt;
pub mod mqtt_preread;
pub mod pass;
pub mod postgres_preread;
pub mod proxy;
pub mod realip;
pub mod resolver;
pub mod return_text;
pub mod set;
pub mod split_clients;
pub mod ssl;
pub mod ssl_preread;
pub mod status_zone;
pub mod upstream;

/// A row of a stream module's table.
pub type Directive<C> = config::Directive<C, Cx>;

/// The settings of a module for one block: the `stream` block or a server.
///
/// The setters of a module's rows fill one while a block is read; then it is merged with the outer block's settings
/// ([`Merge`]) and frozen. Afterwards it is immutable and shared by all blocks that set nothing else.
pub trait BlockConf: Default + Merge {
    /// False: a server that sets nothing of this module has the defaults instead of inheriting.
    const INHERITS: bool = true;

    /// Called once per block after merging, to check directives against each other and to precompute values.
    fn freeze(&mut self, _cx: &mut Cx) {}
}

/// How a module's rows are inherited, unless a row says otherwise.
const fn inherits<C: BlockConf>() -> Inherits {
    if C::INHERITS { Inherits::Everywhere } else { Inherits::Nowhere }
}

/// The data of a module for the whole `stream` block: the column `table` of the modules' table.
pub trait ModuleTable: Sized {
    /// Called once when everything is read, with the module's draft in `cx.drafts`.
    fn open(cx: &mut Cx) -> Self;

    /// Adds the shared memory zones that it uses.
    fn add_zones(&self, _zones: &mut Vec<Used>) {}

    /// Forgets what is out of date in the memory that the workers share. False: nothing ever is.
    fn tidy(&self) -> bool {
        false
    }
}

/// A point of a session's course at which modules decide, before its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    PostAccept,
    Preaccess,
    Access,
    Preread,
}

pub type Handler = fn(&mut Session) -> Verdict;
/// A module's step for the log.
pub type Act = fn(&mut Session);

macro_rules! modules {
    ($($name:ident => [$($phase:ident $handler:ident),*] $(log_step $log:ident)?
        $(state $state:ident)? $(draft $draft:ident)? $(table $table:ident)?;)*) => {
        /// The settings of all modules in a block that is being read; an unset module costs one word.
        #[derive(Default)]
        pub struct Partial {
            pub structure: (),
            $(pub $name: Option<Box<$name::Conf>>,)*
        }

        /// The settings in force in a block; it shares those that it does not set with the outer block.
        #[derive(Clone, Debug, Default)]
        pub struct Confs {
            $(pub $name: Arc<$name::Conf>,)*
        }

        impl Confs {
            /// Completes a block's own settings with those of the outer block.
            pub fn complete(partial: Partial, outer: &Confs, cx: &mut Cx) -> Confs {
                let defaults = cx.defaults.clone();
                Confs {
                    $($name: complete(partial.$name, &outer.$name, &defaults.$name, cx),)*
                }
            }
        }

        /// The modules' states for one session.
        #[derive(Debug, Default)]
        pub struct States {
            $($(pub $name: $name::$state,)?)*
        }

        /// The modules' drafts for the whole `stream` block, filled while it is read.
        #[derive(Default)]
        pub struct Drafts {
            $($(pub $name: $name::$draft,)?)*
        }

        /// The modules' tables for the whole `stream` block, made once it is read.
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

        /// The handlers of all phases, in the order of the table.
        pub static HANDLERS: &[(Phase, Handler)] = &[$($((Phase::$phase, $name::$handler as Handler),)*)*];

        /// The log phase.
        pub static LOG_STEPS: &[Act] = &[$($($name::$log,)?)*];
    };
}

modules! {
    core        => [];
    resolver    => [];
    realip      => [PostAccept find];
    map         => [];
    geo         => [];
    geoip       => [] draft Databases table Databases;
    geoip2      => [] draft Draft table Settled;
    split_clients => [];
    keyval      => [] draft Draft table Zones;
    set         => [Preaccess set];
    limit_conn  => [Preaccess preaccess] state State draft Zones table Table;
    access      => [Access access];
    ssl         => [] draft Loaded table Table;
    ssl_preread => [Preread preread] state State;
    mqtt_preread => [Preread preread] state State;
    postgres_preread => [Preread preread] state State;
    mqtt        => [Preread preread];
    ftp         => [] state State;
    health_check => [] draft Draft table Table;
    upstream    => [] draft Selections table Table;
    proxy       => [];
    return_text => [];
    pass        => [];
    access_log  => [] log_step write draft Formats;
    status_zone => [] draft Zones table Zones;
    counters    => [] log_step count;
}

/// The table of the `stream` part of the language.
pub fn table() -> &'static Table<Partial, Cx> {
    static TABLE: OnceLock<Table<Partial, Cx>> = OnceLock::new();
    let elsewhere = || ELSEWHERE.get().cloned().unwrap_or_default();
    TABLE.get_or_init(|| Table::new(SLOTS.to_vec()).elsewhere(elsewhere()))
}

/// The rows of this part, whether [`table`] has been used or not.
pub fn rows() -> Vec<RowInfo> {
    SLOTS.iter().flat_map(|module| module.rows()).collect()
}

/// The rows of the other parts of the language, so that their directives are reported as misplaced instead of
/// unknown.
static ELSEWHERE: OnceLock<Vec<RowInfo>> = OnceLock::new();

/// Registers the rows of the other parts, before the first use of [`table`].
pub fn know_elsewhere(rows: Vec<RowInfo>) {
    let _ = ELSEWHERE.set(rows);
}

fn complete<C: BlockConf>(own: Option<Box<C>>, outer: &Arc<C>, default: &Arc<C>, cx: &mut Cx) -> Arc<C> {
    match own {
        Some(mut conf) => {
            conf.merge(outer);
            conf.freeze(cx);
            Arc::from(conf)
        }
        None if C::INHERITS => outer.clone(),
        None => default.clone(),
    }
}
