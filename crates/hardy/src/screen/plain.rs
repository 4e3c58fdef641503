//! A system without Unix's terminals: plain lines are shown, never pictures.

use std::io;

use ratatui_core::terminal::Frame;

/// What is never entered, since [`can_show`] says no.
pub enum Screen {}

/// Never.
pub fn can_show() -> bool {
    false
}

impl Screen {
    /// Fails.
    ///
    /// # Errors
    /// Always: this system has no such screen.
    pub fn enter() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Shows nothing.
    ///
    /// # Errors
    /// None, since there is no screen to show anything on.
    pub fn show(&mut self, _: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        match *self {}
    }
}

/// Nothing is drawn.
pub fn draw_on_this_thread() {}
