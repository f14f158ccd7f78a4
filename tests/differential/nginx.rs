//! Finds the nginx to compare with, if there is one.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The version whose behaviour the marks in the cases describe: Debian 12's.
const VERSION: &str = "1.22.";

/// The program, if it is installed; otherwise says on the terminal, past cargo's capture, that nothing is
/// compared.
pub fn find() -> Option<PathBuf> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let found = look();
        if let Err(why) = &found {
            let _ = writeln!(std::io::stderr(), "differential: SKIPPED, nothing is compared: {why}");
        }
        found
    });
    match found {
        Ok(path) => Some(path.clone()),
        Err(why) if std::env::var_os("PRONGHORN_NEED_NGINX").is_some() => panic!("{why}"),
        Err(_) => None,
    }
}

fn look() -> Result<PathBuf, String> {
    let named = std::env::var_os("PRONGHORN_NGINX").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let program = named.or_else(|| folders.map(|folder| folder.join("nginx")).find(|path| path.is_file()));
    let program = program.ok_or("nginx is not installed")?;
    let told = Command::new(&program).arg("-v").output();
    let told = told.map_err(|error| format!("{}: {error}", program.display()))?;
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    match told.contains(&format!("nginx/{VERSION}")) {
        true => Ok(program),
        false => Err(format!("the cases are written for nginx {VERSION}x, this is {}", told.trim())),
    }
}
