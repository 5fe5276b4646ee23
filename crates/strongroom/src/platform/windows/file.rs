//! Which file a handle names, and renaming without replacing.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::windows::io::AsRawHandle as _;
use std::path::Path;

use windows_sys::Win32::Storage::FileSystem::{GetFileInformationByHandle, MoveFileExW};

use super::{checked, wide_path};

/// The volume and the number of the file on it.
pub(crate) fn identity(file: &File) -> io::Result<(u64, u64)> {
    let mut found = MaybeUninit::uninit();
    // SAFETY: the handle is open as long as `file` is borrowed.
    checked(unsafe { GetFileInformationByHandle(file.as_raw_handle(), found.as_mut_ptr()) })?;
    // SAFETY: the call has succeeded, so it has filled the structure.
    let found = unsafe { found.assume_init() };
    let number = u64::from(found.nFileIndexHigh) << 32 | u64::from(found.nFileIndexLow);
    Ok((found.dwVolumeSerialNumber.into(), number))
}

/// Renames a file, never over an existing one.
pub(crate) fn rename_without_replacing(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (wide_path(from)?, wide_path(to)?);
    // SAFETY: both paths end with a zero and outlive the call.
    checked(unsafe { MoveFileExW(from.as_ptr(), to.as_ptr(), 0) })
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_its_identity_when_it_is_renamed_and_another_one_has_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other, third] = ["one", "other", "third"].map(|name| folder.path().join(name));
        std::fs::write(&one, "1").unwrap();
        std::fs::write(&other, "2").unwrap();
        let of = |path| identity(&File::open(path).unwrap()).unwrap();
        let first = of(&one);
        assert_ne!(first, of(&other));
        assert_eq!(rename_without_replacing(&one, &other).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        rename_without_replacing(&one, &third).unwrap();
        assert_eq!(of(&third), first);
    }
}
