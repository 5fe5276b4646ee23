//! Hostile and damaged documents: an error that says what they are, in bounded time, and never a panic.

use std::time::{Duration, Instant};

use strongroom::{Applied, Credential, Document, DocumentError, SecretBytes};

use crate::schema_support::*;

fn parse_bytes(bytes: impl Into<Vec<u8>>) -> Result<Document, DocumentError> {
    Document::parse(SecretBytes::from(bytes.into()))
}

/// Generous: these tests run unoptimised and beside others. What is quadratic takes hours.
fn within(limit: Duration, what: &str, run: impl FnOnce()) {
    let start = Instant::now();
    run();
    assert!(start.elapsed() < limit, "{what}: {:?}", start.elapsed());
}

const SLOW: Duration = Duration::from_secs(60);

#[test]
fn nothing_and_white_space_are_an_empty_document() {
    for bytes in ["", " ", "\n\t \r\n", "{}", " {} "] {
        let document = parse_bytes(bytes).expect("empty");
        assert!(document.is_empty() && document.entries().count() == 0, "{bytes:?}");
    }
}

#[test]
fn what_is_of_another_kind_is_told_from_what_is_damaged() {
    assert_eq!(parse_bytes(b"\xef\xbb\xbf{}").err(), Some(DocumentError::ByteOrderMark));
    assert_eq!(parse_bytes(b"\xef\xbb\xbf").err(), Some(DocumentError::ByteOrderMark));
    for bytes in [
        &b"[]"[..],
        b"null",
        b"5",
        b"\"{}\"",
        b"SRM1\0\x01\x02",
        b"\0\0\0\0",
        b"\xff\xfe{\0}\0",
        b"}",
        b"\x0b{}",
        b"\xc2\xa0{}",
    ] {
        let error = parse_bytes(bytes).expect_err("no document");
        assert_eq!(error, DocumentError::OtherKind, "{bytes:?}");
        assert!(!error.may_be_torn());
    }
    for text in [
        "{",
        "{]",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{}{}",
        "{} x",
        "{'a':1}",
        "{\"a\":01}",
        "{\"a\":NaN}",
        "{\"a\":\"\n\"}",
        "{\"a\":\"\\x\"}",
        "{,}",
        "{\"a\":1 \"b\":2}",
    ] {
        let error = parse_bytes(text).expect_err("damaged");
        assert!(error.may_be_torn(), "{text}: {error}");
    }
    assert_eq!(parse_bytes("{\n  \"a\": x}").err(), Some(DocumentError::Malformed { line: 2, column: 8 }));
}

#[test]
fn bytes_that_are_no_utf_8_are_damage_and_say_where() {
    assert_eq!(
        parse_bytes(b"{\n\"a\":\"\xff\"}").err(),
        Some(DocumentError::Malformed { line: 2, column: 6 })
    );
    assert!(parse_bytes(b"{\"AccessToken\":{\"\xc3\":{}}}").expect_err("damaged").may_be_torn());
    assert!(parse_bytes(b"{\"a\":\"\xed\xa0\x80\"}").expect_err("a surrogate").may_be_torn());
}

#[test]
fn errors_quote_nothing_of_the_document() {
    for text in ["{\"AccessToken\":{\"k\":{\"secret\":\"s3cret\" \"x\"}}}", "{\"s3cret\":s3cret}"] {
        let error = parse_bytes(text).expect_err("damaged");
        assert!(!format!("{error} {error:?}").contains("s3cret"));
    }
    let document = access_tokens(&[("k", &app_entry(&[("secret", "\"s3cret\"")]))]);
    assert!(!format!("{document:?} {:?}", document.entries().next()).contains("s3cret"));
}

#[test]
fn nesting_is_bounded() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = |depth: usize| format!("{{\"x\":{}1{}}}", open.repeat(depth), close.repeat(depth));
        assert!(parse_bytes(nested(60)).is_ok());
        for depth in [64, 1_000, 100_000] {
            assert_eq!(parse_bytes(nested(depth)).err(), Some(DocumentError::TooDeep), "{depth}");
        }
        // Unclosed, it is as deep.
        assert_eq!(
            parse_bytes(format!("{{\"x\":{}", open.repeat(100_000))).err(),
            Some(DocumentError::TooDeep)
        );
    }
    // Brackets in texts do not count, escaped quotes do not end them.
    let text = format!("{{\"x\":\"\\\"{}\\\\\"}}", "[".repeat(1000));
    assert!(parse_bytes(text).is_ok());
    // In a field that means something, too.
    let deep = format!("{}{}", "[".repeat(50), "]".repeat(50));
    let document = access_tokens(&[("k", &app_entry(&[("ext", &deep)]))]);
    assert!(plain_tokens(&document, &app_partition()).is_empty());
}

#[test]
fn the_number_of_entries_is_bounded() {
    within(SLOW, "entries", || {
        let many = |section: &str, count: usize| {
            format!("{{\"{section}\":{{{}\"\":0}}}}", "\"\":0,".repeat(count - 1))
        };
        assert_eq!(parse_bytes(many("AccessToken", 1_000_001)).err(), Some(DocumentError::TooManyEntries));
        let full = parse_bytes(many("AccessToken", 1_000_000)).expect("a document");
        assert!(full.is_empty() && full.entries().count() == 1);
        let members = format!("{{{}\"\":0}}", "\"\":0,".repeat(1_000_000));
        assert_eq!(parse_bytes(members).err(), Some(DocumentError::TooManyEntries));
        // Damage behind the bound is damage.
        let torn = format!("{{\"AccessToken\":{{{}", "\"\":0,".repeat(1_000_001));
        assert!(parse_bytes(torn).expect_err("torn").may_be_torn());
    });
}

#[test]
fn a_huge_text_is_no_trouble() {
    within(SLOW, "50 MB", || {
        let huge = "x".repeat(50_000_000);
        let document = access_tokens(&[("k", &app_entry(&[("unheard-of", &format!("\"{huge}\""))]))]);
        let put = change()
            .put(Credential::AccessToken(strongroom::AccessToken { secret: "new".into(), ..app_token() }));
        let Ok(Applied::Changed { bytes, .. }) = document.apply(&put) else { panic!("not changed") };
        assert!(bytes.len() > huge.len());
    });
    let document =
        access_tokens(&[("k", &app_entry(&[("target", &format!("\"{}\"", "a ".repeat(100_000)))]))]);
    assert!(document.get(&plain_key("a")).is_some());
}

#[test]
fn no_shape_of_a_document_costs_quadratic_time() {
    within(SLOW, "hostile shapes", || {
        let put = change()
            .put(Credential::AccessToken(app_token()))
            .put(Credential::RefreshToken(refresh_token()))
            .put(Credential::AppMetadata(app_metadata()))
            .sweep_expired();
        // One entry with many unknown fields, which are kept when it is replaced.
        let fields: String = (0..50_000).map(|n| format!(",\"f{n}\":0")).collect();
        let entry = app_entry(&[]);
        let wide = access_tokens(&[(APP_KEY, &format!("{}{fields}}}", entry.trim_end_matches('}')))]);
        assert!(apply(&wide, &put).bytes().len() > fields.len());
        // Many entries of one identity; twins; sections; keys that differ by dashes only.
        let expired = app_entry(&[("expires_on", "1"), ("extended_expires_on", "1")]);
        let equal: Vec<(String, &str)> = (0..3_000).map(|n| (format!("K{n}"), expired.as_str())).collect();
        let equal: Vec<(&str, &str)> = equal.iter().map(|(key, entry)| (key.as_str(), *entry)).collect();
        assert_eq!(apply(&access_tokens(&equal), &change().sweep_expired()).entries().count(), 0);
        let _ = apply(&access_tokens(&equal), &put);
        let foreign = app_entry(&[("client_id", "\"other\"")]);
        let dashes: Vec<(String, &str)> =
            (0..1_000).map(|n| (format!("{APP_KEY}{}", "-".repeat(n)), foreign.as_str())).collect();
        let dashes: Vec<(&str, &str)> = dashes.iter().map(|(key, entry)| (key.as_str(), *entry)).collect();
        assert_eq!(apply(&access_tokens(&dashes), &put).entries().count(), 1_003);
        let sections = format!(
            "{{{}\"AccessToken\":{{\"k\":{entry}}}}}",
            format!("\"AccessToken\":{{\"k\":{entry}}},").repeat(2_000)
        );
        assert_eq!(apply(&parse(&sections), &put).entries().count(), 3);
        // Long targets of many scopes.
        let scopes: String = (0..20_000).map(|n| format!("s{n} ")).collect();
        let long =
            access_tokens(&[("a", &app_entry(&[("target", &format!("\"{scopes}\""))])), ("b", &entry)]);
        assert_eq!(plain_tokens(&long, &app_partition()).len(), 2);
        let (one, _) = long.list(&app_partition()).swap_remove(0);
        let (two, _) = long.list(&app_partition()).swap_remove(0);
        assert!(one == two);
    });
}

#[test]
fn a_change_of_many_puts_is_linear() {
    within(SLOW, "many puts", || {
        let token = |n: usize| {
            Credential::AccessToken(strongroom::AccessToken {
                target: format!("s{n}").as_str().into(),
                ..app_token()
            })
        };
        let change = (0..3_000).fold(change(), |change, n| change.put(token(n)));
        let document = apply(&Document::empty(), &change);
        assert_eq!(document.list(&app_partition()).len(), 3_000);
        assert_eq!(apply(&document, &change).entries().count(), 3_000);
    });
}

/// A small document that has everything: escapes, duplicates, unknown things, several dialects.
fn small() -> String {
    format!(
        "{{\n \"AccessToken\" : {{\"k\\u0065y\":{},\"K\":{} , \"n\":null}},\"X\":[1.5e3,\"\\ud83d\\ude00 ü\"],\n\"RefreshToken\":{{\"r\":{{\"secret\":\"s\",\"home_account_id\":\"u\",\"environment\":\"e\",\"client_id\":\"c\"}}}}}}\n",
        app_entry(&[]),
        app_entry(&[("ext", "{\"a\":\"b\"}"), ("home_account_id", "\"\"")]),
    )
}

#[test]
fn a_document_cut_anywhere_is_damaged_or_empty_but_never_another_document() {
    let whole = small().into_bytes();
    let end = whole.len() - 1;
    for cut in 0..whole.len() {
        match parse_bytes(&whole[..cut]) {
            Ok(document) if cut == 0 => assert!(document.is_empty()),
            Ok(document) => assert!(cut == end && document.entries().count() == 4, "cut at {cut}"),
            Err(error) => assert!(error.may_be_torn(), "cut at {cut}: {error}"),
        }
    }
}

#[test]
fn no_changed_byte_makes_it_panic_or_breaks_what_is_written() {
    let whole = small().into_bytes();
    let put = change()
        .put(Credential::AccessToken(app_token()))
        .put(Credential::AppMetadata(app_metadata()))
        .sweep_expired();
    for at in 0..whole.len() {
        for byte in [b'"', b'{', b'}', b'\\', b',', b' ', 0xff, whole[at] ^ 1] {
            let mut damaged = whole.clone();
            damaged[at] = byte;
            let Ok(document) = parse_bytes(damaged) else { continue };
            let Ok(Applied::Changed { bytes, .. }) = document.apply(&put) else { continue };
            let after = Document::parse(bytes).expect("what we write parses");
            assert!(after.get(&plain_key(SCOPE)).is_some());
        }
    }
}
