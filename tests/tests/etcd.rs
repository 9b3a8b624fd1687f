// SPDX-License-Identifier: Apache-2.0
//! The real program on a real etcd: shared by several runtimes, and killed under them.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "processes are awaited in real time, and what was seen is told"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use atomix_client::Kind;
use atomix_kv_testkit::servers::etcd::Etcd;
use atomix_tests::Server;

const PATIENCE: Duration = Duration::from_secs(30);

/// Starts a runtime whose only store is in `etcd`.
fn serve(etcd: &Etcd) -> Server {
    let endpoint = etcd.endpoint();
    let store = format!(
        r#"stores=[{{"name":"shared","driver":{{"name":"etcd","version":"v3"}},"config":{{"endpoints":["{endpoint}"]}}}}]"#
    );
    Server::start_with(&["--set", "log.level=off", "--set", &store])
}

/// Repeats something until it works.
async fn until_it_works<T>(attempt: impl AsyncFn() -> atomix_client::Result<T>) -> T {
    let began = Instant::now();
    loop {
        match attempt().await {
            Ok(answer) => return answer,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runtimes_on_one_etcd_share_counters_and_locks() {
    let etcd = Etcd::start(&[]).await;
    let (one, other) = (serve(&etcd), serve(&etcd));
    let (one, other) = (one.once().await, other.once().await);
    let counters = [
        until_it_works(async || one.counter("hits").open().await).await,
        until_it_works(async || other.counter("hits").open().await).await,
    ];
    for round in 1..=20 {
        assert_eq!(counters[usize::from(round % 2 == 0)].increment(1).await.unwrap(), round);
    }
    let locks = [one.lock("turn").open().await.unwrap(), other.lock("turn").open().await.unwrap()];
    let held = locks[0].try_acquire().await.unwrap().unwrap();
    assert!(locks[1].try_acquire().await.unwrap().is_none());
    let waiting = tokio::spawn({
        let lock = other.lock("turn").open().await.unwrap();
        async move { lock.acquire().await.unwrap().token() }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let token = held.token();
    held.release().await.unwrap();
    let next = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap();
    assert!(next > token, "tokens grow also from runtime to runtime");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_is_killed_under_callers_loses_no_answer_and_is_found_again() {
    const CALLERS: usize = 64;
    let mut etcd = Etcd::start(&[]).await;
    let server = serve(&etcd);
    let client = server.once().await;
    let counter = Arc::new(until_it_works(async || client.counter("hits").open().await).await);
    let stop = Arc::new(AtomicBool::new(false));
    let (added, perhaps, refused) =
        (Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (counter, stop) = (Arc::clone(&counter), Arc::clone(&stop));
            let (added, perhaps, refused) = (Arc::clone(&added), Arc::clone(&perhaps), Arc::clone(&refused));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    match counter.increment(1).await {
                        Ok(_) => added.fetch_add(1, Ordering::Relaxed),
                        Err(error) if error.kind() == Kind::Unavailable => {
                            refused.fetch_add(1, Ordering::Relaxed);
                            tokio::time::sleep(Duration::from_millis(5)).await;
                            0
                        }
                        Err(_) => perhaps.fetch_add(1, Ordering::Relaxed),
                    };
                }
            })
        })
        .collect();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        etcd.kill();
        tokio::time::sleep(Duration::from_millis(500)).await;
        etcd.restart().await;
        let (before, began) = (added.load(Ordering::Relaxed), Instant::now());
        while added.load(Ordering::Relaxed) == before {
            assert!(began.elapsed() < PATIENCE, "the store does not come back");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        println!("works again after {:?}", began.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    let value = until_it_works(async || counter.get().await).await;
    let (added, perhaps) = (added.load(Ordering::Relaxed), perhaps.load(Ordering::Relaxed));
    println!("added={added} perhaps={perhaps} refused={} value={value}", refused.load(Ordering::Relaxed));
    assert!(refused.load(Ordering::Relaxed) > 0, "the store was away");
    assert!((added..=added + perhaps).contains(&value), "{added} <= {value} <= {}", added + perhaps);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runtime_starts_before_its_etcd_does() {
    let mut etcd = Etcd::start(&[]).await;
    etcd.kill();
    let server = serve(&etcd);
    let client = server.once().await;
    let error = client.counter("hits").open().await.map(drop).unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    etcd.restart().await;
    let counter = until_it_works(async || client.counter("hits").open().await).await;
    assert_eq!(counter.increment(1).await.unwrap(), 1);
}
