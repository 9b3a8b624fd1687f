// SPDX-License-Identifier: Apache-2.0
//! The real program on a real etcd that several runtimes share.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "processes are awaited in real time")]

use std::time::{Duration, Instant};

use atomix_chaos::Server;
use atomix_client::list::Event;
use atomix_servers::etcd::Etcd;

const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

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
            Err(error) => assert!(began.elapsed() < WAIT_TIMEOUT, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runtimes_on_one_etcd_share_counters_and_locks() {
    let etcd = Etcd::start(&[]).await;
    let servers = (serve(&etcd), serve(&etcd));
    let (one, other) = (servers.0.once().await, servers.1.once().await);
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
    servers.1.until_waiting(1).await;
    let token = held.token();
    held.release().await.unwrap();
    let next = tokio::time::timeout(WAIT_TIMEOUT, waiting).await.unwrap().unwrap();
    assert!(next > token, "tokens grow also from runtime to runtime");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_more_chunks_than_etcd_takes_operations_is_listed_and_replayed() {
    const ITEMS: usize = 130;
    let etcd = Etcd::start(&[]).await;
    let server = serve(&etcd);
    let client = server.once().await;
    let list = until_it_works(async || client.list("long").open().await).await;
    // Two of them do not fit into one chunk.
    let value = |number: usize| bytes::Bytes::from(vec![u8::try_from(number).unwrap(); 40_000]);
    for number in 0..ITEMS {
        list.append(&value(number)).await.unwrap();
    }
    assert_eq!(list.size().await.unwrap(), 130);

    let mut items = list.items().await.unwrap();
    for number in 0..ITEMS {
        let item = tokio::time::timeout(WAIT_TIMEOUT, items.next()).await.unwrap().unwrap().unwrap();
        assert_eq!((item.index as usize, item.value), (number, value(number)));
    }
    assert!(items.next().await.is_none());

    let mut events = list.events_with_replay().await.unwrap();
    for number in 0..ITEMS {
        let event = tokio::time::timeout(WAIT_TIMEOUT, events.next()).await.unwrap().unwrap().unwrap();
        let index = u32::try_from(number).unwrap();
        assert_eq!(event, Event::Appended { index, value: value(number) });
    }
    list.append(&value(ITEMS)).await.unwrap();
    let event = tokio::time::timeout(WAIT_TIMEOUT, events.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(event, Event::Appended { index: 130, value: value(ITEMS) });

    // The commands of operators as well.
    let listed = server.run(&["list", "list", "long", "-o", "json"]);
    assert!(listed.status.success(), "{listed:?}");
    assert_eq!(listed.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count(), ITEMS + 1);
    assert_eq!(list.remove(60).await.unwrap(), value(60));
    assert_eq!(list.get(60).await.unwrap(), value(61));
}
