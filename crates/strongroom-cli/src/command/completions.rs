//! `strongroom completions`.

use clap::CommandFactory;

use crate::args::{Arguments, Completions};
use crate::failure::Failure;
use crate::output;

pub(crate) fn run(options: &Completions) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut Arguments::command(), "strongroom", &mut script);
    output::write_all(&String::from_utf8_lossy(&script))
}
