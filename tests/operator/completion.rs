//! `scripts/completion/`: each shell's file names every option that `pronghorn -h` names, and no other.

use std::collections::BTreeSet;
use std::process::Command;

use regex::Regex;

use super::place::{has, run, shipped};
use crate::support::daemon::{binary, is_stand_in};

/// The options in the help text, with their dashes.
fn options() -> BTreeSet<String> {
    let help = run(Command::new(binary()).arg("-h")).err;
    let (_, list) = help.split_once("Options:").expect("the help has a list");
    let line = Regex::new(r"(?m)^  (-[^:]+):").expect("valid");
    let option = Regex::new(r"(--[a-z-]+|-[a-zA-Z?])(?:[ ,=]|$)").expect("valid");
    let heads = line.captures_iter(list).map(|found| found[1].trim().to_owned());
    heads
        .flat_map(|head| option.captures_iter(&head).map(|found| found[1].into()).collect::<Vec<_>>())
        .collect()
}

fn read(name: &str) -> String {
    std::fs::read_to_string(shipped("scripts/completion").join(name)).expect("it is shipped")
}

fn found(pattern: &str, text: &str) -> BTreeSet<String> {
    let pattern = Regex::new(pattern).expect("valid");
    pattern.captures_iter(text).map(|captures| captures[1].replace('\\', "")).collect()
}

#[test]
fn every_shell_knows_the_options_of_the_help() {
    if is_stand_in() {
        return;
    }
    let options = options();
    assert!(options.len() >= 17 && options.contains("-?") && options.contains("--format"), "{options:?}");
    let zsh = found(r"(?m)^ {4}'(?:\([^)]*\))?\*?(--?[a-zA-Z-]+)=?\[", &read("_pronghorn"));
    let zsh: BTreeSet<String> = zsh.into_iter().chain(["-?".into(), "-h".into()]).collect();
    assert!(read("_pronghorn").contains("{-\\?,-h}"));
    assert_eq!(zsh, options, "zsh");
    let fish = read("pronghorn.fish");
    let short = found(r"-s '?([a-zA-Z?])'? ", &fish).into_iter().map(|letter| format!("-{letter}"));
    let long = found(r"(?m)-l ([a-z-]+) ", &fish).into_iter().map(|word| format!("--{word}"));
    assert_eq!(short.chain(long).collect::<BTreeSet<_>>(), options, "fish");
    let bash = in_bash(&["pronghorn", "-"]).into_iter().map(|word| word.trim_end_matches('=').to_owned());
    assert_eq!(bash.collect::<BTreeSet<_>>(), options, "bash");
}

/// Bash's completions for the last of the words.
fn in_bash(words: &[&str]) -> Vec<String> {
    let script = ". \"$0\" && COMP_WORDS=(\"$@\") COMP_CWORD=$(($# - 1)) && _pronghorn && printf '%s\\n' \"${COMPREPLY[@]}\"";
    let file = shipped("scripts/completion/pronghorn.bash");
    let outcome =
        run(Command::new("bash").args(["-c", script]).arg(file).args(words).current_dir(shipped("conf")));
    assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""), "{words:?}");
    outcome.out.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn bash_completes_arguments() {
    let cases: [(&[&str], &[&str]); 7] = [
        (&["pronghorn", "-s", "re"], &["reopen", "reload"]),
        (&["pronghorn", "-s", ""], &["stop", "quit", "reopen", "reload"]),
        (&["pronghorn", "-t", "--format", "=", "j"], &["json"]),
        (&["pronghorn", "-t", "--format", "="], &["text", "json"]),
        (&["pronghorn", "-c", "pronghorn.c"], &["pronghorn.conf"]),
        (&["pronghorn", "-p", "exam"], &["examples"]),
        (&["pronghorn", "-g", ""], &[]),
    ];
    for (words, expected) in cases {
        assert_eq!(in_bash(words), expected, "{words:?}");
    }
}

#[test]
fn each_shell_can_read_its_file() {
    for (shell, name) in [("bash", "pronghorn.bash"), ("zsh", "_pronghorn"), ("fish", "pronghorn.fish")] {
        if !has(shell) {
            eprintln!("{shell} is not here: {name} is not read by it");
            continue;
        }
        let outcome = run(Command::new(shell).arg("-n").arg(shipped("scripts/completion").join(name)));
        assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""), "{shell}");
    }
    if has("fish") {
        let script = "source $argv[1]; complete -C 'pronghorn -s re'";
        let outcome =
            run(Command::new("fish").args(["-c", script]).arg(shipped("scripts/completion/pronghorn.fish")));
        let words: Vec<&str> = outcome.out.lines().filter_map(|line| line.split('\t').next()).collect();
        assert_eq!(words, ["reload", "reopen"], "{outcome:?}");
    }
}
