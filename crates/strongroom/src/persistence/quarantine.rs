//! Moves a document that cannot be read out of the way, so that it can be looked at and no longer stands in it.

use std::io;
use std::path::{Path, PathBuf};

use super::access::{self, OWNER_ONLY};
use super::revision::Stamp;
use super::{PersistenceError, Revision, atomic};
use crate::time::{Clock as _, SystemClock, UnixSeconds};

/// How many documents that were set aside are kept.
const KEPT: usize = 3;

/// Renames `target` to `<name>.corrupt-<UTC time>`, owner-only, if it is still the file of `expected`, and
/// removes older ones beyond three. `None` if it is another file by now.
pub(super) fn set_aside(target: &Path, expected: &Revision) -> Result<Option<PathBuf>, PersistenceError> {
    let moved_to = move_aside(target)?;
    let moved =
        moved_to.symlink_metadata().map_err(|source| PersistenceError::io("look at", &moved_to, source))?;
    if !expected.is_of_renamed(&Stamp::of(&moved)) {
        // Somebody has replaced the document at the last moment: it goes back, if nothing newer is there yet.
        match atomic::rename(&moved_to, target, true) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(PersistenceError::io("put back", target, source)),
        }
        return Ok(None);
    }
    let file = access::cautious_options()
        .read(true)
        .open(&moved_to)
        .map_err(|source| PersistenceError::io("open", &moved_to, source))?;
    access::tighten(&file, &moved, OWNER_ONLY)
        .map_err(|source| PersistenceError::io("restrict", &moved_to, source))?;
    remove_oldest(target, &moved_to);
    let directory = access::directory_of(target);
    access::sync_directory(directory)
        .map_err(|source| PersistenceError::io("sync the directory", directory, source))?;
    Ok(Some(moved_to))
}

fn move_aside(target: &Path) -> Result<PathBuf, PersistenceError> {
    let time = utc(SystemClock.now());
    // Above all of this second: the number of one that was removed would make the newest look like the oldest.
    let mut number = times_of(target)
        .iter()
        .filter_map(|name| name.strip_prefix(&time))
        .map(|rest| rest.strip_prefix('-').and_then(|number| number.parse().ok()).unwrap_or(1_u32))
        .max()
        .map_or(1, |highest| highest + 1);
    loop {
        let path = access::with_suffix(target, &format!("{MARK}{}", numbered(&time, number)));
        match atomic::rename(target, &path, true) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < MOST => number += 1,
            Err(source) => return Err(PersistenceError::io("set aside", target, source)),
        }
    }
}

/// Removes all but the newest, of which `newest` is one, whatever the clock said. What cannot be removed is left:
/// it costs space, nothing else.
fn remove_oldest(target: &Path, newest: &Path) {
    let paths =
        times_of(target).into_iter().map(|time| access::with_suffix(target, &format!("{MARK}{time}")));
    let mut others: Vec<_> = paths.filter(|path| path != newest).collect();
    others.sort_unstable();
    for path in others.iter().rev().skip(KEPT - 1) {
        let _ = std::fs::remove_file(path);
    }
}

/// The times of the documents that were set aside already, as their names spell them.
fn times_of(target: &Path) -> Vec<String> {
    let Some(prefix) = target.file_name().and_then(|name| name.to_str()).map(|name| format!("{name}{MARK}"))
    else {
        return Vec::new();
    };
    let entries = std::fs::read_dir(access::directory_of(target)).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix(&prefix)?.to_owned()))
        .filter(|time| is_time(time))
        .collect()
}

/// What follows the name of a document that was set aside.
pub(super) const MARK: &str = ".corrupt-";

/// `YYYYMMDDTHHMMSSZ`, perhaps with a number behind.
fn is_time(text: &str) -> bool {
    let shape = |pattern: &str, text: &str| {
        pattern.len() == text.len()
            && pattern
                .bytes()
                .zip(text.bytes())
                .all(|(p, t)| if p == b'0' { t.is_ascii_digit() } else { p == t })
    };
    shape("00000000T000000Z", text) || shape("00000000T000000Z-00", text)
}

/// The `number`th name of one time, from 1 to [`MOST`]. Two digits, so that names sort by time.
pub(super) fn numbered(time: &str, number: u32) -> String {
    if number == 1 { time.to_owned() } else { format!("{time}-{number:02}") }
}

/// How many names there are for one time.
pub(super) const MOST: u32 = 99;

/// A moment as `YYYYMMDDTHHMMSSZ`.
pub(super) fn utc(moment: UnixSeconds) -> String {
    let (days, second) = (moment.get().div_euclid(86_400), moment.get().rem_euclid(86_400));
    // Howard Hinnant's civil_from_days: eras of 400 years that begin on 1 March.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_spelled_in_utc() {
        assert_eq!(utc(UnixSeconds::new(0)), "19700101T000000Z");
        assert_eq!(utc(UnixSeconds::new(951_782_399)), "20000228T235959Z");
        assert_eq!(utc(UnixSeconds::new(951_782_400)), "20000229T000000Z");
        assert_eq!(utc(UnixSeconds::new(1_735_689_599)), "20241231T235959Z");
        assert!(is_time("20241231T235959Z") && is_time("20241231T235959Z-02") && !is_time("20241231"));
    }
}
