//! `scripts/profile`: release builds use the recorded profile, and nothing else does.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::place::{has, run, shipped};

/// A compiler of version 1.2.3 that prints its arguments, and the script beside the profiles of these versions. It has no
/// linker yet.
fn place(versions: &[&str]) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let (compiler, script) = (folder.path().join("compiler"), folder.path().join("rustc"));
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in\n--version) echo 'rustc 1.2.3 (0123abcde 2026-01-02)' ;;\n'--print sysroot') echo '{}' ;;\n\
         *) echo \"$@\" ;;\nesac\n",
        folder.path().display()
    );
    std::fs::write(&compiler, text).expect("a compiler");
    std::fs::set_permissions(&compiler, std::fs::Permissions::from_mode(0o755)).expect("it may run");
    std::fs::copy(shipped("scripts/profile/rustc"), &script).expect("the script");
    for version in versions {
        std::fs::write(folder.path().join(format!("{version}.profdata")), "").expect("a profile");
    }
    (folder, compiler, script)
}

/// The arguments that reach the compiler.
fn passed(script: &Path, compiler: &Path, words: &str, record: Option<&str>) -> String {
    let mut command = Command::new(script);
    command.arg(compiler).args(words.split(' ')).env_remove("PRONGHORN_RECORD");
    if let Some(record) = record {
        command.env("PRONGHORN_RECORD", record);
    }
    let outcome = run(&mut command);
    assert_eq!((outcome.code, outcome.err.as_str()), (Some(0), ""), "{words}");
    outcome.out.trim_end().to_owned()
}

/// The arguments with which a compiler of version 1.2.3 uses the profile in this folder.
fn with_profile(folder: &Path, words: &str) -> String {
    let folder = folder.canonicalize().expect("a folder");
    format!("{words} -Cprofile-use={}/1.2.3.profdata -Cllvm-args=-no-pgo-warn-mismatch", folder.display())
}

#[test]
fn optimized_builds_use_the_profile_of_their_compiler() {
    let (folder, compiler, script) = place(&["1.2.3", "1.2.4"]);
    let pass = |words: &str| passed(&script, &compiler, words, None);
    let words = "--crate-name one -C opt-level=3 -C metadata=0";
    assert_eq!(pass(words), with_profile(folder.path(), words));
    for words in [
        "-vV",
        "- --crate-name ___ --print=file-names",
        "--crate-name one -C metadata=0",
        "--crate-name one -C opt-level=2",
        "--crate-name one -C opt-level=3 -Cprofile-generate=/tmp/own",
        "--crate-name one -C opt-level=3 -C profile-use=/tmp/own",
    ] {
        assert_eq!(pass(words), words);
    }
}

#[test]
fn the_program_is_linked_in_the_order_that_was_recorded() {
    let (folder, compiler, script) = place(&["1.2.3"]);
    let pass = |words: &str| passed(&script, &compiler, words, None);
    let words = "--crate-name one --crate-type bin -C opt-level=3";
    let real = folder.path().canonicalize().expect("a folder");
    let with_profile = |words: &str| with_profile(&real, words);
    std::fs::write(real.join("1.2.3.order"), "main\n").expect("an order");
    // Another linker may not know the option.
    assert_eq!(pass(words), with_profile(words));
    let linker = real.join("lib/rustlib/x86_64-unknown-linux-gnu/bin/gcc-ld/ld.lld");
    std::fs::create_dir_all(linker.parent().expect("a folder")).expect("its folder");
    std::fs::copy(&compiler, &linker).expect("the compiler's own linker");
    let option = format!(
        "-Clink-arg=-Wl,--symbol-ordering-file={}/1.2.3.order,--no-warn-symbol-ordering",
        real.display()
    );
    assert_eq!(pass(words), format!("{} {option}", with_profile(words)));
    for (words, reason) in [
        ("--crate-name one --crate-type lib -C opt-level=3", "a library is not linked"),
        ("--crate-type bin -C opt-level=3 -C linker=clang", "another linker"),
        ("--crate-type bin -C opt-level=3 -C link-arg=-fuse-ld=mold", "another linker"),
        ("--crate-type bin -C opt-level=3 --target aarch64-unknown-linux-gnu", "another machine's linker"),
    ] {
        assert_eq!(pass(words), with_profile(words), "{reason}");
    }
    std::fs::remove_file(real.join("1.2.3.order")).expect("it was there");
    assert_eq!(pass(words), with_profile(words));
}

#[test]
fn another_compiler_has_no_profile() {
    let (_folder, compiler, script) = place(&["1.2.4", "1.2.30"]);
    let words = "--crate-name one -C opt-level=3";
    assert_eq!(passed(&script, &compiler, words, None), words);
    // Told once, with the program itself.
    let program =
        run(Command::new(&script).arg(&compiler).args(words.split(' ')).args(["--crate-type", "bin"]));
    let note =
        "note: no profile for rustc 1.2.3: the program will be slower; scripts/profile/record makes one\n";
    assert_eq!((program.code, program.err.as_str()), (Some(0), note));
}

#[test]
fn a_recording_build_counts_instead() {
    let (_folder, compiler, script) = place(&["1.2.3"]);
    let pass = |words: &str| passed(&script, &compiler, words, Some("/tmp/counts"));
    let words = "--crate-name one -C opt-level=3";
    assert_eq!(pass(words), format!("{words} -Cprofile-generate=/tmp/counts"));
    assert_eq!(pass("--crate-name one"), "--crate-name one");
}

#[test]
fn cargo_runs_the_script_for_this_package() {
    let conf = std::fs::read_to_string(shipped(".cargo/config.toml")).expect("cargo's configuration");
    assert!(conf.lines().any(|line| line == "rustc-wrapper = \"scripts/profile/rustc\""), "{conf}");
}

#[test]
fn shellcheck_finds_nothing() {
    if has("shellcheck") {
        for script in
            ["scripts/profile/rustc", "scripts/profile/record", "scripts/profile/order", "scripts/daemons"]
        {
            let outcome = run(Command::new("shellcheck").arg("--external-sources").arg(shipped(script)));
            assert_eq!((outcome.code, outcome.out.as_str()), (Some(0), ""), "{script}");
        }
    }
}
