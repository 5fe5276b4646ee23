//! The suite for every persistence: all of ours pass it, one of a third party can, and one that is broken cannot.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use strongroom::conformance::{self, Promise, Report};
use strongroom::{
    BoxFuture, Error, Fence, Loaded, Location, Persistence, Protection, Revision, Saved, SecretBytes,
};

use crate::persistence_support::on_every_persistence;

#[test]
fn every_persistence_conforms() {
    on_every_persistence(|document| {
        let mut suite = conformance::of(|| (document.open)());
        for promise in document.without {
            suite = suite.without(*promise);
        }
        let report = suite.run();
        assert!(report.failed.is_empty(), "{}: {report}", document.name);
        assert!(report.passed.len() >= 12, "{}: {report}", document.name);
    });
}

#[cfg(unix)]
mod sealed {
    use std::path::Path;

    use crate::seal_support::{Vault, in_process};
    use crate::support::set_mode;

    /// A sealed file whose key is in this source, in a process with these variables.
    fn conforms(environment: &[(&str, &Path)], source: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        in_process(environment, &format!("conforms {source}"), &folder.path().join("cache.bin"))
    }

    #[test]
    fn with_a_key_file() {
        let vault = Vault::new();
        assert_eq!(conforms(&[], &format!("file:{}", vault.key_file().display())), "all hold");
    }

    #[test]
    fn with_a_key_in_the_environment() {
        let key = Path::new("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8");
        assert_eq!(conforms(&[("STRONGROOM_KEY", key)], "env"), "all hold");
    }

    #[test]
    fn with_a_systemd_credential() {
        let vault = Vault::new();
        let folder = vault.folder.path().join("credentials");
        std::fs::create_dir(&folder).unwrap();
        std::fs::copy(vault.key_file(), folder.join("strongroom.key")).unwrap();
        assert_eq!(conforms(&[("CREDENTIALS_DIRECTORY", &folder)], "systemd"), "all hold");
    }

    #[test]
    fn with_a_host_key() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(conforms(&[("STRONGROOM_STATE_DIR", folder.path())], "host"), "all hold");
    }

    #[test]
    fn with_a_passphrase() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("passphrase");
        std::fs::write(&file, "correct horse battery staple\n").unwrap();
        set_mode(&file, 0o600);
        assert_eq!(conforms(&[], &format!("passphrase-file:{}", file.display())), "all hold");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn with_a_key_in_the_kernels_keyring() {
        let said = conforms(&[], "keyutils");
        if said.starts_with("key_source_unavailable: ") {
            return crate::support::skip("conformance::sealed::with_a_key_in_the_kernels_keyring", &said);
        }
        assert_eq!(said, "all hold");
    }

    // With a key in the Secret Service: `seal_secret_service`.
}

/// A persistence as a third party writes it: bytes in a structure of its own, shared by its handles, with what is
/// wrong about it.
struct TheirPersistence {
    shared: Arc<Mutex<Shared>>,
    folder: PathBuf,
    wrong: Wrong,
}

#[derive(Default)]
struct Shared {
    bytes: Vec<u8>,
    version: u64,
    kept: Vec<Vec<u8>>,
    handles: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    OverwritesWhatOthersWrote,
    ForgetsTheLock,
    LetsOthersInTooEarly,
    WritesInTwoSteps,
    TakesAllForCurrent,
    TakesNothingForCurrent,
    LooksAtTheLength,
    NumbersEachLoad,
    ShowsWhatItHolds,
    KeepsWhatIsRemoved,
    HasALockForEachHandle,
    CutsWhatIsLong,
    SetsAsideWhateverIsThere,
    OnlyClaimsToSetAside,
}

impl TheirPersistence {
    fn is(&self, wrong: Wrong) -> bool {
        self.wrong == wrong
    }

    fn revision(&self, shared: &Shared) -> Revision {
        Revision::of_version(if self.is(Wrong::LooksAtTheLength) {
            shared.bytes.len() as u64
        } else {
            shared.version
        })
    }
}

impl Persistence for TheirPersistence {
    fn load(&self) -> BoxFuture<'_, Result<Loaded, Error>> {
        let mut shared = self.shared.lock().unwrap();
        if self.is(Wrong::NumbersEachLoad) {
            shared.version += 1;
        }
        let (bytes, revision) = (SecretBytes::from(shared.bytes.clone()), self.revision(&shared));
        Box::pin(std::future::ready(Ok(Loaded { bytes, revision })))
    }

    fn save<'a>(
        &'a self,
        bytes: &'a SecretBytes,
        expected: &'a Revision,
        fence: &'a Fence<'a>,
    ) -> BoxFuture<'a, Result<Saved, Error>> {
        if self.is(Wrong::LetsOthersInTooEarly) {
            fence.replaced(&Revision::of_version(1));
        }
        let mut shared = self.shared.lock().unwrap();
        let is_expected = self.is(Wrong::OverwritesWhatOthersWrote) || self.revision(&shared) == *expected;
        let holds = self.is(Wrong::ForgetsTheLock) || fence.holds();
        let saved = if is_expected && holds {
            let mut content = bytes.expose().to_vec();
            if self.is(Wrong::CutsWhatIsLong) {
                content.truncate(64 * 1024);
            }
            if self.is(Wrong::WritesInTwoSteps) {
                shared.bytes = content[..content.len() / 2].to_vec();
                drop(shared);
                // Whoever reads has all the time that it needs.
                std::thread::sleep(std::time::Duration::from_millis(5));
                shared = self.shared.lock().unwrap();
            }
            shared.bytes = content;
            shared.version += 1;
            Saved::Saved(self.revision(&shared))
        } else {
            Saved::Conflict
        };
        Box::pin(std::future::ready(Ok(saved)))
    }

    fn remove(&self) -> BoxFuture<'_, Result<(), Error>> {
        if !self.is(Wrong::KeepsWhatIsRemoved) {
            let mut shared = self.shared.lock().unwrap();
            shared.bytes.clear();
            shared.version += 1;
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn is_current(&self, revision: &Revision) -> Result<bool, Error> {
        Ok(match self.wrong {
            Wrong::TakesAllForCurrent => true,
            Wrong::TakesNothingForCurrent => false,
            _ => self.revision(&self.shared.lock().unwrap()) == *revision,
        })
    }

    fn set_aside<'a>(&'a self, expected: &'a Revision) -> BoxFuture<'a, Result<Option<String>, Error>> {
        let mut shared = self.shared.lock().unwrap();
        let is_expected = self.is(Wrong::SetsAsideWhateverIsThere) || self.revision(&shared) == *expected;
        let kept = is_expected.then(|| {
            if !self.is(Wrong::OnlyClaimsToSetAside) {
                let bytes = std::mem::take(&mut shared.bytes);
                shared.kept.push(bytes);
                shared.version += 1;
            }
            format!("number {}", shared.kept.len())
        });
        Box::pin(std::future::ready(Ok(kept)))
    }

    fn lock_path(&self) -> Option<PathBuf> {
        let number = if self.is(Wrong::HasALockForEachHandle) {
            let mut shared = self.shared.lock().unwrap();
            shared.handles += 1;
            shared.handles
        } else {
            0
        };
        Some(self.folder.join(format!("theirs-{number}.lockfile")))
    }

    fn location(&self) -> Location {
        Location::Item("a structure of theirs".into())
    }

    fn protection(&self) -> Protection {
        Protection::None
    }

    fn kind(&self) -> &'static str {
        "theirs"
    }
}

impl fmt::Debug for TheirPersistence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TheirPersistence")?;
        if self.is(Wrong::ShowsWhatItHolds) {
            f.write_str(&String::from_utf8_lossy(&self.shared.lock().unwrap().bytes))?;
        }
        Ok(())
    }
}

fn report_of(wrong: Wrong, without: &[Promise], only: Option<&'static str>) -> Report {
    let folder = tempfile::tempdir().unwrap();
    let shared = Arc::new(Mutex::new(Shared::default()));
    let suite = conformance::of(|| TheirPersistence {
        shared: Arc::clone(&shared),
        folder: folder.path().to_owned(),
        wrong,
    });
    let suite = without.iter().fold(suite, |suite, promise| suite.without(*promise));
    match only {
        Some(check) => suite.only(check).run(),
        None => suite.run(),
    }
}

#[test]
fn a_third_party_can_conform() {
    let report = report_of(Wrong::Nothing, &[], None);
    assert!(report.failed.is_empty() && report.left_out.is_empty(), "{report}");
}

#[test]
fn what_cannot_be_promised_is_left_out_by_name() {
    let report = report_of(Wrong::Nothing, &[Promise::CompareAndSwap, Promise::SetAside], None);
    assert!(report.failed.is_empty(), "{report}");
    let left_out: Vec<_> = report.left_out.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        left_out,
        [
            "of_all_who_save_at_one_revision_without_a_lock_one_succeeds",
            "what_is_set_aside_is_out_of_the_way_and_only_at_its_revision",
            "a_damaged_document_is_set_aside_by_a_writer_who_goes_on",
        ]
    );
    assert!(report.to_string().contains("was left out: "), "{report}");
}

#[test]
fn each_fault_fails_a_check_that_names_it() {
    for (wrong, check) in [
        (Wrong::OverwritesWhatOthersWrote, "a_stale_revision_is_refused_and_nothing_is_overwritten"),
        (Wrong::OverwritesWhatOthersWrote, "of_all_who_save_at_one_revision_without_a_lock_one_succeeds"),
        (Wrong::ForgetsTheLock, "a_save_whose_lock_is_lost_changes_nothing"),
        (Wrong::LetsOthersInTooEarly, "others_are_let_in_when_the_new_document_is_there_and_not_before"),
        (Wrong::WritesInTwoSteps, "a_reader_sees_one_document_or_the_other"),
        (Wrong::TakesAllForCurrent, "a_revision_is_current_until_the_document_changes"),
        (Wrong::TakesNothingForCurrent, "a_revision_is_current_until_the_document_changes"),
        (Wrong::LooksAtTheLength, "a_rewrite_of_equal_length_is_noticed"),
        (Wrong::NumbersEachLoad, "equal_states_have_equal_revisions"),
        (Wrong::ShowsWhatItHolds, "handles_of_one_document_describe_it_alike_and_show_nothing_of_it"),
        (Wrong::KeepsWhatIsRemoved, "a_document_that_is_removed_is_gone_and_can_be_made_again"),
        (Wrong::HasALockForEachHandle, "the_lock_excludes_every_other_handle_and_ends_with_a_deadline"),
        (Wrong::HasALockForEachHandle, "of_all_handles_one_leads_and_is_succeeded"),
        (Wrong::CutsWhatIsLong, "what_is_saved_is_loaded_through_every_handle"),
        (Wrong::SetsAsideWhateverIsThere, "what_is_set_aside_is_out_of_the_way_and_only_at_its_revision"),
        // And it ends: nobody tries for ever.
        (Wrong::OnlyClaimsToSetAside, "a_damaged_document_is_set_aside_by_a_writer_who_goes_on"),
        (Wrong::OnlyClaimsToSetAside, "what_is_set_aside_is_out_of_the_way_and_only_at_its_revision"),
    ] {
        let report = report_of(wrong, &[], Some(check));
        assert_eq!(report.failed.first().map(|(name, _)| *name), Some(check), "{wrong:?}: {report}");
        assert!(report_of(Wrong::Nothing, &[], Some(check)).failed.is_empty(), "{check}");
    }
}

#[test]
#[should_panic(expected = "a_save_whose_lock_is_lost_changes_nothing: without the lock it is written")]
fn a_check_that_fails_is_a_panic_that_says_what_was_seen() {
    let shared = Arc::new(Mutex::new(Shared::default()));
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_owned();
    let open = move || TheirPersistence {
        shared: Arc::clone(&shared),
        folder: folder.clone(),
        wrong: Wrong::ForgetsTheLock,
    };
    conformance::of(open).check();
}
