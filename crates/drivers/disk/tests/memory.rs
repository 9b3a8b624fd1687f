// SPDX-License-Identifier: Apache-2.0
//! A store in a process that has less memory than the one before.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use atomix_driver_disk::DiskDriver;
use atomix_env::{Env, Machine};
use atomix_store::{Context, Driver, Error, ErrorKind, JsonObject, Keyspace, Store, Txn, Write};
use serde_json::json;

async fn open(dir: &Path, memory: u64, more: &[(&str, u64)]) -> Result<Arc<dyn Store>, Error> {
    let env = Env::real().with_machine(Machine::simulated(memory));
    let mut config = JsonObject::from_iter([("dir".to_owned(), json!(dir))]);
    config.extend(more.iter().map(|(field, value)| ((*field).to_owned(), json!(value))));
    DiskDriver.complete(&mut config, env.machine());
    DiskDriver.connect(config, Context { env, store: "it".to_owned() }).await
}

async fn put(store: &Arc<dyn Store>, key: &str) -> Result<(), Error> {
    let write = Write::Put { key: key.to_owned().into(), value: vec![7; 100_000].into() };
    store.commit(&Keyspace::new("k"), Txn::new().write(write)).await.map(drop)
}

#[tokio::test]
async fn a_folder_can_be_opened_while_the_last_call_of_its_closed_store_ends() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path(), 8 << 20, &[]).await.unwrap();
    put(&first, "key").await.unwrap();
    first.close(Duration::from_secs(5)).await;
    let (second, ()) = tokio::join!(open(dir.path(), 8 << 20, &[]), async {
        // The attempt of the second is running.
        tokio::task::yield_now().await;
        drop(first);
    });
    put(&second.unwrap(), "key").await.unwrap();
}

#[tokio::test]
async fn a_store_on_a_smaller_machine_refuses_what_grows_and_reports_content_that_does_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), 8 << 20, &[]).await.unwrap();
    let mut stored = 0;
    let full = loop {
        match put(&store, &format!("key-{stored}")).await {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((stored, full.kind()), (31, ErrorKind::Full), "three eighths of 8 MiB: {full}");
    assert!(full.to_string().contains("bytes-max=`3145728`"), "{full}");
    store.close(Duration::from_secs(5)).await;
    drop(store);

    let store = open(dir.path(), 4 << 20, &[]).await.unwrap();
    assert_eq!(put(&store, "one-more").await.unwrap_err().kind(), ErrorKind::Full);
    let delete = Txn::new().write(Write::Delete { key: "key-0".into() });
    store.commit(&Keyspace::new("k"), delete).await.unwrap();
    assert!(store.check().await.unwrap().facts.contains(&("bytes-max", "1572864".to_owned())));
    store.close(Duration::from_secs(5)).await;
    drop(store);

    let error = open(dir.path(), 2 << 20, &[]).await.unwrap_err();
    assert!(error.to_string().contains("memory-limit=`2097152` source=`machine`"), "{error}");
    // The configuration of the operator takes precedence.
    let store = open(dir.path(), 2 << 20, &[("bytes-max", 16 << 20)]).await.unwrap();
    put(&store, "one-more").await.unwrap();
    store.close(Duration::from_secs(5)).await;
}
