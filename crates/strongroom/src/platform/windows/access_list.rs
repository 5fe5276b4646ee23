//! Files and directories that only this user may use.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _, OwnedHandle};
use std::path::Path;
use std::ptr;

use windows_sys::Win32::Foundation::{GENERIC_READ, GENERIC_WRITE, HANDLE, INVALID_HANDLE_VALUE};
use windows_sys::Win32::Security::Authorization::{
    ConvertSidToStringSidW, ConvertStringSecurityDescriptorToSecurityDescriptorW, GetSecurityInfo,
    SDDL_REVISION_1, SE_FILE_OBJECT,
};
use windows_sys::Win32::Security::{
    ACCESS_ALLOWED_ACE, ACE_HEADER, ACL, DACL_SECURITY_INFORMATION, EqualSid, GetAce, GetTokenInformation,
    INHERIT_ONLY_ACE, IsWellKnownSid, PROTECTED_DACL_SECURITY_INFORMATION, PSID, SECURITY_ATTRIBUTES,
    SetKernelObjectSecurity, TOKEN_QUERY, TOKEN_USER, TokenUser, WinBuiltinAdministratorsSid,
    WinCreatorOwnerRightsSid, WinLocalSystemSid,
};
use windows_sys::Win32::Storage::FileSystem::{
    CREATE_NEW, CreateDirectoryW, CreateFileW, FILE_FLAG_OPEN_REPARSE_POINT, FILE_SHARE_DELETE,
    FILE_SHARE_READ, FILE_SHARE_WRITE, ReOpenFile, WRITE_DAC,
};
use windows_sys::Win32::System::Threading::{
    GetCurrentProcess, GetCurrentThread, OpenProcessToken, OpenThreadToken,
};

use super::{Allocated, checked, wide_path, wide_text};

/// Creates a new file for reading and writing, never an existing one, that this user alone may use.
pub(crate) fn create_file(path: &Path) -> io::Result<File> {
    let path = wide_path(path)?;
    let only_us = OnlyUs::for_a_file()?;
    let attributes = only_us.attributes();
    // SAFETY: the path ends with a zero, and it and the attributes outlive the call.
    let handle = unsafe {
        CreateFileW(
            path.as_ptr(),
            GENERIC_READ | GENERIC_WRITE,
            SHARED,
            &raw const attributes,
            CREATE_NEW,
            FILE_FLAG_OPEN_REPARSE_POINT,
            ptr::null_mut(),
        )
    };
    owned(handle).map(File::from)
}

/// Creates a directory that this user alone may use, as what will be created in it, unless it is there.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    let path = wide_path(path)?;
    let only_us = OnlyUs::for_a_directory()?;
    let attributes = only_us.attributes();
    // SAFETY: as in `create_file`.
    checked(unsafe { CreateDirectoryW(path.as_ptr(), &raw const attributes) })
}

/// Somebody other than this user who may use the file, by the identifier. The system and the administrators do not
/// count: no list keeps them out.
pub(crate) fn stranger(file: &File) -> io::Result<Option<String>> {
    let mut list: *mut ACL = ptr::null_mut();
    let mut descriptor = Allocated(ptr::null_mut());
    // SAFETY: the handle is open as long as `file` is borrowed; the list lies in the descriptor, which is freed when
    // `descriptor` is dropped.
    let status = unsafe {
        GetSecurityInfo(
            file.as_raw_handle(),
            SE_FILE_OBJECT,
            DACL_SECURITY_INFORMATION,
            ptr::null_mut(),
            ptr::null_mut(),
            &raw mut list,
            ptr::null_mut(),
            &raw mut descriptor.0,
        )
    };
    if status != 0 {
        return Err(io::Error::from_raw_os_error(status.cast_signed()));
    }
    // SAFETY: a list that is there is valid as long as its descriptor.
    let Some(count) = (unsafe { list.as_ref() }).map(|list| list.AceCount) else {
        return Ok(Some("everybody".into()));
    };
    let user = User::current()?;
    for index in 0..u32::from(count) {
        let mut entry = ptr::null_mut();
        // SAFETY: the list is valid and has this entry.
        checked(unsafe { GetAce(list, index, &raw mut entry) })?;
        // SAFETY: every entry begins with this header.
        let header = unsafe { &*entry.cast::<ACE_HEADER>() };
        let kind = header.AceType;
        if kind == ACCESS_DENIED_ACE_TYPE || u32::from(header.AceFlags) & INHERIT_ONLY_ACE != 0 {
            continue;
        }
        if kind != ACCESS_ALLOWED_ACE_TYPE {
            return Ok(Some("whoever fulfils a condition".into()));
        }
        let entry = entry.cast::<ACCESS_ALLOWED_ACE>();
        // SAFETY: an entry of this type has this layout, its identifier at the end.
        let (mask, identifier) = unsafe { ((*entry).Mask, (&raw mut (*entry).SidStart).cast::<c_void>()) };
        // SAFETY: both identifiers are valid, the first as long as the descriptor.
        let known = unsafe {
            EqualSid(identifier, user.identifier()) != 0
                || [WinLocalSystemSid, WinBuiltinAdministratorsSid, WinCreatorOwnerRightsSid]
                    .into_iter()
                    .any(|kind| IsWellKnownSid(identifier, kind) != 0)
        };
        if mask != 0 && !known {
            return spelled(identifier).map(Some);
        }
    }
    Ok(None)
}

/// Takes the file away from everybody but this user.
pub(crate) fn restrict(file: &File) -> io::Result<()> {
    let only_us = OnlyUs::for_a_file()?;
    // SAFETY: the handle is open as long as `file` is borrowed.
    let handle = unsafe { ReOpenFile(file.as_raw_handle(), GENERIC_READ | WRITE_DAC, SHARED, 0) };
    let handle = owned(handle)?;
    let what = DACL_SECURITY_INFORMATION | PROTECTED_DACL_SECURITY_INFORMATION;
    // SAFETY: the handle is open and the descriptor valid.
    checked(unsafe { SetKernelObjectSecurity(handle.as_raw_handle(), what, only_us.0.0) })
}

/// The two plain types of entries; the header that names them is a large one.
const ACCESS_ALLOWED_ACE_TYPE: u8 = 0;
const ACCESS_DENIED_ACE_TYPE: u8 = 1;

/// As the standard library opens files: nobody is kept from reading, writing, renaming or deleting it.
const SHARED: u32 = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;

/// A security descriptor: this user is the owner and has full access, nobody else has any, nothing is inherited
/// from the directory above.
struct OnlyUs(Allocated);

impl OnlyUs {
    fn for_a_file() -> io::Result<Self> {
        Self::new("")
    }

    fn for_a_directory() -> io::Result<Self> {
        Self::new("OICI")
    }

    fn new(inherited_by: &str) -> io::Result<Self> {
        let user = spelled(User::current()?.identifier())?;
        let text = wide_text(&format!("O:{user}D:P(A;{inherited_by};FA;;;{user})"));
        let mut descriptor = Allocated(ptr::null_mut());
        // SAFETY: the text ends with a zero; the descriptor is freed when it is dropped.
        checked(unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                text.as_ptr(),
                SDDL_REVISION_1,
                &raw mut descriptor.0,
                ptr::null_mut(),
            )
        })?;
        Ok(Self(descriptor))
    }

    fn attributes(&self) -> SECURITY_ATTRIBUTES {
        SECURITY_ATTRIBUTES {
            nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
            lpSecurityDescriptor: self.0.0,
            bInheritHandle: 0,
        }
    }
}

/// The user that this thread acts for.
struct User(Vec<u64>);

impl User {
    fn current() -> io::Result<Self> {
        let mut token = ptr::null_mut();
        // SAFETY: the pseudo handles are always valid. Only a thread that acts for another user has its own token.
        checked(unsafe { OpenThreadToken(GetCurrentThread(), TOKEN_QUERY, 1, &raw mut token) })
            // SAFETY: as above.
            .or_else(|_| {
                checked(unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &raw mut token) })
            })?;
        let token = owned(token)?;
        let mut length = 0;
        // SAFETY: it writes into nothing but the length; that there is no room is what it is asked for.
        unsafe { GetTokenInformation(token.as_raw_handle(), TokenUser, ptr::null_mut(), 0, &raw mut length) };
        // Of words, because the answer begins with a pointer.
        let mut answer = vec![0_u64; (length as usize).div_ceil(size_of::<u64>())];
        // SAFETY: the buffer has at least the length that it is said to have.
        checked(unsafe {
            GetTokenInformation(
                token.as_raw_handle(),
                TokenUser,
                answer.as_mut_ptr().cast(),
                length,
                &raw mut length,
            )
        })?;
        Ok(Self(answer))
    }

    /// Valid as long as this is.
    fn identifier(&self) -> PSID {
        // SAFETY: the system has filled the buffer with this structure, which is aligned in it.
        unsafe { (*self.0.as_ptr().cast::<TOKEN_USER>()).User.Sid }
    }
}

/// An identifier as text: `S-1-5-21-…`. It must be valid.
fn spelled(identifier: PSID) -> io::Result<String> {
    let mut text = ptr::null_mut();
    // SAFETY: the callers have it from the system; the text is freed below.
    checked(unsafe { ConvertSidToStringSidW(identifier, &raw mut text) })?;
    let _text = Allocated(text.cast());
    // SAFETY: the text ends with a zero.
    let length = (0..).take_while(|index| unsafe { *text.add(*index) } != 0).count();
    // SAFETY: as above.
    Ok(String::from_utf16_lossy(unsafe { std::slice::from_raw_parts(text, length) }))
}

/// A handle that a call has just opened, or its error.
fn owned(handle: HANDLE) -> io::Result<OwnedHandle> {
    if handle.is_null() || handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and nobody else has it.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use std::os::windows::fs::OpenOptionsExt as _;

    use windows_sys::Win32::Storage::FileSystem::FILE_FLAG_BACKUP_SEMANTICS;

    use super::*;

    #[test]
    fn what_is_created_is_ours_alone_and_created_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let file = create_file(&path).unwrap();
        assert_eq!(stranger(&file).unwrap(), None);
        assert_eq!(create_file(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);

        let directory = folder.path().join("directory");
        create_directory(&directory).unwrap();
        // Opens a directory, too.
        let opened =
            std::fs::File::options().read(true).custom_flags(FILE_FLAG_BACKUP_SEMANTICS).open(&directory);
        assert_eq!(stranger(&opened.unwrap()).unwrap(), None);
        assert_eq!(create_directory(&directory).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_file_that_others_may_use_is_taken_away_from_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "content").unwrap();
        let file = File::open(&path).unwrap();
        assert!(stranger(&file).unwrap().is_some_and(|who| who.starts_with("S-1-")));
        restrict(&file).unwrap();
        assert_eq!(stranger(&File::open(&path).unwrap()).unwrap(), None);
        assert_eq!(std::fs::read(&path).unwrap(), b"content");
    }
}
