//! The program `p8`: see the library for everything it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    p8::cli::main()
}
