//! Comments survive conversion to either spelling: cases, the shipped examples, and random places.

use proptest::prelude::*;

use super::tests::{node, read, survives};
use super::*;
use crate::config::{LoadOptions, load};

#[test]
fn comments_go_along_and_come_back() {
    let nginx = "# top\n\na 1; # of a\n# of b\nb { # beside b\n    c \"#\" # of c\n    2;\n    # end of b\n} # after b\n\
                 d 3;\n    # of the second d\n    d 4; # beside it\ne {\n#of f\n f; }\ng { # in g\n}\n\
                 h {\n# only this\n}\n\n# end\n";
    let toml = r##"# top

a = 1 # of a

# of b
[b] # beside b
# of c
c = ["#", 2]
# end of b
# after b

[[do]]
d = [
    [3],
    # of the second d
    [4], # beside it
]

[do.e]
#of f
f = []

[do.g] # in g

[do.h]
# only this

# end
"##;
    assert_eq!(to_toml(&read("t.conf", nginx)), toml);
    let again = "# top\n\na 1; # of a\n\n# of b\nb { # beside b\n    # of c\n    c \"#\" 2;\n    # end of b\n    # after b\n}\n\
                 d 3;\n# of the second d\nd 4; # beside it\n\ne {\n    #of f\n    f;\n}\n\ng { # in g\n}\n\n\
                 h {\n    # only this\n}\n\n# end\n";
    let tree = read("t.toml", toml);
    assert_eq!(to_nginx(&tree), again);
    assert_eq!(to_toml(&tree), toml);
    assert_eq!(to_nginx(&read("t.conf", again)), again);
}

#[test]
fn comments_of_toml_keep_their_place() {
    let cases = [
        // a string is not a comment, whatever its quotes
        ("a = \"#1\" # 2\n", "a \"#1\"; # 2\n"),
        ("a = '#1\\' # 2\n", "a \"#1\\\\\"; # 2\n"),
        ("a = \"\\\"#1\" # 2", "a '\"#1'; # 2\n"),
        ("a = \"\"\"\n#1\"\"\"\"\" # 2\n", "a '#1\"\"'; # 2\n"),
        ("a = '''\n#1\n''' # 2\n", "a \"#1\\n\"; # 2\n"),
        ("[\"a#1\"] # 2\n", "a#1 { # 2\n}\n"),
        ("[[\"a#1\"]]\n[[\"a#1\"]] # 2\nb = 3", "a#1 {}\n\na#1 { # 2\n    b 3;\n}\n"),
        // inside arrays
        ("a = [ # 1\n  2, # 3\n  # 4\n]\n", "# 1\n# 3\n# 4\na 2;\n"),
        (
            "b = 0\na = [ # 1\n  [2], # 3\n  # 4\n  [5],\n  # 6\n] # 7\n",
            "b 0;\n# 1\na 2; # 3\n# 4\na 5;\n# 6\n# 7\n",
        ),
        // at the end of a table, and before the next one
        ("[a]\nb = 1\n# c = 2\n\n# d\n[e]\n", "a {\n    b 1;\n    # c = 2\n}\n\n# d\ne {}\n"),
        ("[a]\n# 1\n\n[b.c] # 2\n# 3", "a {\n    # 1\n}\n\nb { # 2\n    c {\n        # 3\n    }\n}\n"),
        ("[a]\nb = 1\n\n# end", "a {\n    b 1;\n}\n\n# end\n"),
        ("# 1\n[a]\nargs = 2 # 3\nb = 4\n", "# 1\n# 3\na 2 {\n    b 4;\n}\n"),
        // the order of the text differs from that of the directives
        (
            "[a.b]\n# 1\nx = 1\n[c] # 2\n# 3\n[a.d] # 4\ny = 2\n",
            "a {\n    b {\n        # 1\n        x 1;\n    }\n\n    # 3\n    d { # 4\n        y 2;\n    }\n}\n\nc { # 2\n}\n",
        ),
        ("a = { b = 1 } # 2\n# 3\n", "a { # 2\n    b 1;\n    # 3\n}\n"),
        ("a.b = 1 # 2\n", "a { # 2\n    b 1;\n}\n"),
        ("# only\n\n#\n", "# only\n\n#\n"),
        ("# 1\n# 2\n\n\n# 3\n[a]\n", "# 1\n# 2\n\n# 3\na {}\n"),
        ("# 1\n\n", "# 1\n"),
        ("# 1\n\na = 1\n", "# 1\n\na 1;\n"),
    ];
    for (toml, nginx) in cases {
        assert_eq!(to_nginx(&read("t.toml", toml)), nginx, "{toml}");
        let windows = to_nginx(&read("t.toml", &toml.replace('\n', "\r\n")));
        assert_eq!(windows.replace("\\r\\n", "\\n"), nginx, "with CRLF: {toml}");
    }
}

#[test]
fn comments_of_nginx_keep_their_place() {
    let cases = [
        ("a \"#1\" '#2' x#3; # 4", "a = [\"#1\", \"#2\", \"x#3\"] # 4\n"),
        ("a \"\\\"#1\"; #2;{}", "a = '\"#1' #2;{}\n"),
        ("a 1; b 2; # c\n", "a = 1\nb = 2 # c\n"),
        ("a {} # 1", "[a]\n# 1\n"),
        ("a { b { c; # 1\n} } # 2\n# 3", "[a]\n\n[a.b]\nc = [] # 1\n# 2\n\n# 3\n"),
        ("a { # 1\n# 2\n}", "[a] # 1\n# 2\n"),
        ("a\n# 1\n# 2\n1 # 3\n;", "# 1\n# 2\n# 3\na = 1\n"),
        ("a # 1\n{ b; }", "# 1\n[a]\nb = []\n"),
        ("a 1;\n\n# end", "a = 1\n\n# end\n"),
        ("\u{feff}# 1\na; #", "# 1\na = [] #\n"),
        ("a; # \u{1}x\u{7f}\ty \u{1}", "a = [] #  x \ty\n"),
        ("#", "#\n"),
        ("", ""),
    ];
    for (nginx, toml) in cases {
        assert_eq!(to_toml(&read("t.conf", nginx)), toml, "{nginx}");
        assert_eq!(to_toml(&read("t.conf", &nginx.replace('\n', "\r\n"))), toml, "with CRLF: {nginx}");
    }
}

#[test]
fn bytes_of_a_comment_that_are_no_text_are_shown_as_such() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("t.conf");
    std::fs::write(&path, b"# caf\xe9 \xff\na 1;\n").expect("written");
    let options = LoadOptions { keep_includes: true, ..LoadOptions::default() };
    let (tree, found) = load(&path, &options);
    assert!(!found.has_errors());
    assert_eq!(to_toml(&tree), "# caf\u{fffd} \u{fffd}\na = 1\n");
}

/// A line-by-line reader finds the same comments without knowing either spelling: no word in the examples has
/// a `#`.
#[test]
fn the_examples_keep_their_comments() {
    for (name, text) in [
        ("pronghorn.conf", include_str!("../../../conf/pronghorn.conf")),
        ("pronghorn.toml", include_str!("../../../conf/pronghorn.toml")),
        ("demo.conf", include_str!("../../../conf/demo.conf")),
    ] {
        let comments = |text: &str| {
            let lines = text.lines().filter_map(|line| line.find('#').map(|at| line[at..].to_owned()));
            let mut lines: Vec<String> = lines.collect();
            lines.sort();
            lines
        };
        let tree = read(name, text);
        let (toml, nginx) = (to_toml(&tree), to_nginx(&tree));
        assert!(comments(text).len() > 3, "{name}");
        assert_eq!(comments(&toml), comments(text), "{toml}");
        assert_eq!(comments(&nginx), comments(text), "{nginx}");
        assert_eq!(comments(&to_nginx(&read("t.toml", &toml))), comments(text), "{name} there and back");
        assert_eq!(comments(&to_toml(&read("t.conf", &nginx))), comments(text), "{name} there and back");
        survives(&tree);
    }
}

/// Appends comments `#1#`, `#2#`… to the lines of a text that `wanted` selects, and puts others between the
/// lines.
fn annotated(text: &str, wanted: &[u8]) -> (String, usize) {
    let (mut out, mut count) = (String::new(), 0);
    for (line, choice) in text.lines().zip(wanted.iter().chain(std::iter::repeat(&0))) {
        for _ in 0..choice % 3 {
            count += 1;
            let _ = writeln!(out, "  #{count}#");
        }
        out.push_str(if choice & 64 == 0 { "" } else { "\n" });
        out.push_str(line);
        if choice & 32 != 0 {
            count += 1;
            let _ = write!(out, " #{count}#");
        }
        out.push_str(if choice & 128 == 0 { "\n" } else { "\r\n" });
    }
    (out, count)
}

proptest! {
    #[test]
    fn no_comment_is_lost_or_written_twice(
        nodes in prop::collection::vec(node(), 0..6),
        wanted in prop::collection::vec(any::<u8>(), 60),
    ) {
        let tree = Tree { nodes, ..Tree::default() };
        for (name, text) in [("t.toml", to_toml(&tree)), ("t.conf", to_nginx(&tree))] {
            let (text, count) = annotated(&text, &wanted);
            let tree = read(name, &text);
            for out in [to_toml(&tree), to_nginx(&tree)] {
                let found: Vec<usize> = (1..=count).map(|number| out.matches(&format!("#{number}#")).count()).collect();
                prop_assert_eq!(found, vec![1; count], "{}\nfrom\n{}", out, text);
            }
            survives(&tree);
        }
    }
}
