// SPDX-License-Identifier: Apache-2.0
//! The disk store against the sync of the same disk, and against redb, which it might have been built on.
//!
//! ```console
//! $ cargo run --release -p atomix-driver-disk --example against -- /path/on/the/disk
//! ```
//!
//! One run, interleaved: a raw append and fdatasync; redb with a read, a put and a history record per commit, as many
//! commits to a transaction as there are clients; the store with as many clients that commit one after the other. Then the
//! time to open the store with a million entries, from its logs and from a snapshot.

#![allow(clippy::print_stdout, reason = "it is read by people")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use atomix_driver_disk::DiskDriver;
use atomix_env::Env;
use atomix_store::{Context, Driver, JsonObject, Keyspace, Range, Read, Store, Txn, Write};
use bytes::Bytes;
use futures::future::try_join_all;
use redb::{Database, ReadableTable, TableDefinition};
use serde_json::json;

const ROUNDS: usize = 5;
const TIME: Duration = Duration::from_millis(1500);
const CLIENTS: [usize; 4] = [1, 16, 64, 256];
const VALUE: &[u8] = &[7; 100];
const KEYS: u64 = 100_000;
const MILLION: u64 = 1_000_000;

const ENTRIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("entries");
const HISTORY: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("history");

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| std::env::temp_dir().display().to_string());
    let dir = tempfile::tempdir_in(dir)?;
    let env = Env::real();
    let mut raw = Vec::new();
    let mut redb = vec![Vec::new(); CLIENTS.len()];
    let mut store = vec![Vec::new(); CLIENTS.len()];
    for round in 0..ROUNDS {
        raw.push(syncs(&env, &dir.path().join(format!("raw-{round}")))?);
        for (at, clients) in CLIENTS.into_iter().enumerate() {
            redb[at].push(redb_commits(&env, &dir.path().join(format!("redb-{round}-{clients}")), clients)?);
            let path = dir.path().join(format!("store-{round}-{clients}"));
            store[at].push(commits(&env, &open(&env, &path).await?, clients).await?);
            std::fs::remove_dir_all(path)?;
        }
    }
    let raw = median(&mut raw);
    println!("raw append of 128 bytes and fdatasync: {raw:.0}/s");
    println!("| clients | store, acknowledged/s | × raw sync | redb, commits/s | store × redb |");
    println!("|--:|--:|--:|--:|--:|");
    for (at, clients) in CLIENTS.into_iter().enumerate() {
        let (store, redb) = (median(&mut store[at]), median(&mut redb[at]));
        println!("| {clients} | {store:.0} | {:.2} | {redb:.0} | {:.2} |", store / raw, store / redb);
    }
    million(&env, &dir.path().join("million")).await
}

async fn open(env: &Env, path: &Path) -> anyhow::Result<Arc<dyn Store>> {
    let config = JsonObject::from_iter([("dir".to_owned(), json!(path))]);
    let context = Context { env: env.clone(), store: "bench".to_owned() };
    Ok(DiskDriver.connect(config, context).await?)
}

fn key(of: u64) -> Bytes {
    Bytes::copy_from_slice(&(of % KEYS).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes())
}

fn syncs(env: &Env, path: &Path) -> anyhow::Result<f64> {
    let file = File::create(path)?;
    let (start, mut count) = (env.now(), 0);
    while env.now().since(start) < TIME {
        file.write_all_at(&[7; 128], count * 128)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(rate(env.now().since(start), count))
}

fn redb_commits(env: &Env, path: &Path, clients: usize) -> anyhow::Result<f64> {
    let database = Database::create(path)?;
    let (start, mut count) = (env.now(), 0u64);
    while env.now().since(start) < TIME {
        let txn = database.begin_write()?;
        {
            let (mut entries, mut history) = (txn.open_table(ENTRIES)?, txn.open_table(HISTORY)?);
            for _ in 0..clients {
                count += 1;
                let key = key(env.random());
                drop(entries.get(&key[..])?);
                entries.insert(&key[..], VALUE)?;
                history.insert(&count.to_be_bytes()[..], VALUE)?;
            }
        }
        txn.commit()?;
    }
    drop(database);
    std::fs::remove_file(path)?;
    Ok(rate(env.now().since(start), count))
}

async fn commits(env: &Env, store: &Arc<dyn Store>, clients: usize) -> anyhow::Result<f64> {
    let start = env.now();
    let work = (0..clients).map(|client| async move {
        // Sixteen keyspaces, as many primitives would be.
        let keyspace = Keyspace::new(format!("map/{}", client % 16));
        let mut count = 0u64;
        while env.now().since(start) < TIME {
            let key = key(env.random());
            let txn = Txn::new()
                .write(Write::Put { key: key.clone(), value: Bytes::from_static(VALUE) })
                .read(Read::Get { key });
            store.commit(&keyspace, txn).await?;
            count += 1;
        }
        anyhow::Ok(count)
    });
    let count = try_join_all(work).await?.into_iter().sum();
    let time = env.now().since(start);
    store.close(Duration::from_secs(5)).await;
    Ok(rate(time, count))
}

async fn million(env: &Env, path: &Path) -> anyhow::Result<()> {
    let store = open(env, path).await?;
    let keyspace = Keyspace::new("map/million");
    for page in 0..MILLION / 1000 {
        let mut txn = Txn::new();
        for at in 0..1000 {
            let key = Bytes::copy_from_slice(&(page * 1000 + at).to_be_bytes());
            txn = txn.write(Write::Put { key, value: Bytes::from_static(VALUE) });
        }
        store.commit(&keyspace, txn).await?;
    }
    store.close(Duration::from_secs(30)).await;
    drop(store);
    for round in 0..3 {
        let start = env.now();
        let store = open(env, path).await?;
        let count = vec![Read::Count { range: Range::prefix("") }];
        let found = store.read(&keyspace, count).await?.reads[0].count();
        let files = std::fs::read_dir(path)?.filter_map(Result::ok).map(|file| file.file_name());
        let files: Vec<String> = files.filter_map(|name| name.into_string().ok()).collect();
        println!("open with {found} entries ({round}): {:?}, files {files:?}", env.now().since(start));
        store.close(Duration::from_secs(30)).await;
        drop(store);
        // A snapshot that was asked for while it was open.
        env.sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "counts are far below the mantissa")]
fn rate(time: Duration, count: u64) -> f64 {
    count as f64 / time.as_secs_f64()
}

fn median(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}
