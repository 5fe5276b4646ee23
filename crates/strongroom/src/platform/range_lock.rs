//! Advisory locks on one byte of a file that belong to the open file, not to the process: two that open a file each
//! for itself exclude each other within one process as between two, and closing another descriptor ends nothing.
//!
//! Where there are no such locks the whole file stands for each of its bytes ([`WHOLE_FILE`]): who needs many of
//! them spreads them over several files.

#[cfg(any(target_os = "linux", windows))]
pub(crate) use self::one_byte::{WHOLE_FILE, is_locked, lock_shared, try_lock, unlock};
#[cfg(not(any(target_os = "linux", windows)))]
pub(crate) use self::whole_file::{WHOLE_FILE, is_locked, lock_shared, try_lock, unlock};

#[cfg(target_os = "linux")]
mod one_byte {
    use std::ffi::{c_int, c_short};
    use std::fs::File;
    use std::io;
    use std::os::fd::AsRawFd as _;

    pub(crate) const WHOLE_FILE: bool = false;

    /// Locks the byte exclusively if nobody else has it. Says whether it did.
    pub(crate) fn try_lock(file: &File, byte: u64) -> io::Result<bool> {
        match control(file, libc::F_OFD_SETLK, libc::F_WRLCK, byte) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Waits until nobody has the byte exclusively, and locks it shared.
    pub(crate) fn lock_shared(file: &File, byte: u64) -> io::Result<()> {
        control(file, libc::F_OFD_SETLKW, libc::F_RDLCK, byte).map(drop)
    }

    /// Whether somebody else has the byte exclusively.
    pub(crate) fn is_locked(file: &File, byte: u64) -> io::Result<bool> {
        // Asked for a lock that only an exclusive one stands in the way of.
        Ok(control(file, libc::F_OFD_GETLK, libc::F_RDLCK, byte)? != libc::F_UNLCK)
    }

    pub(crate) fn unlock(file: &File, byte: u64) -> io::Result<()> {
        control(file, libc::F_OFD_SETLK, libc::F_UNLCK, byte).map(drop)
    }

    /// Calls `fcntl` for one byte of the file, again if a signal interrupts it. The kind of lock that the answer has.
    fn control(file: &File, command: c_int, kind: c_int, byte: u64) -> io::Result<c_int> {
        let start = i64::try_from(byte).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the structure is plain numbers, for which zero is a value; the process id must be zero.
        let mut lock: libc::flock64 = unsafe { std::mem::zeroed() };
        lock.l_type = kind as c_short;
        lock.l_whence = libc::SEEK_SET as c_short;
        lock.l_start = start;
        lock.l_len = 1;
        loop {
            // SAFETY: the descriptor is open as long as `file` is borrowed, these commands take this structure, and
            // it outlives the call.
            if unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) } != -1 {
                return Ok(lock.l_type.into());
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }
}

#[cfg(windows)]
mod one_byte {
    use std::fs::File;
    use std::io;
    use std::os::windows::io::AsRawHandle as _;

    use windows_sys::Win32::Foundation::ERROR_LOCK_VIOLATION;
    use windows_sys::Win32::Storage::FileSystem::{
        LOCK_FILE_FLAGS, LOCKFILE_EXCLUSIVE_LOCK, LOCKFILE_FAIL_IMMEDIATELY, LockFileEx, UnlockFileEx,
    };
    use windows_sys::Win32::System::IO::OVERLAPPED;

    pub(crate) const WHOLE_FILE: bool = false;

    /// Locks the byte exclusively if nobody else has it. Says whether it did.
    pub(crate) fn try_lock(file: &File, byte: u64) -> io::Result<bool> {
        granted(lock(file, byte, LOCKFILE_EXCLUSIVE_LOCK | LOCKFILE_FAIL_IMMEDIATELY))
    }

    /// Waits until nobody has the byte exclusively, and locks it shared.
    pub(crate) fn lock_shared(file: &File, byte: u64) -> io::Result<()> {
        lock(file, byte, 0)
    }

    /// Whether somebody else has the byte exclusively. There is no call that only asks, so the lock is taken for an
    /// instant.
    pub(crate) fn is_locked(file: &File, byte: u64) -> io::Result<bool> {
        if granted(lock(file, byte, LOCKFILE_FAIL_IMMEDIATELY))? {
            unlock(file, byte)?;
            return Ok(false);
        }
        Ok(true)
    }

    pub(crate) fn unlock(file: &File, byte: u64) -> io::Result<()> {
        let mut at = position(byte);
        // SAFETY: the handle is open as long as `file` is borrowed, and the structure outlives the call.
        done(unsafe { UnlockFileEx(file.as_raw_handle(), 0, 1, 0, &raw mut at) })
    }

    fn lock(file: &File, byte: u64, flags: LOCK_FILE_FLAGS) -> io::Result<()> {
        let mut at = position(byte);
        // SAFETY: as in `unlock`. The standard library opens files for synchronous use, so the call is over when it
        // returns.
        done(unsafe { LockFileEx(file.as_raw_handle(), flags, 0, 1, 0, &raw mut at) })
    }

    fn position(byte: u64) -> OVERLAPPED {
        let mut position = OVERLAPPED::default();
        position.Anonymous.Anonymous.Offset = byte as u32;
        position.Anonymous.Anonymous.OffsetHigh = (byte >> 32) as u32;
        position
    }

    fn granted(result: io::Result<()>) -> io::Result<bool> {
        match result {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(ERROR_LOCK_VIOLATION.cast_signed()) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn done(result: i32) -> io::Result<()> {
        if result == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

// On Windows a lock on the whole file keeps others from reading it, too.
#[cfg(any(all(test, unix), not(any(target_os = "linux", windows))))]
mod whole_file {
    use std::fs::{File, TryLockError};
    use std::io;

    #[cfg_attr(test, allow(dead_code))]
    pub(crate) const WHOLE_FILE: bool = true;

    pub(crate) fn try_lock(file: &File, _byte: u64) -> io::Result<bool> {
        granted(file.try_lock())
    }

    pub(crate) fn lock_shared(file: &File, _byte: u64) -> io::Result<()> {
        loop {
            match file.lock_shared() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// As for one byte. There is no call that only asks, so the lock is taken for an instant.
    pub(crate) fn is_locked(file: &File, _byte: u64) -> io::Result<bool> {
        if granted(file.try_lock_shared())? {
            file.unlock()?;
            return Ok(false);
        }
        Ok(true)
    }

    pub(crate) fn unlock(file: &File, _byte: u64) -> io::Result<()> {
        file.unlock()
    }

    fn granted(result: Result<(), TryLockError>) -> io::Result<bool> {
        match result {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::path::Path;

    /// What either implementation must do.
    macro_rules! tests_of {
        ($implementation:ident) => {
            mod $implementation {
                use super::super::$implementation::{is_locked, lock_shared, try_lock, unlock};
                use super::open;

                #[test]
                fn opens_of_one_file_exclude_each_other() {
                    let folder = tempfile::tempdir().unwrap();
                    let path = folder.path().join("file");
                    let (first, second) = (open(&path), open(&path));
                    assert!(!is_locked(&first, 7).unwrap());
                    assert!(try_lock(&first, 7).unwrap());
                    assert!(!try_lock(&second, 7).unwrap());
                    assert!(is_locked(&second, 7).unwrap());
                    // Of process locks this would end the first one.
                    drop(open(&path));
                    assert!(!try_lock(&second, 7).unwrap());
                    unlock(&first, 7).unwrap();
                    assert!(try_lock(&second, 7).unwrap());
                    drop(second);
                    assert!(try_lock(&first, 7).unwrap(), "closing ends a lock");
                }

                #[test]
                fn a_shared_lock_is_told_from_an_exclusive_one_and_stands_in_its_way() {
                    let folder = tempfile::tempdir().unwrap();
                    let path = folder.path().join("file");
                    let (first, second, third) = (open(&path), open(&path), open(&path));
                    lock_shared(&first, 7).unwrap();
                    lock_shared(&second, 7).unwrap();
                    assert!(!try_lock(&third, 7).unwrap());
                    assert!(!is_locked(&third, 7).unwrap());
                    unlock(&first, 7).unwrap();
                    assert!(!try_lock(&third, 7).unwrap());
                    unlock(&second, 7).unwrap();
                    assert!(try_lock(&third, 7).unwrap());
                }

                #[test]
                fn who_waits_shared_is_let_in_when_the_exclusive_lock_ends() {
                    let folder = tempfile::tempdir().unwrap();
                    let path = folder.path().join("file");
                    let holder = open(&path);
                    assert!(try_lock(&holder, 7).unwrap());
                    std::thread::scope(|scope| {
                        let waiters: Vec<_> = (0..4)
                            .map(|_| {
                                let file = open(&path);
                                scope.spawn(move || lock_shared(&file, 7).unwrap())
                            })
                            .collect();
                        assert!(!try_lock(&open(&path), 7).unwrap());
                        unlock(&holder, 7).unwrap();
                        for waiter in waiters {
                            waiter.join().unwrap();
                        }
                    });
                    assert!(try_lock(&holder, 7).unwrap());
                }
            }
        };
    }

    #[cfg(any(target_os = "linux", windows))]
    tests_of!(one_byte);
    #[cfg(unix)]
    tests_of!(whole_file);

    #[cfg(any(target_os = "linux", windows))]
    #[test]
    fn every_byte_that_a_file_could_have_is_a_lock_of_its_own() {
        use super::{is_locked, try_lock};

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let (first, second) = (open(&path), open(&path));
        let last = i64::MAX.cast_unsigned();
        for byte in [0, 7, last - 1, last] {
            assert!(try_lock(&first, byte).unwrap());
        }
        for byte in [1, 6, 8, last - 2] {
            assert!(try_lock(&second, byte).unwrap());
        }
        assert!(is_locked(&second, last).unwrap());
        #[cfg(unix)]
        assert!(try_lock(&first, last + 1).is_err());
    }

    fn open(path: &Path) -> File {
        OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).unwrap()
    }
}
