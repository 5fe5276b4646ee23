//! Large documents: looked through for the first question, loaded for the second, and the same answers either way.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use strongroom::{
    AccessToken, Credential, CredentialKey, CredentialStore, Document, DocumentStore, FilePersistence,
    Partition, Record, Scopes, block_on,
};

use crate::persistence_support::{Moment, SteppedIn};
use crate::schema_support::{app_token, apply, change};
use crate::support::wait_until;

/// More than a megabyte of them.
const TOKENS: usize = 600;

fn token(number: usize, mark: &str) -> AccessToken {
    let secret = format!("{mark}-{number}-").repeat(200);
    AccessToken {
        target: format!("api://{number}/.default").as_str().into(),
        secret: secret.into(),
        ..app_token()
    }
}

fn document(mark: &str) -> Document {
    let all =
        (0..TOKENS).fold(change(), |change, number| change.put(Credential::AccessToken(token(number, mark))));
    let document = apply(&Document::empty(), &all);
    assert!(document.bytes().len() > 1 << 20);
    document
}

/// A file, a store in it, and how often that has loaded it.
struct Large {
    _folder: tempfile::TempDir,
    path: PathBuf,
    store: DocumentStore<SteppedIn<FilePersistence>>,
    loads: Arc<AtomicU32>,
}

impl Large {
    fn with(content: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache.bin");
        std::fs::write(&path, content).unwrap();
        let loads = Arc::<AtomicU32>::default();
        let counted = Arc::clone(&loads);
        let persistence = SteppedIn::new(FilePersistence::new(&path).unwrap(), move |moment| {
            if matches!(moment, Moment::Load(_)) {
                counted.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { _folder: folder, path, store: DocumentStore::new(persistence), loads }
    }

    /// As another process replaces it.
    fn replace(&self, content: &[u8]) {
        let new = self.path.with_extension("new");
        std::fs::write(&new, content).unwrap();
        std::fs::rename(new, &self.path).unwrap();
    }

    fn loads(&self) -> u32 {
        self.loads.load(Ordering::SeqCst)
    }

    fn finds(&self, number: usize, mark: &str) -> bool {
        let wanted = token(number, mark);
        let found = block_on(self.store.get(&CredentialKey::of_access_token(&wanted))).unwrap();
        found.is_some_and(|found| found.credential.into_access_token().unwrap().secret == wanted.secret)
    }
}

#[test]
fn only_a_second_question_has_a_large_document_loaded() {
    let large = Large::with(document("one").bytes().expose());
    assert!(large.finds(7, "one") && large.finds(7, "one"));
    let partition = Partition::of_access_token(&token(7, "one"));
    let scopes = Scopes::from("api://7/.default");
    // Others that only may have these scopes can be among them.
    let listed = block_on(large.store.list_for(&partition, &scopes)).unwrap();
    let has_them = |found: &Record| found.credential.clone().into_access_token().unwrap().target == scopes;
    assert_eq!(listed.iter().filter(|found| has_them(found)).count(), 1);
    assert_eq!(large.loads(), 0, "all of it one question");

    assert!(large.finds(8, "one") && large.finds(599, "one") && !large.finds(600, "one"));
    assert_eq!(large.loads(), 1);
    assert_eq!(block_on(large.store.list(&partition)).unwrap().len(), TOKENS);
    assert_eq!(large.loads(), 1);
}

#[test]
fn a_large_document_that_has_changed_is_looked_through_again() {
    let large = Large::with(document("one").bytes().expose());
    assert!(large.finds(7, "one"));
    let seen = large.store.generation().unwrap();
    assert!(seen.is_some());
    large.replace(document("two").bytes().expose());
    assert_eq!(large.store.generation().unwrap(), None);
    assert!(large.finds(7, "two"));
    assert_ne!(large.store.generation().unwrap(), seen);
    assert_eq!(large.loads(), 0);
}

#[test]
fn a_rewrite_in_place_of_equal_size_is_noticed_though_nothing_was_kept_to_compare() {
    let [one, two] = ["one", "two"].map(document);
    let large = Large::with(one.bytes().expose());
    assert!(large.finds(7, "one"));
    std::fs::write(&large.path, two.bytes().expose()).unwrap();
    wait_until("the change is noticed", || large.finds(7, "two"));
}

#[test]
fn a_change_of_a_document_that_was_looked_through_costs_no_entry() {
    let large = Large::with(document("one").bytes().expose());
    assert!(large.finds(7, "one"));
    block_on(large.store.apply(&change().put(Credential::AccessToken(token(7, "two"))))).unwrap();
    assert!(large.finds(7, "two") && large.finds(8, "one"));
    let partition = Partition::of_access_token(&token(7, "one"));
    assert_eq!(block_on(large.store.list(&partition)).unwrap().len(), TOKENS);
    assert_eq!(large.loads(), 1);
}

#[test]
fn what_is_wrong_with_a_large_document_is_said_as_of_a_small_one() {
    let whole = document("one");
    let text = whole.bytes().expose();
    let code = |content: &[u8]| {
        let large = Large::with(content);
        let key = CredentialKey::of_access_token(&token(7, "one"));
        let error = block_on(large.store.get(&key)).unwrap_err();
        error.code().to_owned()
    };
    assert_eq!(code(&text[..text.len() - 1]), "damaged");
    assert_eq!(code(&[text, b"}"].concat()), "damaged");
    assert_eq!(code(&[b"\xef\xbb\xbf", text].concat()), "byte_order_mark");
    assert_eq!(code(&[b"[", text, b"]"].concat()), "not_a_token_cache");
}

#[test]
fn an_entry_larger_than_what_is_looked_at_at_once_is_found_all_the_same() {
    let enormous = AccessToken { secret: "x".repeat(300_000).into(), ..token(0, "one") };
    let with_it = apply(&document("one"), &change().put(Credential::AccessToken(enormous)));
    let large = Large::with(with_it.bytes().expose());
    assert!(large.finds(7, "one"));
}
