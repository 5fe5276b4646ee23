//! The signal file of a document that lies in a keyring: empty, or `{}`, with a time of change that tells every
//! program when the keyring's item has changed.
//!
//! The peers look at nothing else before they load the item again, and neither do we: it costs one `stat`.

use std::fs::{File, FileTimes, Metadata};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};

use super::access::{self, OWNER_ONLY};
use super::file_system::FileSystem;
use super::revision::{Granularity, SETTLED, Stamp, is_due, nanoseconds};
use super::{PersistenceError, Revision, file, lock};
use crate::time::wall_clock;

/// The signal file at a path, there or not.
#[derive(Debug, Clone)]
pub(super) struct SignalFile {
    path: PathBuf,
    /// The state that was seen last, and since when. Only ever tried, never waited for: another thread may have been in
    /// it when this process was forked.
    seen: Arc<Mutex<Option<(Stamp, Instant)>>>,
}

impl SignalFile {
    /// # Errors
    /// The path cannot name a file.
    pub(super) fn at(path: &Path) -> Result<Self, PersistenceError> {
        Ok(Self { path: file::absolute(path)?, seen: Arc::default() })
    }

    /// What `msal_extensions` calls the item of the signal file at `path`, as it was given: its SHA-256 in hexadecimal
    /// digits.
    pub(super) fn name_of_item(path: &Path) -> String {
        let hash = digest(&SHA256, path.as_os_str().as_encoded_bytes());
        hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The peers' lock file, beside it.
    pub(super) fn lock_path(&self) -> PathBuf {
        access::with_suffix(&self.path, lock::PEERS_SUFFIX)
    }

    /// What the file is like now that the item is about to be read: what changes it meanwhile is signalled afterwards.
    pub(super) fn before_reading(&self) -> Result<Signalled, PersistenceError> {
        let (signal, began) = (self.look()?, Instant::now());
        let seen = signal.map_or(began, |(stamp, _)| self.seen_since(stamp, began));
        Ok(Signalled::before_reading(signal, seen, began))
    }

    /// Since when the file is known to be like this.
    fn seen_since(&self, stamp: Stamp, now: Instant) -> Instant {
        let Ok(mut last) = self.seen.try_lock() else { return now };
        match *last {
            Some((same, since)) if same == stamp => since,
            _ => {
                *last = Some((stamp, now));
                now
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file as it is now; `None` if there is none.
    ///
    /// # Errors
    /// Something else lies there: a cache in plain text, a sealed one. It is not touched.
    pub(super) fn look(&self) -> Result<Option<(Stamp, Granularity)>, PersistenceError> {
        let (target, found) = self.resolve()?;
        if found.is_none() {
            return Ok(None);
        }
        let file = match access::cautious_options().read(true).open(&target) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(PersistenceError::io("open", &target, source)),
        };
        let found = self.checked(&file, &target)?;
        let stamp = Stamp::of(&found);
        Ok(Some((stamp, Granularity::of(FileSystem::of(&file), &stamp))))
    }

    /// What the path says now, whatever lies there; `None` if nothing does. Cheap.
    fn stamp(&self) -> Result<Option<Stamp>, PersistenceError> {
        match std::fs::metadata(&self.path) {
            Ok(found) => Ok(Some(Stamp::of(&found))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(PersistenceError::io("look at", &self.path, source)),
        }
    }

    /// Makes sure that the file is there and can be written, so that who is about to change the item does not
    /// find out afterwards that nobody will learn of it.
    pub(super) fn prepare(&self) -> Result<(), PersistenceError> {
        self.open_to_write().map(drop)
    }

    /// Tells everybody that the item has changed: moves the time of change past every earlier one.
    ///
    /// Gives the file's stamps where nobody else can have given it the same; `None` where that is not sure.
    pub(super) fn advance(&self) -> Result<Option<Stamp>, PersistenceError> {
        /// Java and Node compare milliseconds; FAT has steps of two seconds.
        const STEPS: [Duration; 2] = [Duration::from_millis(1), Duration::from_secs(2)];

        let (file, target) = self.open_to_write()?;
        let failed = |source| PersistenceError::io("set the time of", &target, source);
        let modified = || file.metadata().and_then(|found| found.modified()).map_err(failed);
        let earlier = modified()?;
        for step in STEPS {
            // Where another clock has given it a time in our future, that is the one to be passed.
            let wanted = wall_clock().max(earlier + step);
            file.set_times(FileTimes::new().set_modified(wanted)).map_err(failed)?;
            let stored = modified()?;
            if milliseconds(stored) > milliseconds(earlier) {
                let found = file.metadata().map_err(failed)?;
                // To the nanosecond what we gave it: no other touch, before or after, gives it just that.
                let is_ours = stored == wanted && found.modified().map_err(failed)? == wanted;
                return Ok(is_ours.then(|| Stamp::of(&found)));
            }
        }
        Ok(None)
    }

    fn open_to_write(&self) -> Result<(File, PathBuf), PersistenceError> {
        loop {
            let (target, found) = self.resolve()?;
            let Some(found) = found else {
                access::prepare_directory(access::directory_of(&target), OWNER_ONLY)?;
                match access::create_new(&target, OWNER_ONLY) {
                    Ok(file) => return Ok((file, target)),
                    // Another process was faster.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                    Err(source) => return Err(PersistenceError::io("create", &target, source)),
                }
            };
            access::require_owner(&target, &found, OWNER_ONLY)?;
            let file = match access::cautious_options().read(true).write(true).open(&target) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(PersistenceError::io("open", &target, source)),
            };
            self.checked(&file, &target)?;
            return Ok((file, target));
        }
    }

    /// The path of the file itself, links of this user followed, and what lies there.
    fn resolve(&self) -> Result<(PathBuf, Option<Metadata>), PersistenceError> {
        let (target, found) = access::resolve_links(&self.path)?;
        if let Some(found) = found.as_ref().and_then(access::not_a_file) {
            return Err(PersistenceError::NotAFile { path: target, found });
        }
        access::check_directory(access::directory_of(&target))?;
        Ok((target, found))
    }

    /// Refuses a file that holds anything but what a signal file may.
    fn checked(&self, mut file: &File, target: &Path) -> Result<Metadata, PersistenceError> {
        /// MSAL Node writes this into it; the others leave it empty.
        const BY_NODE: &[u8] = b"{}";

        let failed = |source| PersistenceError::io("read", target, source);
        let mut start = [0; BY_NODE.len() + 1];
        let mut length = 0;
        while length < start.len() {
            match file.read(&mut start[length..]) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(failed(source)),
            }
        }
        if !matches!(&start[..length], b"" | BY_NODE) {
            return Err(PersistenceError::NotASignalFile { path: self.path.clone() });
        }
        file.metadata().map_err(failed)
    }
}

/// A signal file as it was before its item was read.
pub(super) struct Signalled {
    stamp: Option<Stamp>,
    /// When the file was first seen like this.
    seen: Instant,
    /// When the item was read, in nanoseconds after `seen`; or [`SETTLED`].
    verified: u64,
}

impl Signalled {
    /// The item was read from `began` on. The file was like this already, and has been at least since `seen`.
    fn before_reading(signal: Option<(Stamp, Granularity)>, seen: Instant, began: Instant) -> Self {
        let age = began.duration_since(seen);
        // Without a file nothing has ever been signalled: the next one who changes the item makes it.
        let is_settled = signal
            .is_none_or(|(stamp, granularity)| granularity.is_past(&stamp) || age > granularity.window());
        let verified = if is_settled { SETTLED } else { nanoseconds(age) };
        Self { stamp: signal.map(|(stamp, _)| stamp), seen, verified }
    }

    /// The file has stamps that nobody else can have given it.
    pub(super) fn by_us(stamp: Stamp) -> Self {
        Self { stamp: Some(stamp), seen: Instant::now(), verified: SETTLED }
    }

    /// Whether a look-up can rely on the item being the same where the file is found like this.
    ///
    /// Equal stamps that are young prove little (see `revision`). As the content of a young file is, the item is
    /// read again one clock tick after it was read, and then whenever the time since has doubled.
    fn relies_on(&self, found: Option<&Stamp>) -> bool {
        self.stamp.as_ref() == found
            && (self.verified == SETTLED || !is_due(self.verified, nanoseconds(self.seen.elapsed())))
    }
}

impl Revision {
    /// This state of an item, and what its signal file was like.
    pub(super) fn with_signal(mut self, signal: Option<Signalled>) -> Self {
        self.1 = signal.map(Arc::new);
        self
    }

    /// Whether the signal file shows that the item is still at this revision.
    pub(super) fn is_signalled_by(&self, signal: &SignalFile) -> Result<bool, PersistenceError> {
        match &self.1 {
            Some(signalled) => Ok(signalled.relies_on(signal.stamp()?.as_ref())),
            None => Ok(false),
        }
    }
}

fn milliseconds(time: SystemTime) -> u128 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signal() -> (tempfile::TempDir, SignalFile) {
        let folder = tempfile::tempdir().unwrap();
        let signal = SignalFile::at(&folder.path().join("made/signal")).unwrap();
        (folder, signal)
    }

    fn set_modified(signal: &SignalFile, time: SystemTime) {
        let file = File::options().write(true).open(signal.path()).unwrap();
        file.set_times(FileTimes::new().set_modified(time)).unwrap();
    }

    #[test]
    fn each_advance_is_at_least_a_millisecond_past_the_one_before_and_not_before_now() {
        let (_folder, signal) = signal();
        let modified = || signal.path().metadata().unwrap().modified().unwrap();
        let mut last = SystemTime::UNIX_EPOCH;
        for _ in 0..20 {
            let now = wall_clock();
            let stamp = signal.advance().unwrap();
            assert!(modified() >= now && milliseconds(modified()) > milliseconds(last));
            last = modified();
            assert!(stamp.is_none() || stamp == signal.stamp().unwrap());
        }
        assert_eq!(signal.path().metadata().unwrap().len(), 0);
        let ahead = wall_clock() + Duration::from_secs(3600);
        set_modified(&signal, ahead);
        signal.advance().unwrap();
        assert!(modified() > ahead, "a time that a faster clock has given is passed as well");
    }

    #[test]
    fn equal_stamps_are_believed_when_they_are_old_and_until_then_ever_longer() {
        let (_folder, signal) = signal();
        signal.advance().unwrap();
        let (stamp, granularity) = signal.look().unwrap().unwrap();
        let now = Instant::now();
        let ago = |milliseconds| now.checked_sub(Duration::from_millis(milliseconds)).unwrap();
        let read = |seen, began| Signalled::before_reading(Some((stamp, granularity)), seen, began);
        let far_ahead = Duration::from_secs(3600);
        // Seen now, read now: a write within this very tick would not show.
        assert!(read(now + far_ahead, now + far_ahead).relies_on(Some(&stamp)), "a tick long");
        assert!(!read(ago(25), ago(25)).relies_on(Some(&stamp)));
        assert!(!read(ago(80), ago(40)).relies_on(Some(&stamp)), "twice the age at the reading has passed");
        assert!(read(ago(3000), ago(20)).relies_on(Some(&stamp)), "settled");
        // As a file has them that was changed long ago.
        let (old, granularity) = (Stamp::of(&Path::new("/").metadata().unwrap()), granularity);
        assert!(Signalled::before_reading(Some((old, granularity)), now, now).relies_on(Some(&old)));
        assert!(!Signalled::by_us(stamp).relies_on(Some(&old)));
        assert!(!Signalled::by_us(stamp).relies_on(None));
        let without = Signalled::before_reading(None, now, now);
        assert!(without.relies_on(None) && !without.relies_on(Some(&stamp)));
    }

    #[test]
    fn only_nothing_an_empty_file_and_nodes_is_a_signal_file_and_its_content_stays() {
        let (_folder, signal) = signal();
        assert!(signal.look().unwrap().is_none());
        assert!(!signal.path().exists(), "looking leaves nothing behind");
        signal.prepare().unwrap();
        for content in ["", "{}"] {
            std::fs::OpenOptions::new().write(true).truncate(true).open(signal.path()).unwrap();
            write(signal.path(), content);
            assert!(signal.look().unwrap().is_some());
            signal.advance().unwrap();
            assert_eq!(std::fs::read_to_string(signal.path()).unwrap(), content);
        }
        for content in ["{", "{}\n", "{\"AccessToken\":{}}", "\u{feff}", "STRONGROOM1"] {
            write(signal.path(), content);
            set_modified(&signal, SystemTime::UNIX_EPOCH);
            for error in [
                signal.look().map(drop).unwrap_err(),
                signal.prepare().unwrap_err(),
                signal.advance().map(drop).unwrap_err(),
            ] {
                assert!(matches!(error, PersistenceError::NotASignalFile { .. }), "{content:?}: {error}");
            }
            assert_eq!(std::fs::read_to_string(signal.path()).unwrap(), content);
            assert_eq!(signal.path().metadata().unwrap().modified().unwrap(), SystemTime::UNIX_EPOCH);
        }
    }

    fn write(path: &Path, content: &str) {
        use std::io::Write as _;
        let mut file = File::options().write(true).truncate(true).open(path).unwrap();
        file.write_all(content.as_bytes()).unwrap();
    }
}
