//! The terminal given over to pictures, and given back as it was whatever ends the process: the end of the work, an error, a
//! panic, Ctrl-C, being told to end. Keys keep their meaning, since signals stay with the terminal; only the echo is off.

use std::{
    io::{self, BufWriter, IsTerminal, Stderr, Write, stderr},
    sync::{
        Once, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ratatui_core::{
    layout::Size,
    terminal::{Frame, Terminal},
};
use terminal_size::terminal_size_of;

use crate::ansi::Ansi;

/// The other screen of the terminal, without a cursor.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[2J\x1b[?25l";
/// Plain letters, the cursor, the screen as it was.
const LEAVE: &[u8] = b"\x1b[0m\x1b[?25h\x1b[?1049l";
/// What ends the process, and would leave the terminal as it is.
const ENDS: [libc::c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// Whether the terminal shows the other screen.
static ENTERED: AtomicBool = AtomicBool::new(false);
/// Whether a picture is being written; a handler waits for its end.
static DRAWING: AtomicBool = AtomicBool::new(false);
/// Whether the process goes on after it was stopped by Ctrl-Z.
static RESUMED: AtomicBool = AtomicBool::new(false);
/// How the terminal was set.
static BEFORE: OnceLock<libc::termios> = OnceLock::new();

/// A terminal on standard error that shows pictures until this is dropped.
pub struct Screen {
    terminal: Terminal<Ansi<BufWriter<Stderr>>>,
}

/// Whether standard error is a terminal that can show pictures, and this process may: not one in the background, whose terminal
/// belongs to another.
pub fn can_show() -> bool {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    stderr().is_terminal() && !dumb && in_foreground()
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// A terminal that does not say its size.
    pub fn enter() -> io::Result<Self> {
        let terminal = terminal()?;
        give_back_on_the_way_out();
        enter();
        Ok(Self { terminal })
    }

    /// Shows what `draw` draws; nothing while the process is in the background.
    ///
    /// # Errors
    /// A terminal that can not be written to.
    pub fn show(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        if RESUMED.swap(false, Ordering::SeqCst) && in_foreground() {
            handle(libc::SIGTSTP, stop);
            // What it showed is gone.
            self.terminal = terminal()?;
            enter();
        }
        DRAWING.store(true, Ordering::SeqCst);
        let drawn = if ENTERED.load(Ordering::SeqCst) { self.terminal.draw(draw).map(drop) } else { Ok(()) };
        DRAWING.store(false, Ordering::SeqCst);
        drawn
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

/// Lets signals be handled on other threads, so that a handler can wait for what this one draws.
pub fn draw_on_this_thread() {
    // SAFETY: the set is made by `sigfillset` before it is read, and only this thread's mask changes.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
    }
}

fn terminal() -> io::Result<Terminal<Ansi<BufWriter<Stderr>>>> {
    Terminal::new(Ansi::new(BufWriter::with_capacity(1 << 16, stderr()), size))
}

/// Columns and rows; none of a terminal that does not say.
fn size() -> Size {
    terminal_size_of(stderr()).map_or(Size::ZERO, |(width, height)| Size::new(width.0, height.0))
}

/// Whether the terminal takes what this process sends: it belongs to its group.
fn in_foreground() -> bool {
    // SAFETY: both only ask.
    unsafe { libc::tcgetpgrp(libc::STDERR_FILENO) == libc::getpgrp() }
}

fn enter() {
    ENTERED.store(true, Ordering::SeqCst);
    // SAFETY: `termios` is plain numbers, which `tcgetattr` fills before they are read.
    unsafe {
        let mut set: libc::termios = std::mem::zeroed();
        if libc::tcgetattr(libc::STDERR_FILENO, &mut set) == 0 {
            let _ = BEFORE.set(set);
            set.c_lflag &= !libc::ECHO;
            libc::tcsetattr(libc::STDERR_FILENO, libc::TCSANOW, &set);
        }
    }
    let mut out = stderr().lock();
    // A terminal that is gone shows nothing.
    let _ = out.write_all(ENTER).and_then(|()| out.flush());
}

/// Gives the terminal back, once; what a signal handler may call. No picture begins after the first line, and one that had begun
/// is waited for.
fn leave() {
    if !ENTERED.swap(false, Ordering::SeqCst) {
        return;
    }
    wait_for_the_picture();
    // SAFETY: both may be called by a handler; the bytes and the settings live as long as the process.
    unsafe {
        libc::write(libc::STDERR_FILENO, LEAVE.as_ptr().cast(), LEAVE.len());
        if let Some(before) = BEFORE.get() {
            libc::tcsetattr(libc::STDERR_FILENO, libc::TCSANOW, before);
        }
    }
}

/// Sees to it that the terminal is given back when the process is ended or panics.
fn give_back_on_the_way_out() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let said = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            leave();
            said(panic);
        }));
        ENDS.iter().for_each(|&signal| handle(signal, end));
        handle(libc::SIGTSTP, stop);
        handle(libc::SIGCONT, resume);
    });
}

/// Has a signal handled, unless whoever started the process has it ignored, as `nohup` does.
fn handle(signal: libc::c_int, with: extern "C" fn(libc::c_int)) {
    // SAFETY: the handlers do only what handlers may.
    unsafe {
        if libc::signal(signal, with as *const () as libc::sighandler_t) == libc::SIG_IGN {
            libc::signal(signal, libc::SIG_IGN);
        }
    }
}

/// Gives the terminal back, then does what the signal does by itself.
extern "C" fn end(signal: libc::c_int) {
    leave();
    // SAFETY: both may be called by a handler.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::raise(signal);
    }
}

extern "C" fn stop(signal: libc::c_int) {
    end(signal);
}

extern "C" fn resume(_: libc::c_int) {
    RESUMED.store(true, Ordering::SeqCst);
}

/// Waits until no picture is being written, but not for a terminal that takes nothing.
fn wait_for_the_picture() {
    /// Looks at whether it is.
    const LOOKS: usize = 200;
    let pause = libc::timespec { tv_sec: 0, tv_nsec: Duration::from_millis(1).subsec_nanos().into() };
    for _ in 0..LOOKS {
        if !DRAWING.load(Ordering::SeqCst) {
            return;
        }
        // SAFETY: may be called by a handler; the time lives on the stack.
        unsafe { libc::nanosleep(&pause, std::ptr::null_mut()) };
    }
}
