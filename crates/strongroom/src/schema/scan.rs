//! JSON as text: where values begin and end, and whether it is JSON at all, without decoding any of it.
//!
//! Accepts exactly what `serde_json` accepts, nested no deeper than a document may be. A look at eight bytes or
//! more at a time, because nearly all of a document is the inside of texts.

use std::ops::Range;

/// How deeply a document may nest. Those of the libraries nest four levels.
pub(super) const DEEPEST: usize = 64;

/// A place in JSON text that is being read from front to back. Every method gives `None` where the text is not
/// JSON, or too deep.
pub(super) struct Scanner<'a> {
    bytes: &'a [u8],
    pub(super) at: usize,
}

/// The inside of a JSON string.
#[derive(Debug, Clone)]
pub(super) struct Text {
    pub(super) content: Range<usize>,
    /// It has no escapes: its content is what it stands for.
    pub(super) literal: bool,
    /// It is literal and ASCII.
    pub(super) plain: bool,
}

/// What a value is, as far as it matters before it is decoded.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    Text(Text),
    Null,
    Object,
    Other,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// The next byte, which is not consumed.
    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Consumes white space.
    pub(super) fn space(&mut self) {
        // Where there is any, it is mostly the indentation of MSAL Python.
        while self.bytes[self.at..].starts_with(b"        ") {
            self.at += 8;
        }
        while self.peek().is_some_and(is_space) {
            self.at += 1;
        }
    }

    /// Consumes `byte`.
    pub(super) fn eat(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// Consumes `close` and says that the object or array ends here, or consumes a comma and says that it does not.
    pub(super) fn ends(&mut self, close: u8) -> Option<bool> {
        self.space();
        let next = self.peek()?;
        self.at += 1;
        match next {
            b',' => Some(false),
            _ if next == close => Some(true),
            _ => None,
        }
    }

    /// Consumes the name of a member, its colon and the white space before the value.
    pub(super) fn name(&mut self) -> Option<Text> {
        self.space();
        let name = self.text()?;
        self.space();
        self.eat(b':')?;
        self.space();
        Some(name)
    }

    /// Consumes a string.
    pub(super) fn text(&mut self) -> Option<Text> {
        self.eat(b'"')?;
        let start = self.at;
        let (mut literal, mut ascii) = (true, true);
        loop {
            self.at += plain_run(&self.bytes[self.at..]);
            match self.peek()? {
                b'"' => break,
                b'\\' => {
                    literal = false;
                    self.at += 1;
                    self.escape()?;
                }
                128.. => {
                    ascii = false;
                    self.at += 1;
                }
                _ => return None,
            }
        }
        let content = start..self.at;
        if !ascii {
            std::str::from_utf8(&self.bytes[content.clone()]).ok()?;
        }
        self.at += 1;
        Some(Text { content, literal, plain: literal && ascii })
    }

    /// Consumes a value, which lies at this depth if it is an object or an array (the whole document at 1).
    pub(super) fn value(&mut self, depth: usize) -> Option<Kind> {
        match self.peek()? {
            b'"' => self.text().map(Kind::Text),
            b'{' => {
                self.object(depth)?;
                Some(Kind::Object)
            }
            b'[' => {
                self.array(depth)?;
                Some(Kind::Other)
            }
            b'n' => {
                self.word(b"null")?;
                Some(Kind::Null)
            }
            b't' => {
                self.word(b"true")?;
                Some(Kind::Other)
            }
            b'f' => {
                self.word(b"false")?;
                Some(Kind::Other)
            }
            _ => {
                self.number()?;
                Some(Kind::Other)
            }
        }
    }

    /// Consumes the opening brace or bracket of something at this depth, and says whether it is empty and closed.
    pub(super) fn opens(&mut self, open: u8, close: u8, depth: usize) -> Option<bool> {
        if depth > DEEPEST {
            return None;
        }
        self.eat(open)?;
        self.space();
        Some(self.eat(close).is_some())
    }

    fn object(&mut self, depth: usize) -> Option<()> {
        let mut ended = self.opens(b'{', b'}', depth)?;
        while !ended {
            self.name()?;
            self.value(depth + 1)?;
            ended = self.ends(b'}')?;
        }
        Some(())
    }

    fn array(&mut self, depth: usize) -> Option<()> {
        let mut ended = self.opens(b'[', b']', depth)?;
        while !ended {
            self.space();
            self.value(depth + 1)?;
            ended = self.ends(b']')?;
        }
        Some(())
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.bytes[self.at..].starts_with(word).then(|| self.at += word.len())
    }

    fn number(&mut self) -> Option<()> {
        let _ = self.eat(b'-');
        if self.eat(b'0').is_none() {
            self.digits()?;
        }
        if self.eat(b'.').is_some() {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let digits = self.bytes[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += digits;
        (digits > 0).then_some(())
    }

    /// What follows a backslash. Halves of surrogate pairs are left to whoever decodes the text.
    fn escape(&mut self) -> Option<()> {
        let escape = self.peek()?;
        self.at += 1;
        match escape {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(()),
            b'u' => {
                let digits = self.bytes.get(self.at..self.at + 4)?;
                self.at += 4;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(())
            }
            _ => None,
        }
    }
}

/// How many bytes from here on stand for themselves in a string: ASCII without quotes, backslashes and control
/// characters.
pub(super) fn plain_run(bytes: &[u8]) -> usize {
    let mut run = 0;
    // Most texts are short, and a token is long.
    for word in bytes.as_chunks::<8>().0.iter().take(3) {
        match special_byte(*word) {
            Some(at) => return run + at,
            None => run += 8,
        }
    }
    for block in bytes[run..].as_chunks::<64>().0 {
        if block.iter().fold(false, |special, byte| special | is_special(*byte)) {
            break;
        }
        run += 64;
    }
    for word in bytes[run..].as_chunks::<8>().0 {
        match special_byte(*word) {
            Some(at) => return run + at,
            None => run += 8,
        }
    }
    run + bytes[run..].iter().take_while(|byte| !is_special(**byte)).count()
}

#[allow(clippy::cast_possible_wrap)] // not ASCII is negative, that is the point
const fn is_special(byte: u8) -> bool {
    (byte as i8) < 0x20 || byte == b'"' || byte == b'\\'
}

/// The first byte that is special, of eight at once: Mycroft's way to find a byte that is zero or small. Borrows
/// only spoil what comes after the first one that is found.
const fn special_byte(word: [u8; 8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    let word = u64::from_le_bytes(word);
    let control = word.wrapping_sub(ONES * 0x20);
    let quote = (word ^ (ONES * b'"' as u64)).wrapping_sub(ONES);
    let backslash = (word ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
    // A byte that is not ASCII is special by itself, so none of the three has to be kept from seeing it.
    let special = (control | quote | backslash | word) & (ONES << 7);
    if special == 0 { None } else { Some(special.trailing_zeros() as usize / 8) }
}

pub(super) const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

#[cfg(test)]
#[cfg(not(any(shuttle, windows)))]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    /// What the scanner says of a whole text.
    fn accepts(text: &[u8]) -> bool {
        let mut scanner = Scanner::new(text, 0);
        scanner.space();
        if scanner.value(1).is_none() {
            return false;
        }
        scanner.space();
        scanner.at == text.len()
    }

    fn is_json(text: &[u8]) -> bool {
        std::str::from_utf8(text).is_ok() && serde_json::from_slice::<IgnoredAny>(text).is_ok()
    }

    #[test]
    fn each_byte_is_special_wherever_it_stands() {
        for byte in 0..=255 {
            for length in [1, 7, 8, 9, 47, 48, 63, 64, 130, 200] {
                for at in 0..length {
                    let mut bytes = vec![b'a'; length];
                    bytes[at] = byte;
                    // Bytes behind it that only just are not special must not be taken for it.
                    bytes[at + 1..].fill(if byte % 2 == 0 { b'#' } else { b' ' });
                    let expected = if is_special(byte) { at } else { length };
                    assert_eq!(plain_run(&bytes), expected, "{byte:#x} at {at} of {length}");
                }
            }
        }
    }

    #[test]
    fn every_short_text_is_judged_as_serde_json_does() {
        let alphabet = b"{}[],:\" \\-01.eE+nul\tu";
        let mut text = Vec::new();
        fn walk(text: &mut Vec<u8>, alphabet: &[u8]) {
            assert_eq!(accepts(text), is_json(text), "{}", String::from_utf8_lossy(text));
            if text.len() < 4 {
                for byte in alphabet {
                    text.push(*byte);
                    walk(text, alphabet);
                    text.pop();
                }
            }
        }
        walk(&mut text, alphabet);
    }

    #[test]
    fn nesting_ends_at_the_deepest_level() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let nested = |depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
            assert!(accepts(nested(DEEPEST).as_bytes()));
            assert!(!accepts(nested(DEEPEST + 1).as_bytes()));
        }
    }

    fn text() -> impl Strategy<Value = String> {
        let scalar = prop_oneof![
            prop::sample::select(vec![
                "null",
                "true",
                "false",
                "0",
                "-0",
                "01",
                "-",
                "1.",
                "1.5",
                ".5",
                "1e5",
                "1E+5",
                "1e",
                "-1.5e-30",
                "1e999",
                "nul",
                "True",
                "NaN",
                "\"",
                "\"a\"",
                "\"\\u00fc\"",
                "\"\\ud800\"",
                "\"\\u12g4\"",
                "\"\\x\"",
                "\"\\\"",
                "\"a\tb\"",
                "\"\u{7f}\"",
                "\"ü\u{1F600}\"",
                "\"\\\\\"",
            ])
            .prop_map(str::to_owned),
            "[a-z\"\\\\ü \n]{0,40}".prop_map(|text| format!("\"{text}\"")),
            "[ -~]{0,200}".prop_map(|text| serde_json::to_string(&text).unwrap_or_default()),
        ];
        scalar.prop_recursive(4, 32, 4, |inner| {
            let space = || prop::sample::select(vec!["", "", " ", "\n\t ", "         ", "\x0b"]);
            let comma = || prop::sample::select(vec![",", ",", ",", ",", "", ",,"]);
            prop_oneof![
                (prop::collection::vec((space(), inner.clone(), space(), comma()), 0..4), space())
                    .prop_map(|(items, space)| list("[", "]", items.into_iter(), space)),
                (prop::collection::vec((space(), inner.clone(), inner, space(), comma()), 0..4), space())
                    .prop_map(|(items, space)| {
                        let items = items
                            .into_iter()
                            .map(|(a, name, value, b, comma)| (a, format!("{name}{b}:{a}{value}"), b, comma));
                        list("{", "}", items, space)
                    }),
            ]
        })
    }

    fn list<'a>(
        open: &str,
        close: &str,
        items: impl Iterator<Item = (&'a str, String, &'a str, &'a str)>,
        space: &str,
    ) -> String {
        let mut text = open.to_owned();
        let mut comma_before = "";
        for (before, item, after, comma) in items {
            text.push_str(&[comma_before, before, &item, after].concat());
            comma_before = comma;
        }
        text + space + close
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn every_text_is_judged_as_serde_json_does(text in text(), at in any::<prop::sample::Index>(), byte in any::<u8>(), change in any::<bool>()) {
            let mut text = text.into_bytes();
            if change && !text.is_empty() {
                let at = at.index(text.len());
                text[at] = byte;
            }
            prop_assert_eq!(accepts(&text), is_json(&text), "{}", String::from_utf8_lossy(&text));
        }
    }
}
