//! What lies at the cache's location is not a cache, or cannot be written.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::support::{
    World, code, command, failure, json, make_pipe, mode, names, run, set_mode, skip, stderr, stdout,
    variable,
};

#[test]
fn what_is_of_another_kind_is_refused_and_left_alone() {
    let world = World::new();
    let deep = format!("{{\"AccessToken\": {}", "[".repeat(100_000));
    let cases: [(&[u8], &str); 5] = [
        (b"\xef\xbb\xbf{}", "byte_order_mark"),
        (b"SRM1\x00\x01\xff\xfe sealed", "not_a_token_cache"),
        (b"garbage", "not_a_token_cache"),
        (b"[]", "not_a_token_cache"),
        (deep.as_bytes(), "too_deep"),
    ];
    for (content, expected) in cases {
        let path = world.file("token_cache.bin", content);
        assert_eq!(failure(&mut world.token()), (4, expected.into()));
        assert_eq!(failure(command("inspect").arg("--cache").arg(&path)), (4, expected.into()));
        assert_eq!(std::fs::read(path).unwrap(), content);
    }
    assert_eq!(names(world.folder.path()), ["sts", "token_cache.bin"]);
    assert_eq!(world.sts.stats().token, 0);
}

#[test]
fn a_huge_file_is_refused_unread() {
    let world = World::new();
    let path = world.file("token_cache.bin", "{");
    std::fs::File::options().write(true).open(&path).unwrap().set_len(300 << 20).unwrap();
    assert_eq!(failure(&mut world.token()), (4, "too_large".into()));
    assert_eq!(failure(command("inspect").arg("--cache").arg(&path)), (4, "too_large".into()));
    assert_eq!(path.metadata().unwrap().len(), 300 << 20);
}

#[test]
fn what_is_no_file_is_refused_without_a_wait() {
    let world = World::new();
    std::fs::create_dir(world.path("folder")).unwrap();
    make_pipe(&world.path("pipe"));
    let _socket = std::os::unix::net::UnixListener::bind(world.path("socket")).unwrap();
    for name in ["folder", "pipe", "socket", "/dev/null", "/dev/zero"] {
        let path = world.path(name);
        let token = failure(&mut world.token_with(&world.ready().config_file, &path));
        assert_eq!(token, (4, "not_a_file".into()), "{name}");
        let inspected = failure(command("inspect").arg("--cache").arg(&path));
        assert_eq!(inspected, (4, "not_a_file".into()), "{name}");
    }
    assert_eq!(world.sts.stats().token, 0);
}

#[test]
fn an_empty_file_is_an_empty_cache() {
    let world = World::new();
    world.file("token_cache.bin", "");
    assert_eq!(world.token_json()["persisted"], true);
    assert_eq!(world.token_json()["token_source"], "cache");
}

#[test]
fn a_damaged_file_is_set_aside_and_the_daemon_goes_on() {
    let world = World::new();
    run(&mut world.token());
    let whole = std::fs::read(world.cache()).unwrap();
    let half = &whole[..whole.len() / 2];
    world.file("token_cache.bin", half);
    // Who only reads reports it and touches nothing.
    assert_eq!(failure(command("inspect").arg("--cache").arg(world.cache())), (4, "damaged".into()));
    assert_eq!(std::fs::read(world.cache()).unwrap(), half);
    assert!(!names(world.folder.path()).iter().any(|name| name.contains(".corrupt-")));
    let output = run(world.token().args(["--output", "json"]));
    assert_eq!((code(&output), &json(&output)["persisted"]), (0, &true.into()), "{}", stderr(&output));
    assert!(stderr(&output).contains("damaged"), "{}", stderr(&output));
    let aside: Vec<String> =
        names(world.folder.path()).into_iter().filter(|name| name.contains(".corrupt-")).collect();
    assert_eq!(aside.len(), 1, "{aside:?}");
    let aside = world.path(&aside[0]);
    assert_eq!((std::fs::read(&aside).unwrap().as_slice(), mode(&aside)), (half, 0o600));
    assert_eq!(world.token_json()["token_source"], "cache");
}

#[test]
fn one_bad_entry_costs_no_other() {
    let world = World::new();
    let good = world.token_json();
    let document = std::fs::read_to_string(world.cache()).unwrap();
    let bad = r#"{"AccessToken":{"null":null,"text":"x","number":7,"array":[],"secret":{"secret":5,"expires_on":"4000000000"},"#;
    assert!(document.starts_with("{\"AccessToken\":{"));
    world.file("token_cache.bin", document.replacen("{\"AccessToken\":{", bad, 1));
    let again = world.token_json();
    assert_eq!((&again["token_source"], &again["access_token"]), (&"cache".into(), &good["access_token"]));
    assert_eq!(code(&run(world.token().arg("--force-refresh"))), 0);
    let after = std::fs::read_to_string(world.cache()).unwrap();
    assert!(after.contains(r#""null":null,"text":"x","number":7,"array":[],"secret":{"secret":5,"#));
}

/// A machine whose clock was far ahead wrote it, or the clock was set back since.
#[test]
fn a_token_from_the_future_is_not_served_and_a_wrong_clock_of_the_provider_does_not_matter() {
    let world = World::new();
    run(&mut world.token());
    let document = std::fs::read_to_string(world.cache()).unwrap();
    let times = |name: &str, document: &str| -> i64 {
        let (_, rest) = document.split_once(&format!("\"{name}\":\"")).unwrap();
        rest.split_once('"').unwrap().0.parse().unwrap()
    };
    let mut future = document.clone();
    for name in ["cached_at", "expires_on", "extended_expires_on"] {
        let time = times(name, &document);
        future = future
            .replace(&format!("\"{name}\":\"{time}\""), &format!("\"{name}\":\"{}\"", time + 400_000_000));
    }
    assert_ne!(future, document);
    world.file("token_cache.bin", future);
    assert_eq!(world.token_json()["token_source"], "identity_provider");
    for offset in [-400_000_000, 400_000_000] {
        world.sts.set_clock(offset).unwrap();
        let output = run(world.token().args(["--force-refresh", "--output", "json"]));
        assert_eq!(json(&output)["expires_in"], 3599, "{offset}");
        assert_eq!(world.token_json()["token_source"], "cache", "{offset}");
    }
}

#[test]
fn an_own_link_is_followed_and_stays() {
    let world = World::new();
    std::fs::create_dir(world.path("real")).unwrap();
    symlink(world.path("real/cache.bin"), world.cache()).unwrap();
    assert_eq!(world.token_json()["persisted"], true);
    assert!(world.cache().symlink_metadata().unwrap().is_symlink());
    assert_eq!(mode(&world.path("real/cache.bin")), 0o600);
    assert_eq!(world.token_json()["token_source"], "cache");
}

#[test]
fn a_wider_mode_is_tightened_and_an_open_folder_is_refused() {
    let world = World::new();
    let path = world.file("token_cache.bin", "{}");
    set_mode(&path, 0o644);
    assert_eq!(world.token_json()["persisted"], true);
    assert_eq!(mode(&path), 0o600);
    std::fs::create_dir(world.path("open")).unwrap();
    set_mode(&world.path("open"), 0o777);
    let mut token = world.token_with(&world.ready().config_file, &world.path("open/c.bin"));
    world.sts.reset();
    assert_eq!(failure(&mut token), (4, "unsafe_directory".into()));
    assert_eq!(world.sts.stats().token, 0);
}

/// The token comes all the same, with a warning; `--require-persist` makes it an error.
fn delivered_but_not_stored(world: &World, cache: &Path, expected: &str) {
    let token = || world.token_with(&world.ready().config_file, cache);
    let output = run(token().args(["--output", "json"]));
    assert_eq!(
        (code(&output), &json(&output)["persisted"]),
        (0, &false.into()),
        "{}{}",
        stdout(&output),
        stderr(&output)
    );
    assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    assert_eq!(failure(token().arg("--require-persist")), (4, expected.into()));
    assert!(stdout(&run(token().arg("--require-persist"))).is_empty());
}

#[test]
fn on_a_full_disk_the_token_is_delivered() {
    let test = "bad_files::on_a_full_disk_the_token_is_delivered";
    let Some(tmpfs) = variable("STRONGROOM_TEST_TMPFS") else {
        return skip(test, "STRONGROOM_TEST_TMPFS names no small file system");
    };
    let world = World::new();
    let folder = tempfile::tempdir_in(tmpfs).unwrap();
    let ballast = std::fs::File::create(folder.path().join("ballast")).unwrap();
    while std::io::Write::write_all(&mut &ballast, &[0; 4096]).is_ok() {}
    delivered_but_not_stored(&world, &folder.path().join("cache.bin"), "disk_full");
}

#[test]
fn a_file_that_is_mounted_alone_is_read_and_not_replaced() {
    let test = "bad_files::a_file_that_is_mounted_alone_is_read_and_not_replaced";
    let Some(mounted) = variable("STRONGROOM_TEST_MOUNTED_FILE") else {
        return skip(test, "STRONGROOM_TEST_MOUNTED_FILE names no such file");
    };
    delivered_but_not_stored(&World::new(), &mounted, "mounted_alone");
}

/// What an ordinary user meets. The part `permissions` of `./test` runs these.
mod unprivileged {
    use super::*;

    fn is_unprivileged(test: &str) -> bool {
        if std::env::var_os("STRONGROOM_TEST_UNPRIVILEGED").is_none() {
            skip(test, "needs an ordinary user and STRONGROOM_TEST_UNPRIVILEGED=1");
            return false;
        }
        let id = Command::new("id").arg("-u").output().unwrap();
        assert_ne!(id.stdout, b"0\n", "STRONGROOM_TEST_UNPRIVILEGED is set, but this is root");
        true
    }

    #[test]
    fn without_the_right_to_read_it_is_an_error_and_without_that_to_write_the_token_comes() {
        let test = "bad_files::unprivileged::without_the_right_to_read_it_is_an_error_and_without_that_to_write_the_token_comes";
        if !is_unprivileged(test) {
            return;
        }
        let world = World::new();
        let path = world.file("token_cache.bin", "{}");
        set_mode(&path, 0o000);
        assert_eq!(failure(&mut world.token()), (4, "permission_denied".into()));
        let folder = world.path("read-only");
        std::fs::create_dir(&folder).unwrap();
        set_mode(&folder, 0o500);
        delivered_but_not_stored(&world, &folder.join("cache.bin"), "permission_denied");
        set_mode(&folder, 0o700);
    }

    #[test]
    fn a_document_of_another_owner_is_read_and_not_written() {
        let test = "bad_files::unprivileged::a_document_of_another_owner_is_read_and_not_written";
        if !is_unprivileged(test) {
            return;
        }
        let Some(foreign) = variable("STRONGROOM_TEST_FOREIGN") else {
            return skip(test, "STRONGROOM_TEST_FOREIGN names no folder with a file of another user");
        };
        let world = World::new();
        delivered_but_not_stored(&world, &foreign.join("document.bin"), "wrong_owner");
        assert_eq!(std::fs::read(foreign.join("document.bin")).unwrap(), b"{}");
        delivered_but_not_stored(&world, &foreign.join("locked.bin"), "wrong_owner");
        // What everybody can write is not root's word: it is not even looked into.
        let mut token = world.token_with(&world.ready().config_file, &foreign.join("open.bin"));
        assert_eq!(failure(&mut token), (4, "wrong_owner".into()));
    }
}
