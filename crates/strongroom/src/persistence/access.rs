//! Who may use which file: the rules about owners, permission bits, links and directories that documents and
//! lock files share. What is special to one operating system stands here, in small functions.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::PersistenceError;

/// Permissions of what only its owner may use.
pub(super) const OWNER_ONLY: u32 = 0o600;

/// Permissions of what a group shares.
pub(super) const GROUP: u32 = 0o660;

/// Whether files of this mode are shared by a group, so that those of another owner are expected.
pub(super) const fn is_shared(mode: u32) -> bool {
    mode & 0o060 != 0
}

/// `path` with `suffix` appended to its last component.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// The directory that `path` lies in.
pub(super) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes the directory that a file of `mode` is to be written into, if it is missing, and refuses it if
/// everybody could replace files in it.
pub(super) fn prepare_directory(directory: &Path, mode: u32) -> Result<(), PersistenceError> {
    if check_directory(directory)? {
        return Ok(());
    }
    let mut missing = vec![directory];
    while let Some(parent) = missing.last().and_then(|path| path.parent()) {
        if parent.as_os_str().is_empty() || check_directory(parent)? {
            break;
        }
        missing.push(parent);
    }
    for path in missing.into_iter().rev() {
        create_directory(path, mode)
            .map_err(|source| PersistenceError::io("create the directory", path, source))?;
        // Without this a crash could take the directory, and with it a document that was reported as stored.
        sync_directory(directory_of(path))
            .map_err(|source| PersistenceError::io("sync the directory", path, source))?;
    }
    Ok(())
}

/// Whether the directory is there; an error if everybody could replace files in it.
pub(super) fn check_directory(directory: &Path) -> Result<bool, PersistenceError> {
    match std::fs::metadata(directory) {
        Ok(found) if !found.is_dir() => Err(PersistenceError::Io {
            action: "use the directory",
            path: directory.to_owned(),
            source: io::ErrorKind::NotADirectory.into(),
        }),
        Ok(found) => {
            refuse_open_directory(directory, &found)?;
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(PersistenceError::io("look at the directory", directory, source)),
    }
}

/// Makes the entries of a directory durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        // Windows cannot open a directory for this, and its renames are journalled.
        return Ok(());
    }
    match File::open(directory)?.sync_all() {
        // Some network and FUSE file systems cannot sync a directory; there is nothing more to be done there.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Ok(())
        }
        result => result,
    }
}

/// What to say of something that should be a regular file, `None` if it is one.
pub(super) fn not_a_file(found: &Metadata) -> Option<&'static str> {
    let kind = found.file_type();
    if kind.is_file() {
        return None;
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt as _;
        if kind.is_fifo() {
            return Some("a named pipe (FIFO)");
        }
        if kind.is_socket() {
            return Some("a socket");
        }
        if kind.is_block_device() || kind.is_char_device() {
            return Some("a device");
        }
    }
    Some(match () {
        () if kind.is_dir() => "a directory",
        () if kind.is_symlink() => "a symbolic link",
        () => "a special file",
    })
}

/// Refuses a file that belongs to another user, unless a group shares it.
pub(super) fn require_owner(path: &Path, found: &Metadata, mode: u32) -> Result<(), PersistenceError> {
    match foreign_owner(found) {
        Some((owner, user)) if !is_shared(mode) => {
            Err(PersistenceError::WrongOwner { path: path.to_owned(), owner, user })
        }
        _ => Ok(()),
    }
}

/// Refuses to take the word of a file that another user but root has written, or can write where it is root's, unless a
/// group shares it. Whoever may create files where a cache is expected could else hand us tokens of his own.
pub(super) fn require_trusted_owner(
    path: &Path,
    found: &Metadata,
    mode: u32,
) -> Result<(), PersistenceError> {
    match foreign_owner(found) {
        Some((0, _)) if !is_writable_by_others(found) => Ok(()),
        _ => require_owner(path, found, mode),
    }
}

/// Follows symbolic links of this user from `location` to the path of the file itself.
///
/// The links of a directory on the way are the operating system's business; only the last component decides
/// which file is read or replaced.
pub(super) fn resolve_links(location: &Path) -> Result<(PathBuf, Option<Metadata>), PersistenceError> {
    /// As many as Linux follows.
    const MOST: usize = 40;

    let mut path = location.to_owned();
    for _ in 0..MOST {
        let found = match path.symlink_metadata() {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((path, None)),
            Err(source) => return Err(PersistenceError::io("look at", &path, source)),
        };
        if !found.is_symlink() {
            return Ok((path, Some(found)));
        }
        if let Some((owner, user)) = foreign_owner(&found) {
            let reason = format!("of user {owner}, this process runs as user {user}");
            return Err(PersistenceError::UnsafeLink { path, reason });
        }
        let target =
            path.read_link().map_err(|source| PersistenceError::io("read the link", &path, source))?;
        path = directory_of(&path).join(target);
    }
    let reason = format!("that leads through more than {MOST} others");
    Err(PersistenceError::UnsafeLink { path: location.to_owned(), reason })
}

/// Options that open what is there, without following a link in the last component and without hanging on a
/// pipe that nobody writes to.
pub(super) fn cautious_options() -> OpenOptions {
    #[allow(unused_mut)] // elsewhere than on Unix
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt as _;
        // The standard library adds O_CLOEXEC.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        options.custom_flags(flags.bits().cast_signed());
    }
    options
}

/// Whether an error of `open` says that the last component is a symbolic link.
pub(super) fn is_link_error(error: &io::Error) -> bool {
    #[cfg(unix)]
    {
        error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
    }
    #[cfg(not(unix))]
    {
        let _ = error;
        false
    }
}

/// Does what others may be in the way of for a moment: again and again for about a second, while the error may mean
/// no more than that. Blocks the thread meanwhile, as a slow disk would.
pub(super) fn despite_others<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    const PATIENCE: Duration = Duration::from_secs(1);
    const LONGEST_PAUSE: Duration = Duration::from_millis(50);

    let began = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        match attempt() {
            Err(error) if may_pass(&error).is_some_and(|long| began.elapsed() < long.min(PATIENCE)) => {
                std::thread::sleep(pause);
                pause = LONGEST_PAUSE.min(2 * pause);
            }
            result => return result,
        }
    }
}

/// Which file a path or a descriptor names: device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

#[cfg(unix)]
mod platform {
    use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};

    use super::*;

    impl FileId {
        pub(in super::super) fn of(file: &File) -> io::Result<Self> {
            file.metadata().map(|found| Self::of_metadata(&found))
        }

        /// Of what the path itself names, a link perhaps.
        pub(in super::super) fn at(path: &Path) -> io::Result<Self> {
            path.symlink_metadata().map(|found| Self::of_metadata(&found))
        }

        fn of_metadata(found: &Metadata) -> Self {
            Self { device: found.dev(), inode: found.ino() }
        }
    }

    /// Creates a new file for reading and writing, never an existing one, with exactly this mode.
    pub(in super::super) fn create_new(path: &Path, mode: u32) -> io::Result<File> {
        let mut options = cautious_options();
        let file = options.read(true).write(true).create_new(true).mode(mode).open(path)?;
        if is_shared(mode) {
            // The umask may have taken the group's bits.
            set_mode(&file, mode)?;
        }
        Ok(file)
    }

    /// The owner of a file and the user of this process, if they differ.
    pub(in super::super) fn foreign_owner(found: &Metadata) -> Option<(u32, u32)> {
        let user = rustix::process::geteuid().as_raw();
        (found.uid() != user).then_some((found.uid(), user))
    }

    /// The permissions of a file of ours in words, if they are wider than `mode`.
    pub(in super::super) fn wider(_: &File, found: &Metadata, mode: u32) -> Option<String> {
        wider_mode(found, mode).map(in_words)
    }

    /// Takes away the permissions that a file of ours has beyond `mode`. Says which it had, if any were taken.
    pub(in super::super) fn tighten(file: &File, found: &Metadata, mode: u32) -> io::Result<Option<String>> {
        let Some(has) = wider_mode(found, mode) else { return Ok(None) };
        set_mode(file, has & mode)?;
        Ok(Some(in_words(has)))
    }

    fn wider_mode(found: &Metadata, mode: u32) -> Option<u32> {
        let has = found.mode() & 0o7777;
        (has & !mode != 0 && foreign_owner(found).is_none()).then_some(has)
    }

    fn in_words(mode: u32) -> String {
        format!("mode {mode:04o}")
    }

    fn set_mode(file: &File, mode: u32) -> io::Result<()> {
        file.set_permissions(std::fs::Permissions::from_mode(mode))
    }

    pub(in super::super) fn create_directory(path: &Path, mode: u32) -> io::Result<()> {
        let for_group = if mode & 0o020 != 0 {
            0o070
        } else if mode & 0o040 != 0 {
            0o050
        } else {
            0
        };
        let result = std::fs::DirBuilder::new().mode(0o700 | for_group).create(path);
        match result {
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            Ok(()) if for_group != 0 => {
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700 | for_group))
            }
            result => result,
        }
    }

    pub(in super::super) fn refuse_open_directory(
        path: &Path,
        found: &Metadata,
    ) -> Result<(), PersistenceError> {
        const STICKY: u32 = 0o1000;
        let mode = found.mode() & 0o7777;
        if mode & 0o002 != 0 && mode & STICKY == 0 {
            return Err(PersistenceError::UnsafeDirectory { path: path.to_owned(), mode });
        }
        Ok(())
    }

    /// Gives a new file the group of the one that it is to replace. Only a member of the group can.
    pub(in super::super) fn adopt_group(file: &File, old: &Metadata) -> io::Result<()> {
        if file.metadata()?.gid() == old.gid() {
            return Ok(());
        }
        rustix::fs::fchown(file, None, Some(rustix::fs::Gid::from_raw(old.gid()))).map_err(io::Error::from)
    }

    /// Whether the file has an access list, beside its mode.
    pub(in super::super) fn has_access_list(path: &Path) -> bool {
        access_list(path).is_some()
    }

    /// Gives a new file the access list of the one that it is to replace, if that has one.
    pub(in super::super) fn adopt_access_list(file: &File, old: &Path) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        if let Some(list) = access_list(old) {
            rustix::fs::fsetxattr(file, ACCESS_LIST, &list, rustix::fs::XattrFlags::empty())?;
        }
        let _ = (file, old);
        Ok(())
    }

    fn access_list(path: &Path) -> Option<Vec<u8>> {
        #[cfg(target_os = "linux")]
        {
            // As long as an extended attribute may be.
            let mut list = vec![0; 64 << 10];
            let length = rustix::fs::getxattr(path, ACCESS_LIST, &mut list[..]).ok()?;
            list.truncate(length);
            Some(list)
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = path;
            None
        }
    }

    #[cfg(target_os = "linux")]
    const ACCESS_LIST: &str = "system.posix_acl_access";

    /// Whether more than the file's owner can write it.
    pub(in super::super) fn is_writable_by_others(found: &Metadata) -> bool {
        found.mode() & 0o022 != 0
    }

    /// Whether a group shares this document on purpose: it alone, to read and to write, and this user is in it. What
    /// another user owns is believed only where the directory is that group's too.
    pub(in super::super) fn is_shared_by_group(target: &Path, found: &Metadata) -> bool {
        let is_member = || {
            rustix::process::getegid().as_raw() == found.gid()
                || rustix::process::geteuid().is_root()
                || rustix::process::getgroups()
                    .is_ok_and(|groups| groups.iter().any(|group| group.as_raw() == found.gid()))
        };
        let is_of_the_groups_directory = || {
            directory_of(target)
                .metadata()
                .is_ok_and(|directory| directory.gid() == found.gid() && directory.mode() & 0o020 != 0)
        };
        found.mode() & 0o077 == 0o060
            && is_member()
            && (foreign_owner(found).is_none() || is_of_the_groups_directory())
    }

    /// For how long this error may mean no more than that others are at the file: here a file can always be used
    /// by many.
    pub(in super::super) fn may_pass(_: &io::Error) -> Option<Duration> {
        None
    }

    /// Whether a process of this number runs on this host. In doubt it does.
    pub(in super::super) fn is_alive(pid: u32) -> bool {
        let known = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        known.is_some_and(|known| rustix::process::test_kill_process(known) != Err(rustix::io::Errno::SRCH))
            && !is_zombie(pid)
    }

    /// Whether it has ended and its parent has not asked for that yet, which may take for ever.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn is_zombie(pid: u32) -> bool {
        std::fs::read(format!("/proc/{pid}/stat")).is_ok_and(|stat| is_of_zombie(&stat))
    }

    /// Whether this is what `/proc/PID/stat` (`proc_pid_stat(5)`) says of a process that has ended.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn is_of_zombie(stat: &[u8]) -> bool {
        /// So many fields after its state is the number of threads.
        const THREADS: usize = 17;

        // The program's name before it stands in parentheses, and may have some itself.
        let Some(end_of_name) = stat.iter().rposition(|byte| *byte == b')') else { return false };
        let fields = stat[end_of_name + 1..].split(u8::is_ascii_whitespace);
        let mut fields = fields.filter(|field| !field.is_empty());
        let has_ended = matches!(fields.next(), Some(b"Z" | b"X"));
        // Where only the first thread has ended, the others go on.
        has_ended && fields.nth(THREADS - 1).is_none_or(|threads| matches!(threads, b"0" | b"1"))
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn is_zombie(_pid: u32) -> bool {
        false
    }

    #[cfg(all(test, target_os = "linux"))]
    mod tests {
        use super::*;

        #[test]
        fn a_process_is_dead_when_its_last_thread_has_ended_whatever_its_name_is() {
            let stat = |name: &str, state: &str, threads: u32| {
                format!("25 ({name}) {state} 2 25 84 0 -1 4194304 102 0 0 0 0 0 0 0 20 0 {threads} 0 28657")
            };
            for name in ["python3", "a) Z 1 (b", "", ") R"] {
                for (state, threads, is_dead) in
                    [("Z", 1, true), ("X", 0, true), ("Z", 2, false), ("S", 1, false), ("R", 9, false)]
                {
                    assert_eq!(
                        is_of_zombie(stat(name, state, threads).as_bytes()),
                        is_dead,
                        "{name} {state}"
                    );
                }
            }
            for cut in ["", "25", "25 (a", "25 (a)", "25 (a) "] {
                assert!(!is_of_zombie(cut.as_bytes()), "{cut:?}");
            }
            assert!(is_alive(std::process::id()));
        }
    }
}

#[cfg(windows)]
mod platform {
    use std::os::windows::fs::OpenOptionsExt as _;

    use windows_sys::Win32::Foundation::{
        ERROR_ACCESS_DENIED, ERROR_LOCK_VIOLATION, ERROR_SHARING_VIOLATION,
    };
    use windows_sys::Win32::Storage::FileSystem::{
        FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OPEN_REPARSE_POINT, FILE_READ_ATTRIBUTES,
    };

    use super::*;
    pub(in super::super) use crate::platform::windows::process::is_alive;
    use crate::platform::windows::{access_list, file};

    impl FileId {
        pub(in super::super) fn of(file: &File) -> io::Result<Self> {
            file::identity(file).map(|(device, inode)| Self { device, inode })
        }

        /// Of what the path itself names, a link perhaps.
        pub(in super::super) fn at(path: &Path) -> io::Result<Self> {
            let mut options = OpenOptions::new();
            // Stands in nobody's way, whatever others do with the file.
            options.access_mode(FILE_READ_ATTRIBUTES);
            options.custom_flags(FILE_FLAG_OPEN_REPARSE_POINT | FILE_FLAG_BACKUP_SEMANTICS);
            Self::of(&options.open(path)?)
        }
    }

    /// Creates a new file for reading and writing, never an existing one: for this user alone, or, where a group
    /// shares it, for those who may use the directory.
    pub(in super::super) fn create_new(path: &Path, mode: u32) -> io::Result<File> {
        if is_shared(mode) {
            return cautious_options().read(true).write(true).create_new(true).open(path);
        }
        access_list::create_file(path)
    }

    /// Owners are often a group here, the administrators say. Who may use a file is in its access list.
    pub(in super::super) fn foreign_owner(_: &Metadata) -> Option<(u32, u32)> {
        None
    }

    /// Who else may use the file, in words, if nobody should.
    pub(in super::super) fn wider(file: &File, _: &Metadata, mode: u32) -> Option<String> {
        strangers(file, mode).ok().flatten()
    }

    /// Takes the file away from others, unless a group shares it. Says from whom, if it did.
    pub(in super::super) fn tighten(file: &File, _: &Metadata, mode: u32) -> io::Result<Option<String>> {
        let Some(had) = strangers(file, mode)? else { return Ok(None) };
        access_list::restrict(file)?;
        Ok(Some(had))
    }

    fn strangers(file: &File, mode: u32) -> io::Result<Option<String>> {
        if is_shared(mode) {
            return Ok(None);
        }
        Ok(access_list::stranger(file)?.map(|who| format!("an access list that lets {who} in")))
    }

    pub(in super::super) fn create_directory(path: &Path, mode: u32) -> io::Result<()> {
        let result =
            if is_shared(mode) { std::fs::create_dir(path) } else { access_list::create_directory(path) };
        match result {
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            result => result,
        }
    }

    /// What lies in a directory has an access list of its own.
    pub(in super::super) fn refuse_open_directory(_: &Path, _: &Metadata) -> Result<(), PersistenceError> {
        Ok(())
    }

    pub(in super::super) fn adopt_group(_: &File, _: &Metadata) -> io::Result<()> {
        Ok(())
    }

    pub(in super::super) fn adopt_access_list(_: &File, _: &Path) -> io::Result<()> {
        Ok(())
    }

    /// Who can write a file is in its access list.
    pub(in super::super) fn is_writable_by_others(_: &Metadata) -> bool {
        false
    }

    /// Who shares a file is in its access list.
    pub(in super::super) fn is_shared_by_group(_: &Path, _: &Metadata) -> bool {
        false
    }

    /// For how long this error may mean no more than that others are at the file.
    pub(in super::super) fn may_pass(error: &io::Error) -> Option<Duration> {
        match error.raw_os_error().map(i32::cast_unsigned) {
            // They have opened it for themselves alone, or locked what we want to read or write.
            Some(ERROR_SHARING_VIOLATION | ERROR_LOCK_VIOLATION) => Some(Duration::MAX),
            // A file that is open cannot be replaced everywhere; one that was removed is there until the last who
            // has it open closes it. Or it is just what it says.
            Some(ERROR_ACCESS_DENIED) => Some(Duration::from_secs(1)),
            _ => None,
        }
    }
}

#[cfg(unix)]
pub(super) use self::platform::has_access_list;
pub(super) use self::platform::{
    adopt_access_list, adopt_group, create_directory, create_new, foreign_owner, is_alive,
    is_shared_by_group, is_writable_by_others, may_pass, refuse_open_directory, tighten, wider,
};

#[cfg(test)]
#[cfg(windows)]
#[allow(clippy::disallowed_methods)]
mod tests {
    use super::*;
    use crate::persistence::lock::{DocumentLock, LockPaths};
    use crate::persistence::{Fence, FilePersistence, Persistence as _};
    use crate::platform::windows::access_list::stranger;
    use crate::{Revision, SecretBytes, block_on};

    fn who_else(path: &Path) -> Option<String> {
        stranger(&File::open(path).unwrap()).unwrap()
    }

    fn save(persistence: &FilePersistence, expected: &Revision) {
        let bytes = SecretBytes::from(b"{}".to_vec());
        block_on(persistence.save(&bytes, expected, &Fence::open())).unwrap();
    }

    #[test]
    fn documents_and_lock_files_and_the_directories_that_are_made_for_them_are_their_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one").join("two").join("cache.bin");
        let persistence = FilePersistence::new(&path).unwrap();
        let lock = block_on(DocumentLock::acquire(&LockPaths::of(&persistence), Duration::ZERO)).unwrap();
        save(&persistence, &Revision::absent());
        for path in [path.clone(), with_suffix(&path, ".lock"), with_suffix(&path, ".lockfile")] {
            assert_eq!(who_else(&path), None, "{}", path.display());
        }
        drop(lock);
        for directory in ["one", r"one\two"] {
            let mut options = cautious_options();
            std::os::windows::fs::OpenOptionsExt::custom_flags(&mut options, 0x0200_0000); // opens directories, too
            let directory = options.read(true).open(folder.path().join(directory)).unwrap();
            assert_eq!(stranger(&directory).unwrap(), None);
        }
    }

    #[test]
    fn a_document_that_others_may_use_is_tightened_when_it_is_read_and_replaced_by_one_of_ours() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache.bin");
        std::fs::write(&path, "{}").unwrap();
        assert!(who_else(&path).is_some());

        let shared = FilePersistence::builder(&path).mode(0o660).build().unwrap();
        block_on(shared.load()).unwrap();
        let only_looks = FilePersistence::builder(&path).only_looks(true).build().unwrap();
        let revision = block_on(only_looks.load()).unwrap().revision;
        assert!(who_else(&path).is_some());

        save(&only_looks, &revision);
        assert_eq!(who_else(&path), None);

        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "{}").unwrap();
        assert!(who_else(&path).is_some());
        block_on(FilePersistence::new(&path).unwrap().load()).unwrap();
        assert_eq!(who_else(&path), None);
    }
}
