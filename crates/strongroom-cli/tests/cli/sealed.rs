//! A cache that is encrypted, as it is by default: it costs no set-up, and says what to do when something is wrong.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{
    World, bare, code, done, failure, json, mode, names, run, sealed_with, set_mode, stderr,
};

const ENVELOPE: &[u8] = b"\x89STRONG\n";

#[test]
fn by_default_the_cache_is_sealed_and_the_next_run_asks_nobody() {
    let world = World::new();
    let first = json(&run(world.sealed("cache.bin").args(["--output", "json"])));
    let kept = &first["cache"];
    assert_eq!((&kept["persistence"], &kept["encrypted"]), (&"sealed".into(), &true.into()));
    assert_eq!((&first["persisted"], &kept["protection"]), (&true.into(), &"host-file".into()));
    let content = std::fs::read(world.path("cache.bin")).unwrap();
    assert!(content.starts_with(ENVELOPE));
    let secret = first["access_token"].as_str().unwrap();
    assert!(!String::from_utf8_lossy(&content).contains(&secret[..20]));
    assert_eq!(
        (mode(&world.path("cache.bin")), mode(&world.path("state")), mode(&world.path("state/host.key"))),
        (0o600, 0o700, 0o600)
    );
    world.hits(&mut world.sealed("cache.bin"));
}

#[test]
fn sixteen_that_start_at_once_on_a_bare_machine_share_one_key() {
    let world = World::new();
    let children: Vec<_> = (0..16)
        .map(|_| {
            let mut token = world.sealed("cache.bin");
            token.args(["--output", "json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut tokens: Vec<_> = children
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            done(&output);
            assert_eq!(json(&output)["persisted"], true, "{}", stderr(&output));
            json(&output)["access_token"].as_str().unwrap().to_owned()
        })
        .collect();
    tokens.dedup();
    assert_eq!((tokens.len(), world.sts.stats().token), (1, 1), "and one of them asked");
    assert_eq!(names(&world.path("state")), ["host.key"]);
    let key = std::fs::read_to_string(world.path("state/host.key")).unwrap();
    assert_eq!(key.lines().count(), 1);
    assert!(!names(world.folder.path()).iter().any(|name| name.contains(".corrupt-")));
    world.hits(&mut world.sealed("cache.bin"));
}

#[test]
fn a_cache_whose_host_key_is_lost_is_set_aside_with_a_notice() {
    let world = World::new();
    done(&run(&mut world.sealed("cache.bin")));
    let before = std::fs::read(world.path("cache.bin")).unwrap();
    std::fs::remove_file(world.path("state/host.key")).unwrap();
    let lost = failure(&mut world.ours("inspect", &["--cache", "cache.bin"]));
    assert_eq!(lost, (4, "key_lost".into()), "who looks is not told that nothing is there");
    let output = run(world.sealed("cache.bin").args(["--output", "json"]));
    let result = json(&output);
    assert_eq!((code(&output), &result["token_source"]), (0, &"identity_provider".into()));
    assert_eq!(result["persisted"], true, "{}", stderr(&output));
    for said in ["is lost", "moved aside", "cache.bin.corrupt-"] {
        assert!(stderr(&output).contains(said), "{said}: {}", stderr(&output));
    }
    let aside: Vec<_> =
        names(world.folder.path()).into_iter().filter(|name| name.contains(".corrupt-")).collect();
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(std::fs::read(world.path(&aside[0])).unwrap(), before);
    world.hits(&mut world.sealed("cache.bin"));
}

#[test]
fn a_service_and_a_shell_find_the_same_cache() {
    let world = World::new();
    let token = |cache: &str| {
        let mut token = world.sealed(cache);
        for name in ["STRONGROOM_STATE_DIR", "XDG_STATE_HOME", "HOME", "XDG_RUNTIME_DIR"] {
            token.env_remove(name);
        }
        token
    };
    for name in ["service", "home"] {
        std::fs::create_dir(world.path(name)).unwrap();
    }
    let as_service = |cache: &str| {
        let mut token = token(cache);
        token.env("STATE_DIRECTORY", world.path("service"));
        token
    };
    let in_shell = |cache: &str| {
        let mut token = token(cache);
        token.env("HOME", world.path("home")).env("XDG_STATE_HOME", world.path("home/state"));
        token
    };
    for (cache, first, then) in [
        ("by-service.bin", &as_service as &dyn Fn(&str) -> Command, &in_shell as &dyn Fn(&str) -> Command),
        ("by-shell.bin", &in_shell, &as_service),
    ] {
        done(&run(&mut first(cache)));
        let key = sealed_with(&world.path(cache));
        world.hits(&mut then(cache));
        // What the other one writes is sealed with the key that is there.
        done(&run(then(cache).arg("--force-refresh")));
        assert_eq!(sealed_with(&world.path(cache)), key);
        world.hits(&mut first(cache));
    }
    assert!(!names(world.folder.path()).iter().any(|name| name.contains(".corrupt-")));
}

#[test]
fn eight_processes_read_and_add_while_the_key_is_rotated_twenty_times() {
    const PROCESSES: usize = 8;
    const EACH: usize = 3;
    const ROTATIONS: usize = 20;

    let world = World::new();
    done(&run(&mut world.sealed("cache.bin")));
    let scope = |n: usize, k: usize| format!("api://p{n}-{k}/.default");
    std::thread::scope(|threads| {
        let world = &world;
        for n in 0..PROCESSES {
            threads.spawn(move || {
                for k in 0..EACH {
                    for source in ["identity_provider", "cache"] {
                        let mut token = world.sealed("cache.bin");
                        let output = run(token.args(["--output", "json", "--scope", &scope(n, k)]));
                        done(&output);
                        let result = json(&output);
                        assert_eq!(
                            (&result["token_source"], &result["persisted"]),
                            (&source.into(), &true.into())
                        );
                    }
                }
            });
        }
        for _ in 0..ROTATIONS {
            done(&run(&mut world.ours("key", &["rotate"])));
        }
    });
    let listed = json(&run(&mut world.ours("key", &["list", "--output", "json"])));
    assert_eq!(listed["keys"].as_array().unwrap().len(), 1 + ROTATIONS);
    let output = run(&mut world.ours("inspect", &["--cache", "cache.bin", "--output", "json"]));
    let found = json(&output).to_string();
    for (n, k) in (0..PROCESSES).flat_map(|n| (0..EACH).map(move |k| (n, k))) {
        assert!(found.contains(&scope(n, k)), "{}", scope(n, k));
    }
    world.hits(&mut world.sealed("cache.bin"));
    assert!(!names(world.folder.path()).iter().any(|name| name.contains(".corrupt-")));
}

#[test]
fn a_cache_that_others_could_read_is_tightened() {
    let world = World::new();
    done(&run(&mut world.sealed("cache.bin")));
    set_mode(&world.path("cache.bin"), 0o644);
    world.hits(&mut world.sealed("cache.bin"));
    assert_eq!(mode(&world.path("cache.bin")), 0o600);
    // A key that others could read is tightened with a warning: it may be known.
    set_mode(&world.path("state/host.key"), 0o640);
    let output = run(&mut world.sealed("cache.bin"));
    done(&output);
    assert!(stderr(&output).contains("rotated"), "{}", stderr(&output));
    assert_eq!(mode(&world.path("state/host.key")), 0o600);
}

#[test]
fn a_least_protection_is_met_or_refused() {
    let world = World::new();
    done(&run(&mut world.ours("key", &["new", "--file", "own.key"])));
    let levels = ["none", "host-file", "provided-key", "os-store"];
    for (at, (name, arguments)) in [
        ("plain.bin", &["--persistence", "file"][..]),
        ("host.bin", &["--key-source", "host"]),
        ("own.bin", &["--key-source", "file:own.key"]),
    ]
    .into_iter()
    .enumerate()
    {
        for (demanded, level) in levels.iter().enumerate() {
            let token = || {
                let mut token = world.sealed(name);
                token.args(arguments).args(["--min-protection", level]);
                token
            };
            if demanded <= at {
                let kept = json(&run(token().args(["--output", "json"])))["cache"]["protection"].clone();
                assert_eq!(kept, levels[at], "{name} {level}");
                continue;
            }
            let before = std::fs::read(world.path(name)).unwrap();
            world.sts.reset();
            let output = run(&mut token());
            assert_eq!(code(&output), 4, "{name} {level}");
            let cache = world.path(name).display().to_string();
            let remedy = format!("'strongroom migrate --cache {cache} --to sealed --key-source SOURCE'");
            for said in [levels[at], level, &remedy] {
                assert!(stderr(&output).contains(said), "{said}: {}", stderr(&output));
            }
            assert_eq!(failure(&mut token()), (4, "protection_too_low".into()));
            assert_eq!((std::fs::read(world.path(name)).unwrap(), world.sts.stats().token), (before, 0));
        }
    }
}

#[test]
fn of_a_new_cache_that_would_be_protected_too_little_nothing_is_told_to_be_migrated() {
    let world = World::new();
    let output = run(world.sealed("new.bin").args(["--min-protection", "os-store"]));
    assert_eq!(code(&output), 4);
    let said = stderr(&output);
    assert!(said.contains("would have") && said.contains("--key-source SOURCE"), "{said}");
    assert!(!said.contains("strongroom migrate"), "{said}");
    assert!(!world.path("new.bin").exists());
}

#[test]
fn what_cannot_be_opened_is_left_as_it_is_and_the_remedy_is_told() {
    let world = World::new();
    done(&run(&mut world.ours("key", &["new", "--file", "own.key"])));
    done(&run(world.sealed("own.bin").args(["--key-source", "file:own.key"])));
    let whole = std::fs::read(world.path("own.bin")).unwrap();
    let with = |at: usize, byte: u8| {
        let mut changed = whole.clone();
        changed[at] = byte;
        changed
    };
    let last = whole.len() - 1;
    let cases: [(&str, Vec<u8>, &str); 6] = [
        ("tampered", with(last, whole[last] ^ 1), "restore a backup"),
        ("truncated", whole[..last].to_vec(), "restore a backup"),
        ("later_version", with(8, 2), "update this program"),
        ("other_contents", with(9, 3), "the path of the cache itself"),
        ("not_sealed", b"{\"AccessToken\":{}}".to_vec(), "strongroom migrate --cache "),
        ("not_a_token_cache", b"garbage".to_vec(), "choose another location"),
    ];
    for (error, content, remedy) in cases {
        let path = world.file("case.bin", &content);
        let output = run(&mut world.sealed("case.bin"));
        assert!(stderr(&output).contains(remedy), "{error}: {}", stderr(&output));
        assert_eq!(failure(&mut world.sealed("case.bin")), (4, error.into()));
        assert_eq!(std::fs::read(path).unwrap(), content, "{error}");
    }
    let path = world.file("it's a cache.bin", b"{\"AccessToken\":{}}");
    let remedy = json(&run(world.sealed("it's a cache.bin").args(["--output", "json"])))["remedy"].clone();
    let quoted = format!("--cache '{}' --to sealed", path.display().to_string().replace('\'', r"'\''"));
    assert!(remedy.as_str().unwrap().contains(&quoted), "{remedy}");
    // The key is there for who says where.
    std::fs::rename(world.path("own.key"), world.path("moved.key")).unwrap();
    let output = run(&mut world.sealed("own.bin"));
    assert!(stderr(&output).contains("STRONGROOM_KEY_FILE"), "{}", stderr(&output));
    assert_eq!(failure(&mut world.sealed("own.bin")), (4, "unknown_key".into()));
    assert_eq!(std::fs::read(world.path("own.bin")).unwrap(), whole);
    world.hits(world.sealed("own.bin").env("STRONGROOM_KEY_FILE", world.path("moved.key")));
}

#[test]
fn where_no_key_can_be_kept_it_says_what_was_tried() {
    let world = World::new();
    let token = || {
        let mut token = bare();
        token
            .arg("token")
            .arg("--config")
            .arg(&world.ready().config_file)
            .arg("--cache")
            .arg(world.path("c"));
        token.env_remove("DBUS_SESSION_BUS_ADDRESS").env("XDG_RUNTIME_DIR", world.path("none"));
        // A file is where the folder should be.
        token.env("STRONGROOM_STATE_DIR", Path::new("/dev/null/state"));
        token
    };
    let output = run(&mut token());
    assert_eq!(code(&output), 4, "{}", stderr(&output));
    for said in ["cannot be encrypted", "no STRONGROOM_KEY_FILE", "/dev/null/state", "STRONGROOM_STATE_DIR"] {
        assert!(stderr(&output).contains(said), "{said}: {}", stderr(&output));
    }
    assert_eq!(failure(&mut token()), (4, "no_encryption".into()));
    assert!(!world.path("c").exists());
}
