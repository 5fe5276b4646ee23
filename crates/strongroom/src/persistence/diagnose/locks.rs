//! Who holds the locks of a document, and whether locks work where it lies.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::{Doctor, Finding, Place};
use crate::persistence::file_system::FileSystem;
use crate::persistence::lock::{self, Held, LockState};
use crate::persistence::{ChosenPersistence, Persistence as _, PersistenceError, access};
use crate::platform::range_lock;
use crate::wait::{block_on, sleep};

impl Doctor {
    pub(super) fn locks(&mut self, place: &Place, chosen: Option<&ChosenPersistence>) {
        let path = place.side_file(lock::OUR_SUFFIX);
        let state = until_free(|| lock::look_at_ours(&path));
        self.lock("lock", &path, state);
        let peers = match chosen {
            Some(chosen) => chosen.lock_path(),
            None => Some(place.side_file(lock::PEERS_SUFFIX)),
        };
        if let Some(path) = peers {
            let state = until_free(|| lock::look_at_peers(&path));
            self.lock("peers-lock", &path, state);
        }
    }

    fn lock(&mut self, check: &'static str, path: &Path, state: Result<LockState, PersistenceError>) {
        let location = path.display();
        self.push(match state {
            Err(error) => Finding::of_error(check, &error.into()),
            Ok(LockState::Absent) => {
                Finding::ok(check, format!("{location}: nobody holds it, it is not there"))
            }
            Ok(LockState::Free) => Finding::ok(check, format!("{location}: nobody holds it")),
            Ok(LockState::Held(Held { holder, .. })) => {
                let remedy = match holder.pid {
                    Some(pid) => format!("wait until process {pid} is done; if it hangs, end it"),
                    None => "wait until the program that holds it is done".to_owned(),
                };
                Finding::warn(check, format!("{location}: held by {holder}"), remedy)
            }
            Ok(LockState::Left(Held { holder, by_existence })) => {
                let mut remedy = format!("run 'rm {location}'");
                if by_existence {
                    remedy.push_str(": Strongroom takes it over, but MSAL Node waits for it in vain");
                }
                Finding::warn(check, format!("{location}: left by {holder}, who holds it no longer"), remedy)
            }
        });
    }
}

/// Looks again for a moment: a lock that is held for a write is soon free.
fn until_free(look: impl Fn() -> Result<LockState, PersistenceError>) -> Result<LockState, PersistenceError> {
    const LOOKS: u32 = 10;
    const PAUSE: Duration = Duration::from_millis(30);

    for _ in 1..LOOKS {
        match look()? {
            LockState::Held(_) => block_on(sleep(PAUSE)),
            state => return Ok(state),
        }
    }
    look()
}

/// Whether locks work between two that have the probe open, as two processes would.
pub(super) fn try_locks(path: &Path) -> Finding {
    const CHECK: &str = "file-locks";
    const BYTE: u64 = 4711;

    let try_them = || -> io::Result<(bool, bool, FileSystem)> {
        let open = || access::cautious_options().read(true).write(true).open(path);
        let (one, other) = (open()?, open()?);
        let whole = one.try_lock().is_ok() && other.try_lock().is_err();
        let _ = one.unlock();
        let byte = range_lock::try_lock(&one, BYTE)? && range_lock::is_locked(&other, BYTE)?;
        range_lock::unlock(&one, BYTE)?;
        Ok((whole, byte, FileSystem::of(&one)))
    };
    match try_them() {
        Ok((true, true, FileSystem::Remote)) if cfg!(target_os = "linux") => Finding::warn(
            CHECK,
            "they work here, but on a network or user-space file system they may not hold between hosts",
            "keep the cache on a disk of this host; each host then requests its tokens for itself",
        ),
        Ok((true, true, _)) => Finding::ok(CHECK, "they work here: one process requests a token for all"),
        Ok((false, _, _)) => Finding::warn(
            CHECK,
            "they do not work here: only the comparison before each write protects the cache",
            "keep the cache on a file system with locks (flock)",
        ),
        Ok((true, false, _)) | Err(_) => Finding::warn(
            CHECK,
            "locks on a part of a file do not work here: each process requests tokens for itself",
            "keep the cache on a file system with locks (fcntl)",
        ),
    }
}
