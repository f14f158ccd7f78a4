//! Prints every file of a configuration as it was read (`-T`).

use std::path::Path;

use crate::config::Tree;
use crate::config::load::COMMAND_LINE;

/// Each file after a line `# configuration file PATH:` and followed by an empty line, as nginx prints them.
/// Text from the command line is not a file and is left out.
pub fn dump(tree: &Tree) -> Vec<u8> {
    let mut out = Vec::new();
    for source in tree.sources.iter().filter(|source| source.path != Path::new(COMMAND_LINE)) {
        out.extend_from_slice(format!("# configuration file {}:\n", source.path.display()).as_bytes());
        out.extend_from_slice(source.bytes());
        out.push(b'\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LoadOptions, load_text};

    #[test]
    fn files_are_dumped_as_read() {
        let options = LoadOptions { globals: vec!["pid x;".into()], ..LoadOptions::default() };
        let (tree, _) = load_text("/a.conf", "\u{feff}# x\r\na;", &options);
        assert_eq!(dump(&tree), "# configuration file /a.conf:\n\u{feff}# x\r\na;\n".as_bytes());
    }
}
