//! `strongroom completions`.

use clap::CommandFactory;
use serde_json::json;

use crate::args::{Arguments, Completions, Global, Output};
use crate::failure::Failure;
use crate::output;

pub(crate) fn run(options: &Completions, global: &Global) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Arguments::command(), "strongroom", &mut script);
    let script = String::from_utf8_lossy(&script);
    match global.output {
        Output::Json => output::json(&json!({"shell": options.shell.to_string(), "script": script})),
        _ => output::write_all(&script),
    }
}
