//! A run in a terminal while it goes on. A thread of its own reads what the run writes to its directory, as `hardy watch` does,
//! and draws it; the run only says that there is something new, and waits for nothing.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use hardy_lab::live::Followed;

use super::view::{SAID, View, Work};
use crate::{
    output::note,
    screen::{Screen, draw_on_this_thread},
};

/// Between two pictures, at least.
const INTERVAL: Duration = Duration::from_millis(250);

/// What a run has said, and the thread that draws it.
pub struct Dashboard {
    said: Arc<(Mutex<Said>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

/// What a run has said since it began.
#[derive(Default)]
struct Said {
    /// The directory of the run that goes on.
    directory: Option<PathBuf>,
    /// Whether its files say more than was read.
    news: bool,
    /// What it is at.
    work: Option<Work>,
    /// Lines that stay: warnings, evaluations, checkpoints.
    lines: Vec<String>,
    /// Whether it has ended.
    over: bool,
}

impl Dashboard {
    /// A dashboard on the terminal; `None` where that can not be had.
    pub fn open() -> Option<Self> {
        let screen = Screen::enter().ok()?;
        let said = Arc::new((Mutex::default(), Condvar::new()));
        let shared = Arc::clone(&said);
        let thread =
            std::thread::Builder::new().name("dashboard".into()).spawn(move || draw(screen, &shared));
        // A screen that no thread has is given back with it.
        Some(Self { said, thread: Some(thread.ok()?) })
    }

    /// The run in `directory` goes on from here.
    pub fn follow(&self, directory: &Path) {
        let mut said = self.said();
        said.directory = Some(directory.to_owned());
        said.news = true;
    }

    /// The run has written something.
    pub fn news(&self) {
        let mut said = self.said();
        (said.news, said.work) = (true, None);
    }

    /// So much of some work is done; what follows it does not count.
    pub fn at(&self, label: &str, done: usize, of: usize) {
        self.said().work = (done < of).then(|| Work { label: label.to_owned(), done, of });
    }

    /// A line that stays.
    pub fn line(&self, text: &str) {
        self.said().lines.push(text.to_owned());
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        lock(&self.said.0)
    }
}

/// Gives the terminal back, and says there what would have been said without pictures.
impl Drop for Dashboard {
    fn drop(&mut self) {
        self.said().over = true;
        self.said.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // It has said what it panicked of.
            let _ = thread.join();
        }
        self.said().lines.iter().for_each(|line| note(line));
    }
}

fn lock(said: &Mutex<Said>) -> MutexGuard<'_, Said> {
    // What was said stands, whoever panicked.
    said.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Draws until the run is over.
fn draw(mut screen: Screen, (said, changed): &(Mutex<Said>, Condvar)) {
    draw_on_this_thread();
    let began = Instant::now();
    let mut run: Option<Followed> = None;
    loop {
        let (view, over) = {
            let mut said = lock(said);
            let news = std::mem::take(&mut said.news);
            let last = said.lines.len().saturating_sub(SAID);
            let (directory, lines) = (said.directory.clone(), said.lines[last..].to_vec());
            let (work, over) = (said.work.clone(), said.over);
            drop(said);
            if run.as_ref().map(Followed::directory) != directory.as_deref() {
                run = directory.as_deref().map(Followed::new);
            }
            if let Some(run) = run.as_mut().filter(|_| news) {
                run.refresh();
            }
            (View { run: run.as_ref(), work, said: lines, elapsed: began.elapsed() }, over)
        };
        // A terminal that takes nothing more is no reason to end a run.
        if over || screen.show(|frame| view.draw(frame)).is_err() {
            return;
        }
        let guard = lock(said);
        if !guard.over {
            drop(changed.wait_timeout(guard, INTERVAL));
        }
    }
}
