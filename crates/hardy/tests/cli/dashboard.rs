//! `run` on a terminal: a dashboard there and nowhere else, and a terminal that is as it was however the run ends.

use std::{
    fs::{self, File},
    io::Read,
    os::{fd::FromRawFd, unix::process::CommandExt, unix::process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use crate::support::{arg, command, text};

const CONFIG: &str = "\
name = \"shown\"
[model]
path = \"builtin:tiny\"
[data]
train_problems = 8
[train]
steps = 3
prompts_per_step = 2
samples_per_prompt = 2
max_new_tokens = 8
[eval]
n = 4
";
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";

/// A terminal of 120 columns and 40 rows: the side that a program writes to, and what it has written so far.
struct Pty {
    slave: File,
    written: Arc<Mutex<String>>,
}

impl Pty {
    fn open() -> Self {
        let size = libc::winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
        let (mut master, mut slave) = (0, 0);
        // SAFETY: both descriptors are written before they are read, and each has one owner afterwards.
        let (mut master, slave) = unsafe {
            let (name, set) = (std::ptr::null_mut(), std::ptr::null_mut());
            assert_eq!(
                libc::openpty(&mut master, &mut slave, name, set, std::ptr::from_ref(&size).cast_mut()),
                0
            );
            (File::from_raw_fd(master), File::from_raw_fd(slave))
        };
        let written = Arc::new(Mutex::new(String::new()));
        let sink = Arc::clone(&written);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = master.read(&mut bytes) {
                sink.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..n]));
            }
        });
        Self { slave, written }
    }

    /// Starts the binary with this as its terminal and its standard error.
    fn start(&self, arguments: &[&str], term: &str) -> Child {
        let mut command = command(arguments);
        command.env("TERM", term).stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(self.slave.try_clone().unwrap());
        // SAFETY: between fork and exec only calls that are allowed there.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                // Who runs the tests in the background may have it ignored.
                libc::signal(libc::SIGINT, libc::SIG_DFL);
                libc::ioctl(libc::STDERR_FILENO, libc::TIOCSCTTY, 0);
                Ok(())
            });
        }
        command.spawn().unwrap()
    }

    fn written(&self) -> String {
        self.written.lock().unwrap().clone()
    }

    /// Waits until `part` was written.
    fn wait_for(&self, part: &str) {
        let until = Instant::now() + Duration::from_secs(120);
        while !self.written().contains(part) {
            assert!(Instant::now() < until, "`{part}` was not written: {}", self.written());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether what is typed is shown.
    fn echoes(&self) -> bool {
        use std::os::fd::AsRawFd;
        // SAFETY: plain numbers, filled before they are read.
        let set = unsafe {
            let mut set: libc::termios = std::mem::zeroed();
            assert_eq!(libc::tcgetattr(self.slave.as_raw_fd(), &mut set), 0);
            set
        };
        set.c_lflag & libc::ECHO != 0
    }
}

fn config(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("shown.toml");
    fs::write(&path, text).unwrap();
    path
}

/// How a run on a terminal ended, what it wrote there, and to standard output.
fn run(pty: &Pty, arguments: &[&str], term: &str) -> (ExitStatus, String, String) {
    let output = pty.start(arguments, term).wait_with_output().unwrap();
    // What the terminal still holds.
    thread::sleep(Duration::from_millis(200));
    (output.status, pty.written(), text(&output.stdout))
}

#[test]
fn a_terminal_shows_a_dashboard_and_gets_the_lines_that_stay_when_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (config(dir.path(), CONFIG), dir.path().join("run"));
    let pty = Pty::open();
    let (status, shown, printed) = run(&pty, &["run", arg(&file), "--out", arg(&out)], "xterm");
    assert!(status.success(), "{shown}");
    let (before, after) = shown.rsplit_once(LEAVE).unwrap();
    assert!(before.contains(ENTER) && before.contains("reward"), "{before}");
    for part in ["shown: 3 steps", "evaluation after step 3", "checkpoint"] {
        assert!(after.contains(part), "`{part}` is not in: {after}");
    }
    assert!(pty.echoes() && printed.contains("== shown"), "{printed}");
}

#[test]
fn an_error_comes_after_the_terminal_is_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    // No answer fits into a token, and where all answers of a group are wrong there is nothing to learn.
    let text = CONFIG.replace("max_new_tokens = 8", "max_new_tokens = 1\ndynamic_sampling = true");
    let (file, out) = (config(dir.path(), &text), dir.path().join("run"));
    let pty = Pty::open();
    let (status, shown, _) = run(&pty, &["run", arg(&file), "--out", arg(&out)], "xterm");
    let after = shown.rsplit_once(LEAVE).map(|(_, after)| after);
    assert_eq!(status.code(), Some(1), "{shown}");
    assert!(after.is_some_and(|after| after.contains("error: ")), "{shown}");
    // What is refused before anything begins never was on another screen.
    let pty = Pty::open();
    let (status, shown, _) = run(&pty, &["run", arg(&file), "--out", arg(&out)], "xterm");
    assert!(status.code() == Some(2) && !shown.contains(ENTER) && shown.contains("exists"), "{shown}");
}

#[test]
fn ctrl_c_ends_the_run_and_gives_the_terminal_back() {
    let dir = tempfile::tempdir().unwrap();
    let text = CONFIG.replace("steps = 3", "steps = 100000");
    let (file, out) = (config(dir.path(), &text), dir.path().join("run"));
    let pty = Pty::open();
    let mut child = pty.start(&["run", arg(&file), "--out", arg(&out)], "xterm");
    pty.wait_for("reward");
    assert!(!pty.echoes());
    // SAFETY: the process is a child that was not waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGINT));
    pty.wait_for(LEAVE);
    assert!(pty.echoes() && pty.written().ends_with(LEAVE), "{}", pty.written());
}

#[test]
fn plain_lines_where_no_dashboard_can_be_or_shall_be() {
    let dir = tempfile::tempdir().unwrap();
    let file = config(dir.path(), CONFIG);
    for (name, term, more) in
        [("dumb", "dumb", &[][..]), ("asked", "xterm", &["--no-dashboard"]), ("json", "xterm", &["--json"])]
    {
        let (pty, out) = (Pty::open(), dir.path().join(name));
        let (status, shown, _) = run(&pty, &[&["run", arg(&file), "--out", arg(&out)], more].concat(), term);
        assert!(status.success() && !shown.contains(ENTER), "{name}: {shown}");
        assert!(shown.contains("step 3/3"), "{name}: {shown}");
    }
}
