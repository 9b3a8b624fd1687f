// SPDX-License-Identifier: Apache-2.0
//! A server that has no memory left.

use atomix_store::{ErrorKind, Keyspace, Range, Read, Txn, Write};
use serde_json::json;

use crate::fixture::{Fixture, connect};

fn put(key: usize) -> Txn {
    Txn::new().write(Write::Put { key: format!("k{key}").into(), value: vec![b'v'; 4096].into() })
}

#[tokio::test]
async fn a_full_server_refuses_writes_and_takes_deletes() {
    let fixture = Fixture::start(&[]).await;
    let config = fixture.fresh(json!({ "history-bytes-max": 16 * 1024 }));
    let store = connect(config.clone()).await.unwrap();
    let keyspace = Keyspace::new("map/it");
    let used = fixture.redis.ask(&["INFO", "memory"]);
    let used = used.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    let maxmemory = used.trim().parse::<u64>().unwrap() + 1024 * 1024;
    fixture.redis.ask(&["CONFIG", "SET", "maxmemory", &maxmemory.to_string()]);
    let mut written = 0;
    let full = loop {
        match store.commit(&keyspace, put(written)).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1000, "the server never fills");
    };
    assert_eq!(full.kind(), ErrorKind::Full, "{full}");
    let count = vec![Read::Count { range: Range::prefix("k") }];
    let snapshot = store.read(&keyspace, count.clone()).await.unwrap();
    assert_eq!(snapshot.reads[0].count(), written as u64, "a refused write leaves nothing");
    // A new store can still connect, and make space.
    let other = connect(config).await.unwrap();
    other.check().await.unwrap();
    for key in 0..written / 2 {
        let delete = Txn::new().write(Write::Delete { key: format!("k{key}").into() });
        let outcome = store.commit(&keyspace, delete).await.unwrap();
        assert!(outcome.writes[0].previous().is_some());
    }
    let clear = Txn::new().write(Write::DeleteRange { range: Range::prefix("k1") });
    store.commit(&keyspace, clear).await.unwrap();
    store.commit(&keyspace, put(0)).await.unwrap();
}

#[tokio::test]
async fn a_server_that_may_evict_is_refused() {
    let fixture = Fixture::start(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]).await;
    let error = connect(fixture.fresh(json!({}))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("`maxmemory-policy`"), "{error}");
    connect(fixture.fresh(json!({ "allow-eviction": true }))).await.unwrap();
}
