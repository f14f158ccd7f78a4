//! The `pronghorn` program: runs the command line, or the daemon.

use std::process::ExitCode;

use pronghorn::sys::terminal;
use pronghorn::{cli, master};

#[global_allocator]
static ALLOCATOR: pronghorn::sys::alloc::Recycling = pronghorn::sys::alloc::Recycling;

fn main() -> ExitCode {
    let code = match cli::Options::parse(std::env::args_os().skip(1)) {
        Err(why) => {
            terminal::tell(format_args!("pronghorn: {why}"));
            1
        }
        Ok(options) => cli::run(&options).unwrap_or_else(|| {
            let arguments = std::env::args_os().collect();
            master::run(master::Start { source: options.source(), arguments })
        }),
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
