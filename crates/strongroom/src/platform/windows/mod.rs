//! Windows: who may use a file, which file it is, which process lives, data that only this user can read.
//!
//! Handles, identifiers and memory of the system are held by types that give them back; nothing here keeps state.

pub(crate) mod access_list;
pub(crate) mod data_protection;
pub(crate) mod file;
pub(crate) mod process;

use std::ffi::c_void;
use std::io;
use std::os::windows::ffi::OsStrExt as _;
use std::path::{Component, Path, Prefix};

use windows_sys::Win32::Foundation::LocalFree;
use windows_sys::core::BOOL;

/// What a call says that answers with a truth value.
fn checked(result: BOOL) -> io::Result<()> {
    if result == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A path as the system's calls take it: UTF-16 with a zero at its end.
fn wide_path(path: &Path) -> io::Result<Vec<u16>> {
    /// From this length on the plain calls refuse a path; with directories even a little earlier.
    const LONG: usize = 248;

    let mut wide: Vec<u16> = path.as_os_str().encode_wide().collect();
    if wide.contains(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    if wide.len() >= LONG && path.is_absolute() {
        match path.components().next() {
            Some(Component::Prefix(prefix)) if matches!(prefix.kind(), Prefix::Disk(_)) => {
                wide.splice(0..0, r"\\?\".encode_utf16());
            }
            Some(Component::Prefix(prefix)) if matches!(prefix.kind(), Prefix::UNC(..)) => {
                wide.splice(0..2, r"\\?\UNC\".encode_utf16());
            }
            _ => {}
        }
    }
    wide.push(0);
    Ok(wide)
}

fn wide_text(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}

/// Memory that a call of the system has allocated for us.
struct Allocated(*mut c_void);

impl Drop for Allocated {
    fn drop(&mut self) {
        // SAFETY: the pointer came from a call that says so, and is used no more. For null this does nothing.
        unsafe { LocalFree(self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide(path: &str) -> String {
        String::from_utf16(&wide_path(Path::new(path)).unwrap()).unwrap()
    }

    #[test]
    fn a_long_path_is_spelled_so_that_the_system_takes_it() {
        let long = "x".repeat(250);
        assert_eq!(wide(r"C:\cache.bin"), "C:\\cache.bin\0");
        assert_eq!(wide(&format!(r"C:\{long}")), format!("\\\\?\\C:\\{long}\0"));
        assert_eq!(wide(&format!(r"\\server\share\{long}")), format!("\\\\?\\UNC\\server\\share\\{long}\0"));
        assert_eq!(wide(&format!(r"\\?\C:\{long}")), format!("\\\\?\\C:\\{long}\0"));
        assert!(wide_path(Path::new("C:\\a\0b")).is_err());
    }
}
