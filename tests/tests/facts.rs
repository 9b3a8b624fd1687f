// SPDX-License-Identifier: Apache-2.0
//! `atomix inspect stores` shows the facts that the documentation names, for each store.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "processes are awaited in real time")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use atomix_chaos::Server;
use atomix_servers::etcd::Etcd;
use atomix_servers::redis::Redis;
use serde_json::Value;

const WAIT_TIMEOUT: Duration = Duration::from_mins(1);
const DOCUMENTATION: &str = include_str!("../../docs/guides/choose-a-store.md");

type Facts = BTreeMap<String, String>;

/// Returns the facts that the table of the documentation names for a driver.
fn documented(driver: &str) -> Vec<String> {
    let (_, section) = DOCUMENTATION.split_once("## Facts").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let row = format!("| `{driver}` |");
    let names = section.lines().filter_map(|line| line.strip_prefix(&row)).flat_map(|facts| {
        // A name is in the first pair of backticks, and its meaning behind it.
        facts.trim_matches([' ', '|']).split(" · ").map(|fact| fact.split('`').nth(1).unwrap().to_owned())
    });
    names.collect()
}

fn serve(driver: &str, config: &str) -> Server {
    let store = format!("stores=[{{ name: s, driver: {{ name: {driver} }}, config: {{ {config} }} }}]");
    Server::start_with(&["--set", "log.level=off", "--set", &store])
}

fn store(server: &Server) -> Value {
    let output = server.run(&["inspect", "stores", "-o", "json"]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Waits until the facts are as wanted, and returns them.
async fn facts(server: &Server, wanted: impl Fn(&Facts) -> bool) -> Facts {
    let began = Instant::now();
    loop {
        let facts: Facts = serde_json::from_value(store(server)["facts"].clone()).unwrap();
        if wanted(&facts) {
            return facts;
        }
        assert!(began.elapsed() < WAIT_TIMEOUT, "{facts:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Checks that all facts are there, in both forms of the output, and no other ones.
async fn shows(server: &Server, driver: &str, absent: &[&str]) -> Facts {
    let shown = facts(server, |facts| !facts.is_empty()).await;
    let mut names = documented(driver);
    names.retain(|name| !absent.contains(&name.as_str()));
    names.sort_unstable();
    assert_eq!(shown.keys().cloned().collect::<Vec<_>>(), names, "{driver}");
    let table = String::from_utf8(server.run(&["inspect", "stores"]).stdout).unwrap();
    for name in names {
        assert!(table.contains(&format!("{name}={}", shown[&name])), "{name}: {table}");
    }
    shown
}

async fn put(server: &Server) {
    let map = server.client().await.map("m").open().await.unwrap();
    map.put("k", &vec![b'v'; 100_000].into()).await.unwrap();
}

fn number(facts: &Facts, name: &str) -> u64 {
    facts[name].parse().unwrap_or_else(|_| panic!("{name} of {facts:?}"))
}

#[tokio::test]
async fn of_memory() {
    let server = serve("memory", "bytes-max: 10485760");
    let shown = shows(&server, "memory", &[]).await;
    assert_eq!(number(&shown, "bytes-max"), 10 << 20);
    let bytes = number(&shown, "bytes");
    put(&server).await;
    let shown = facts(&server, |facts| number(facts, "bytes") > bytes + 100_000).await;
    assert!(number(&shown, "keyspaces") > 0);
}

#[tokio::test]
async fn of_disk() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve("disk", &format!("dir: '{}'", folder.path().display()));
    let shown = shows(&server, "disk", &[]).await;
    assert_eq!(shown["dir"], folder.path().display().to_string());
    put(&server).await;
    facts(&server, |facts| number(facts, "bytes") > 100_000 && number(facts, "log-bytes") > 100_000).await;
}

#[tokio::test]
async fn of_etcd() {
    let etcd = Etcd::start(&[]).await;
    let endpoint = etcd.endpoint();
    let server = serve("etcd", &format!("endpoints: ['{endpoint}']"));
    let shown = shows(&server, "etcd", &["alarms"]).await;
    assert_eq!(shown["endpoint"], endpoint);
    assert_eq!(shown["leader"], shown["member"], "it is alone");
    assert!(number(&shown, "database-bytes") > 0);
    let member = u64::from_str_radix(&shown["member"], 16).unwrap();
    let alarm = format!(r#"{{"action":"ACTIVATE","alarm":"NOSPACE","memberID":"{member}"}}"#);
    etcd.post("/v3/maintenance/alarm", &alarm).await;
    let shown = facts(&server, |facts| facts.contains_key("alarms")).await;
    assert!(shown["alarms"].contains("NOSPACE"), "{shown:?}");
    shows(&server, "etcd", &[]).await;
    etcd.disarm().await;
    facts(&server, |facts| !facts.contains_key("alarms")).await;
}

#[tokio::test]
async fn of_redis() {
    let redis = Redis::start(&[]).await;
    let address = redis.address();
    let server = serve("redis", &format!("address: '{address}'"));
    let shown = shows(&server, "redis", &[]).await;
    assert_eq!((shown["address"].as_str(), shown["role"].as_str()), (address.as_str(), "master"));
}
