// SPDX-License-Identifier: Apache-2.0
//! The house's clock, as hyper wants it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant as StdInstant};

use atomix_env::{Env, Instant};
use futures::future::BoxFuture;
use hyper::rt::{Sleep, Timer};
use parking_lot::Mutex;

/// Tells hyper the time of an [`Env`].
#[derive(Debug)]
pub(crate) struct EnvTimer {
    env: Env,
    origin: Instant,
    std_origin: StdInstant,
}

/// hyper shares its timers between threads. The lock is never taken: a timer is polled by reference to its only owner.
struct EnvSleep(Mutex<BoxFuture<'static, ()>>);

impl EnvTimer {
    pub(crate) fn new(env: Env) -> Self {
        // hyper speaks in instants of the standard library, which only the real clock can make; one is enough.
        let std_origin = tokio::time::Instant::now().into_std();
        Self { origin: env.now(), env, std_origin }
    }
}

impl Timer for EnvTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(EnvSleep(Mutex::new(Box::pin(self.env.sleep(duration)))))
    }

    fn sleep_until(&self, deadline: StdInstant) -> Pin<Box<dyn Sleep>> {
        let deadline = self.origin + deadline.saturating_duration_since(self.std_origin);
        Box::pin(EnvSleep(Mutex::new(self.env.clock().sleep_until(deadline))))
    }

    fn now(&self) -> StdInstant {
        self.std_origin + self.env.now().since(self.origin)
    }
}

impl Sleep for EnvSleep {}

impl Future for EnvSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.get_mut().as_mut().poll(context)
    }
}
