//! The `strongroom` command: tokens from a persisted cache, for shells, cron and operators.
//!
//! stdout carries the result and nothing else; logs, progress and errors go to stderr. The exit code says what
//! kind of failure it was.

mod args;
mod command;
mod config;
mod env_vars;
mod failure;
mod location;
mod output;

use std::process::ExitCode;

use clap::Parser;

use self::args::{Arguments, Command};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    output::start_logging(arguments.global.verbose);
    let json = arguments.command.wants_json();
    let outcome = match arguments.command {
        Command::Token(options) => command::token::run(&options, &arguments.global),
        Command::Inspect(options) => command::inspect::run(&options),
        Command::Demo(options) => command::demo::run(&options, &arguments.global),
        Command::Sts(options) => command::sts::run(&options),
        Command::Completions(options) => command::completions::run(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::report(&failure, json);
            ExitCode::from(failure.exit_code())
        }
    }
}
