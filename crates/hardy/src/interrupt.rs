//! Ctrl-C, noted instead of ending the process, for work that must be put away first.

use std::sync::atomic::{AtomicBool, Ordering};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Notes the next Ctrl-C; a second one ends the process.
pub fn watch() {
    #[cfg(unix)]
    // SAFETY: the handler only stores into an atomic and puts the default back, both of which a handler may.
    unsafe {
        libc::signal(libc::SIGINT, note as *const () as libc::sighandler_t);
    }
}

/// Whether it came.
pub fn came() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

#[cfg(unix)]
extern "C" fn note(signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
    // SAFETY: as above.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
    }
}
