//! Findings about a configuration: the message, the place, and the remedy.

use crate::config::Span;
use crate::config::needs::Needs;

/// The severity of a [`Diagnostic`]: an error refuses the configuration, a warning is printed and logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Warning,
    Error,
}

/// One finding about the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// In nginx's wording if nginx has one, without the place: `unknown directive "x"`.
    pub message: String,
    /// `None` for findings that concern no place in a file (a missing file, a system call).
    pub span: Option<Span>,
    /// The remedy, printed after the caret: `did you mean "limit_req_status"?`.
    pub help: Option<String>,
    /// For a finding about several lines: their common subject, and all of them.
    pub topic: Option<String>,
    pub lines: Vec<Span>,
}

impl Diagnostic {
    pub fn error(span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            span: Some(span),
            help: None,
            topic: None,
            lines: Vec::new(),
        }
    }

    pub fn warning(span: Span, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            message: message.into(),
            span: Some(span),
            help: None,
            topic: None,
            lines: Vec::new(),
        }
    }

    /// A finding without a place in a file.
    pub fn global(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            span: None,
            help: None,
            topic: None,
            lines: Vec::new(),
        }
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Maximum number of findings kept for one load. Beyond it only a first error is added, since without it the
/// load would look successful.
const FINDINGS_MAX: usize = 1000;

/// All findings of one load in their order, and the missing features that the configuration needs.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics(pub Vec<Diagnostic>, pub Needs);

impl Diagnostics {
    pub fn push(&mut self, diagnostic: Diagnostic) {
        let is_error = |diagnostic: &Diagnostic| diagnostic.severity == Severity::Error;
        let is_first_error = || is_error(&diagnostic) && !self.0.iter().any(is_error);
        if self.0.len() < FINDINGS_MAX || is_first_error() {
            self.0.push(diagnostic);
        }
    }

    pub fn has_errors(&self) -> bool {
        self.1.has_errors() || self.0.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    pub fn error_count(&self) -> usize {
        self.0.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count()
    }

    /// Appends the findings of a part.
    pub fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
        self.1.append(&mut other.1);
    }

    /// Turns needs for missing features into findings, once everything has been read.
    pub fn report_needs(&mut self) {
        let mut findings = self.1.report();
        self.0.append(&mut findings);
    }

    /// Keeps the first `max` errors and the first `max` warnings, and notes that there were more.
    pub fn cut(&mut self, max: usize) {
        for (severity, name) in [(Severity::Error, "errors"), (Severity::Warning, "warnings")] {
            let mut count = 0;
            self.0.retain(|diagnostic| {
                count += usize::from(diagnostic.severity == severity);
                diagnostic.severity != severity || count <= max
            });
            if count > max {
                let message = format!("too many {name}: only the first {max} are shown");
                self.0.push(Diagnostic { severity, ..Diagnostic::global(message) });
            }
        }
    }

    /// Sorts by place: findings without one first, then by file and offset.
    pub fn sort(&mut self) {
        self.0.sort_by_key(|diagnostic| diagnostic.span);
    }
}

/// A compile context that collects findings, so that a setter can report more than one.
pub trait HasDiagnostics {
    fn diagnostics(&mut self) -> &mut Diagnostics;
}

impl HasDiagnostics for Diagnostics {
    fn diagnostics(&mut self) -> &mut Diagnostics {
        self
    }
}
