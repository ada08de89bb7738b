//! Command lines: what is wrong with one is said in one line.

use std::process::ExitCode;

use clap::Parser;

/// Reads the command line; a mistake in it is said on one line, and ends the program with 2.
pub(crate) fn parse<T: Parser>(program: &str) -> Result<T, ExitCode> {
    T::try_parse().map_err(|error| {
        if !error.use_stderr() {
            // Help was asked for; nobody is there to hear that it could not be printed.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        let text = error.to_string();
        // What follows the first empty line is how to do better.
        let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
        let line = lines.collect::<Vec<_>>().join(" ");
        let line = line.trim_start_matches("error: ");
        eprintln!("{program}: {line} (see --help)");
        ExitCode::from(2)
    })
}
