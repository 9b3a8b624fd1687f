// SPDX-License-Identifier: Apache-2.0
//! Stores that an old program wrote, read by this one: `tests/fixtures/README.md`.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use atomix_chaos::Server;
use atomix_client::Client;
use atomix_proto::counter::GetRequest;
use atomix_proto::counter::counter_client::CounterClient;
use atomix_proto::runtime::PrimitiveId;
use atomix_servers::etcd::Etcd;
use atomix_servers::redis::Redis;
use serde_json::{Value as Json, json};
use tonic::transport::Channel;

/// The time for what a killed process owned to be free again, of which the program needs about a second.
const RECOVERY: Duration = Duration::from_mins(1);

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// The answers of the old program, by the question.
fn facts(store: &str) -> BTreeMap<String, Vec<Json>> {
    let mut facts: BTreeMap<String, Vec<Json>> = BTreeMap::new();
    for line in fs::read_to_string(fixture(&format!("{store}.facts"))).unwrap().lines() {
        let (question, answer) = line.split_once('\t').unwrap();
        facts.entry(question.to_owned()).or_default().push(serde_json::from_str(answer).unwrap());
    }
    facts
}

fn start(folder: &Path, driver: &str, config: &str) -> Server {
    let file = folder.join("atomix.yaml");
    let stores = format!("[{{ name: old, driver: {{ name: {driver} }}, config: {{ {config} }} }}]");
    fs::write(&file, format!("sessions: {{ timeout: 1s }}\nstores: {stores}\n")).unwrap();
    Server::start_with(&["--config", file.to_str().unwrap(), "--log-level", "error"])
}

/// Asks for all content as `tests/fixtures/make` has done, except for what the killed process owned.
async fn content(client: &Client) -> BTreeMap<String, Vec<Json>> {
    let mut found: BTreeMap<String, Vec<Json>> = BTreeMap::new();
    let mut add = |question: &str, answers: Vec<Json>| found.insert(question.to_owned(), answers);
    for (question, name, tags) in [
        ("counter get hits", "hits", &[][..]),
        ("counter get orders/eu", "orders/eu", &[]),
        ("counter get tagged --tag blue --tag green", "tagged", &["blue", "green"]),
    ] {
        let counter = client.counter(name).tags(tags.iter().copied()).open().await.unwrap();
        add(question, vec![json!({"value": counter.get().await.unwrap()})]);
    }
    let stock = client.counter_map("stock").open().await.unwrap();
    let entries = stock.entries().await.unwrap().collect().await.unwrap();
    let entries = entries.into_iter().map(|entry| json!({"key": entry.key, "value": entry.value}));
    add("countermap list stock", entries.collect());
    for name in ["config", "Straße 東京"] {
        let map = client.map(name).text().open().await.unwrap();
        let entries = map.entries().await.unwrap().collect().await.unwrap();
        let entries = entries.into_iter().map(
            |entry| json!({"key": entry.key, "value": entry.value.value, "version": entry.value.version}),
        );
        add(&format!("map list {}", name.replace(' ', "_")), entries.collect());
    }
    let list = client.list("queue").text().open().await.unwrap();
    let items = list.items().await.unwrap().collect().await.unwrap();
    let items = items.into_iter().map(|item| json!({"index": item.index, "value": item.value}));
    add("list list queue", items.collect());
    let set = client.set("members").open().await.unwrap();
    let elements = set.elements().await.unwrap().collect().await.unwrap();
    add("set list members", elements.into_iter().map(|element| json!({"element": element})).collect());
    let phones = client.multimap("phones").open().await.unwrap();
    let entries = phones.entries().await.unwrap().collect().await.unwrap();
    let entries = entries.into_iter().map(|entry| json!({"key": entry.key, "values": entry.values}));
    add("multimap list phones", entries.collect());
    let events = client.indexed_map("events").text().open().await.unwrap();
    let entries = events.entries().await.unwrap().collect().await.unwrap();
    let entries = entries.into_iter().map(|entry| {
        let (value, version) = (entry.value.value, entry.value.version);
        json!({"index": entry.index, "key": entry.key, "value": value, "version": version})
    });
    add("indexedmap list events", entries.collect());
    let greeting = client.value("greeting").text().open().await.unwrap().get().await.unwrap().unwrap();
    add("value get greeting", vec![json!({"value": greeting.value, "version": greeting.version})]);
    found
}

/// Looks at all that the old program left, changes some of it, and looks again after a restart.
async fn read_back(store: &str, start: impl Fn() -> Server) {
    let mut facts = facts(store);
    let token = facts.remove("lock status job").unwrap()[0]["token"].as_u64().unwrap();
    let term = facts.remove("election term primary").unwrap().remove(0);
    let (term, leader) = (term["term"].as_u64().unwrap(), term["leader"].as_str().unwrap().to_owned());
    assert!(token > 0 && term > 0);

    let mut server = start();
    // The store knows the primitive: a client of the old program calls it without creating it again.
    let channel = Channel::from_shared(format!("http://{}", server.listen())).unwrap();
    let mut counter = CounterClient::new(channel.connect().await.unwrap());
    let hits = GetRequest { id: Some(PrimitiveId { name: "hits".to_owned() }) };
    assert_eq!(counter.get(hits).await.unwrap().into_inner().value, 46);

    let client = server.client().await;
    assert_eq!(content(&client).await, facts);

    // Locks and lead of the killed process are free again, and numbers go on.
    let job = client.lock("job").open().await.unwrap();
    let next = job.acquire().timeout(RECOVERY).await.unwrap();
    assert!(next.token() > token, "{} after {token}", next.token());
    let config = client.map("config").text().open().await.unwrap();
    let row = config.lock(["row"]).timeout(RECOVERY).await.unwrap();
    let election = client.election("primary").open().await.unwrap();
    let mut candidacy = election.candidacy("present").await.unwrap();
    let elected = candidacy.elected().await.unwrap();
    assert!(elected.number > term && !elected.stands(&leader), "{elected:?} after {term}");

    client.counter("hits").open().await.unwrap().increment(1).await.unwrap();
    let versions = facts["map list config"].iter().map(|entry| entry["version"].as_u64().unwrap());
    let version = config.put("colour", &"blue".to_owned()).await.unwrap().version;
    assert!(version > versions.max().unwrap());
    client.list("queue").text().open().await.unwrap().append(&"fifth".to_owned()).await.unwrap();
    let appended = client
        .indexed_map("events")
        .text()
        .open()
        .await
        .unwrap()
        .append("four", &"4".to_owned())
        .await
        .unwrap();
    assert_eq!(appended.index, 4);
    let changed = content(&client).await;
    let written = ["counter get hits", "map list config", "list list queue", "indexedmap list events"];
    for (question, answers) in &changed {
        assert_eq!(answers != &facts[question], written.contains(&question.as_str()), "{question}");
    }
    let (token, term) = (next.token(), elected.number);
    next.release().await.unwrap();
    row.release().await.unwrap();
    candidacy.withdraw().await.unwrap();

    server.kill();
    let server = start();
    let client = server.client().await;
    assert_eq!(content(&client).await, changed);
    let job = client.lock("job").open().await.unwrap();
    assert!(job.acquire().timeout(RECOVERY).await.unwrap().token() > token);
    let election = client.election("primary").open().await.unwrap();
    assert!(election.term().await.unwrap().number >= term);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_of_a_disk_store() {
    /// The length of a log file: a log ends in zeros.
    const LOG_LEN: u64 = 4 << 20;
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("store");
    fs::create_dir(&dir).unwrap();
    for file in fs::read_dir(fixture("disk")).unwrap() {
        let file = file.unwrap();
        let copy = dir.join(file.file_name());
        fs::write(&copy, fs::read(file.path()).unwrap()).unwrap();
        if file.file_name().to_str().unwrap().starts_with("log-") {
            fs::File::options().write(true).open(copy).unwrap().set_len(LOG_LEN).unwrap();
        }
    }
    read_back("disk", || start(folder.path(), "disk", &format!("dir: {}", dir.display()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_of_an_etcd() {
    let folder = tempfile::tempdir().unwrap();
    let etcd = Etcd::start(&[]).await;
    let dump: Json = serde_json::from_slice(&fs::read(fixture("etcd.json")).unwrap()).unwrap();
    let number = |number: &Json| number.as_str().unwrap().parse::<u64>().unwrap();
    // The revision of each key is part of the content: the commits of the old cluster, one after the other, with the last value of
    // each key. A commit that left nothing writes a key outside of the store.
    let mut commits: BTreeMap<u64, Vec<Json>> = BTreeMap::new();
    for kv in dump["kvs"].as_array().unwrap().iter().filter(|kv| kv["lease"].is_null()) {
        let put = json!({"requestPut": {"key": kv["key"], "value": kv["value"]}});
        let (created, modified) = (number(&kv["create_revision"]), number(&kv["mod_revision"]));
        commits.entry(created).or_default().push(put.clone());
        if modified != created {
            commits.entry(modified).or_default().push(put);
        }
    }
    let other = json!({"requestPut": {"key": "b3RoZXI=", "value": ""}});
    for revision in 2..=number(&dump["header"]["revision"]) {
        let puts = commits.remove(&revision).unwrap_or_else(|| vec![other.clone()]);
        etcd.post("/v3/kv/txn", &json!({"success": puts}).to_string()).await;
        assert_eq!(etcd.revision().await, revision);
    }
    assert!(commits.is_empty());
    read_back("etcd", || start(folder.path(), "etcd", &format!("endpoints: ['{}']", etcd.endpoint()))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_of_a_redis() {
    let folder = tempfile::tempdir().unwrap();
    let mut redis = Redis::start(&[]).await;
    redis.kill();
    fs::copy(fixture("redis.rdb"), redis.folder().join("dump.rdb")).unwrap();
    redis.restart().await;
    read_back("redis", || start(folder.path(), "redis", &format!("address: '{}'", redis.address()))).await;
}
