// SPDX-License-Identifier: Apache-2.0
//! The time from the withdrawal of a leader until its successor knows that it leads.

use std::time::Duration;

use atomix_env::Env;
use futures::future::try_join;

use crate::drive::Window;
use crate::failure::Failure;
use crate::report::Report;

/// A candidate.
pub trait Candidate: Send {
    /// Enters the queue behind the other candidates, and returns when it is queued.
    fn enter(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Waits until it knows that it leads.
    fn lead(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Withdraws in favour of the next candidate. Only the leader does so.
    fn withdraw(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Lets two candidates lead in turns: one withdraws when the other waits, and then lines up behind it again. A call of
/// the report is from when the withdrawal is sent to when the successor knows.
pub async fn resign<C: Candidate>(
    env: &Env,
    warm_up: Duration,
    time: Duration,
    [mut leader, mut next]: [C; 2],
) -> Result<Report, Failure> {
    let window = Window::after(env, warm_up, time);
    let mut report = window.report();
    leader.enter().await?;
    leader.lead().await?;
    loop {
        let round = async {
            next.enter().await?;
            let sent = env.now();
            let known = async {
                next.lead().await?;
                Ok(env.now())
            };
            // The waiting candidate is polled first, so that it listens before the event.
            let (known, ()) = try_join(known, leader.withdraw()).await?;
            Ok((sent, known))
        };
        let late = |_| Failure::Broken("no candidate followed a leader that withdrew".to_owned());
        let (sent, known) = env.timeout(ROUND_TIMEOUT, round).await.map_err(late)??;
        if known >= window.begin {
            report.took(known - sent);
        }
        // Not before there is something to report, however long a round takes.
        if known >= window.end {
            return Ok(report);
        }
        std::mem::swap(&mut leader, &mut next);
    }
}

/// The time in which a round must end.
const ROUND_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    const WAY: Duration = Duration::from_millis(20);

    /// Learns late that it leads.
    struct Slow {
        env: Env,
        name: usize,
        line: Arc<Mutex<VecDeque<usize>>>,
    }

    impl Candidate for Slow {
        async fn enter(&mut self) -> Result<(), Failure> {
            self.line.lock().push_back(self.name);
            Ok(())
        }

        async fn lead(&mut self) -> Result<(), Failure> {
            while self.line.lock().front() != Some(&self.name) {
                self.env.sleep(Duration::from_millis(1)).await;
            }
            self.env.sleep(WAY).await;
            Ok(())
        }

        async fn withdraw(&mut self) -> Result<(), Failure> {
            assert_eq!(self.line.lock().len(), 2, "a candidate waits");
            assert_eq!(self.line.lock().pop_front(), Some(self.name));
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_resignation_takes_until_the_successor_knows() {
        let env = Env::real();
        // The second time is over before the first round is.
        for (time, rounds) in [(WAY * 10, 2), (WAY / 10, 1)] {
            let line = Arc::default();
            let candidates = [1, 2].map(|name| Slow { env: env.clone(), name, line: Arc::clone(&line) });
            let report = resign(&env, Duration::ZERO, time, candidates).await.unwrap();
            assert!(report.latency.len() >= rounds, "{}", report.summary());
            assert!(report.latency.value_at_quantile(0.0) >= 20_000_000, "{}", report.summary());
        }
    }
}
