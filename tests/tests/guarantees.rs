// SPDX-License-Identifier: Apache-2.0
//! The table of what stores promise, made of the profiles of connected ones.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use atomix_driver_disk::DiskDriver;
use atomix_driver_etcd::EtcdDriver;
use atomix_driver_memory::MemoryDriver;
use atomix_driver_redis::RedisDriver;
use atomix_env::Env;
use atomix_servers::etcd::{Cluster, Etcd};
use atomix_servers::redis::Redis;
use atomix_servers::{START_TIMEOUT, eventually};
use atomix_store::{Consistency, Context, Driver, Durability, Profile, Store};
use serde_json::{Value as Json, json};

const PAGE: &str = "docs/reference/guarantees.md";

/// A store that was connected.
struct Row {
    driver: &'static str,
    /// Its special settings.
    setting: String,
    profile: Profile,
}

async fn row(driver: &dyn Driver, setting: &str, config: Json) -> Row {
    let Json::Object(config) = config else { panic!("no object: {config}") };
    let context = Context { env: Env::real(), store: "s".to_owned() };
    let store: Arc<dyn Store> = driver.connect(config, context).await.unwrap();
    Row { driver: driver.name(), setting: setting.to_owned(), profile: store.profile().clone() }
}

async fn rows() -> Vec<Row> {
    let mut rows = vec![row(&MemoryDriver, "any", json!({})).await];

    for durability in ["sync", "interval"] {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({ "dir": folder.path(), "durability": durability });
        rows.push(row(&DiskDriver, &format!("`durability: {durability}`"), config).await);
    }

    let etcd = Etcd::start(&[]).await;
    rows.push(row(&EtcdDriver, "one member", json!({ "endpoints": [etcd.endpoint()] })).await);
    let cluster = Cluster::start(3).await;
    rows.push(row(&EtcdDriver, "three members", json!({ "endpoints": cluster.endpoints() })).await);

    let file = |sync| ["--appendonly", "yes", "--appendfsync", sync];
    for (setting, arguments) in [
        ("as installed (`save`)", &["--save", "3600 1"][..]),
        ("`save \"\"`", &[]),
        ("`appendfsync everysec`", &file("everysec")),
        ("`appendfsync always`", &file("always")),
    ] {
        let redis = Redis::start(arguments).await;
        rows.push(row(&RedisDriver, setting, json!({ "address": redis.address() })).await);
    }
    let redis = Redis::start(&file("always")).await;
    redis.ask(&["ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all", "-config"]);
    let user = json!({ "address": redis.address(), "username": "app", "password": "secret" });
    rows.push(row(&RedisDriver, "a user without permission for `CONFIG`", user.clone()).await);
    let known = ("persistence".to_owned(), json!("always"));
    let user = user.as_object().unwrap().clone().into_iter().chain([known]).collect();
    rows.push(row(&RedisDriver, "the same, and `persistence: always`", user).await);
    let port = redis.port().to_string();
    let _replica = Redis::start(&["--replicaof", "127.0.0.1", &port]).await;
    eventually(START_TIMEOUT, "the replica has caught up", || {
        redis.ask(&["INFO", "replication"]).contains("state=online")
    })
    .await;
    for (setting, replicas) in [("a replica", 0), ("a replica and `wait-replicas: 1`", 1)] {
        let config = json!({ "address": redis.address(), "wait-replicas": replicas });
        rows.push(row(&RedisDriver, &format!("`appendfsync always`, {setting}"), config).await);
    }
    rows
}

/// The answered writes that are lost: with the runtime's process, with that of the backend, without the power, with the
/// machine.
fn losses(profile: &Profile) -> [String; 4] {
    let (nothing, everything) = ("nothing", "everything");
    let losses = match profile.durability {
        Durability::Process => [everything; 4].map(str::to_owned),
        Durability::Backend => [nothing, everything, everything, everything].map(str::to_owned),
        Durability::Snapshots => {
            let last = "since the last snapshot";
            [nothing, last, last, everything].map(str::to_owned)
        }
        Durability::Unknown => [nothing, "unknown", "unknown", "unknown"].map(str::to_owned),
        Durability::Disk => [nothing, nothing, nothing, everything].map(str::to_owned),
        Durability::Interval(time) => {
            let last = format!("the last {time:?}");
            // Runtimes that share a backend do not write themselves.
            let with_runtime = if profile.shared { nothing.to_owned() } else { last.clone() };
            [with_runtime, last.clone(), last, everything.to_owned()]
        }
        Durability::Quorum => {
            [nothing, nothing, nothing, "nothing, if it is one of a minority"].map(str::to_owned)
        }
    };
    match profile.consistency {
        Consistency::Linearizable => losses,
        Consistency::UntilFailover => {
            let [runtime, backend, power, _] = losses;
            let lag = |loss: String| match loss.as_str() {
                "nothing" => "writes without a replica".to_owned(),
                _ => loss,
            };
            [runtime, lag(backend), lag(power), "writes without a replica".to_owned()]
        }
    }
}

fn page(rows: &[Row]) -> String {
    let mut page =
        "<!-- Written by `just fix`; held by `cargo test -p atomix-tests --test guarantees`. -->\n\
         # Guarantees\n\n\
         Each line is the profile of a store with these settings, as its driver reports it.\n\
         [Choose a store](../guides/choose-a-store.md) compares the stores.\n\n\
         | Store | Setting | Reads, locks, versions | Several runtimes |\n|---|---|---|---|\n"
            .to_owned();
    for Row { driver, setting, profile } in rows {
        let shared = if profile.shared { "yes" } else { "no" };
        writeln!(page, "| `{driver}` | {setting} | {} | {shared} |", profile.consistency).unwrap();
    }
    page += "\nThe loss of answered writes when one of these ends or fails:\n\n\
         | Store | Setting | Durability | The runtime | The backend | The power | The machine |\n\
         |---|---|---|---|---|---|---|\n";
    for Row { driver, setting, profile } in rows {
        let losses = losses(profile).join(" | ");
        writeln!(page, "| `{driver}` | {setting} | {} | {losses} |", profile.durability).unwrap();
    }
    page += "\nLimits, the same for all settings above:\n\n\
         | Store | Bytes of a key | Bytes of a value | Guards, writes, reads of a transaction | Named requests per primitive |\n\
         |---|---|---|---|---|\n";
    let mut driver_before = "";
    for Row { driver, profile, .. } in rows {
        let limits = &profile.limits;
        if std::mem::replace(&mut driver_before, driver) != *driver {
            // Stores in this process bound the bytes of all named requests together.
            let named = if limits.once_max == usize::MAX {
                "an eighth of `bytes-max` for all".to_owned()
            } else {
                limits.once_max.to_string()
            };
            writeln!(
                page,
                "| `{driver}` | {} | {} | {}, {}, {} | {named} |",
                limits.key_bytes_max,
                limits.value_bytes_max,
                limits.guards_max,
                limits.writes_max,
                limits.reads_max
            )
            .unwrap();
        }
    }
    page
}

/// Writes the page instead if `ATOMIX_TEST_WRITE` is set.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_of_guarantees_matches_the_profiles() {
    let rows = rows().await;
    for pair in rows.windows(2).filter(|pair| pair[0].driver == pair[1].driver) {
        assert_eq!(pair[0].profile.limits, pair[1].profile.limits, "the page has one line for all of them");
    }
    let (path, page) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(PAGE), page(&rows));
    if std::env::var_os("ATOMIX_TEST_WRITE").is_some() {
        std::fs::write(path, page).unwrap();
    } else {
        let written = std::fs::read_to_string(path).unwrap();
        assert!(written == page, "{PAGE} differs from the profiles: `just fix` writes it again");
    }
}
