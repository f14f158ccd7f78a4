//! Where errors are logged (`error_log`): targets with their levels, several of which may stand in one block.
//!
//! Touches: the table of names, for syslog servers. Behaviour: nginx.org, "Core functionality" (`error_log`).

use std::path::Path;

use crate::config::inherit::own;
use crate::config::{Diagnostic, Inherit, Node, settings};
use crate::log::{self, Level, Logger, Target};
use crate::shared::Environment;
use crate::sys::names::Names;

settings! {
    /// The logs of one block.
    #[derive(Clone, Debug)]
    pub struct Conf {
        logger: Inherit<Logger>,
        /// The targets of this block's directives while it is being read.
        targets: Vec<(Target, Level)> => own,
    }
}

impl Conf {
    /// Reads one `error_log`.
    pub fn add(&mut self, node: &Node, cx: &mut impl Environment) -> Result<(), Diagnostic> {
        if let Some(warning) = misread_off(node) {
            cx.diagnostics().push(warning);
        }
        self.targets.push(log_target(node, cx.prefix(), cx.names())?);
        self.logger = Inherit::default();
        let _ = self.logger.set(Logger::of(&self.targets), node.span);
        Ok(())
    }

    /// The log in force: the process's where no block sets one.
    pub fn log(&self) -> Logger {
        self.logger.as_ref().copied().unwrap_or_else(log::process)
    }
}

/// A warning for `error_log off`, which does not switch anything off.
pub fn misread_off(node: &Node) -> Option<Diagnostic> {
    (node.arg(0) == "off").then(|| {
        let message = "\"error_log off\" writes to a file named \"off\"";
        let help = "to log nothing but emergencies, write: error_log /dev/null emerg;";
        Diagnostic::warning(node.arg_span(0), message).help(help)
    })
}

/// The arguments of an `error_log`: target and level. Relative paths begin at `prefix`.
pub fn log_target(node: &Node, prefix: &Path, names: &Names) -> Result<(Target, Level), Diagnostic> {
    let target =
        Target::parse(node.arg(0), prefix, names).map_err(|why| Diagnostic::error(node.arg_span(0), why))?;
    let mut level = None;
    for word in node.args.iter().skip(1) {
        let named = Level::parse(&word.text).ok_or_else(|| {
            Diagnostic::error(word.span, format!("invalid log level \"{}\"", word.text))
                .help("one of debug, info, notice, warn, error, crit, alert, emerg")
        })?;
        let is_mask = |text: &str| text.starts_with("debug");
        if level.replace(named).is_some() && !is_mask(&word.text) {
            return Err(Diagnostic::error(word.span, format!("duplicate log level \"{}\"", word.text)));
        }
    }
    Ok((target, level.unwrap_or(Level::Error)))
}
