//! Colours are for people: on a terminal only, and not for who declines them.

use std::fs::File;
use std::io::Read as _;
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::support::{bare, code, command, run, stderr, stdout};

const ESCAPE: char = '\u{1b}';

/// What the command shows on a terminal of its own, stdout and stderr together.
pub fn on_a_terminal(command: &mut Command) -> String {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let name = ptsname(&controller, Vec::new()).unwrap().into_string().unwrap();
    let terminal = File::options().read(true).write(true).open(name).unwrap();
    command.env("TERM", "xterm").env_remove("CLICOLOR").env_remove("CLICOLOR_FORCE");
    command.stdin(Stdio::null()).stdout(terminal.try_clone().unwrap()).stderr(terminal);
    let mut child = command.spawn().unwrap();
    // The last of ours: what is left is the child's.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (mut shown, mut controller) = (Vec::new(), File::from(controller));
    let mut buffer = [0; 4096];
    // A terminal whose other side is closed answers with an error.
    while let Ok(read @ 1..) = controller.read(&mut buffer) {
        shown.extend_from_slice(&buffer[..read]);
    }
    child.wait().unwrap();
    String::from_utf8(shown).unwrap()
}

fn failing() -> Command {
    let mut token = command("token");
    token.args(["--config", "/no/such/config.json"]);
    token
}

#[test]
fn an_error_is_coloured_on_a_terminal_only() {
    let shown = on_a_terminal(&mut failing());
    assert!(shown.contains("error:") && shown.contains(ESCAPE), "{shown:?}");
    let shown = on_a_terminal(failing().env("NO_COLOR", "1"));
    assert!(shown.contains("error:") && !shown.contains(ESCAPE), "{shown:?}");
    let shown = on_a_terminal(failing().args(["--output", "json"]));
    assert!(shown.contains("config_unreadable") && !shown.contains(ESCAPE), "{shown:?}");
    let output = run(&mut failing());
    assert_eq!((code(&output), stdout(&output).as_str()), (2, ""));
    assert!(!stderr(&output).contains(ESCAPE));
}

#[test]
fn help_and_logs_are_coloured_on_a_terminal_only() {
    let warned = || {
        let mut completions = command("completions");
        completions.arg("fish").env("STRONGROOM_LOG", "a=b=c");
        completions
    };
    assert!(on_a_terminal(bare().arg("--help")).contains(ESCAPE));
    assert!(on_a_terminal(&mut warned()).contains(ESCAPE));
    let (help, warned) = (run(bare().arg("--help")), run(&mut warned()));
    assert!(!stdout(&help).contains(ESCAPE));
    assert!(stderr(&warned).contains("STRONGROOM_LOG is not understood"));
    assert!(!stderr(&warned).contains(ESCAPE) && !stdout(&warned).contains(ESCAPE));
}
