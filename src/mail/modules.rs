//! The modules of mail: one table names them.
//!
//! To add a module, add a file in `modules/` (`Conf`, `DIRECTIVES`) and a line here. A line also has what the module keeps of the whole
//! block while and after it is read (`draft`, `table`). A session runs no handlers: its course is one for all (`pipeline.rs`).

use std::sync::{Arc, OnceLock};

use crate::config::table::{Module, Slot, Table};
use crate::config::{self, Inherits, Merge, RowInfo};
use crate::mail::config::compile::{self, Cx};
use crate::shm::named::Used;

pub mod auth_http;
pub mod core;
pub mod imap;
pub mod methods;
pub mod pop3;
pub mod proxy;
pub mod realip;
pub mod resolver;
pub mod smtp;
pub mod ssl;

/// A row of a mail module's table.
pub type Directive<C> = config::Directive<C, Cx>;

/// The settings of a module for one block: the `mail` block or a server.
///
/// The setters of a module's rows fill one while a block is read; then it is merged with the outer block's settings
/// ([`Merge`]). Afterwards it is immutable and shared by all blocks that set nothing else.
pub trait BlockConf: Default + Merge {}

/// The data of a module for the whole `mail` block: the column `table` of the modules' table.
pub trait ModuleTable: Sized {
    /// Called once when everything is read, with the module's draft in `cx.drafts`.
    fn open(cx: &mut Cx) -> Self;

    /// Adds the shared memory zones that it uses.
    fn add_zones(&self, zones: &mut Vec<Used>);

    /// Forgets what is out of date in the memory that the workers share. False: nothing ever is.
    fn tidy(&self) -> bool;
}

macro_rules! modules {
    ($($name:ident $(draft $draft:ident)? $(table $table:ident)?;)*) => {
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
            pub fn complete(partial: Partial, outer: &Confs) -> Confs {
                Confs {
                    $($name: complete(partial.$name, &outer.$name),)*
                }
            }
        }

        /// The modules' drafts for the whole `mail` block, filled while it is read.
        #[derive(Default)]
        pub struct Drafts {
            $($(pub $name: $name::$draft,)?)*
        }

        /// The modules' tables for the whole `mail` block, made once it is read.
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
                inherits: Inherits::Everywhere,
            },)*
        ];
    };
}

modules! {
    core;
    auth_http;
    proxy;
    resolver;
    realip;
    ssl draft Loaded table Table;
    imap;
    pop3;
    smtp;
}

/// The table of the `mail` part of the language.
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

fn complete<C: BlockConf>(own: Option<Box<C>>, outer: &Arc<C>) -> Arc<C> {
    match own {
        Some(mut conf) => {
            conf.merge(outer);
            Arc::from(conf)
        }
        None => outer.clone(),
    }
}
