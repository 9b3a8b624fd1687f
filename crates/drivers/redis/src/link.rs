// SPDX-License-Identifier: Apache-2.0
//! The connections to one server, and what is known of its replicas.

use std::sync::Arc;
use std::time::Duration;

use atomix_env::{Env, PerWorker, Policy, Shutdown};
use atomix_store::{Error, ErrorKind};
use parking_lot::Mutex;
use redis::{Cmd, Value};
use tokio::sync::oneshot;

use crate::dial::{Dialer, Failure, Wire};
use crate::error::{Asked, Redirect, redirect, unanswered};
use crate::library::Library;

/// The connections to one server. All of them end together: a link never spans a restart or a failover.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) address: Arc<str>,
    dialer: Dialer,
    shared: Arc<Wire>,
    /// For the threads that serve clients.
    own: PerWorker<Arc<Wire>>,
    barrier: Option<Barrier>,
    /// Set when one of the connections has ended. The link is not used any more then.
    pub(crate) broken: Shutdown,
}

/// Waits for replicas, on a separate connection because Redis blocks the whole connection.
#[derive(Debug)]
struct Barrier {
    wire: Wire,
    replicas: u32,
    timeout: Duration,
    env: Env,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    running: bool,
    waiting: Vec<oneshot::Sender<bool>>,
}

// === impl Link ===

impl Link {
    pub(crate) async fn open(dialer: &Dialer, address: &str) -> Result<Self, Error> {
        let (broken, settings) = (Shutdown::new(), &dialer.settings);
        let shared = Arc::new(dialer.master(address, broken.clone()).await?);
        let barrier = match settings.wait_replicas {
            0 => None,
            replicas => Some(Barrier {
                wire: dialer.server(address, None, broken.clone()).await?,
                replicas,
                timeout: settings.wait_timeout,
                env: dialer.env.clone(),
                queue: Mutex::default(),
            }),
        };
        let own = PerWorker::new(settings.connections.saturating_sub(1));
        Ok(Self { address: address.into(), dialer: dialer.clone(), shared, own, barrier, broken })
    }

    pub(crate) fn usable(&self) -> bool {
        !self.broken.is_cancelled()
    }

    fn wire(&self) -> Arc<Wire> {
        let make = || {
            let (dialer, address, broken) =
                (self.dialer.clone(), Arc::clone(&self.address), self.broken.clone());
            async move {
                let wire = dialer.master(&address, broken).await;
                // The shared one serves as well.
                wire.inspect_err(|error| tracing::debug!(%error, "no connection of its own for a thread"))
                    .map(Arc::new)
                    .ok()
            }
        };
        // All of a link end together.
        self.own.get(&self.dialer.env, |_| true, make).unwrap_or_else(|| Arc::clone(&self.shared))
    }

    pub(crate) async fn call(&self, cmd: &Cmd) -> Result<Value, Failure> {
        self.wire().call(cmd).await
    }

    /// Asks a node that is about to take over the slot.
    pub(crate) async fn call_asking(&self, cmd: &Cmd) -> Result<Value, Failure> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("ASKING");
        pipeline.add_command(cmd.clone());
        let mut answers = self.wire().call_all(&pipeline, Duration::ZERO).await?;
        answers.pop().ok_or(Failure::Silent)
    }

    /// Makes sure that the server knows the library.
    pub(crate) async fn load(&self, library: &Library) -> Result<(), Error> {
        match self.call(redis::cmd("FUNCTION").arg("LOAD").arg(&library.source)).await {
            Ok(_) => Ok(()),
            Err(Failure::Said(error))
                if error.detail().is_some_and(|detail| detail.contains("already exists")) =>
            {
                Ok(())
            }
            // Loading the library is not a write of the caller: in every case the caller's request was not
            // applied.
            Err(failure) => Err(failure.translate(Asked::Read)),
        }
    }

    /// Waits until as many replicas as configured have the commits answered before. Without that setting
    /// there is nothing to wait for.
    pub(crate) async fn replicated(self: &Arc<Self>, asked: Asked) -> Result<(), Error> {
        let Some(barrier) = &self.barrier else { return Ok(()) };
        let (sender, done) = oneshot::channel();
        let start = {
            let mut queue = barrier.queue.lock();
            queue.waiting.push(sender);
            !std::mem::replace(&mut queue.running, true)
        };
        if start {
            let link = Arc::clone(self);
            // After a panic it continues with the callers that arrived since; those it was serving get "not
            // enough".
            barrier.env.supervise("redis-replicas", Policy::Restart, move || {
                let link = Arc::clone(&link);
                async move {
                    if let Some(barrier) = &link.barrier {
                        barrier.run().await;
                    }
                }
            });
        }
        if done.await == Ok(true) {
            return Ok(());
        }
        let (wanted, timeout) = (barrier.replicas, barrier.timeout);
        let message = format!(
            "not enough replicas have it in time: wait-replicas=`{wanted}` wait-timeout=`{timeout:?}`"
        );
        Err(Error::new(unanswered(asked).kind(), message))
    }
}

/// Returns whether a server does not know the function.
pub(crate) fn lacks_library(failure: &Failure) -> bool {
    matches!(failure, Failure::Said(error) if redirect(error) == Some(Redirect::NoLibrary))
}

// === impl Barrier ===

impl Barrier {
    /// Serves all waiting callers, many with one round, until none waits.
    async fn run(&self) {
        loop {
            let waiting = {
                let mut queue = self.queue.lock();
                if queue.waiting.is_empty() {
                    queue.running = false;
                    return;
                }
                std::mem::take(&mut queue.waiting)
            };
            let enough = self.wait().await.is_ok_and(|replicas| replicas >= self.replicas);
            for waiter in waiting {
                // A caller that is gone needs no answer.
                waiter.send(enough).ok();
            }
        }
    }

    async fn wait(&self) -> Result<u32, Error> {
        let mut pipeline = redis::pipe();
        // WAIT waits for what was written up to this connection's last command. The first command moves that to now.
        pipeline.cmd("PING");
        let timeout = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
        pipeline.cmd("WAIT").arg(self.replicas).arg(timeout);
        let answers = self.wire.call_all(&pipeline, self.timeout).await;
        let answers = answers.map_err(|failure| failure.translate(Asked::Read))?;
        match answers.last() {
            Some(Value::Int(replicas)) => Ok(u32::try_from(*replicas).unwrap_or(0)),
            _ => Err(Error::new(ErrorKind::Internal, "redis answers WAIT with no number")),
        }
    }
}
