//! The corpus of the fuzz targets in `fuzz/`, checked without a fuzzer; with `--long` also what chance makes of it.

use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[path = "../../../../fuzz/src/document.rs"]
mod document;
#[path = "../../../../fuzz/src/token_response.rs"]
mod token_response;

/// The files of a target's corpus; never none.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files = std::fs::read_dir(folder).expect("the corpus").map(|file| file.expect("a file").path());
    let corpus: Vec<Vec<u8>> = files.map(|path| std::fs::read(path).expect("readable")).collect();
    assert!(corpus.len() >= 10);
    corpus
}

/// A file of the corpus with a few pieces exchanged, repeated, or left out.
fn changed(corpus: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..4),
        prop::sample::select(vec![
            "\"",
            "\\",
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "null",
            "\"\"",
            "\\u0065",
            "\\ud800",
            "ü",
            "-",
            "0",
            "1e9",
            "\"secret\"",
            "\"home_account_id\"",
            "\"ext_cache_key\":\"x\",",
            "accesstoken",
            "\n",
            "a-client-secret-of-ours",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
    ];
    let edits =
        prop::collection::vec((any::<prop::sample::Index>(), 0..24_usize, piece, any::<bool>()), 0..6);
    (prop::sample::select(corpus), edits).prop_map(|(mut bytes, edits)| {
        for (at, length, piece, repeat) in edits {
            let at = at.index(bytes.len() + 1);
            let end = bytes.len().min(at + length);
            let kept = if repeat { bytes[at..end].to_vec() } else { Vec::new() };
            bytes.splice(at..end, [kept.clone(), piece, kept].concat());
        }
        bytes
    })
}

fn check_changed(target: &str, cases: u32, check: fn(&[u8])) {
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&changed(corpus(target)), |bytes| {
        check(&bytes);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn what_must_hold_of_any_bytes_holds_of_the_corpus() {
    corpus("document").iter().for_each(|bytes| document::check(bytes));
    corpus("token_response").iter().for_each(|bytes| token_response::check(bytes));
}

#[test]
fn what_must_hold_of_any_bytes_holds_of_a_corpus_that_chance_has_changed() {
    check_changed("document", 300, document::check);
    check_changed("token_response", 300, token_response::check);
}

#[test]
#[ignore = "soak: a minute of chance"]
fn soak_what_must_hold_of_any_bytes_holds_of_a_corpus_that_chance_has_changed_often() {
    check_changed("document", 100_000, document::check);
    check_changed("token_response", 300_000, token_response::check);
}
