//! Reads a configuration from its files: `-g` texts, the main file, and the files that they include.
//!
//! Touches the file system (read only). The file name decides the spelling: `.toml`, or else nginx's.
//! As in nginx, every include is relative to the directory of the main file.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::base::foreign::char_of;
use crate::config::{Block, Diagnostic, Diagnostics, FileId, Node, Source, Span, Tree, parse, toml};

/// Maximum number of syntax errors; after that many, the rest of the text rarely yields useful ones.
const SYNTAX_ERRORS_MAX: usize = 50;
/// Maximum depth of nested includes.
const INCLUDE_DEPTH_MAX: usize = 50;
/// Maximum number of inclusions in all, a bound for files that include each other many times over.
const INCLUDES_MAX: usize = 200_000;
/// Offsets are 32 bits wide.
const FILE_BYTES_MAX: usize = 1 << 30;
/// The name of `-g` text, in place of a file's path.
pub const COMMAND_LINE: &str = "command line";

/// Parameters of a load.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// The directory for a relative path of the main file (`-p`).
    pub prefix: PathBuf,
    /// `-g` texts, read before the file.
    pub globals: Vec<String>,
    /// Keep `include` in the tree like any other directive, and read no included file (for conversion).
    pub keep_includes: bool,
    /// Names of blocks that hold data instead of directives, and may be long.
    pub data_blocks: &'static [&'static str],
}

/// Reads `path` and everything it includes. Even with errors, the tree holds all that could be read.
pub fn load(path: &Path, options: &LoadOptions) -> (Tree, Diagnostics) {
    let path = options.prefix.join(path);
    let mut loader = Loader::new(path.parent().unwrap_or(Path::new("/")), options);
    let mut content = loader.globals(&options.globals);
    if let Some(file) = loader.read(&path, None) {
        loader.parse(file, 0, &mut content);
    }
    loader.finish(content)
}

/// Reads a text that is not in a file, under the name `name`; a name that ends in `.toml` makes it TOML.
/// Includes are relative to the prefix.
pub fn load_text(name: &str, text: &str, options: &LoadOptions) -> (Tree, Diagnostics) {
    let mut loader = Loader::new(&options.prefix, options);
    let mut content = loader.globals(&options.globals);
    let file = loader.add(PathBuf::from(name), text.as_bytes().to_vec());
    loader.parse(file, 0, &mut content);
    loader.finish(content)
}

/// Formats an I/O error as nginx does: `open() "/x" failed (2: No such file or directory)`.
pub fn system_message(call: &str, path: &Path, error: &io::Error) -> String {
    let call = format!("{call}() \"{}\" failed", path.display());
    match error.raw_os_error() {
        Some(code) => format!("{call} ({code}: {})", nix::errno::Errno::from_raw(code).desc()),
        None => format!("{call} ({error})"),
    }
}

/// The state shared by all texts of one load.
pub(super) struct Loader {
    tree: Tree,
    diagnostics: Diagnostics,
    /// The directory that includes are relative to.
    directory: PathBuf,
    keep_includes: bool,
    data_blocks: &'static [&'static str],
    /// The files read so far; a file that is included more than once is read and kept once.
    known: HashMap<PathBuf, FileId>,
    /// For each source, the bytes that are not text, with their offsets.
    foreign: Vec<Vec<(u32, u8)>>,
    /// The files being parsed, the innermost last.
    parsing: Vec<FileId>,
    include_count: usize,
    syntax_error_count: usize,
}

impl Loader {
    fn new(directory: &Path, options: &LoadOptions) -> Self {
        Self {
            tree: Tree::default(),
            diagnostics: Diagnostics::default(),
            directory: directory.to_owned(),
            keep_includes: options.keep_includes,
            data_blocks: options.data_blocks,
            known: HashMap::new(),
            foreign: Vec::new(),
            parsing: Vec::new(),
            include_count: 0,
            syntax_error_count: 0,
        }
    }

    fn globals(&mut self, texts: &[String]) -> Block {
        let mut content = Block::default();
        for text in texts {
            let file = self.add(PathBuf::from(COMMAND_LINE), text.as_bytes().to_vec());
            self.parse(file, 0, &mut content);
        }
        content
    }

    fn finish(mut self, content: Block) -> (Tree, Diagnostics) {
        self.tree.nodes = content.into_nodes();
        (self.tree, self.diagnostics)
    }

    pub(super) fn keeps_includes(&self) -> bool {
        self.keep_includes
    }

    /// True if a block of this name holds data.
    pub(super) fn is_data(&self, name: &str) -> bool {
        self.data_blocks.contains(&name)
    }

    pub(super) fn gave_up(&self) -> bool {
        self.syntax_error_count >= SYNTAX_ERRORS_MAX
    }

    pub(super) fn give_up(&mut self) {
        self.syntax_error_count = SYNTAX_ERRORS_MAX;
    }

    /// Reports an error that may make the following text hard to understand.
    pub(super) fn syntax(&mut self, diagnostic: Diagnostic) {
        self.syntax_error_count += 1;
        self.diagnostics.push(diagnostic);
    }

    pub(super) fn is_command_line(&self, file: FileId) -> bool {
        self.tree.source(file).is_some_and(|source| source.path == Path::new(COMMAND_LINE))
    }

    /// True if a source has bytes that are not text.
    pub(super) fn has_foreign(&self, file: FileId) -> bool {
        self.foreign.get(file.0 as usize).is_some_and(|foreign| !foreign.is_empty())
    }

    /// Reports the first byte of a word that is not text.
    pub(super) fn check_bytes(&mut self, span: Span) {
        let Some(foreign) = self.foreign.get(span.file.0 as usize).filter(|foreign| !foreign.is_empty())
        else {
            return;
        };
        let next = foreign.partition_point(|&(at, _)| at < span.start);
        let Some(&(at, byte)) = foreign.get(next).filter(|&&(at, _)| at < span.end) else { return };
        let place = Span { start: at, end: at + 1, ..span };
        let message = format!("byte 0x{byte:02x} is not UTF-8 text");
        let help = match byte {
            0 => "a configuration is text",
            _ => "TOML is UTF-8: convert the file with iconv, and write \\xe9 in expressions",
        };
        self.syntax(Diagnostic::error(place, message).help(help));
    }

    /// Adds the files named by an `include` directive to the block that contains it.
    pub(super) fn include(&mut self, node: &Node, depth: usize, content: &mut Block) {
        let [pattern] = &node.args[..] else {
            let message = "invalid number of arguments in \"include\" directive";
            return self.diagnostics.push(Diagnostic::error(node.name.span, message));
        };
        let pattern_span = pattern.span;
        let pattern = self.directory.join(&*pattern.text);
        let text = pattern.to_string_lossy();
        let paths = if text.contains(['*', '?', '[']) {
            match glob_paths(&text) {
                Ok(paths) => paths,
                Err(message) => return self.diagnostics.push(Diagnostic::error(pattern_span, message)),
            }
        } else {
            vec![pattern]
        };
        for path in paths {
            if let Some(error) = self.include_refused(&path) {
                self.give_up();
                return self.diagnostics.push(Diagnostic::error(pattern_span, error));
            }
            self.include_count += 1;
            if let Some(file) = self.read(&path, Some(pattern_span)) {
                self.parse(file, depth, content);
            }
        }
    }

    fn include_refused(&self, path: &Path) -> Option<String> {
        let file = self.known.get(path);
        if file.is_some_and(|file| self.parsing.contains(file)) {
            Some(format!("\"{}\" includes itself", path.display()))
        } else if self.parsing.len() > INCLUDE_DEPTH_MAX {
            Some(format!("files include each other more than {INCLUDE_DEPTH_MAX} deep"))
        } else if self.include_count >= INCLUDES_MAX {
            Some(format!("more than {INCLUDES_MAX} files are included"))
        } else {
            None
        }
    }

    /// Reads a file, unless it was read already. `included_at` is the place of the `include`.
    fn read(&mut self, path: &Path, included_at: Option<Span>) -> Option<FileId> {
        if let Some(&file) = self.known.get(path) {
            return Some(file);
        }
        let message = match open(path) {
            Err(message) => message,
            Ok(mut file) => {
                let mut bytes = Vec::new();
                match io::Read::read_to_end(&mut file, &mut bytes) {
                    Err(error) => system_message("read", path, &error),
                    Ok(_) if bytes.len() > FILE_BYTES_MAX => {
                        format!("\"{}\" is longer than {FILE_BYTES_MAX} bytes", path.display())
                    }
                    Ok(_) => return Some(self.add(path.to_owned(), bytes)),
                }
            }
        };
        let mut diagnostic = Diagnostic::global(message);
        diagnostic.span = included_at;
        self.diagnostics.push(diagnostic);
        None
    }

    fn add(&mut self, path: PathBuf, bytes: Vec<u8>) -> FileId {
        let file = FileId(self.tree.sources.len() as u32);
        let is_toml = path.extension().is_some_and(|name| name == "toml");
        let (source, foreign) = decode(path, bytes, is_toml || self.keep_includes);
        self.known.insert(source.path.clone(), file);
        self.tree.sources.push(source);
        self.foreign.push(foreign);
        file
    }

    fn parse(&mut self, file: FileId, depth: usize, content: &mut Block) {
        let source = &self.tree.sources[file.0 as usize];
        let text = source.text.clone();
        let is_toml = source.path.extension().is_some_and(|name| name == "toml");
        self.parsing.push(file);
        if is_toml {
            toml::parse(self, file, &text, depth).into_iter().for_each(|node| content.push(node));
        } else {
            *content = parse::parse(self, file, &text, depth, std::mem::take(content));
        }
        self.parsing.pop();
    }
}

/// Opens a file without blocking. Refuses a pipe: it has no end, and a reload could not read it again.
fn open(path: &Path) -> Result<fs::File, String> {
    let opened = fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|error| system_message("open", path, &error))?;
    match file.metadata() {
        Ok(there) if there.file_type().is_fifo() => {
            Err(format!("\"{}\" is a pipe, not a file", path.display()))
        }
        _ => Ok(file),
    }
}

/// Decodes bytes to text. As nginx accepts any bytes, those that are not UTF-8 become characters that
/// represent them (`base::foreign`). In TOML, and if the text is to be converted, they are recorded instead
/// and replaced by a character of the same length.
fn decode(path: PathBuf, bytes: Vec<u8>, is_strict: bool) -> (Source, Vec<(u32, u8)>) {
    const SUBSTITUTE: u8 = 0x1a;
    let mut foreign = Vec::new();
    let text = match String::from_utf8(bytes) {
        Ok(text) if memchr::memchr(0, text.as_bytes()).is_none() => {
            return (Source::new(path, text), foreign);
        }
        Ok(text) => text.into_bytes(),
        Err(error) => error.into_bytes(),
    };
    let raw = text.clone().into_boxed_slice();
    let mut clean = String::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        for char in chunk.valid().chars() {
            if char == '\0' {
                foreign.push((clean.len() as u32, 0));
                clean.push(SUBSTITUTE as char);
            } else {
                clean.push(char);
            }
        }
        for &byte in chunk.invalid() {
            if is_strict {
                foreign.push((clean.len() as u32, byte));
                clean.push(SUBSTITUTE as char);
            } else {
                clean.push(char_of(byte));
            }
        }
    }
    (Source { raw: Some(raw), ..Source::new(path, clean) }, foreign)
}

/// The files that match, sorted by name; there may be none. As in glob(3), `*` matches no leading dot and no
/// slash.
fn glob_paths(pattern: &str) -> Result<Vec<PathBuf>, String> {
    let mut simple = pattern.replace("[^", "[!");
    while simple.contains("**") {
        simple = simple.replace("**", "*");
    }
    let options = glob::MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: true,
    };
    let paths = glob::glob_with(&simple, options)
        .map_err(|error| format!("glob() \"{pattern}\" failed ({error})"))?;
    let mut paths: Vec<PathBuf> = paths.filter_map(Result::ok).collect();
    paths.sort_by(|one, other| one.as_os_str().cmp(other.as_os_str()));
    Ok(paths)
}

#[cfg(test)]
mod tests;
