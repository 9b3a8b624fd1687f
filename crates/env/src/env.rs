// SPDX-License-Identifier: Apache-2.0
//! The environment itself: time, chance, tasks and the machine in one value.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::FutureExt;

use crate::blocking_table::BlockingTable;
use crate::clock::{Clock, Instant, ManualClock, RealClock, WallTime};
use crate::entropy::{Entropy, RealEntropy, SeededEntropy};
use crate::machine::Machine;
use crate::supervision::Supervision;
use crate::task::{RealSpawner, Spawner, Task};

/// Gives access to time, chance and tasks. Cheap to clone.
#[derive(Clone)]
pub struct Env {
    world: Arc<World>,
}

struct World {
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    spawner: Arc<dyn Spawner>,
    machine: Arc<OnceLock<Machine>>,
    supervision: Supervision,
    blocking: Arc<BlockingTable>,
}

/// The error of a call of [`Env::timeout`] that did not end in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

// === impl Env ===

impl Env {
    /// The real world: the machine's clocks, its random source and the current tokio runtime.
    pub fn real() -> Self {
        Self::new(Arc::new(RealClock::new()), Arc::new(RealEntropy), Arc::default())
    }

    /// A world whose time stands still until the test moves `clock`, and whose chance repeats for a `seed`.
    /// Tasks still run on the current tokio runtime.
    pub fn simulated(clock: Arc<ManualClock>, seed: u64) -> Self {
        Self::new(clock, Arc::new(SeededEntropy::new(seed)), Arc::new(Machine::default().into()))
    }

    fn new(clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>, machine: Arc<OnceLock<Machine>>) -> Self {
        let (spawner, supervision) = (Arc::new(RealSpawner), Supervision::default());
        let blocking = Arc::default();
        Self { world: Arc::new(World { clock, entropy, spawner, machine, supervision, blocking }) }
    }

    /// The same world with other supervision.
    pub(crate) fn with_supervision(&self, supervision: Supervision) -> Self {
        let World { clock, entropy, spawner, machine, supervision: _, blocking } = &*self.world;
        let (clock, entropy, spawner) = (Arc::clone(clock), Arc::clone(entropy), Arc::clone(spawner));
        let (machine, blocking) = (Arc::clone(machine), Arc::clone(blocking));
        Self { world: Arc::new(World { clock, entropy, spawner, machine, supervision, blocking }) }
    }

    pub(crate) fn supervision(&self) -> &Supervision {
        &self.world.supervision
    }

    pub(crate) fn blocking_table(&self) -> &Arc<BlockingTable> {
        &self.world.blocking
    }

    /// The same world with another machine, for tests.
    #[must_use]
    pub fn with_machine(&self, machine: Machine) -> Self {
        let World { clock, entropy, spawner, blocking, .. } = &*self.world;
        let (clock, entropy, spawner) = (Arc::clone(clock), Arc::clone(entropy), Arc::clone(spawner));
        let (machine, supervision) = (Arc::new(machine.into()), Supervision::default());
        let blocking = Arc::clone(blocking);
        Self { world: Arc::new(World { clock, entropy, spawner, machine, supervision, blocking }) }
    }

    /// Returns the bounds that the machine sets. The real ones are read once, with the first call.
    pub fn machine(&self) -> &Machine {
        self.world.machine.get_or_init(Machine::read)
    }

    /// Returns the clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.world.clock
    }

    /// Returns the monotonic time.
    pub fn now(&self) -> Instant {
        self.world.clock.now()
    }

    /// Returns the wall time. It may jump; use it only for what must survive a restart.
    pub fn wall(&self) -> WallTime {
        self.world.clock.wall()
    }

    /// Returns what the wall clock of now calls a monotonic time that has passed: right also if the wall clock has jumped since.
    pub fn wall_of(&self, passed: Instant) -> WallTime {
        WallTime::from_unix(self.wall().since_unix().saturating_sub(self.now().since(passed)))
    }

    /// Waits for `duration`. Cancel safe.
    pub fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + Send + 'static {
        self.world.clock.sleep_until(self.world.clock.now() + duration)
    }

    /// Runs `future` for at most `duration`. Drops it when the time is over.
    pub async fn timeout<F: Future>(&self, duration: Duration, future: F) -> Result<F::Output, Elapsed> {
        let timer = std::pin::pin!(self.sleep(duration));
        let future = std::pin::pin!(future);
        match futures::future::select(future, timer).await {
            futures::future::Either::Left((output, _)) => Ok(output),
            futures::future::Either::Right(((), _)) => Err(Elapsed),
        }
    }

    /// Returns 64 random bits.
    pub fn random(&self) -> u64 {
        self.world.entropy.next()
    }

    /// Returns `duration` varied by chance by up to a fifth up or down, so that many clients do not act in step.
    pub fn jitter(&self, duration: Duration) -> Duration {
        // 53 bits fill the mantissa of a double exactly.
        #[allow(clippy::cast_precision_loss, reason = "53 bits fit a double")]
        let unit = (self.random() >> 11) as f64 / (1u64 << 53) as f64;
        duration.mul_f64(0.8 + 0.4 * unit)
    }

    /// Starts a task that is never aborted: cheaper than [`Env::spawn`].
    pub fn detach<F>(&self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.world.spawner.spawn(Box::pin(future));
    }

    /// Starts a thread for work that blocks, such as syncing a disk. It is not waited for when the process ends.
    pub fn thread(&self, name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        self.world.spawner.thread(name, Box::new(work))
    }

    /// Starts a task. It runs until it ends, is aborted through the [`Task`], or the tokio runtime ends; dropping
    /// the [`Task`] lets it run on.
    pub fn spawn<F>(&self, future: F) -> Task
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (future, abort) = futures::future::abortable(future);
        // An aborted task has nothing to report.
        self.world.spawner.spawn(Box::pin(future.map(|_| ())));
        Task::new(abort)
    }
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env").field("now", &self.now()).finish_non_exhaustive()
    }
}

impl std::fmt::Display for Elapsed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("time is over")
    }
}

impl std::error::Error for Elapsed {}
