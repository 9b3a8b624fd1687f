// SPDX-License-Identifier: Apache-2.0
//! Wake-ups that cross threads together.
//!
//! To wake a task of another thread takes a lock and a system call each time. A commit that a thousand streams wait for, or
//! a sync that a hundred calls wait for, would pay that for each. So wake-ups are put into the mailbox of the thread where the
//! task lives, and one that finds it empty wakes the thread, which wakes its tasks itself.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use futures::future::BoxFuture;
use parking_lot::Mutex;

/// A task of a thread of [`crate::Workers`] that is woken through its mailbox. On other threads nothing is different.
pub struct BatchedWakeTask {
    task: BoxFuture<'static, ()>,
    /// The waker that it was polled with last, and the one that it was given.
    wakers: Option<(Waker, Waker)>,
}

/// The wake-ups that wait for a thread.
#[derive(Debug, Default)]
pub(crate) struct Mailbox(Mutex<PendingWakes>);

#[derive(Debug, Default)]
struct PendingWakes {
    tasks: Vec<Waker>,
    reader: Option<Waker>,
}

struct WakeViaMailbox {
    mailbox: Arc<Mailbox>,
    task: Waker,
}

thread_local! {
    static MAILBOX: RefCell<Option<Arc<Mailbox>>> = const { RefCell::new(None) };
}

// === impl BatchedWakeTask ===

impl BatchedWakeTask {
    /// Makes a task of `task`.
    pub fn new(task: BoxFuture<'static, ()>) -> Self {
        Self { task, wakers: None }
    }
}

impl Future for BatchedWakeTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Self { task, wakers } = &mut *self;
        let same = wakers.take().filter(|(polled, _)| polled.will_wake(context.waker()));
        let (_, given) = wakers.insert(same.unwrap_or_else(|| {
            let polled = context.waker().clone();
            let given = match MAILBOX.with_borrow(Clone::clone) {
                Some(mailbox) => Waker::from(Arc::new(WakeViaMailbox { mailbox, task: polled.clone() })),
                None => polled.clone(),
            };
            (polled, given)
        }));
        task.as_mut().poll(&mut Context::from_waker(given))
    }
}

impl std::fmt::Debug for BatchedWakeTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchedWakeTask").finish_non_exhaustive()
    }
}

// === impl Mailbox ===

impl Mailbox {
    /// Makes this the mailbox of the calling thread, and wakes the tasks in it, for ever.
    pub(crate) async fn deliver(self: Arc<Self>) {
        MAILBOX.set(Some(Arc::clone(&self)));
        let mut tasks = Vec::new();
        poll_fn(|context| {
            {
                let mut pending = self.0.lock();
                if pending.reader.as_ref().is_none_or(|reader| !reader.will_wake(context.waker())) {
                    pending.reader = Some(context.waker().clone());
                }
                std::mem::swap(&mut pending.tasks, &mut tasks);
            }
            tasks.drain(..).for_each(Waker::wake);
            Poll::<()>::Pending
        })
        .await;
    }

    fn send(&self, task: Waker) {
        let mut pending = self.0.lock();
        pending.tasks.push(task);
        if pending.tasks.len() == 1
            && let Some(reader) = pending.reader.clone()
        {
            drop(pending);
            reader.wake();
        }
    }
}

// === impl WakeViaMailbox ===

impl Wake for WakeViaMailbox {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let here = |mailbox: &Option<Arc<Mailbox>>| {
            mailbox.as_ref().is_some_and(|mailbox| Arc::ptr_eq(mailbox, &self.mailbox))
        };
        // A thread that ends has no mailbox any more.
        if MAILBOX.try_with(|mailbox| here(&mailbox.borrow())).unwrap_or(false) {
            self.task.wake_by_ref();
        } else {
            self.mailbox.send(self.task.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::sync::{oneshot, watch};

    use super::*;
    use crate::env::Env;
    use crate::workers::Workers;

    #[test]
    fn whoever_waits_on_another_thread_is_woken_every_time() {
        let workers = Workers::start(2).unwrap();
        let (say, said) = watch::channel(0);
        let (tell, told) = mpsc::channel();
        for _ in 0..100 {
            let (mut said, tell) = (said.clone(), tell.clone());
            workers.detach(BatchedWakeTask::new(Box::pin(async move {
                while said.changed().await.is_ok() {
                    tell.send(*said.borrow_and_update()).unwrap();
                }
            })));
        }
        drop(tell);
        for round in 1..=50 {
            say.send(round).unwrap();
            let mut arrived = 0;
            while arrived < 100 {
                arrived += usize::from(told.recv().unwrap() == round);
            }
        }
        drop(say);
        assert!(told.recv().is_err(), "all have ended");
    }

    #[test]
    fn without_workers_a_task_is_woken_as_ever() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (say, said) = oneshot::channel();
        let (tell, told) = oneshot::channel();
        runtime.block_on(async {
            Env::real()
                .detach(BatchedWakeTask::new(Box::pin(async { tell.send(said.await.unwrap()).unwrap() })));
            tokio::task::yield_now().await;
            say.send(1).unwrap();
            assert_eq!(told.await.unwrap(), 1);
        });
    }
}
