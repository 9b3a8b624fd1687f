// SPDX-License-Identifier: Apache-2.0
//! Callers that go on during faults, record their answers, and compare them with the content in the end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use atomix_chaos::faults::deployment::{HEALTHY_TAG, Runtime};
use atomix_chaos::load::Outcome;
use atomix_client::{Client, Error};
use atomix_proto::counter::counter_client::CounterClient;
use atomix_proto::counter::{self, IncrementRequest};
use atomix_proto::runtime::PrimitiveId;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Request};

/// Callers at work.
pub(crate) struct Callers {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
    client: Client,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Calls on the store under test that were answered.
    answered: AtomicU64,
    /// Appended marks by list, and its outcome.
    appended: Mutex<Vec<(usize, String, Outcome)>>,
    /// The answers of named increments.
    counted: Mutex<Vec<i64>>,
    /// The longest duration of a call, with any outcome.
    longest: Mutex<Duration>,
    errors: Mutex<BTreeMap<String, u64>>,
    /// How long calls on the other store took.
    healthy: Mutex<Vec<Duration>>,
}

/// How a store works.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) per_second: f64,
    pub(crate) median: Duration,
    pub(crate) p99: Duration,
}

/// The figures of a comparison.
#[derive(Debug)]
pub(crate) struct Totals {
    pub(crate) done: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    pub(crate) named: usize,
    pub(crate) longest: Duration,
    pub(crate) errors: BTreeMap<String, u64>,
}

/// The deadline of a call.
pub(crate) const CALL: Duration = Duration::from_secs(2);
/// How long a named increment may be repeated without an answer: longer than any fault.
const REPEAT_TIMEOUT: Duration = Duration::from_mins(2);
/// Callers of each kind.
const CALLERS: usize = 8;

// === impl Callers ===

impl Callers {
    /// Lets them begin. The store works.
    pub(crate) async fn start(runtime: &Runtime) -> Self {
        let client = runtime.direct_client(CALL);
        let shared = Arc::new(Shared::default());
        let mut tasks = Vec::new();
        for caller in 0..CALLERS {
            let list = client.list(format!("list-{caller}")).text().open().await.unwrap();
            let shared = Arc::clone(&shared);
            tasks.push(tokio::spawn(async move {
                for number in 0.. {
                    let mark = format!("{caller}/{number}");
                    let Some(result) = shared.time(list.append(&mark)).await else { return };
                    shared.appended.lock().unwrap().push((caller, mark, Outcome::of(&result)));
                    if let Err(error) = result {
                        shared.failed(&error.to_string()).await;
                    }
                }
            }));
        }
        client.counter("named").open().await.unwrap();
        let channel = Channel::from_shared(format!("http://{}", runtime.listen())).unwrap().connect_lazy();
        let id = Some(PrimitiveId { name: "named".to_owned() });
        let mut counters = CounterClient::new(channel);
        counters.create(counter::CreateRequest { id: id.clone(), tags: Vec::new() }).await.unwrap();
        for caller in 0..CALLERS {
            let (shared, counters, id) = (Arc::clone(&shared), counters.clone(), id.clone());
            tasks.push(tokio::spawn(async move {
                for number in 0.. {
                    let name = format!("{caller}/{number}");
                    let Some(value) = shared.repeat_named(&counters, id.clone(), &name).await else { return };
                    shared.counted.lock().unwrap().push(value);
                }
            }));
        }
        for caller in 0..2 {
            let healthy = client.counter(format!("healthy-{caller}")).tag(HEALTHY_TAG).open().await.unwrap();
            let shared = Arc::clone(&shared);
            tasks.push(tokio::spawn(async move {
                while !shared.stop.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    healthy.increment(1).await.unwrap();
                    shared.healthy.lock().unwrap().push(began.elapsed());
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }));
        }
        Self { shared, tasks, client }
    }

    /// Measures the other store for a while.
    pub(crate) async fn healthy(&self, time: Duration) -> Pace {
        self.shared.healthy.lock().unwrap().clear();
        let began = Instant::now();
        tokio::time::sleep(time).await;
        let mut times = std::mem::take(&mut *self.shared.healthy.lock().unwrap());
        let took = began.elapsed();
        times.sort_unstable();
        let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or(took);
        #[allow(clippy::cast_precision_loss, reason = "a count of calls is small")]
        let per_second = times.len() as f64 / took.as_secs_f64();
        Pace { per_second, median: at(50), p99: at(99) }
    }

    /// Waits for the next answer of the store under test; returns how long that took.
    pub(crate) async fn answer(&self, timeout: Duration) -> Duration {
        let (began, before) = (Instant::now(), self.shared.answered.load(Ordering::Relaxed));
        while self.shared.answered.load(Ordering::Relaxed) == before {
            assert!(began.elapsed() < timeout, "the store does not come back: {:?}", self.shared.errors);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        began.elapsed()
    }

    /// Returns how many calls the store under test has answered.
    pub(crate) fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Ends them, and compares their answers with the content.
    pub(crate) async fn judge(self) -> Totals {
        self.shared.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        let mut there: HashMap<String, u64> = HashMap::new();
        for caller in 0..CALLERS {
            let list = self.client.list(format!("list-{caller}")).text().open().await.unwrap();
            for item in list.items().await.unwrap().collect().await.unwrap() {
                *there.entry(item.value).or_default() += 1;
            }
        }
        let (mut done, mut refused, mut unknown) = (0, 0, 0);
        for (_, mark, outcome) in self.shared.appended.lock().unwrap().iter() {
            let times = there.remove(mark).unwrap_or(0);
            match outcome {
                Outcome::Done => {
                    done += 1;
                    assert_eq!(times, 1, "{mark} was answered");
                }
                Outcome::Refused => {
                    refused += 1;
                    assert_eq!(times, 0, "{mark} was refused");
                }
                Outcome::Unknown => {
                    unknown += 1;
                    assert!(times <= 1, "{mark} is there {times} times");
                }
            }
        }
        assert!(there.is_empty(), "no caller has appended {there:?}");
        let counted = self.shared.counted.lock().unwrap().clone();
        let named = counted.len();
        let value = self.client.counter("named").open().await.unwrap().get().await.unwrap();
        assert_eq!(value, i64::try_from(named).unwrap(), "each named increment counts once");
        let different: HashSet<i64> = counted.into_iter().collect();
        assert_eq!(different.len(), named, "each named increment has its own answer");
        let (longest, errors) =
            (*self.shared.longest.lock().unwrap(), self.shared.errors.lock().unwrap().clone());
        Totals { done, refused, unknown, named, longest, errors }
    }
}

// === impl Shared ===

impl Shared {
    /// Makes a call, unless all is over.
    async fn time<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Option<Result<T, Error>> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let began = Instant::now();
        let result = call.await;
        self.took(began, result.is_ok());
        Some(result)
    }

    fn took(&self, began: Instant, answered: bool) {
        let mut longest = self.longest.lock().unwrap();
        *longest = longest.max(began.elapsed());
        self.answered.fetch_add(u64::from(answered), Ordering::Relaxed);
    }

    async fn failed(&self, error: &str) {
        // Details differ from call to call.
        let name = error.split(['`', ':']).next().unwrap_or_default().to_owned();
        *self.errors.lock().unwrap().entry(name).or_default() += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    /// Repeats an increment under its name until it is answered. Nothing if all is over before it was sent.
    async fn repeat_named(
        &self,
        counters: &CounterClient<Channel>,
        id: Option<PrimitiveId>,
        name: &str,
    ) -> Option<i64> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let first_attempt = Instant::now();
        loop {
            let mut request = Request::new(IncrementRequest { id: id.clone(), delta: 1 });
            request.metadata_mut().insert("atomix-request-id", name.parse().unwrap());
            request.set_timeout(CALL);
            let began = Instant::now();
            let answer = counters.clone().increment(request).await;
            self.took(began, answer.is_ok());
            match answer {
                Ok(answer) => return Some(answer.into_inner().value),
                Err(status) => {
                    let again = [
                        Code::Unavailable,
                        Code::Unknown,
                        Code::DeadlineExceeded,
                        Code::Cancelled,
                        Code::Aborted,
                    ];
                    assert!(again.contains(&status.code()), "{status}");
                    assert!(first_attempt.elapsed() < REPEAT_TIMEOUT, "{name} is never answered: {status}");
                    self.failed(&format!("named, {:?}", status.code())).await;
                }
            }
        }
    }
}
