//! Making the runs of a suite, several at once: each in a thread with its own share of the cores, all in one process, so
//! that nothing of a suite that is killed goes on without it.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
};

use hardy_ops::NoisyBackend;
use hardy_train::error::Error;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::{Member, Schedule};
use crate::{
    error::LabError,
    run::{Event, run},
};

/// What a suite tells while it goes on.
#[derive(Debug)]
pub enum SuiteEvent<'a> {
    /// Something happened in a run.
    Run(&'a Member, Event<'a>),
    /// A run is finished.
    Finished(&'a Member),
}

/// Who is told of events, from whichever thread.
type Teller<'a> = Mutex<&'a mut (dyn FnMut(SuiteEvent<'_>) + Send)>;

/// Makes the runs that are not finished, `jobs` at once, with the threads of the present pool shared among them. After a
/// run that fails no other is started.
///
/// # Errors
/// The first run that failed, named; runs that were finished stay.
pub fn execute<B: NoisyBackend>(
    schedule: &Schedule,
    jobs: usize,
    device: &B::Device,
    tell: &mut (dyn FnMut(SuiteEvent<'_>) + Send),
) -> Result<(), LabError> {
    let open: VecDeque<&Member> = schedule.members().iter().filter(|member| !member.finished).collect();
    let jobs = jobs.clamp(1, open.len().max(1));
    let threads = (rayon::current_num_threads() / jobs).max(1);
    let (queue, tell) = (Mutex::new(open), Mutex::new(tell));
    let failed: Mutex<Option<LabError>> = Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(member) = lock(&queue).pop_front() {
                    if let Err(error) = one::<B>(member, threads, device, &tell) {
                        lock(&queue).clear();
                        let named = LabError::Member { label: member.label(), error: Box::new(error) };
                        lock(&failed).get_or_insert(named);
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

fn one<B: NoisyBackend>(
    member: &Member,
    threads: usize,
    device: &B::Device,
    tell: &Teller<'_>,
) -> Result<(), LabError> {
    let directory: &Path = &member.directory;
    pool(threads)?.install(|| {
        run::<B>(&member.config, directory, true, device, &mut |event| {
            (lock(tell))(SuiteEvent::Run(member, event));
        })
    })?;
    (lock(tell))(SuiteEvent::Finished(member));
    Ok(())
}

fn pool(threads: usize) -> Result<ThreadPool, LabError> {
    let pool = ThreadPoolBuilder::new().num_threads(threads).build();
    Ok(pool.map_err(|error| Error::config(format!("{threads} threads for a run: {error}")))?)
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
