//! `docs/interop.md`: what the tests have seen, for readers who choose a dialect.

use std::path::PathBuf;
use std::sync::Mutex;

/// What the tests of contention write themselves.
const CONTENTION: &str = "## Writing at the same time";

/// Several tests write to it.
static WRITING: Mutex<()> = Mutex::new(());

/// Whether this run writes the page instead of checking it.
pub fn is_to_be_written() -> bool {
    std::env::var_os("STRONGROOM_TEST_UPDATE_INTEROP").is_some()
}

pub fn committed() -> String {
    std::fs::read_to_string(path()).unwrap()
}

/// Replaces all but what the tests of contention have written.
pub fn replace_matrix(matrix: &str) {
    let _writing = WRITING.lock().unwrap();
    let page = committed();
    let contention = &page[page.find(CONTENTION).unwrap()..];
    std::fs::write(path(), format!("{matrix}\n{contention}")).unwrap();
}

/// Replaces the row that begins as this one does.
pub fn replace_contention(row: &str) {
    let _writing = WRITING.lock().unwrap();
    let page = committed();
    let (matrix, contention) = page.split_at(page.find(CONTENTION).unwrap());
    let name = &row[..row[1..].find('|').unwrap() + 1];
    let mut lines: Vec<&str> = contention.lines().collect();
    let own = lines.iter().position(|line| line.starts_with(name));
    lines[own.expect("a row for each language")] = row;
    std::fs::write(path(), format!("{matrix}{}\n", lines.join("\n"))).unwrap();
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/interop.md")
}
