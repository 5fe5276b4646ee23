//! What a token from the cache costs a fresh process: one look at one file.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{World, code, run, skip, stderr, stdout};

/// One system call, as strace writes it: `openat(AT_FDCWD, "/etc/passwd", O_RDONLY) = 3`.
struct Call {
    name: String,
    /// The arguments and the result.
    text: String,
}

impl Call {
    fn is(&self, names: &[&str]) -> bool {
        names.contains(&self.name.as_str())
    }

    fn failed(&self) -> bool {
        self.text.rsplit_once(" = ").is_some_and(|(_, result)| result.starts_with('-'))
    }

    /// The first argument in quotes: the path, where the call has one.
    fn path(&self) -> &str {
        self.text.split('"').nth(1).unwrap_or_default()
    }
}

fn trace(command: &Command, log: &Path) -> Vec<Call> {
    let mut traced = Command::new("strace");
    traced.args(["-f", "-s", "512", "-o"]).arg(log).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => traced.env(name, value),
            None => traced.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        traced.current_dir(folder);
    }
    let output = run(&mut traced);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stdout(&output).starts_with("eyJ"));
    let calls = |line: &str| {
        let (_pid, call) = line.trim_start().split_once(' ')?;
        let (name, text) = call.trim_start().split_once('(')?;
        Some(Call { name: name.to_owned(), text: text.to_owned() })
    };
    std::fs::read_to_string(log).unwrap().lines().filter_map(calls).collect()
}

fn can_trace() -> bool {
    Command::new("strace").args(["-o", "/dev/null", "true"]).status().is_ok_and(|status| status.success())
}

#[test]
fn a_hit_opens_no_socket_starts_no_thread_reads_no_trust_root_and_writes_nothing() {
    let test = "hit::a_hit_opens_no_socket_starts_no_thread_reads_no_trust_root_and_writes_nothing";
    if !can_trace() {
        return skip(test, "strace is missing, or may not trace here");
    }
    let world = World::new();
    let (config, state) = (&world.ready().config_file, world.path("token_cache.bin.state"));
    is_cheap(&world, || world.token(), &[config, &world.cache(), &state]);
}

#[test]
fn a_hit_in_a_sealed_cache_opens_the_key_too_and_nothing_else() {
    let test = "hit::a_hit_in_a_sealed_cache_opens_the_key_too_and_nothing_else";
    if !can_trace() {
        return skip(test, "strace is missing, or may not trace here");
    }
    let world = World::new();
    let (cache, key) = (world.path("cache.bin"), world.path("state/host.key"));
    let config = &world.ready().config_file;
    // The cache is looked at first: what is there decides how it is opened. No other program can have put back what was
    // removed from it, so what is remembered beside it is not asked.
    is_cheap(&world, || world.sealed("cache.bin"), &[config, &cache, &key, &cache]);
}

/// Nothing happens but that these files are read, in this order.
fn is_cheap(world: &World, token: impl Fn() -> Command, expected: &[&PathBuf]) {
    let log = world.path("trace");
    // The miss shows that the trace would tell.
    let miss = trace(&token(), &log);
    assert!(miss.iter().any(|call| call.name == "connect"));
    assert!(miss.iter().any(|call| call.is(&["clone", "clone3"])));
    assert!(miss.iter().any(|call| call.is(&["rename", "renameat", "renameat2"])));
    assert!(miss.iter().any(|call| call.path().ends_with("ca.pem")));

    let hit = trace(&token(), &log);
    for call in &hit {
        let (name, text) = (&call.name, &call.text);
        let starts = ["socket", "socketpair", "connect", "bind", "clone", "clone3", "fork", "vfork"];
        assert!(!call.is(&starts), "{name}({text}");
        let changes = [
            "rename",
            "renameat",
            "renameat2",
            "link",
            "linkat",
            "symlink",
            "symlinkat",
            "unlink",
            "unlinkat",
            "mkdir",
            "mkdirat",
            "rmdir",
            "chmod",
            "fchmod",
            "fchmodat",
            "chown",
            "fchown",
            "truncate",
            "ftruncate",
            "fallocate",
            "flock",
            "fsync",
            "fdatasync",
            "utimensat",
            "creat",
            "pwrite64",
        ];
        assert!(!call.is(&changes), "{name}({text}");
        if call.is(&["write", "writev"]) {
            assert!(text.starts_with("1, "), "only the token, to stdout: {name}({text}");
        }
        if call.is(&["open", "openat", "openat2"]) {
            assert!(
                !["O_WRONLY", "O_RDWR", "O_CREAT"].iter().any(|flag| text.contains(flag)),
                "{name}({text}"
            );
        }
    }
    // What is opened beside what every program loads.
    let ours: Vec<&str> = hit
        .iter()
        .filter(|call| call.is(&["open", "openat", "openat2"]) && !call.failed())
        .map(Call::path)
        .filter(|path| {
            !["/lib", "/usr/lib", "/proc/", "/sys/", "/etc/ld.so"].iter().any(|own| path.starts_with(own))
        })
        .collect();
    let expected: Vec<&str> = expected.iter().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(ours, expected);
    for call in &hit {
        let touches = ["/etc/ssl", "/usr/lib/ssl", "ca-certificates", "ca.pem"];
        let opened = call.name != "execve" && touches.iter().any(|path| call.path().contains(path));
        assert!(!opened, "{}({}", call.name, call.text);
    }
}
