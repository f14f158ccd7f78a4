//! The eight macros: `log::error!(logger, context, "text {}", value; "key" => value)`.
//!
//! `logger` is a `Logger` (or a reference), `context` a `&dyn Context` (`&()` for none). A disabled level
//! costs one comparison: nothing after the first two arguments is evaluated. The text must be a literal,
//! since it identifies the message for the limit on repeats. Values after `;` follow slog's syntax (`"key" =>
//! %display`, `"key" => 5`) and are appended as `, key: value`.

/// Logs at a level known only at run time (`limit_req_log_level` and the like).
#[doc(hidden)]
#[macro_export]
macro_rules! __log_at {
    ($level:expr, $logger:expr, $context:expr, $text:literal $(, $value:expr)* $(,)? $(; $($pairs:tt)*)?) => {{
        let logger: &$crate::log::Logger = &$logger;
        let level: $crate::log::Level = $level;
        if logger.accepts(level) {
            static PLACE: ::slog::RecordLocation = ::slog::RecordLocation {
                file: file!(),
                line: line!(),
                column: column!(),
                function: "",
                module: module_path!(),
            };
            $crate::log::emit(
                logger,
                level,
                $context,
                (&PLACE, $text),
                &format_args!($text $(, $value)*),
                &::slog::kv!($($($pairs)*)?),
            );
        }
    }};
}

#[doc(hidden)]
#[macro_export]
macro_rules! __log_emerg { ($($rest:tt)*) => { $crate::__log_at!($crate::log::Level::Emerg, $($rest)*) }; }
#[doc(hidden)]
#[macro_export]
macro_rules! __log_alert { ($($rest:tt)*) => { $crate::__log_at!($crate::log::Level::Alert, $($rest)*) }; }
#[doc(hidden)]
#[macro_export]
macro_rules! __log_crit { ($($rest:tt)*) => { $crate::__log_at!($crate::log::Level::Crit, $($rest)*) }; }
#[doc(hidden)]
#[macro_export]
macro_rules! __log_error { ($($rest:tt)*) => { $crate::__log_at!($crate::log::Level::Error, $($rest)*) }; }
#[doc(hidden)]
#[macro_export]
macro_rules! __log_warn { ($($rest:tt)*) => { $crate::__log_at!($crate::log::Level::Warn, $($rest)*) }; }
#[doc(hidden)]
#[macro_export]
macro_rules! __log_notice { ($($rest:tt)*) => { $crate::__log_at!($crate::log::Level::Notice, $($rest)*) }; }
#[doc(hidden)]
#[macro_export]
macro_rules! __log_info { ($($rest:tt)*) => { $crate::__log_at!($crate::log::Level::Info, $($rest)*) }; }
#[doc(hidden)]
#[macro_export]
macro_rules! __log_debug { ($($rest:tt)*) => { $crate::__log_at!($crate::log::Level::Debug, $($rest)*) }; }

pub use crate::{
    __log_alert as alert, __log_at as at, __log_crit as crit, __log_debug as debug, __log_emerg as emerg,
    __log_error as error, __log_info as info, __log_notice as notice, __log_warn as warn,
};
