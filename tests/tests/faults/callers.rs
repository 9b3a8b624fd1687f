// SPDX-License-Identifier: Apache-2.0
//! Callers that go on during faults, record their answers, and compare them with the content in the end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use atomix_chaos::faults::deployment::{HEALTHY_TAG, Runtime};
use atomix_chaos::record::Outcome;
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
    errors: Mutex<BTreeMap<String, u64>>,
    /// Calls on the other store that were answered.
    healthy: AtomicU64,
}

/// The figures of a comparison.
#[derive(Debug)]
pub(crate) struct Totals {
    pub(crate) done: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    pub(crate) named: usize,
    pub(crate) errors: BTreeMap<String, u64>,
}

/// The deadline of a call.
pub(crate) const CALL: Duration = Duration::from_secs(2);
/// Timeout of an expected event.
pub(crate) const WAIT_TIMEOUT: Duration = Duration::from_mins(1);
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
                    let Some(result) = shared.call(list.append(&mark)).await else { return };
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
                    healthy.increment(1).await.unwrap();
                    shared.healthy.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }));
        }
        Self { shared, tasks, client }
    }

    /// Waits for so many more answers of the other store.
    pub(crate) async fn healthy(&self, more: u64) {
        let (began, target) = (Instant::now(), self.shared.healthy.load(Ordering::Relaxed) + more);
        while self.shared.healthy.load(Ordering::Relaxed) < target {
            assert!(began.elapsed() < WAIT_TIMEOUT, "the other store does not answer");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits for the next answer of the store under test.
    pub(crate) async fn answer(&self) {
        let (began, before) = (Instant::now(), self.answered());
        while self.answered() == before {
            assert!(began.elapsed() < WAIT_TIMEOUT, "the store does not come back: {:?}", self.shared.errors);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
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
        let errors = self.shared.errors.lock().unwrap().clone();
        Totals { done, refused, unknown, named, errors }
    }
}

/// Awaits a call, which must end: its deadline is far shorter than the timeout.
async fn within<T>(call: impl Future<Output = T>) -> T {
    tokio::time::timeout(CALL + WAIT_TIMEOUT, call).await.expect("a call ends at its deadline")
}

// === impl Shared ===

impl Shared {
    /// Makes a call, unless all is over.
    async fn call<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Option<Result<T, Error>> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let result = within(call).await;
        self.answered.fetch_add(u64::from(result.is_ok()), Ordering::Relaxed);
        Some(result)
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
            let answer = within(counters.clone().increment(request)).await;
            self.answered.fetch_add(u64::from(answer.is_ok()), Ordering::Relaxed);
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
