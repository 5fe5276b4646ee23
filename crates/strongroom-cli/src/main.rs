//! The `strongroom` command: tokens from a persisted cache, for shells, cron and operators.
//!
//! stdout carries the result and nothing else; logs, progress and errors go to stderr. The exit code says what
//! kind of failure it was.

mod args;
mod cache;
mod command;
mod config;
mod credential;
mod env_vars;
mod failure;
mod output;
mod words;

use std::ffi::OsStr;
use std::process::ExitCode;

use clap::Parser;

use self::args::{Arguments, Command, Output};
use self::failure::Failure;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() && json_was_asked_for() => return fail(&Failure::from(error), true),
        Err(error) => error.exit(),
    };
    let global = arguments.global;
    output::start_logging(global.verbose);
    let outcome = match arguments.command {
        Command::Token(options) => command::token::run(&options, &global),
        Command::Inspect(options) => command::inspect::run(&options, &global),
        Command::Doctor(options) => match command::doctor::run(&options, &global) {
            Ok(verdict) => return verdict,
            Err(failure) => Err(failure),
        },
        Command::Purge(options) => command::purge::run(&options, &global),
        Command::Key(options) => command::key::run(&options, &global),
        Command::Migrate(options) => command::migrate::run(&options, &global),
        Command::Demo(options) => command::demo::run(&options, &global),
        Command::Sts(options) => command::sts::run(&options, &global),
        Command::Completions(options) => command::completions::run(&options, &global),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure, global.output == Output::Json),
    }
}

fn fail(failure: &Failure, as_json: bool) -> ExitCode {
    output::report(failure, as_json);
    ExitCode::from(failure.exit_code())
}

/// Whether a command line that cannot be parsed asks for JSON.
fn json_was_asked_for() -> bool {
    let arguments: Vec<_> = std::env::args_os().collect();
    arguments.windows(2).any(|pair| pair == [OsStr::new("--output"), OsStr::new("json")])
        || arguments.iter().any(|argument| argument == "--output=json")
}
