//! The program: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(frazil::cli::run(std::env::args_os()).code())
}
