//! Threads for reads that must wait for a device, so that no caller's executor does.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    idle: usize,
    threads: Vec<JoinHandle<()>>,
    closed: bool,
}

/// A queue of blocking work; threads are started when they are needed, up to a limit.
#[derive(Clone)]
pub(crate) struct Jobs {
    shared: Arc<(Mutex<Queue>, Condvar)>,
    limit: usize,
}

impl Jobs {
    pub(crate) fn new(limit: usize) -> Self {
        Self { shared: Arc::default(), limit }
    }

    /// Runs the job on a thread; after [`Jobs::close`], or when no thread can be had, on this one.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut queue = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.closed {
            drop(queue);
            return job();
        }
        queue.jobs.push_back(Box::new(job));
        if queue.idle < queue.jobs.len() && queue.threads.len() < self.limit {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name(String::from("pool-read")).spawn(move || work(&shared));
            match thread {
                Ok(thread) => queue.threads.push(thread),
                Err(_) if queue.threads.is_empty() => {
                    let job = queue.jobs.pop_back();
                    drop(queue);
                    if let Some(job) = job {
                        job();
                    }
                    return;
                }
                Err(_) => {}
            }
        }
        self.shared.1.notify_one();
    }

    /// Finishes what is queued and ends the threads.
    pub(crate) fn close(&self) {
        let threads = {
            let mut queue = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
            queue.closed = true;
            std::mem::take(&mut queue.threads)
        };
        self.shared.1.notify_all();
        let me = std::thread::current().id();
        for thread in threads.into_iter().filter(|thread| thread.thread().id() != me) {
            let _ = thread.join();
        }
    }
}

fn work(shared: &(Mutex<Queue>, Condvar)) {
    let mut queue = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if let Some(job) = queue.jobs.pop_front() {
            drop(queue);
            job();
            queue = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        } else if queue.closed {
            return;
        } else {
            queue.idle += 1;
            queue = shared.1.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.idle -= 1;
        }
    }
}
