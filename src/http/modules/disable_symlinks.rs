//! Symbolic links in the path of a file: `disable_symlinks`.
//!
//! Touches: the file system, on the blocking pool, where the path is walked directory by directory.
//! Behaviour: nginx.org, ngx_http_core_module; openat2(2), RESOLVE_NO_SYMLINKS.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat};

use crate::config::directive::custom;
use crate::config::{Arity, Context, Diagnostic, Inherit, Node, params, settings};
use crate::http::config::compile::Cx;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::scope::{Script, Variable};
use crate::sys::file;

/// Which links are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Off,
    On,
    IfNotOwner,
}

#[derive(Clone, Debug)]
struct Setting {
    rule: Rule,
    /// Links in this first part of the path are allowed.
    from: Option<Script>,
}

settings! {
    #[derive(Debug)]
    pub struct Conf {
        setting: Inherit<Setting>,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("disable_symlinks", Context::ANY, Arity::between(1, 2), disable_symlinks,
        "Refuses files whose path contains a symbolic link: any (on), or one whose owner differs from the owner of its target (if_not_owner). With from=, \
         the first part of the path is not checked.").default("off"),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {}

fn disable_symlinks(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let (mut rule, mut from) = (None, None);
    for word in &node.args {
        match &*word.text {
            "off" => rule = Some(Rule::Off),
            "on" => rule = Some(Rule::On),
            "if_not_owner" => rule = Some(Rule::IfNotOwner),
            _ => match params::value(word, "from") {
                Some(text) if !text.is_empty() => from = Some(Script::compile_text(text, word.span, cx)?),
                _ => return Err(params::invalid_parameter(word, &["off", "on", "if_not_owner", "from"])),
            },
        }
    }
    match rule {
        None => Err(Diagnostic::error(
            node.span,
            "\"disable_symlinks\" must have \"off\", \"on\" or \"if_not_owner\" parameter",
        )),
        Some(Rule::Off) if from.is_some() => {
            let message = "duplicate parameters of \"disable_symlinks\": \"off\" cannot have \"from\"";
            Err(Diagnostic::error(node.span, message))
        }
        Some(rule) => conf.setting.put(Setting { rule, from }, node),
    }
}

/// The treatment of links for one path.
#[derive(Clone, Copy, Debug)]
pub struct Links {
    rule: Rule,
    /// The length of the first part of the path, which is not checked.
    skip: usize,
}

impl Links {
    pub fn of(request: &mut Request, path: &[u8]) -> Self {
        let location = request.location;
        let Some(Setting { rule, from }) = location.confs.disable_symlinks.setting.as_ref() else {
            return Self { rule: Rule::Off, skip: 0 };
        };
        let Some(from) = from else { return Self { rule: *rule, skip: 0 } };
        let from = from.to_vec(request);
        let start = from.strip_suffix(b"/").unwrap_or(&from);
        match path.strip_prefix(start) {
            Some(b"") => Self { rule: Rule::Off, skip: 0 },
            Some([b'/', ..]) => Self { rule: *rule, skip: start.len() },
            _ => Self { rule: *rule, skip: 0 },
        }
    }

    pub fn are_followed(&self) -> bool {
        self.rule == Rule::Off
    }

    /// Opens a path; may block. Errors: ELOOP for a link that is refused.
    pub fn open(&self, path: &[u8], flags: OFlag) -> nix::Result<OwnedFd> {
        if self.rule == Rule::Off {
            return file::open_waiting(path, flags);
        }
        let (above, below) = path.split_at(self.skip.min(path.len()));
        let above = if above.is_empty() { b"/" } else { above };
        let start = file::open_waiting(above, STEP)?;
        let below = &below[below.iter().take_while(|byte| **byte == b'/').count()..];
        match self.rule {
            _ if below.is_empty() => file::open_waiting(path, flags),
            Rule::IfNotOwner => walk(start, below, flags),
            Rule::Off | Rule::On => match file::open_without_links(start.as_fd(), below, flags) {
                Err(Errno::ENOSYS | Errno::EPERM) => Err(Errno::ELOOP), // the kernel cannot tell: refuse
                // as in nginx: a link within the path counts as "not a directory", and only a link at its end
                // as a link
                Err(Errno::ELOOP) if is_above_linked(&start, below) => Err(Errno::ENOTDIR),
                opened => opened,
            },
        }
    }
}

/// To look at a directory or a file without reading it.
pub const STEP: OFlag = OFlag::O_PATH.union(OFlag::O_CLOEXEC);

/// True if the path to the directory of this file contains a link.
fn is_above_linked(start: &OwnedFd, path: &[u8]) -> bool {
    if path.ends_with(b"/") {
        return true;
    }
    let Some(at) = memchr::memrchr(b'/', path) else { return false };
    file::open_without_links(start.as_fd(), &path[..at], STEP).err() == Some(Errno::ELOOP)
}

/// Opens the path step by step; each link must have the same owner as its target.
fn walk(start: OwnedFd, path: &[u8], flags: OFlag) -> nix::Result<OwnedFd> {
    let mut steps = path.split(|byte| *byte == b'/').filter(|step| !step.is_empty()).peekable();
    let mut at = start;
    while let Some(step) = steps.next() {
        let flags = if steps.peek().is_some() { STEP | OFlag::O_DIRECTORY } else { flags };
        let next = openat(&at, step, flags, Mode::empty())?;
        let entry = fstatat(&at, step, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let is_link = SFlag::from_bits_truncate(entry.st_mode) & SFlag::S_IFMT == SFlag::S_IFLNK;
        if is_link && entry.st_uid != fstat(&next)?.st_uid {
            return Err(Errno::ELOOP);
        }
        at = next;
    }
    // a slash at the end requires a directory
    if path.ends_with(b"/")
        && SFlag::from_bits_truncate(fstat(&at)?.st_mode) & SFlag::S_IFMT != SFlag::S_IFDIR
    {
        return Err(Errno::ENOTDIR);
    }
    Ok(at)
}
