//! The path of a file that variables are part of, such as that of an access log.
//!
//! Touches: the scope's values. nginx uses such a path as it is, so that a client whose user name or argument is part of it
//! chooses any file.

use std::fmt;

use crate::base::path::steps_up;
use crate::config::{Diagnostic, Span};
use crate::script::value::Script;
use crate::script::{Compile, Scope};

/// A path whose variables must not lead out of its directory.
pub struct FilePath<S> {
    script: Script<S>,
    /// The number of `..` in the configuration's own text.
    steps_up: usize,
}

impl<S> Clone for FilePath<S> {
    fn clone(&self) -> Self {
        Self { script: self.script.clone(), steps_up: self.steps_up }
    }
}

impl<S> fmt::Debug for FilePath<S> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.script.fmt(out)
    }
}

impl<S: Scope> FilePath<S> {
    /// Compiles the text of an argument. Errors: those of [`Script::compile_text`].
    pub fn compile(text: &str, span: Span, cx: &mut impl Compile<Scope = S>) -> Result<Self, Diagnostic> {
        Ok(Self { script: Script::compile_text(text, span, cx)?, steps_up: steps_up(text.as_bytes()) })
    }

    /// The path, with the values of this scope. `Err`: they have added a `..`; the path is for the log alone.
    pub fn evaluate(&self, scope: &mut S) -> Result<Vec<u8>, Vec<u8>> {
        let path = self.script.to_vec(scope);
        if steps_up(&path) > self.steps_up { Err(path) } else { Ok(path) }
    }
}
