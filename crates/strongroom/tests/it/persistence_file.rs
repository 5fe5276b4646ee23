//! The plain file: what is read, what is refused, what is noticed.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, lchown, symlink};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use strongroom::{
    Error, ErrorKind, Fence, FilePersistence, Loaded, Location, Persistence as _, Revision, Saved,
    SecretBytes, block_on,
};

use crate::support::{
    can_mount, is_root, is_unprivileged, mode_of, mount, names_in, set_mode, skip, wait_until,
};

/// Somebody who is not root: "nobody" on most systems.
const SOMEBODY: u32 = 65_534;

fn open(path: impl AsRef<Path>) -> FilePersistence {
    FilePersistence::new(path.as_ref()).unwrap()
}

fn try_load(path: impl AsRef<Path>) -> Result<Loaded, Error> {
    block_on(open(path).load())
}

fn save_to(persistence: &FilePersistence, bytes: &[u8], expected: &Revision) -> Result<Saved, Error> {
    block_on(persistence.save(&SecretBytes::from(bytes.to_vec()), expected, &Fence::open()))
}

/// Loads and saves, as an uncontended writer does.
fn try_replace(path: impl AsRef<Path>, bytes: &[u8]) -> Result<(), Error> {
    let persistence = open(path);
    let revision = block_on(persistence.load())?.revision;
    match save_to(&persistence, bytes, &revision)? {
        Saved::Saved(revision) => assert!(persistence.is_current(&revision).unwrap()),
        Saved::Conflict => panic!("nobody else writes"),
    }
    Ok(())
}

/// A write sees the change at once. A look-up may not while the stamps are equal, for one clock tick.
fn assert_outdated(persistence: &FilePersistence, revision: &Revision) {
    assert!(matches!(save_to(persistence, b"mine", revision).unwrap(), Saved::Conflict));
    wait_until("the change is noticed", || !persistence.is_current(revision).unwrap());
    assert!(!persistence.is_current(revision).unwrap(), "and is not forgotten");
}

fn code<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    let error = result.unwrap_err();
    assert!(error.remedy().is_some_and(|remedy| !remedy.is_empty()), "{error} has no remedy");
    error.code().to_owned()
}

#[test]
fn nothing_an_empty_file_and_a_missing_directory_are_an_empty_document() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cache.bin");
    let persistence = open(&path);
    let absent = block_on(persistence.load()).unwrap();
    assert!(absent.bytes.is_empty() && persistence.is_current(&absent.revision).unwrap());
    assert_eq!(names_in(directory.path()), [""; 0], "reading creates nothing");

    std::fs::write(&path, "").unwrap();
    assert!(!persistence.is_current(&absent.revision).unwrap());
    let empty = block_on(persistence.load()).unwrap();
    assert!(empty.bytes.is_empty() && persistence.is_current(&empty.revision).unwrap());
    assert_ne!(empty.revision, absent.revision);

    assert!(try_load(directory.path().join("missing/too/cache.bin")).unwrap().bytes.is_empty());
}

#[test]
fn the_first_save_creates_the_directories_and_all_is_for_the_owner_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("one/two/cache.bin");
    try_replace(&path, b"{}").unwrap();
    assert_eq!(mode_of(&directory.path().join("one")), 0o700);
    assert_eq!(mode_of(&directory.path().join("one/two")), 0o700);
    assert_eq!(mode_of(&path), 0o600);
    assert_eq!(names_in(path.parent().unwrap()), ["cache.bin"]);
    assert_eq!(try_load(&path).unwrap().bytes.expose(), b"{}");
}

#[test]
fn a_document_that_a_group_shares_has_the_groups_permissions_whatever_the_umask() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shared/cache.bin");
    let persistence = FilePersistence::builder(&path).mode(0o660).build().unwrap();
    save_to(&persistence, b"{}", &Revision::absent()).unwrap();
    assert_eq!((mode_of(&path), mode_of(path.parent().unwrap())), (0o660, 0o770));
    block_on(persistence.load()).unwrap();
    assert_eq!(mode_of(&path), 0o660, "not tightened");
}

#[test]
fn wider_permissions_are_tightened_by_the_owner_who_reads_and_by_the_writer() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cache.bin");
    std::fs::write(&path, "{}").unwrap();
    for mode in [0o644, 0o666, 0o640, 0o700] {
        set_mode(&path, mode);
        let persistence = open(&path);
        let loaded = block_on(persistence.load()).unwrap();
        assert_eq!(mode_of(&path), 0o600, "{mode:o}");
        assert!(persistence.is_current(&loaded.revision).unwrap(), "tightening is no change by others");
    }
    let persistence = open(&path);
    let revision = block_on(persistence.load()).unwrap().revision;
    set_mode(&path, 0o644);
    // The change of mode is noticed; a writer starts from the new revision.
    assert!(matches!(save_to(&persistence, b"[]", &revision).unwrap(), Saved::Conflict));
    try_replace(&path, b"[]").unwrap();
    assert_eq!(mode_of(&path), 0o600);
}

#[test]
fn a_directory_that_everybody_can_write_is_refused_unless_it_is_sticky() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join("cache.bin");
    std::fs::write(&path, "{}").unwrap();
    for mode in [0o777, 0o707, 0o702] {
        set_mode(&folder, mode);
        assert_eq!(code(try_load(&path)), "unsafe_directory", "{mode:o}");
        assert_eq!(code(try_replace(&path, b"[]")), "unsafe_directory", "{mode:o}");
        assert_eq!(code(try_replace(folder.join("new.bin"), b"[]")), "unsafe_directory", "{mode:o}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), b"{}");
    for mode in [0o1777, 0o770, 0o755, 0o700] {
        set_mode(&folder, mode);
        try_replace(&path, b"[]").unwrap();
    }
}

#[test]
fn a_link_of_ours_is_followed_and_its_target_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("real");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("cache.bin"), "{}").unwrap();
    let (link, second) = (directory.path().join("link"), directory.path().join("second"));
    symlink("real/cache.bin", &link).unwrap();
    symlink(&link, &second).unwrap();

    assert_eq!(try_load(&second).unwrap().bytes.expose(), b"{}");
    try_replace(&second, b"[]").unwrap();
    assert!(link.is_symlink() && second.is_symlink());
    assert_eq!(std::fs::read(folder.join("cache.bin")).unwrap(), b"[]");
    assert_eq!(mode_of(&folder.join("cache.bin")), 0o600);
    assert_eq!(names_in(&folder), ["cache.bin"]);
    assert_eq!(names_in(directory.path()), ["link", "real", "second"]);

    let persistence = open(&link);
    block_on(persistence.remove()).unwrap();
    assert!(link.is_symlink() && names_in(&folder).is_empty(), "the document is gone, the link is not");
    let absent = block_on(persistence.load()).unwrap();
    assert!(persistence.is_current(&absent.revision).unwrap());
    try_replace(&link, b"again").unwrap();
    assert_eq!(std::fs::read(folder.join("cache.bin")).unwrap(), b"again");
}

#[test]
fn a_link_that_is_turned_to_another_file_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        std::fs::write(directory.path().join(name), "{}").unwrap();
    }
    let link = directory.path().join("link");
    symlink("a", &link).unwrap();
    let persistence = open(&link);
    let revision = block_on(persistence.load()).unwrap().revision;
    std::fs::remove_file(&link).unwrap();
    symlink("b", &link).unwrap();
    assert!(!persistence.is_current(&revision).unwrap());
    assert!(matches!(save_to(&persistence, b"[]", &revision).unwrap(), Saved::Conflict));
}

#[test]
fn links_that_lead_in_a_circle_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("link");
    symlink("link", &link).unwrap();
    assert_eq!(code(try_load(&link)), "unsafe_link");
    assert_eq!(code(try_replace(&link, b"{}")), "unsafe_link");
}

#[test]
fn a_link_of_somebody_else_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let link = if is_root() {
        let link = directory.path().join("link");
        std::fs::write(directory.path().join("cache.bin"), "{}").unwrap();
        symlink("cache.bin", &link).unwrap();
        lchown(&link, Some(SOMEBODY), None).unwrap();
        link
    } else {
        // Root's, on every current distribution.
        let link = Path::new("/bin").to_owned();
        if !link.is_symlink() {
            return skip(
                "persistence_file::a_link_of_somebody_else_is_refused",
                "/bin is no link of root's here",
            );
        }
        link
    };
    assert_eq!(code(try_load(&link)), "unsafe_link");
    assert_eq!(code(try_replace(&link, b"[]")), "unsafe_link");
    assert!(link.is_symlink());
}

#[test]
fn somebody_elses_document_can_be_looked_at_by_who_may_but_is_neither_used_nor_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = if is_root() {
        let path = directory.path().join("cache.bin");
        std::fs::write(&path, "{}").unwrap();
        set_mode(&path, 0o644);
        lchown(&path, Some(SOMEBODY), None).unwrap();
        path
    } else {
        "/etc/passwd".into()
    };
    let before = std::fs::read(&path).unwrap();
    let persistence = FilePersistence::builder(&path).only_looks(true).build().unwrap();
    let loaded = block_on(persistence.load()).unwrap();
    assert_eq!(loaded.bytes.expose(), before);
    if is_root() {
        // Planted where a cache is expected, it would make us act with somebody else's tokens.
        assert_eq!(code(block_on(open(&path).load())), "wrong_owner");
    }
    assert_eq!(mode_of(&path), 0o644, "not ours to tighten");
    let owner = std::fs::metadata(&path).unwrap().uid();
    let error = save_to(&persistence, b"[]", &loaded.revision).unwrap_err();
    assert_eq!((error.code(), error.kind()), ("wrong_owner", ErrorKind::Storage));
    assert!(error.to_string().contains(&format!("user {owner}")), "{error}");
    assert_eq!(code(block_on(persistence.remove())), "wrong_owner");
    assert_eq!(code(block_on(persistence.set_aside(&loaded.revision))), "wrong_owner");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn what_is_no_file_is_refused_at_once_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (fifo, socket, folder) =
        (directory.path().join("fifo"), directory.path().join("socket"), directory.path().join("folder"));
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::fs::create_dir(&folder).unwrap();
    let paths = [
        (fifo.as_path(), "named pipe"),
        (&socket, "socket"),
        (&folder, "directory"),
        (Path::new("/dev/null"), "device"),
    ];
    for (path, word) in paths {
        let began = Instant::now();
        let error = try_load(path).unwrap_err();
        assert_eq!((error.code(), error.kind()), ("not_a_file", ErrorKind::Unusable));
        assert!(error.to_string().contains(word), "{error}");
        let saved = save_to(&open(path), b"{}", &Revision::absent());
        assert_eq!(code(saved), "not_a_file");
        assert!(began.elapsed() < Duration::from_secs(5), "{word}");
    }
    assert_eq!(names_in(directory.path()), ["fifo", "folder", "socket"]);
}

#[test]
fn a_document_beyond_the_limit_is_refused_before_it_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cache.bin");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(300 << 20).unwrap();
    let began = Instant::now();
    let error = try_load(&path).unwrap_err();
    assert_eq!((error.code(), error.kind()), ("too_large", ErrorKind::Unusable));
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(file.metadata().unwrap().len(), 300 << 20);

    let small = FilePersistence::builder(directory.path().join("small")).max_size(4).build().unwrap();
    assert_eq!(code(save_to(&small, b"12345", &Revision::absent())), "too_large");
    assert!(matches!(save_to(&small, b"1234", &Revision::absent()).unwrap(), Saved::Saved(_)));
    assert_eq!(block_on(small.load()).unwrap().bytes.expose(), b"1234");
    // A file without a size, such as those of /proc: the limit holds while it is read.
    let endless = FilePersistence::builder("/proc/self/smaps").max_size(100).build().unwrap();
    assert_eq!(code(block_on(endless.load())), "too_large");
}

#[test]
fn a_rewrite_of_equal_size_and_equal_mtime_is_noticed_a_tick_later_at_most_and_never_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cache.bin");
    let persistence = open(&path);
    let end = Instant::now() + Duration::from_millis(300);
    let mut round = 0_u32;
    // Long enough to meet clock ticks in every phase, settled and not.
    while Instant::now() < end || round < 100 {
        let loaded = block_on(persistence.load()).unwrap();
        let revision =
            match save_to(&persistence, format!("{round:010}").as_bytes(), &loaded.revision).unwrap() {
                Saved::Saved(revision) => revision,
                Saved::Conflict => panic!("nobody else has written, round {round}"),
            };
        assert!(persistence.is_current(&revision).unwrap());
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        let mut peer = std::fs::File::options().write(true).open(&path).unwrap();
        peer.write_all(format!("{:010}", round + 1).as_bytes()).unwrap();
        peer.set_modified(modified).unwrap();
        assert_outdated(&persistence, &revision);
        let loaded = block_on(persistence.load()).unwrap().revision;
        peer.set_modified(modified - Duration::from_secs(3600)).unwrap();
        std::io::Seek::rewind(&mut peer).unwrap();
        peer.write_all(format!("{:010}", round + 2).as_bytes()).unwrap();
        peer.set_modified(modified - Duration::from_secs(3600)).unwrap();
        assert_outdated(&persistence, &loaded);
        round += 3;
    }
}

#[test]
fn a_document_whose_times_have_aged_is_current_and_a_later_rewrite_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cache.bin");
    let persistence = open(&path);
    let Saved::Saved(saved) = save_to(&persistence, b"one", &Revision::absent()).unwrap() else { panic!() };
    let young = block_on(persistence.load()).unwrap().revision;
    let changed = std::fs::metadata(&path).unwrap();
    let changed = SystemTime::UNIX_EPOCH
        + Duration::new(changed.ctime().cast_unsigned(), u32::try_from(changed.ctime_nsec()).unwrap());
    wait_until("the times are older than any clock tick", || {
        changed.elapsed().is_ok_and(|age| age > Duration::from_millis(150))
    });
    let settled = block_on(persistence.load()).unwrap().revision;
    for _ in 0..3 {
        for revision in [&saved, &young, &settled] {
            assert!(persistence.is_current(revision).unwrap());
        }
    }
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    std::fs::write(&path, "two").unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    for revision in [&saved, &young, &settled] {
        assert!(!persistence.is_current(revision).unwrap());
        assert!(matches!(save_to(&persistence, b"three", revision).unwrap(), Saved::Conflict));
    }
}

#[test]
fn whatever_happens_to_a_file_that_is_kept_open_is_noticed() {
    type Event = fn(&Path);
    let events: [(&str, Event); 8] = [
        ("rewritten in place", |path| std::fs::write(path, "{ }").unwrap()),
        ("truncated", |path| drop(std::fs::File::create(path).unwrap())),
        ("appended to", |path| {
            std::fs::File::options().append(true).open(path).unwrap().write_all(b" ").unwrap();
        }),
        ("replaced", |path| {
            std::fs::write(path.with_extension("new"), "{ }").unwrap();
            std::fs::rename(path.with_extension("new"), path).unwrap();
        }),
        ("replaced by one that is equal and as old", |path| {
            let modified = std::fs::metadata(path).unwrap().modified().unwrap();
            std::fs::copy(path, path.with_extension("new")).unwrap();
            let copy = std::fs::File::options().write(true).open(path.with_extension("new")).unwrap();
            copy.set_modified(modified).unwrap();
            std::fs::rename(path.with_extension("new"), path).unwrap();
        }),
        ("removed", |path| std::fs::remove_file(path).unwrap()),
        ("renamed", |path| std::fs::rename(path, path.with_extension("old")).unwrap()),
        ("opened to others", |path| set_mode(path, 0o644)),
    ];
    for saved in [false, true] {
        for (what, event) in events {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("cache.bin");
            let persistence = open(&path);
            let saves = save_to(&persistence, b"{}!", &Revision::absent()).unwrap();
            let revision = match saves {
                Saved::Saved(revision) if saved => revision,
                _ => block_on(persistence.load()).unwrap().revision,
            };
            // The first look is at the path, the second at the open file.
            assert!(persistence.is_current(&revision).unwrap() && persistence.is_current(&revision).unwrap());
            event(&path);
            wait_until(what, || !persistence.is_current(&revision).unwrap());
            assert!(matches!(save_to(&persistence, b"[]", &revision).unwrap(), Saved::Conflict), "{what}");
        }
    }
}

#[test]
fn a_directory_above_that_is_replaced_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let (above, moved) = (directory.path().join("above"), directory.path().join("moved"));
    for folder in [&above, &moved] {
        std::fs::create_dir(folder).unwrap();
    }
    let persistence = open(above.join("cache.bin"));
    for path in [&above, &moved] {
        try_replace(path.join("cache.bin"), b"{}").unwrap();
    }
    let revision = block_on(persistence.load()).unwrap().revision;
    assert!(persistence.is_current(&revision).unwrap() && persistence.is_current(&revision).unwrap());
    std::fs::rename(&above, directory.path().join("old")).unwrap();
    std::fs::rename(&moved, &above).unwrap();
    wait_until("the path is looked at", || !persistence.is_current(&revision).unwrap());
}

/// The open descriptors of this process that lead to the file, or to one that it was: their flags.
#[cfg(target_os = "linux")]
fn descriptors_of(path: &Path) -> Vec<u32> {
    let path = path.to_str().unwrap();
    let leads_there = |target: &Path| {
        target.to_str().is_some_and(|target| target == path || target == format!("{path} (deleted)"))
    };
    let entries = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    entries
        .filter(|entry| entry.path().read_link().is_ok_and(|target| leads_there(&target)))
        .map(|entry| {
            let about = Path::new("/proc/self/fdinfo").join(entry.file_name());
            let about = std::fs::read_to_string(about).unwrap();
            let flags = about.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            u32::from_str_radix(flags.trim(), 8).unwrap()
        })
        .collect()
}

#[test]
#[cfg(target_os = "linux")]
fn one_descriptor_is_kept_for_a_document_to_be_read_and_not_to_be_inherited() {
    const CLOSE_ON_EXEC: u32 = 0o2_000_000;
    const ACCESS: u32 = 0o3;
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = directory.path().join("cache.bin");
    let persistence = open(&path);
    let Saved::Saved(mut revision) = save_to(&persistence, b"0", &Revision::absent()).unwrap() else {
        panic!("nobody else writes")
    };
    for round in 0..10 {
        let flags = descriptors_of(&path);
        assert!(
            matches!(flags[..], [flags] if flags & CLOSE_ON_EXEC != 0 && flags & ACCESS == 0),
            "{flags:?}"
        );
        revision = match (round % 2, save_to(&persistence, round.to_string().as_bytes(), &revision).unwrap())
        {
            (0, Saved::Saved(revision)) => revision,
            _ => block_on(persistence.load()).unwrap().revision,
        };
    }
    drop(revision);
    assert_eq!(descriptors_of(&path), [0; 0]);

    let link = directory.path().join("link");
    symlink(&path, &link).unwrap();
    let through_link = open(&link);
    let revision = block_on(through_link.load()).unwrap().revision;
    assert!(through_link.is_current(&revision).unwrap());
    assert_eq!(descriptors_of(&path), [0; 0], "where a link leads only the path can tell");
}

#[test]
#[cfg(target_os = "linux")]
fn on_an_overlay_no_descriptor_is_kept_and_a_change_is_noticed() {
    if !can_mount("persistence_file::on_an_overlay_no_descriptor_is_kept_and_a_change_is_noticed") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let _below = mount(&["-t", "tmpfs", "tmpfs"], directory.path()).unwrap();
    for name in ["lower", "upper", "work", "merged"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    std::fs::write(at("lower/cache.bin"), "{}").unwrap();
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| at(name).display().to_string());
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    let merged = at("merged");
    let Some(_overlay) = mount(&["-t", "overlay", "overlay", "-o", &options], &merged) else {
        return skip(
            "persistence_file::on_an_overlay_no_descriptor_is_kept_and_a_change_is_noticed",
            "the kernel mounts no overlay here",
        );
    };
    let path = merged.join("cache.bin");
    let persistence = open(&path);
    let revision = block_on(persistence.load()).unwrap().revision;
    assert!(persistence.is_current(&revision).unwrap());
    assert_eq!(descriptors_of(&path), [0; 0]);
    // It is copied up: the path names another file than the one that was read.
    std::fs::File::options().append(true).open(&path).unwrap().write_all(b" ").unwrap();
    assert!(!persistence.is_current(&revision).unwrap());
}

#[test]
fn a_document_set_aside_is_kept_for_its_owner_and_only_three_of_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cache.bin");
    let persistence = open(&path);
    std::fs::write(directory.path().join("cache.bin.corrupt-by-hand"), "mine").unwrap();
    for round in 0..5 {
        std::fs::write(&path, format!("torn {round}")).unwrap();
        set_mode(&path, 0o644);
        let revision = block_on(persistence.load()).unwrap().revision;
        let moved = block_on(persistence.set_aside(&revision)).unwrap().expect("it is unchanged");
        assert!(!path.exists());
        assert_eq!(std::fs::read(&moved).unwrap(), format!("torn {round}").as_bytes());
        assert_eq!(mode_of(Path::new(&moved)), 0o600);
        let stamp = moved.rsplit_once(".corrupt-").unwrap().1;
        assert!(stamp.len() >= 16 && stamp.as_bytes()[8] == b'T' && stamp.as_bytes()[15] == b'Z', "{moved}");
    }
    let kept: Vec<_> = names_in(directory.path());
    assert_eq!(kept.len(), 4, "{kept:?}");
    let contents: Vec<_> =
        kept.iter().map(|name| std::fs::read_to_string(directory.path().join(name)).unwrap()).collect();
    for expected in ["mine", "torn 2", "torn 3", "torn 4"] {
        assert!(contents.iter().any(|content| content == expected), "{contents:?}");
    }

    std::fs::write(&path, "torn").unwrap();
    let revision = block_on(persistence.load()).unwrap().revision;
    std::fs::write(&path, "{}!!").unwrap();
    assert_eq!(block_on(persistence.set_aside(&revision)).unwrap(), None);
    assert_eq!(std::fs::read(&path).unwrap(), b"{}!!");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(block_on(persistence.set_aside(&revision)).unwrap(), None);
}

#[test]
fn what_cannot_work_fails_when_it_is_built() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("cache.bin");
    let detour = directory.path().join("folder/..");
    std::fs::create_dir(directory.path().join("folder")).unwrap();
    for suffix in ["", ".lock", ".flight", ".state", ".state.lock"] {
        for folder in [directory.path(), &detour] {
            let lock = folder.join(format!("cache.bin{suffix}"));
            let error = FilePersistence::builder(&path).lock_path(&lock).build().unwrap_err();
            assert_eq!(
                (error.code(), error.kind()),
                ("lock_path_taken", ErrorKind::Configuration),
                "{lock:?}"
            );
        }
    }
    let other = directory.path().join("other.lock");
    let persistence = FilePersistence::builder(&path).lock_path(&other).build().unwrap();
    assert_eq!(persistence.lock_path(), Some(other));
    assert_eq!(open(&path).lock_path(), Some(directory.path().join("cache.bin.lockfile")));
    assert_eq!(FilePersistence::builder(&path).peers_lock(false).build().unwrap().lock_path(), None);

    for path in ["", "/", "..", "/tmp/.."] {
        assert_eq!(code(FilePersistence::new(path)), "invalid_path", "{path:?}");
    }
    for mode in [0o666, 0o604, 0o400, 0o060, 0o700, 0o1600] {
        assert_eq!(code(FilePersistence::builder(&path).mode(mode).build()), "invalid_mode", "{mode:o}");
    }
    assert!(names_in(directory.path()) == ["folder"], "building touches nothing");
}

#[test]
fn a_relative_path_is_fixed_when_it_is_built() {
    let Location::File(path) = open("cache.bin").location() else { panic!() };
    assert_eq!(path, std::env::current_dir().unwrap().join("cache.bin"));
}

/// What an ordinary user meets. The part `permissions` of `./test` runs these.
mod unprivileged {
    use super::*;

    #[test]
    fn without_permission_the_error_says_so() {
        if !is_unprivileged("persistence_file::unprivileged::without_permission_the_error_says_so") {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("folder");
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("cache.bin");
        std::fs::write(&path, "{}").unwrap();
        set_mode(&path, 0o000);
        assert_eq!(code(try_load(&path)), "permission_denied");
        set_mode(&path, 0o600);

        set_mode(&folder, 0o500);
        let error = try_replace(&path, b"[]").unwrap_err();
        assert_eq!((error.code(), error.kind()), ("permission_denied", ErrorKind::Storage));
        assert!(error.to_string().contains(folder.to_str().unwrap()), "{error}");
        assert_eq!(try_load(&path).unwrap().bytes.expose(), b"{}", "it can still be read");
        assert_eq!(code(try_replace(folder.join("new/cache.bin"), b"[]")), "permission_denied");

        set_mode(&folder, 0o000);
        assert_eq!(code(try_load(&path)), "permission_denied");
        assert_eq!(code(open(&path).is_current(&Revision::absent())), "permission_denied");
        set_mode(&folder, 0o700);
        assert_eq!(std::fs::read(&path).unwrap(), b"{}");
    }
}

#[test]
fn a_full_disk_leaves_the_old_document() {
    let test = "persistence_file::a_full_disk_leaves_the_old_document";
    let Some(tmpfs) = std::env::var_os("STRONGROOM_TEST_TMPFS") else {
        return skip(test, "STRONGROOM_TEST_TMPFS names no small tmpfs");
    };
    let directory = tempfile::tempdir_in(tmpfs).unwrap();
    let path = directory.path().join("cache.bin");
    try_replace(&path, b"{}").unwrap();
    let persistence = open(&path);
    let revision = block_on(persistence.load()).unwrap().revision;
    let error = save_to(&persistence, &vec![b' '; 100 << 20], &revision).unwrap_err();
    assert_eq!((error.code(), error.kind()), ("disk_full", ErrorKind::Storage), "{error}");
    assert_eq!(names_in(directory.path()), ["cache.bin"]);
    assert_eq!(try_load(&path).unwrap().bytes.expose(), b"{}");
    assert!(persistence.is_current(&revision).unwrap());
}

#[test]
fn a_read_only_file_system_is_named() {
    if !can_mount("persistence_file::a_read_only_file_system_is_named") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let _mount = mount(&["-t", "tmpfs", "-o", "ro", "tmpfs"], directory.path()).unwrap();
    let error = try_replace(directory.path().join("cache.bin"), b"{}").unwrap_err();
    assert_eq!((error.code(), error.kind()), ("read_only", ErrorKind::Storage), "{error}");
    assert_eq!(code(try_replace(directory.path().join("new/cache.bin"), b"{}")), "read_only");
}

#[test]
fn a_file_that_is_mounted_alone_is_read_and_cannot_be_replaced() {
    if !can_mount("persistence_file::a_file_that_is_mounted_alone_is_read_and_cannot_be_replaced") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (source, path) = (directory.path().join("source"), directory.path().join("cache.bin"));
    std::fs::write(&source, "{}").unwrap();
    std::fs::write(&path, "").unwrap();
    let _mount = mount(&["--bind", source.to_str().unwrap()], &path).unwrap();
    assert_eq!(try_load(&path).unwrap().bytes.expose(), b"{}");
    let error = try_replace(&path, b"[]").unwrap_err();
    assert_eq!((error.code(), error.kind()), ("mounted_alone", ErrorKind::Storage), "{error}");
    assert!(error.remedy().unwrap().contains("directory"));
    assert_eq!(std::fs::read(&source).unwrap(), b"{}");
    assert_eq!(names_in(directory.path()), ["cache.bin", "source"]);
}
