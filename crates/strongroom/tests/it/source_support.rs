//! Reads the library's own sources: which modules of the crate's root each of them names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The sources, and which module of the root each of its names comes from.
pub(crate) struct Crate {
    /// Paths below `src`; all but `lib.rs`.
    pub(crate) files: Vec<(PathBuf, String)>,
    names: BTreeMap<String, String>,
}

impl Crate {
    pub(crate) fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files = Vec::new();
        collect(&root, &root, &mut files);
        let lib = std::fs::read_to_string(root.join("lib.rs")).unwrap();
        let lib = tokens(&lib);
        let mut names = BTreeMap::new();
        for (at, token) in lib.iter().enumerate() {
            let next = |offset: usize| lib.get(at + offset).map(String::as_str);
            match token.as_str() {
                "mod" => {
                    let module = next(1).unwrap().to_owned();
                    names.insert(module.clone(), module);
                }
                "self" if next(1) == Some("::") => {
                    let module = next(2).unwrap();
                    for path in tree(&lib, &mut (at + 4)) {
                        names.insert(path[0].clone(), module.to_owned());
                    }
                }
                _ => {}
            }
        }
        Self { files, names }
    }

    pub(crate) fn modules(&self) -> Vec<String> {
        self.names.iter().filter(|(name, module)| name == module).map(|(name, _)| name.clone()).collect()
    }

    /// The names that the root re-exports.
    pub(crate) fn re_exports(&self) -> Vec<String> {
        self.names.iter().filter(|(name, module)| name != module).map(|(name, _)| name.clone()).collect()
    }

    /// The modules of the root that a source names, by `crate::` or by going up.
    pub(crate) fn uses(&self, path: &Path, source: &str) -> Vec<String> {
        let tokens = tokens(source);
        let own = module_of(path);
        let mut inline = Inline::default();
        let mut found = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            inline.pass(&tokens, at);
            let is_path = tokens.get(at + 1).is_some_and(|next| next == "::");
            let absolute: Vec<Vec<String>> = match tokens[at].as_str() {
                "crate" if is_path => {
                    at += 2;
                    tree(&tokens, &mut at)
                }
                "super" if is_path => {
                    let mut here = own.clone();
                    here.extend(inline.open.iter().map(|(name, _)| name.clone()));
                    while tokens[at] == "super" && tokens[at + 1] == "::" {
                        here.pop().expect("no way above the root");
                        at += 2;
                    }
                    let rests = tree(&tokens, &mut at);
                    rests.into_iter().map(|rest| here.iter().cloned().chain(rest).collect()).collect()
                }
                _ => {
                    at += 1;
                    continue;
                }
            };
            found.extend(absolute.iter().map(|path| match path[0].as_str() {
                "*" => panic!("{} takes everything of the root", path.join("::")),
                name => self.names.get(name).cloned().unwrap_or_else(|| panic!("the root has no {name}")),
            }));
        }
        found
    }
}

/// The modules within a file that the reading is inside of, with the depth of their braces.
#[derive(Default)]
struct Inline {
    open: Vec<(String, usize)>,
    depth: usize,
}

impl Inline {
    fn pass(&mut self, tokens: &[String], at: usize) {
        match tokens[at].as_str() {
            "{" => {
                self.depth += 1;
                if at >= 2 && tokens[at - 2] == "mod" {
                    self.open.push((tokens[at - 1].clone(), self.depth));
                }
            }
            "}" => {
                if self.open.last().is_some_and(|(_, depth)| *depth == self.depth) {
                    self.open.pop();
                }
                self.depth = self.depth.saturating_sub(1);
            }
            _ => {}
        }
    }
}

/// The paths of a use tree, or the one path of an expression, that begins at `at`; `at` is behind it afterwards.
fn tree(tokens: &[String], at: &mut usize) -> Vec<Vec<String>> {
    if tokens[*at] != "{" {
        let name = tokens[*at].clone();
        *at += 1;
        if tokens.get(*at).is_some_and(|next| next == "::")
            && tokens.get(*at + 1).is_some_and(|next| next != "<")
        {
            *at += 1;
            let rests = tree(tokens, at);
            return rests.into_iter().map(|rest| [vec![name.clone()], rest].concat()).collect();
        }
        return vec![vec![name]];
    }
    *at += 1;
    let mut paths = Vec::new();
    while tokens[*at] != "}" {
        paths.extend(tree(tokens, at));
        while tokens[*at] != "," && tokens[*at] != "}" {
            *at += 1;
        }
        if tokens[*at] == "," {
            *at += 1;
        }
    }
    *at += 1;
    paths
}

/// The path of the module in a file, from the root.
pub(crate) fn module_of(path: &Path) -> Vec<String> {
    let parts = path.with_extension("");
    let parts = parts.iter().map(|part| part.to_str().unwrap().to_owned());
    parts.filter(|part| part != "mod").collect()
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        let below = path.strip_prefix(root).unwrap();
        if path.is_dir() {
            collect(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") && below != Path::new("lib.rs")
        {
            files.push((below.to_owned(), std::fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The words of a source, `::`, and other signs one by one; without comments and without what is quoted.
pub(crate) fn tokens(source: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(quoted) = raw_string(rest) {
            quoted
        } else if word > 0 {
            tokens.push(rest[..word].to_owned());
            word
        } else if first == '"' {
            quoted(rest, '"')
        } else if first == '\'' && (rest[1..].starts_with('\\') || rest.chars().nth(2) == Some('\'')) {
            quoted(rest, '\'')
        } else if rest.starts_with("::") {
            tokens.push("::".to_owned());
            2
        } else {
            if !first.is_whitespace() {
                tokens.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    tokens
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn raw_string(text: &str) -> Option<usize> {
    let rest = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    let content = rest[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(text.len() - content.len() + content.find(&end)? + end.len())
}

fn block_comment(text: &str) -> usize {
    let (mut at, mut depth) = (2, 1);
    while depth > 0 && at < text.len() {
        let (step, change) = match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => (2, 1),
            [b'*', b'/', ..] => (2, -1),
            _ => (1, 0),
        };
        at += step;
        depth += change;
    }
    at
}
