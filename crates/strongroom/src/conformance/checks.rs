//! The checks themselves. Each begins with an empty document, and says what it saw instead of what must hold.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::Promise;
use crate::persistence::lock::{DocumentLock, LockPaths};
use crate::time::Deadline;
use crate::wait::{self, block_on, until};
use crate::{
    AccessToken, Change, Credential, CredentialKey, CredentialStore as _, DocumentStore, Error, ErrorKind,
    Fence, Lead, Loaded, Partition, Persistence, Revision, Saved, SecretBytes, TokenScheme, UnixSeconds,
};

/// What has to be there for a check to make sense.
pub(super) enum Needs {
    Nothing,
    /// Other processes that share the document.
    Others,
    Promise(Promise),
}

type Outcome = Result<(), String>;
type Check = fn(&Document<'_>) -> Outcome;

pub(super) const ALL: &[(&str, Needs, Check)] = &[
    ("nothing_there_is_an_empty_document", Needs::Nothing, nothing_there_is_an_empty_document),
    (
        "what_is_saved_is_loaded_through_every_handle",
        Needs::Nothing,
        what_is_saved_is_loaded_through_every_handle,
    ),
    ("a_document_that_is_removed_is_gone_and_can_be_made_again", Needs::Nothing, removed_and_made_again),
    ("handles_of_one_document_describe_it_alike_and_show_nothing_of_it", Needs::Nothing, described_alike),
    ("a_revision_is_current_until_the_document_changes", Needs::Nothing, current_until_it_changes),
    ("what_was_loaded_is_current_before_long", Needs::Nothing, current_before_long),
    ("a_rewrite_of_equal_length_is_noticed", Needs::Nothing, equal_length_is_noticed),
    ("equal_states_have_equal_revisions", Needs::Nothing, equal_states_have_equal_revisions),
    ("a_stale_revision_is_refused_and_nothing_is_overwritten", Needs::Nothing, stale_is_refused),
    ("a_save_whose_lock_is_lost_changes_nothing", Needs::Nothing, lost_lock_changes_nothing),
    (
        "others_are_let_in_when_the_new_document_is_there_and_not_before",
        Needs::Nothing,
        let_in_when_it_is_there,
    ),
    ("a_reader_sees_one_document_or_the_other", Needs::Nothing, one_or_the_other),
    ("writers_who_take_the_lock_lose_nothing", Needs::Nothing, writers_lose_nothing),
    (
        "of_all_who_save_at_one_revision_without_a_lock_one_succeeds",
        Needs::Promise(Promise::CompareAndSwap),
        one_of_all_succeeds,
    ),
    ("the_lock_excludes_every_other_handle_and_ends_with_a_deadline", Needs::Others, the_lock_excludes),
    ("who_waits_for_the_lock_gets_it_when_it_is_free", Needs::Others, the_lock_is_handed_on),
    ("of_all_handles_one_leads_and_is_succeeded", Needs::Others, one_leads),
    ("different_keys_are_led_apart", Needs::Others, led_apart),
    ("what_is_remembered_beside_is_another_document", Needs::Others, beside_is_another),
    ("what_cannot_be_read_is_never_overwritten", Needs::Nothing, unusable_is_not_overwritten),
    (
        "what_is_set_aside_is_out_of_the_way_and_only_at_its_revision",
        Needs::Promise(Promise::SetAside),
        set_aside_at_its_revision,
    ),
    (
        "a_damaged_document_is_set_aside_by_a_writer_who_goes_on",
        Needs::Promise(Promise::SetAside),
        damaged_is_set_aside,
    ),
];

/// The document that is checked.
pub(super) struct Document<'a> {
    open: &'a (dyn Fn() -> Box<dyn Persistence> + Sync),
}

impl<'a> Document<'a> {
    pub(super) fn new(open: &'a (dyn Fn() -> Box<dyn Persistence> + Sync)) -> Self {
        Self { open }
    }

    pub(super) fn emptied(&self) -> Outcome {
        block_on(self.handle().0.remove()).map_err(|error| format!("cannot be removed: {error}"))
    }

    fn handle(&self) -> Handle {
        Handle((self.open)())
    }

    fn store(&self) -> DocumentStore<Box<dyn Persistence>> {
        DocumentStore::builder((self.open)()).lock_timeout(PATIENCE).build()
    }
}

/// How long whoever must succeed is waited for: a machine that is busy is no reason to fail.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long what was loaded may be too young to be trusted: the coarsest file systems tell 2 s apart.
const BEFORE_LONG: Duration = Duration::from_secs(10);
/// How long whoever must fail is waited for.
const SHORT: Duration = Duration::from_millis(50);

/// The document as one process has it.
struct Handle(Box<dyn Persistence>);

impl Handle {
    fn load(&self) -> Result<Loaded, String> {
        block_on(self.0.load()).map_err(|error| format!("cannot be loaded: {error}"))
    }

    fn content(&self) -> Result<Vec<u8>, String> {
        Ok(self.load()?.bytes.expose().to_vec())
    }

    fn save_at(
        &self,
        content: &[u8],
        expected: &Revision,
        fence: &Fence<'_>,
    ) -> Result<Option<Revision>, String> {
        let bytes = SecretBytes::from(content.to_vec());
        match block_on(self.0.save(&bytes, expected, fence)) {
            Ok(Saved::Saved(revision)) => Ok(Some(revision)),
            Ok(Saved::Conflict) => Ok(None),
            Err(error) => Err(format!("cannot be saved: {error}")),
        }
    }

    /// Loads and saves, as whoever holds the lock does.
    fn save(&self, content: &[u8]) -> Result<Revision, String> {
        let expected = self.load()?.revision;
        self.save_at(content, &expected, &Fence::open())?.ok_or_else(|| "a conflict with nobody".into())
    }

    fn is_current(&self, revision: &Revision) -> Result<bool, String> {
        self.0.is_current(revision).map_err(|error| format!("cannot be looked at: {error}"))
    }

    fn set_aside(&self, revision: &Revision) -> Result<Option<String>, String> {
        block_on(self.0.set_aside(revision)).map_err(|error| format!("cannot be set aside: {error}"))
    }
}

const ONE: &[u8] = br#"{"AccessToken":{},"note":"one"}"#;
const TWO: &[u8] = br#"{"AccessToken":{},"note":"two"}"#;
const SECRET: &[u8] = br#"{"AccessToken":{},"note":"hunter2hunter2"}"#;

fn nothing_there_is_an_empty_document(document: &Document<'_>) -> Outcome {
    let handle = document.handle();
    same(handle.load()?.bytes.len(), 0, "the length of nothing")?;
    document.emptied()?;
    let found = handle.load()?;
    let saved = handle.save_at(ONE, &found.revision, &Fence::open())?;
    holds(saved.is_some(), "nothing is saved at the revision of nothing")
}

fn what_is_saved_is_loaded_through_every_handle(document: &Document<'_>) -> Outcome {
    let large = format!(r#"{{"note":"{}"}}"#, "grüße, 🔐 ".repeat(50_000));
    for content in [ONE, b"{}", large.as_bytes(), TWO] {
        let handle = document.handle();
        handle.save(content)?;
        for reader in [&handle, &document.handle()] {
            holds(reader.content()? == content, "what is loaded is not what was saved")?;
        }
    }
    Ok(())
}

fn removed_and_made_again(document: &Document<'_>) -> Outcome {
    let (one, other) = (document.handle(), document.handle());
    let revision = one.save(ONE)?;
    document.emptied()?;
    for handle in [&one, &other] {
        same(handle.load()?.bytes.len(), 0, "the length of what was removed")?;
    }
    holds(!one.is_current(&revision)?, "what was removed is current")?;
    holds(one.save_at(TWO, &revision, &Fence::open())?.is_none(), "what was removed is replaced")?;
    other.save(TWO)?;
    holds(one.content()? == TWO, "what was made again is not there")
}

fn described_alike(document: &Document<'_>) -> Outcome {
    let (one, other) = (document.handle(), document.handle());
    one.save(SECRET)?;
    other.load()?;
    let described = |handle: &Handle| {
        let persistence = &handle.0;
        let lock = (persistence.lock_path(), persistence.lock_mode());
        (persistence.location(), lock, persistence.protection(), persistence.kind())
    };
    same(described(&one), described(&other), "the description of the other handle")?;
    holds(!one.0.kind().is_empty(), "the kind has no name")?;
    let loaded = one.load()?;
    let shown = format!("{one:?} {loaded:?} {:?}", loaded.revision, one = one.0);
    holds(!shown.contains("hunter2"), "Debug shows the document")
}

fn current_until_it_changes(document: &Document<'_>) -> Outcome {
    let (one, other) = (document.handle(), document.handle());
    let first = one.save(ONE)?;
    holds(one.is_current(&first)?, "what was just saved is not current")?;
    other.load()?;
    holds(one.is_current(&first)?, "somebody's reading changes it")?;
    let second = one.save(TWO)?;
    holds(!one.is_current(&first)?, "what was replaced is current")?;
    holds(one.is_current(&second)?, "what replaced it is not current")?;
    let loaded = other.load()?.revision;
    one.save(ONE)?;
    holds(!other.is_current(&loaded)?, "what another handle replaced is current")?;
    let loaded = other.load()?.revision;
    document.emptied()?;
    holds(!other.is_current(&loaded)?, "what another handle removed is current")
}

/// A keyring's signal file proves something only when its time is past; a file's content proves it at once.
fn current_before_long(document: &Document<'_>) -> Outcome {
    document.handle().save(ONE)?;
    let handle = document.handle();
    eventually("what was loaded does not become current", || handle.is_current(&handle.load()?.revision))
}

fn equal_length_is_noticed(document: &Document<'_>) -> Outcome {
    let (one, other) = (document.handle(), document.handle());
    one.save(ONE)?;
    for round in 0..20 {
        let loaded = other.load()?;
        let next = if loaded.bytes.expose() == ONE { TWO } else { ONE };
        one.save(next)?;
        holds(!other.is_current(&loaded.revision)?, format_args!("a rewrite goes unseen in round {round}"))?;
        holds(other.content()? == next, format_args!("a rewrite is not loaded in round {round}"))?;
    }
    Ok(())
}

fn equal_states_have_equal_revisions(document: &Document<'_>) -> Outcome {
    let handle = document.handle();
    let nothing = handle.load()?.revision;
    holds(handle.load()?.revision == nothing, "nothing has two revisions")?;
    let saved = handle.save(ONE)?;
    let loaded = handle.load()?.revision;
    holds(saved == loaded, "what was saved is loaded at another revision")?;
    holds(handle.load()?.revision == loaded, "one state has two revisions")?;
    handle.save(TWO)?;
    holds(handle.load()?.revision != loaded, "two states have one revision")
}

fn stale_is_refused(document: &Document<'_>) -> Outcome {
    let (one, other) = (document.handle(), document.handle());
    let nothing = one.load()?.revision;
    other.save(ONE)?;
    let first = one.load()?.revision;
    for (stale, what) in [(&nothing, "has appeared"), (&first, "was replaced")] {
        if what == "was replaced" {
            other.save(TWO)?;
        }
        let before = other.content()?;
        let saved = one.save_at(SECRET, stale, &Fence::open())?;
        holds(saved.is_none(), format_args!("a document that {what} meanwhile is overwritten"))?;
        holds(other.content()? == before, format_args!("a refused save changes a document that {what}"))?;
    }
    holds(one.save(SECRET).is_ok(), "after a conflict nothing can be saved")
}

fn lost_lock_changes_nothing(document: &Document<'_>) -> Outcome {
    let handle = document.handle();
    handle.save(ONE)?;
    let revision = handle.load()?.revision;
    let saved = handle.save_at(TWO, &revision, &Fence::new(&|| false))?;
    holds(saved.is_none() && handle.content()? == ONE, "without the lock it is written")?;
    let asked = AtomicBool::new(false);
    let fence = || {
        asked.store(true, Ordering::SeqCst);
        true
    };
    holds(handle.save_at(TWO, &revision, &Fence::new(&fence))?.is_some(), "with the lock it is not written")?;
    holds(asked.load(Ordering::SeqCst), "the lock is not asked for")
}

fn let_in_when_it_is_there(document: &Document<'_>) -> Outcome {
    let (one, other) = (document.handle(), document.handle());
    let old = one.save(ONE)?;
    let seen = Mutex::new(Vec::new());
    let replaced = |revision: &Revision| {
        let found = other.content().map(|content| (revision.clone(), content == TWO));
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(found);
    };
    holds(
        one.save_at(TWO, &old, &Fence::new(&|| false).on_replaced(&replaced))?.is_none(),
        "without the lock it is written",
    )?;
    let fence = Fence::new(&|| true).on_replaced(&replaced);
    let saved = one.save_at(TWO, &old, &fence)?.ok_or("a conflict with nobody")?;
    for found in seen.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let (revision, is_there) = found?;
        holds(is_there, "others are let in before they find the new document")?;
        holds(revision == saved, "the revision that is told while saving is not the one that is returned")?;
    }
    Ok(())
}

fn one_or_the_other(document: &Document<'_>) -> Outcome {
    const ROUNDS: usize = 10;

    let text = |letter: &str| format!(r#"{{"note":"{}"}}"#, letter.repeat(100_000)).into_bytes();
    let (a, b) = (text("a"), text("b"));
    document.handle().save(&a)?;
    let done = AtomicBool::new(false);
    thread::scope(|threads| {
        let reader = threads.spawn(|| {
            let handle = document.handle();
            while !done.load(Ordering::SeqCst) {
                let content = handle.content()?;
                holds(
                    content == a || content == b,
                    "a reader sees neither the old document nor the new one",
                )?;
            }
            Ok(())
        });
        let handle = document.handle();
        let written =
            (0..ROUNDS).try_for_each(|round| handle.save(if round % 2 == 0 { &b } else { &a }).map(drop));
        done.store(true, Ordering::SeqCst);
        written.and(joined(reader))
    })
}

fn writers_lose_nothing(document: &Document<'_>) -> Outcome {
    const WRITERS: usize = 4;
    const EACH: usize = 5;

    thread::scope(|threads| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                threads.spawn(move || {
                    let store = document.store();
                    (0..EACH).try_for_each(|n| put(&store, &format!("{writer}-{n}")))
                })
            })
            .collect();
        writers.into_iter().try_for_each(joined)
    })?;
    let found = block_on(document.store().list(&Partition::of_access_token(&token("any"))));
    same(found.map_err(told)?.len(), WRITERS * EACH, "the number of tokens that were added")
}

fn one_of_all_succeeds(document: &Document<'_>) -> Outcome {
    const WRITERS: usize = 4;
    const ROUNDS: usize = 10;

    let barrier = Barrier::new(WRITERS);
    let attempt = || {
        let handle = document.handle();
        let loaded = handle.load();
        // Whatever came of it: the others are not to wait for ever.
        barrier.wait();
        handle.save_at(TWO, &loaded?.revision, &Fence::open()).map(|saved| saved.is_some())
    };
    document.handle().save(ONE)?;
    for round in 0..ROUNDS {
        let succeeded = thread::scope(|threads| {
            let writers: Vec<_> = (0..WRITERS).map(|_| threads.spawn(attempt)).collect();
            let mut succeeded = 0;
            for writer in writers {
                succeeded += usize::from(writer.join().unwrap_or_else(|_| Err("it panics".into()))?);
            }
            Ok::<_, String>(succeeded)
        })?;
        same(succeeded, 1, &format!("in round {round} the number of those who succeed"))?;
    }
    Ok(())
}

fn the_lock_excludes(document: &Document<'_>) -> Outcome {
    let (one, other) = (document.handle(), document.handle());
    let lock = acquire(&one, PATIENCE).map_err(told)?;
    holds(lock.still_held(), "the lock that was just taken is lost")?;
    for handle in [&one, &other] {
        match acquire(handle, SHORT) {
            Ok(_) => return Err("the lock is taken twice".into()),
            Err(error) => same(error.kind(), ErrorKind::Locked, "the error of who waits in vain")?,
        }
    }
    holds(lock.still_held(), "who waits in vain takes the lock away")?;
    drop(lock);
    acquire(&other, PATIENCE).map(drop).map_err(told)
}

fn the_lock_is_handed_on(document: &Document<'_>) -> Outcome {
    let lock = acquire(&document.handle(), PATIENCE).map_err(told)?;
    let released = AtomicBool::new(false);
    thread::scope(|threads| {
        let waiting = threads.spawn(|| {
            let taken = acquire(&document.handle(), PATIENCE).map_err(told)?;
            holds(released.load(Ordering::SeqCst), "two have the lock")?;
            holds(taken.still_held(), "the lock that was waited for is lost")
        });
        block_on(wait::sleep(SHORT));
        released.store(true, Ordering::SeqCst);
        drop(lock);
        joined(waiting)
    })
}

fn one_leads(document: &Document<'_>) -> Outcome {
    let (one, other) = (document.store(), document.store());
    let key = CredentialKey::of_access_token(&token("led"));
    let Lead::Taken(lead) = block_on(one.lead(&key, Duration::ZERO)) else {
        return Err("nobody can lead".into());
    };
    let busy = block_on(other.lead(&key, SHORT));
    holds(matches!(busy, Lead::Busy), format_args!("while one leads, another is told {busy:?}"))?;
    thread::scope(|threads| {
        let waiting = threads.spawn(|| block_on(other.lead(&key, PATIENCE)));
        block_on(wait::sleep(SHORT));
        drop(lead);
        match waiting.join() {
            // Who had not begun to wait yet leads itself.
            Ok(Lead::Ended | Lead::Taken(_)) => Ok(()),
            other => Err(format!("when the leader is done, who waits is told {other:?}")),
        }
    })?;
    let next = block_on(one.lead(&key, PATIENCE));
    holds(matches!(next, Lead::Taken(_)), format_args!("after the leader another is told {next:?}"))
}

fn led_apart(document: &Document<'_>) -> Outcome {
    let (one, other) = (document.store(), document.store());
    let key = |scope: &str| CredentialKey::of_access_token(&token(scope));
    let first = block_on(one.lead(&key("first"), Duration::ZERO));
    let second = block_on(other.lead(&key("second"), Duration::ZERO));
    let both = matches!((&first, &second), (Lead::Taken(_), Lead::Taken(_)));
    holds(both, format_args!("two keys are led as {first:?} and {second:?}"))
}

fn beside_is_another(document: &Document<'_>) -> Outcome {
    let beside =
        || document.store().state().map(Handle).ok_or_else(|| "nothing can be remembered".to_owned());
    document.handle().save(ONE)?;
    beside()?.save(TWO)?;
    holds(beside()?.content()? == TWO, "what is remembered is not there")?;
    holds(document.handle().content()? == ONE, "what is remembered is the document")?;
    block_on(beside()?.0.remove()).map_err(told)?;
    same(beside()?.content()?.len(), 0, "the length of what was remembered and removed")?;
    holds(document.handle().content()? == ONE, "removing what is remembered removes the document")
}

fn unusable_is_not_overwritten(document: &Document<'_>) -> Outcome {
    for content in [DAMAGED, "no token cache at all"] {
        document.handle().save(content.as_bytes())?;
        let strict = DocumentStore::builder((document.open)()).lock_timeout(PATIENCE).strict(true).build();
        for attempt in 0..2 {
            let stored = put(&strict, "new");
            holds(stored.is_err(), format_args!("{content:?} is taken for a document in attempt {attempt}"))?;
            let still = document.handle().content()?;
            holds(still == content.as_bytes(), format_args!("{content:?} is overwritten"))?;
        }
    }
    Ok(())
}

fn set_aside_at_its_revision(document: &Document<'_>) -> Outcome {
    let (one, other) = (document.handle(), document.handle());
    one.save(ONE)?;
    let stale = one.load()?.revision;
    other.save(TWO)?;
    holds(one.set_aside(&stale)?.is_none(), "a document that was replaced meanwhile is set aside")?;
    holds(other.content()? == TWO, "a refusal to set aside changes the document")?;
    let Some(kept) = one.set_aside(&other.load()?.revision)? else {
        return Err("it is not set aside".into());
    };
    holds(!kept.is_empty(), "where it is set aside has no name")?;
    same(other.load()?.bytes.len(), 0, "the length of what was set aside")?;
    other.save(ONE)?;
    holds(one.content()? == ONE, "after it nothing can be saved")
}

fn damaged_is_set_aside(document: &Document<'_>) -> Outcome {
    document.handle().save(DAMAGED.as_bytes())?;
    let store = document.store();
    put(&store, "new")?;
    let key = CredentialKey::of_access_token(&token("new"));
    for reader in [&store, &document.store()] {
        holds(block_on(reader.get(&key)).map_err(told)?.is_some(), "the change is not there")?;
    }
    Ok(())
}

/// The beginning of a document, as after a crash of whoever writes in place.
const DAMAGED: &str = r#"{"AccessToken":{"a":{"secret":"#;

fn acquire(handle: &Handle, timeout: Duration) -> Result<DocumentLock, Error> {
    block_on(DocumentLock::acquire(&LockPaths::of(&*handle.0), timeout))
}

fn put(store: &DocumentStore<Box<dyn Persistence>>, scope: &str) -> Outcome {
    let change = Change::new(NOW).put(Credential::AccessToken(token(scope)));
    block_on(store.apply(&change)).map(drop).map_err(told)
}

const NOW: UnixSeconds = UnixSeconds::new(1_800_000_000);

fn token(scope: &str) -> AccessToken {
    AccessToken {
        home_account_id: None,
        environment: "login.microsoftonline.com".into(),
        client_id: "6731de76-14a6-49ae-97bc-6eba6914391e".into(),
        realm: "tenant".into(),
        target: scope.into(),
        secret: scope.into(),
        token_type: "Bearer".into(),
        scheme: TokenScheme::Bearer,
        cached_at: NOW,
        expires_on: NOW.plus(3600),
        extended_expires_on: NOW.plus(3600),
        refresh_on: None,
        user_assertion_hash: None,
        extended: None,
    }
}

fn holds(it_does: bool, otherwise: impl fmt::Display) -> Outcome {
    if it_does { Ok(()) } else { Err(otherwise.to_string()) }
}

fn same<T: PartialEq + fmt::Debug>(found: T, expected: T, what: &str) -> Outcome {
    holds(found == expected, format_args!("{what} is {found:?}, not {expected:?}"))
}

fn told(error: Error) -> String {
    error.to_string()
}

/// Looks until it is so, for a bounded time.
fn eventually(otherwise: &str, is_so: impl Fn() -> Result<bool, String>) -> Outcome {
    let found = block_on(until(Deadline::after(BEFORE_LONG), async {
        while !is_so()? {
            wait::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }));
    found.unwrap_or_else(|| Err(otherwise.into()))
}

fn joined(thread: thread::ScopedJoinHandle<'_, Outcome>) -> Outcome {
    thread.join().unwrap_or_else(|_| Err("it panics".into()))
}
