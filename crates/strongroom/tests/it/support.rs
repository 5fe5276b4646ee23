//! What several tests need. Used by the integration tests and, by path, by unit tests of the library.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stderr)]

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Write as _};
#[cfg(unix)]
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

#[cfg(unix)]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Notes that a test could not run here, so that nobody takes it for passed.
pub fn skip(test: &str, reason: &str) {
    let line = format!("SKIPPED {test}: {reason}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("STRONGROOM_TEST_SKIPS") {
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}

/// Whether a test that needs an ordinary user may run.
#[cfg(unix)]
pub fn is_unprivileged(test: &str) -> bool {
    if std::env::var_os("STRONGROOM_TEST_UNPRIVILEGED").is_some_and(|value| value == "1") {
        assert!(!is_root(), "STRONGROOM_TEST_UNPRIVILEGED is set, but this is root");
        return true;
    }
    skip(test, "needs an ordinary user and STRONGROOM_TEST_UNPRIVILEGED=1");
    false
}

/// Whether a test that mounts file systems may run.
#[cfg(unix)]
pub fn can_mount(test: &str) -> bool {
    let directory = tempfile::tempdir().unwrap();
    if is_root() && mount(&["-t", "tmpfs", "tmpfs"], directory.path()).is_some() {
        return true;
    }
    skip(test, "needs root and the right to mount");
    false
}

/// A mount that ends when this is dropped.
pub struct Mount<'a>(&'a Path);

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

pub fn mount<'a>(arguments: &[&str], at: &'a Path) -> Option<Mount<'a>> {
    let output = Command::new("mount").args(arguments).arg(at).output().ok()?;
    output.status.success().then_some(Mount(at))
}

#[cfg(unix)]
pub fn mode_of(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o7777
}

#[cfg(unix)]
pub fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// The names in a directory, sorted.
pub fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Looks until it is so, for a bounded time.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < end, "waited 30 s in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// This test binary again, as another process that runs the one (ignored) test `name`.
pub fn another_process(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

/// A running child that is killed and reaped when dropped.
pub struct Process {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Process {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Reads what it prints until the word comes, and gives the line with it.
    pub fn wait_for(&mut self, word: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(
                self.lines.read_line(&mut line).unwrap(),
                0,
                "the other process ended before it said {word:?}"
            );
            if line.contains(word) {
                return line;
            }
        }
    }

    /// Lets it go on: it gets one line of input.
    pub fn go_on(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    /// Lets it go on (its standard input ends) and waits for its end.
    pub fn finish(&mut self) {
        drop(self.child.stdin.take());
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.lines, &mut rest).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "the other process failed: {status}\n{rest}");
    }

    /// Its standard input, which then does not end with it: its forked children live until this is dropped.
    pub fn take_input(&mut self) -> ChildStdin {
        self.child.stdin.take().unwrap()
    }

    /// Waits until it and its forked children have ended.
    pub fn wait_for_all(&mut self) {
        let _ = std::io::Read::read_to_end(&mut self.lines, &mut Vec::new());
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
