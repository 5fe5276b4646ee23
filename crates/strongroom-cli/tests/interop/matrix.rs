//! What each language finds of each other's tokens: every one writes a cache, every one reads a copy of each.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use strongroom::{
    AccessToken, Account, AppMetadata, Change, Clock as _, Credential, CredentialStore as _, DocumentStore,
    FilePersistence, IdToken, RefreshToken, SystemClock, TokenScheme, block_on,
};

use crate::front::{Front, HOST, USER, USER_TARGET, id_token};
use crate::page;
use crate::peers::{Peer, answers_of};
use crate::support::{lines_of, output_of, skip};

const SECOND_SCOPE: &str = "api://second/.default";
const USER_SCOPE: &str = "User.Read";
/// What `--dialect` is given; without it the shape is Python's where a cache begins.
const OUR_DIALECTS: [Option<&str>; 3] = [None, Some("node"), Some("python+node")];
/// What others have rewritten is healed whatever is declared.
const SHARING_DIALECTS: [Option<&str>; 4] = [None, Some("python"), Some("node"), Some("python+node")];

#[test]
fn what_each_finds_of_each_others_tokens_is_what_the_documentation_says() {
    let test = "matrix::what_each_finds_of_each_others_tokens_is_what_the_documentation_says";
    let missing: Vec<Peer> = Peer::ALL.into_iter().filter(|peer| peer.path().is_none()).collect();
    if !missing.is_empty() {
        skip(test, &missing.iter().map(|peer| peer.nothing()).collect::<Vec<_>>().join(", "));
    }
    let seen = World::new().run();
    seen.require_what_is_ours();

    if page::is_to_be_written() {
        assert!(missing.is_empty(), "the page is about all of them");
        page::replace_matrix(&seen.page());
        return;
    }
    std::fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop.md"), seen.page()).unwrap();
    let differing = seen.differences(&page::committed());
    assert!(
        differing.is_empty(),
        "docs/interop.md no longer says what was seen (STRONGROOM_UPDATE_INTEROP=1 ./test interop -- matrix:: \
         writes it anew):\n{}",
        differing.join("\n")
    );
}

/// Who reads or writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    Peer(Peer),
    /// The command, with what its `--dialect` is given.
    Ours(Option<&'static str>),
}

impl Program {
    fn writers() -> Vec<Self> {
        Self::peers().chain(OUR_DIALECTS.map(Self::Ours)).collect()
    }

    fn readers() -> Vec<Self> {
        Self::peers().chain([Self::Ours(None)]).collect()
    }

    fn peers() -> impl Iterator<Item = Self> {
        Peer::ALL.into_iter().filter(|peer| peer.path().is_some()).map(Self::Peer)
    }

    fn name(self) -> String {
        match self {
            Self::Peer(peer) => peer.name().to_owned(),
            Self::Ours(None) => "Strongroom".to_owned(),
            Self::Ours(Some(dialect)) => format!("Strongroom, `--dialect {dialect}`"),
        }
    }

    /// What a user's sign-in is told apart by.
    fn code(self) -> String {
        self.name().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
    }
}

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Question {
    Plain,
    Second,
    User,
    /// The plain one, in one cache for all.
    Together,
}

impl Question {
    /// What is asked of each that reads.
    const OF_READERS: [Self; 3] = [Self::Plain, Self::Second, Self::User];

    const fn key(self) -> &'static str {
        match self {
            Self::Plain | Self::Together => "plain",
            Self::Second => "second",
            Self::User => "user",
        }
    }

    const fn heading(self) -> &'static str {
        match self {
            Self::Plain => "An application's own token",
            Self::Second => "Its token for a second API in the same cache",
            Self::User => "A user's token",
            Self::Together => "One cache for all",
        }
    }
}

impl Question {
    /// What has to be said before its table.
    const fn words(self) -> Option<&'static str> {
        match self {
            Self::Plain | Self::Second => None,
            Self::User => Some(USERS),
            Self::Together => Some(TOGETHER),
        }
    }
}

/// How a look ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Found,
    NotFound,
    /// The account is found and its refresh token, but not its access token.
    Renewed,
    /// The account is found and none of its tokens.
    AccountOnly,
    Error(String),
}

struct World {
    folder: tempfile::TempDir,
    _sts: strongroom_sts::RunningSts,
    front: Front,
    scope: String,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sts = strongroom_sts::spawn(strongroom_sts::Config::new(folder.path().join("sts"))).unwrap();
        let front = Front::start(folder.path(), &sts);
        let scope = sts.ready().scope.clone();
        Self { folder, _sts: sts, front, scope }
    }

    fn run(&self) -> Seen {
        let (writers, readers) = (Program::writers(), Program::readers());
        let mut versions = BTreeMap::new();
        let written: Vec<(PathBuf, Value)> = writers
            .iter()
            .map(|&writer| {
                let folder = self.new_folder(&format!("written by {}", writer.code()));
                let said = self.write(writer, &folder, &mut versions);
                (folder, said)
            })
            .collect();
        let mut outcomes = Vec::new();
        for &reader in &readers {
            let copies: Vec<PathBuf> = written.iter().map(|(folder, _)| self.copy(folder, reader)).collect();
            for ((writer, (_, said)), found) in writers.iter().zip(&written).zip(self.read(reader, &copies)) {
                for question in Question::OF_READERS {
                    let outcome = outcome(question, &said[question.key()], &found);
                    outcomes.push(Cell { reader, writer: *writer, question, outcome });
                }
            }
        }
        outcomes.extend(SHARING_DIALECTS.into_iter().flat_map(|dialect| self.share_one_cache(dialect)));
        Seen { versions, writers, readers, outcomes, tenant: self.front.tenant.clone() }
    }

    /// All use one cache in turn; then each gets a copy of it. Who finds no token there asks for one each time.
    fn share_one_cache(&self, dialect: Option<&'static str>) -> Vec<Cell> {
        let ours = Program::Ours(dialect);
        let folder = self.new_folder(&format!("shared with {}", ours.code()));
        let programs: Vec<Program> = Program::peers().chain([ours]).collect();
        let known: Vec<Value> = programs.iter().map(|&program| self.ask_for_own(program, &folder)).collect();
        let cells = programs.iter().map(|&program| {
            let answer = self.ask_for_own(program, &self.copy(&folder, program));
            let outcome = match answer["error"].as_str() {
                Some(error) => Outcome::Error(error.to_owned()),
                None if known.contains(&answer) => Outcome::Found,
                None => Outcome::NotFound,
            };
            // Every dialect finds the same.
            let reader = if program == ours { Program::Ours(None) } else { program };
            Cell { reader, writer: ours, question: Question::Together, outcome }
        });
        cells.collect()
    }

    /// The common token, after one that nobody else has, so that everybody writes the whole file.
    fn ask_for_own(&self, program: Program, folder: &Path) -> Value {
        let own_scope = format!("api://{}/.default", program.code());
        match program {
            Program::Peer(peer) => {
                let mut command = self.peer(peer, "read");
                answers_of(command.env("PEER_SECOND_SCOPE", own_scope).arg(folder)).1.remove(0)["plain"]
                    .take()
            }
            Program::Ours(dialect) => {
                let cache = folder.join("app.bin");
                let _own = self.our_token(&cache, &own_scope, dialect);
                self.our_token(&cache, &self.scope, dialect)
            }
        }
    }

    fn new_folder(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        folder
    }

    fn copy(&self, folder: &Path, reader: Program) -> PathBuf {
        let name = folder.file_name().unwrap().to_str().unwrap();
        let copy = self.new_folder(&format!("{name}, read by {}", reader.code()));
        for file in ["app.bin", "user.bin"].into_iter().filter(|file| folder.join(file).exists()) {
            std::fs::copy(folder.join(file), copy.join(file)).unwrap();
        }
        copy
    }

    /// Its tokens, each an object with `token`.
    fn write(&self, writer: Program, folder: &Path, versions: &mut BTreeMap<String, String>) -> Value {
        let said = match writer {
            Program::Peer(peer) => {
                let mut command = self.peer(peer, "write");
                let (of, mut answers) = answers_of(command.env("PEER_CODE", writer.code()).arg(folder));
                versions.insert(peer.name().to_owned(), of.join(", "));
                answers.remove(0)
            }
            Program::Ours(dialect) => {
                let app = folder.join("app.bin");
                serde_json::json!({
                    "plain": self.our_token(&app, &self.scope, dialect),
                    "second": self.our_token(&app, SECOND_SCOPE, dialect),
                    "user": { "token": self.sign_in_a_user(&folder.join("user.bin"), &writer.code()) },
                })
            }
        };
        for question in Question::OF_READERS {
            assert!(said[question.key()]["token"].is_string(), "{writer:?} could not write: {said}");
        }
        said
    }

    fn read(&self, reader: Program, folders: &[PathBuf]) -> Vec<Value> {
        match reader {
            Program::Peer(peer) => answers_of(self.peer(peer, "read").args(folders)).1,
            Program::Ours(dialect) => folders.iter().map(|folder| self.look(folder, dialect)).collect(),
        }
    }

    fn peer(&self, peer: Peer, mode: &str) -> Command {
        let mut command = peer.command(&self.front, self.folder.path());
        command.arg(mode).env("PEER_SCOPE", &self.scope).env("PEER_SECOND_SCOPE", SECOND_SCOPE);
        command.env("PEER_USER_SCOPE", USER_SCOPE).env("PEER_ACCOUNT", self.front.account());
        command
    }

    fn our_token(&self, cache: &Path, scope: &str, dialect: Option<&str>) -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strongroom"));
        command.args([
            "token",
            "--persistence",
            "file",
            "--output",
            "json",
            "--require-persist",
            "--scope",
            scope,
        ]);
        command.arg("--config").arg(&self.front.config_file).arg("--cache").arg(cache);
        command.arg("--ca-file").arg(&self.front.ca_file).env("HTTPS_PROXY", self.front.proxy());
        if let Some(dialect) = dialect {
            command.args(["--dialect", dialect]);
        }
        let said = lines_of(&mut command).remove(0);
        serde_json::json!({ "token": said["access_token"] })
    }

    /// Through the library: the command signs no user in.
    fn sign_in_a_user(&self, cache: &Path, code: &str) -> String {
        let now = SystemClock.now();
        let home_account_id = self.front.account();
        let (environment, realm) = (HOST.to_owned(), self.front.tenant.clone());
        let client_id = self.front.client_id.clone();
        let secret = format!("access-{code}");
        let change = Change::new(now)
            .put(Credential::AccessToken(AccessToken {
                home_account_id: Some(home_account_id.clone()),
                environment: environment.clone(),
                client_id: client_id.clone(),
                realm: realm.clone(),
                target: USER_TARGET.into(),
                secret: secret.as_str().into(),
                token_type: "Bearer".into(),
                scheme: TokenScheme::Bearer,
                cached_at: now,
                expires_on: now.plus(3600),
                extended_expires_on: now.plus(3600),
                refresh_on: None,
                user_assertion_hash: None,
                extended: None,
            }))
            .put(Credential::RefreshToken(RefreshToken {
                home_account_id: Some(home_account_id.clone()),
                environment: environment.clone(),
                client_id: client_id.clone(),
                family_id: None,
                target: USER_TARGET.into(),
                secret: format!("refresh-{code}").as_str().into(),
                last_modification_time: Some(now),
                user_assertion_hash: None,
            }))
            .put(Credential::IdToken(IdToken {
                home_account_id: Some(home_account_id.clone()),
                environment: environment.clone(),
                client_id: client_id.clone(),
                realm: realm.clone(),
                secret: id_token(&realm, &client_id).as_str().into(),
                user_assertion_hash: None,
            }))
            .put(Credential::Account(Account {
                home_account_id,
                environment: environment.clone(),
                realm,
                local_account_id: USER.to_owned(),
                username: "user@contoso.com".to_owned(),
                authority_type: "MSSTS".to_owned(),
                account_source: Some("authorization_code".to_owned()),
            }))
            .put(Credential::AppMetadata(AppMetadata { client_id, environment, family_id: None }));
        block_on(DocumentStore::new(FilePersistence::new(cache).unwrap()).apply(&change)).unwrap();
        secret
    }

    /// What the command finds, told as the programs of the peers tell it.
    fn look(&self, folder: &Path, dialect: Option<&str>) -> Value {
        let app = folder.join("app.bin");
        let mut inspect = Command::new(env!("CARGO_BIN_EXE_strongroom"));
        inspect.args(["inspect", "--output", "json", "--show-secrets", "--cache"]);
        let shown = output_of(inspect.arg(folder.join("user.bin")));
        let shown: Value = serde_json::from_str(&shown).unwrap();
        let account = self.front.account();
        let theirs: Vec<&Value> = shown
            .as_array()
            .unwrap()
            .iter()
            .filter(|entry| entry["home_account_id"] == *account && entry["status"] == "valid")
            .collect();
        let of_type = |kind: &str| theirs.iter().find(|entry| entry["credential_type"] == kind);
        serde_json::json!({
            "plain": self.our_token(&app, &self.scope, dialect),
            "second": self.our_token(&app, SECOND_SCOPE, dialect),
            "account": { "found": of_type("Account").is_some() },
            "user": { "token": of_type("AccessToken").map(|entry| entry["secret"].clone()) },
        })
    }
}

/// What became of the look for the token that was written.
fn outcome(question: Question, written: &Value, found: &Value) -> Outcome {
    let answer = &found[question.key()];
    let account = &found["account"];
    if question == Question::User {
        if let Some(error) = account["error"].as_str() {
            return Outcome::Error(error.to_owned());
        }
        if account["found"] != true {
            return Outcome::NotFound;
        }
    }
    match (answer["token"].as_str(), answer["error"].as_str()) {
        (Some(token), _) if written["token"] == token => Outcome::Found,
        (Some(token), _) if question == Question::User && token.starts_with("renewed-") => Outcome::Renewed,
        (None, Some(_)) if question == Question::User => Outcome::AccountOnly,
        (Some(_), _) => Outcome::NotFound,
        (None, error) => Outcome::Error(error.unwrap_or("it said nothing").to_owned()),
    }
}

struct Cell {
    reader: Program,
    writer: Program,
    question: Question,
    outcome: Outcome,
}

/// All that was seen.
struct Seen {
    /// Of each peer, its libraries.
    versions: BTreeMap<String, String>,
    writers: Vec<Program>,
    readers: Vec<Program>,
    outcomes: Vec<Cell>,
    tenant: String,
}

impl Seen {
    /// We find what everybody writes, and everybody finds what we write for them.
    fn require_what_is_ours(&self) {
        let mut broken = Vec::new();
        for Cell { reader, writer, question, outcome } in &self.outcomes {
            let declared =
                |language| matches!(writer, Program::Ours(Some(dialect)) if dialect.contains(language));
            let must = match (reader, writer) {
                (Program::Ours(_), _) => true,
                (Program::Peer(_), Program::Peer(_)) => false,
                (Program::Peer(_), Program::Ours(_)) if *question == Question::User => true,
                (Program::Peer(Peer::Go | Peer::Java), Program::Ours(_)) => true,
                // Go and Java have rewritten that one: what the others look for is given back.
                (Program::Peer(_), Program::Ours(_)) if *question == Question::Together => true,
                (Program::Peer(Peer::Node | Peer::NodeExtensions), Program::Ours(_)) => declared("node"),
                (Program::Peer(Peer::Python), Program::Ours(dialect)) => {
                    dialect.is_none() || declared("python")
                }
            };
            if must && *outcome != Outcome::Found {
                let (reader, writer) = (reader.name(), writer.name());
                broken.push(format!("{reader} reads what {writer} wrote, {question:?}: {outcome:?}"));
            }
        }
        assert!(broken.is_empty(), "not found:\n{}", broken.join("\n"));
    }

    fn outcome(&self, question: Question, reader: Program, writer: Program) -> &Outcome {
        let cell = self
            .outcomes
            .iter()
            .find(|cell| (cell.question, cell.reader, cell.writer) == (question, reader, writer));
        &cell.unwrap().outcome
    }

    fn page(&self) -> String {
        let mut page = INTRODUCTION.to_owned();
        let _ = writeln!(page, "Seen on {}, with\n", today());
        for (peer, versions) in &self.versions {
            let _ = writeln!(page, "- {peer}: {versions}");
        }
        let _ = writeln!(page, "- Strongroom {}", env!("CARGO_PKG_VERSION"));
        let mut notes = Vec::new();
        for question in Question::OF_READERS.into_iter().chain([Question::Together]) {
            let _ = write!(page, "\n## {}\n\n", question.heading());
            if let Some(words) = question.words() {
                let _ = write!(page, "{words}\n\n");
            }
            page.push_str(&self.table(question, &mut notes));
        }
        if !notes.is_empty() {
            page.push('\n');
        }
        for (number, note) in notes.iter().enumerate() {
            let _ = writeln!(page, "[^{}]: {note}", number + 1);
        }
        page
    }

    fn table(&self, question: Question, notes: &mut Vec<String>) -> String {
        let (corner, writers) = match question {
            Question::Together => ("beside", SHARING_DIALECTS.map(Program::Ours).to_vec()),
            _ => ("reads what was written by", self.writers.clone()),
        };
        let names: Vec<String> = writers.iter().map(|writer| writer.name()).collect();
        let mut table = format!("| {corner} | {} |\n", names.join(" | "));
        let _ = writeln!(table, "|---|{}", "---|".repeat(names.len()));
        for &reader in &self.readers {
            let _ = write!(table, "| {} |", reader.name());
            for &writer in &writers {
                let outcome = self.outcome(question, reader, writer);
                let _ = write!(table, " {}", word(outcome));
                if let Outcome::Error(error) = outcome {
                    let note = error.replace(&self.tenant, "TENANT");
                    let known = notes.iter().position(|known| *known == note);
                    let number = known.unwrap_or_else(|| {
                        notes.push(note);
                        notes.len() - 1
                    });
                    let _ = write!(table, "[^{}]", number + 1);
                }
                table.push_str(" |");
            }
            table.push('\n');
        }
        table
    }

    /// Where the page says something else of what was seen.
    fn differences(&self, page: &str) -> Vec<String> {
        let said = words_of(page);
        let mut differences = Vec::new();
        for Cell { reader, writer, question, outcome } in &self.outcomes {
            let place = (question.heading().to_owned(), reader.name(), writer.name());
            let (said, seen) = (said.get(&place).map_or("nothing", String::as_str), word(outcome));
            if said != seen {
                let (question, reader, writer) = place;
                differences
                    .push(format!("{question}: {reader}, written by {writer}: {seen}, the page says {said}"));
            }
        }
        differences
    }
}

const fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Found => "found",
        Outcome::NotFound => "not found",
        Outcome::Renewed => "renewed",
        Outcome::AccountOnly => "the account only",
        Outcome::Error(_) => "error",
    }
}

/// The cells of a page's tables by heading, row and column, without the references to notes.
fn words_of(page: &str) -> BTreeMap<(String, String, String), String> {
    let mut words = BTreeMap::new();
    let (mut heading, mut columns) = (String::new(), Vec::new());
    for line in page.lines() {
        if let Some(text) = line.strip_prefix("## ") {
            heading = text.to_owned();
            columns.clear();
        }
        let Some(row) = line.strip_prefix("| ") else { continue };
        let cells: Vec<&str> = row.trim_end_matches(" |").split(" | ").collect();
        if columns.is_empty() {
            columns = cells[1..].iter().map(|&name| name.to_owned()).collect();
            continue;
        }
        for (column, cell) in columns.iter().zip(&cells[1..]) {
            let word = cell.split("[^").next().unwrap().to_owned();
            words.insert((heading.clone(), cells[0].to_owned(), column.clone()), word);
        }
    }
    words
}

fn today() -> String {
    let output = Command::new("date").args(["-u", "+%F"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

const INTRODUCTION: &str = "\
# What each language finds of the others' tokens

One cache file, several languages: which of them find a token that another has stored, and which ask for one of their
own? Written by a test, `./test interop`, from what the real libraries did: each signs in and stores its tokens, then
each is given a copy of every file. All are configured with `https://login.microsoftonline.com/TENANT`, and the answers
come from the local identity provider. `./test` fails when what is seen is no longer what stands here.

In short:

- **Strongroom, Go and Java** find everybody's tokens.
- **Python and Node** do not find each other's *application* tokens, nor those of Go and Java. Nothing is damaged by
  that: each asks the provider once for a token of its own, and then there are two in the file.
- A new application token of Strongroom's has the shape that the others in the file have, Python's in a new file.
  `--dialect` chooses: `node` where Node shares the file and Python does not, `python+node` where both do. Then every
  one of these languages finds it. Add `java` where Java's programs write the file too, for its lock: `python+java`.
  The package for Python writes Python's shape unless it is told otherwise, so its column is that of `--dialect python`:
  `PersistedTokenCache(…, dialect=\"python+node\")`.
- **.NET** was not run. By its source it finds what Go finds, and takes two tokens for one request for an error, so it
  cannot be named beside `python` and `node`.
- Where **Go or Java write** the file too, Python and Node no longer find any token that these have rewritten, their own
  included, and ask again, until Strongroom writes: that repairs it. See *One cache for all*.
- **Users' tokens** have one shape that all of them find.

*found*: exactly the token that was stored, without a request. *not found*: it asked for one of its own.

";

const USERS: &str = "\
*renewed*: it found the account and its refresh token only. *the account only*: it found the account and none of its
tokens.";

const TOGETHER: &str = "\
All use one cache in turn, Strongroom last, and each adds a token that only it wants, so that each writes the whole file.
Then each gets a copy of that file. Go and Java take `home_account_id` from every token when they write, and Python and
Node find none without it; Strongroom gives back to each token, whenever it writes, what the token's key says it had.";
