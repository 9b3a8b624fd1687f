// SPDX-License-Identifier: Apache-2.0
//! The commands of operators on primitives and stores, on every store: close, delete, connect, disconnect.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "processes are awaited in real time")]

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use atomix_chaos::Server;
use atomix_client::control::Route;
use atomix_client::{DriverId, Kind, StoreId};
use atomix_proto::lock;
use atomix_proto::runtime::PrimitiveId;
use atomix_servers::etcd::Etcd;
use atomix_servers::eventually;
use atomix_servers::redis::Redis;
use lock::lock_client::LockClient;
use serde_json::{Value as Json, json};
use tonic::transport::Channel;

/// How long a test waits for what must come.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);
/// Enough that a call which does not wait for the connection is refused once.
const CONNECTS: usize = 10;

async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(WAIT_TIMEOUT, future).await.expect("it must not take that long")
}

fn config(driver: &str, version: &str, config: &Json) -> String {
    json!({"name": "s", "driver": {"name": driver, "version": version}, "config": config}).to_string()
}

/// Starts a process on the store of this configuration.
fn start(folder: &Path, store: &str) -> Server {
    let file = folder.join("atomix.yaml");
    std::fs::write(&file, format!("stores: [{store}]\n")).unwrap();
    Server::start_with(&["--config", file.to_str().unwrap()])
}

fn run(server: &Server, line: &str) -> Output {
    server.run(&line.split_whitespace().collect::<Vec<_>>())
}

#[track_caller]
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[track_caller]
fn refused(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn closes_and_deletes(store: &str, outlives: bool) {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path(), store);
    let (holder, waiter) = (server.client().await, server.client().await);
    let map = holder.map("users").open().await.unwrap();
    for at in 0..1500 {
        map.put(format!("k{at}"), &"v".into()).await.unwrap();
    }
    let mut events = map.events().await.unwrap();
    done(&run(&server, "map put other k v"));

    let why = refused(&run(&server, "primitive delete Map users"), 4);
    assert!(why.contains("--force") && why.contains("sessions=`1`"), "{why}");
    let looked = done(&run(&server, "primitive delete map users --dry-run -o json"));
    let looked: Json = serde_json::from_str(&looked).unwrap();
    assert!(looked["entries"].as_u64().unwrap() >= 1500 && looked["streams"] == 1, "{looked}");
    assert_eq!(map.size().await.unwrap(), 1500, "nothing was changed");
    done(&run(&server, "primitive delete Map users --force"));
    let end = soon(events.next()).await.unwrap().unwrap_err();
    assert!(end.kind() == Kind::Cancelled && end.message().contains("operator"), "{end}");
    assert_eq!(done(&run(&server, "map size users")), "0");
    assert_eq!(done(&run(&server, "map size other")), "1");

    // The connection of the holder ends, a waiter gets an error.
    let lock = holder.lock("door").open().await.unwrap();
    let held = lock.acquire().await.unwrap();
    let waiting = waiter.lock("door").open().await.unwrap();
    let waiting = tokio::spawn(async move { waiting.acquire().timeout(WAIT_TIMEOUT).await.map(drop) });
    let waits = || done(&run(&server, "inspect locks -o json")).contains("\"waiters\":[{");
    eventually(WAIT_TIMEOUT, "a waiter is shown", waits).await;
    refused(&run(&server, "primitive delete Lock door"), 4);
    done(&run(&server, "primitive delete Lock door --force"));
    soon(held.lost()).await;
    assert_eq!(soon(waiting).await.unwrap().unwrap_err().kind(), Kind::Cancelled);
    refused(&run(&server, "lock status door"), 3);

    done(&run(&server, "counter set hits 7"));
    done(&run(&server, "primitive close Counter hits"));
    assert_eq!(done(&run(&server, "counter get hits")), "7", "the content stays");
    refused(&run(&server, "primitive delete Set nothing"), 3);
    refused(&run(&server, "primitive delete Nothing nothing"), 1);
    drop((holder, waiter, map));
    if outlives {
        drop(server);
        let server = start(folder.path(), store);
        let answers = || run(&server, "map size other").status.success();
        eventually(WAIT_TIMEOUT, "the store is back", answers).await;
        assert_eq!(done(&run(&server, "map size other")), "1");
        assert_eq!(done(&run(&server, "map size users")), "0");
        assert_eq!(done(&run(&server, "counter get hits")), "7");
    }
}

#[tokio::test]
async fn primitives_are_closed_and_deleted_on_memory() {
    closes_and_deletes(&config("memory", "v1", &json!({})), false).await;
}

#[tokio::test]
async fn primitives_are_closed_and_deleted_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    closes_and_deletes(&config("disk", "v1", &json!({"dir": folder.path()})), true).await;
}

#[tokio::test]
async fn primitives_are_closed_and_deleted_on_etcd() {
    let etcd = Etcd::start(&[]).await;
    closes_and_deletes(&config("etcd", "v3", &json!({"endpoints": [etcd.endpoint()]})), true).await;
}

#[tokio::test]
async fn primitives_are_closed_and_deleted_on_redis() {
    let redis = Redis::start(&[]).await;
    closes_and_deletes(&config("redis", "v1", &json!({"address": redis.address()})), true).await;
}

#[tokio::test]
async fn a_memory_store_with_content_is_disconnected_by_force_alone() {
    let server = Server::start();
    let inspect = server.once().await.inspect();
    done(&run(&server, "store connect second memory"));
    done(&server.run(&["route", "program", r#"[{"store":{"name":"second"},"rules":[]}]"#]));
    done(&run(&server, "counter set hits 7"));
    // Not open any more, and its content is there.
    done(&run(&server, "primitive close Counter hits"));
    let error = inspect.disconnect_store("second", false).await.unwrap_err();
    assert_eq!((error.kind(), error.reason()), (Kind::Conflict, Some("IN_USE")));
    let why = refused(&run(&server, "store disconnect second"), 4);
    assert!(why.contains("primitives-with-content=`1`") && why.contains("--force"), "{why}");
    assert_eq!(done(&run(&server, "counter incr hits")), "8", "it works on");
    done(&run(&server, "primitive delete Counter hits --force"));
    done(&run(&server, "store disconnect second"));
    // The call of the original takes a store away as it always did.
    done(&run(&server, "store connect second memory"));
    done(&run(&server, "counter set hits 7"));
    server.once().await.control().disconnect("second").await.unwrap();
}

/// Creates a primitive right after a store was connected, again and again; each call is made once.
async fn waits_for_the_connection(driver: &str, version: &str, config: impl Fn(usize) -> Json) {
    let server = Server::start();
    let control = server.once().await.control();
    let store = StoreId::from("late");
    control.program([Route::all(store.clone())]).await.unwrap();
    let channel = Channel::from_shared(format!("http://{}", server.listen())).unwrap();
    let mut locks = LockClient::new(channel.connect().await.unwrap());
    for at in 0..CONNECTS {
        let driver = DriverId { name: driver.to_owned(), version: version.to_owned() };
        control.connect(store.clone(), driver, &config(at)).await.unwrap();
        let id = Some(PrimitiveId { name: format!("l{at}") });
        let created = locks.create(lock::CreateRequest { id, tags: Vec::new() });
        soon(created).await.unwrap_or_else(|status| panic!("{at}: {status}"));
        control.disconnect(store.clone()).await.unwrap();
    }
}

#[tokio::test]
async fn a_create_waits_for_the_first_attempt_to_connect_a_disk_store() {
    let folder = tempfile::tempdir().unwrap();
    let dir = |at: usize| json!({"dir": folder.path().join(at.to_string())});
    waits_for_the_connection("disk", "v1", dir).await;
}

#[tokio::test]
async fn a_create_waits_for_the_first_attempt_to_connect_etcd() {
    let etcd = Etcd::start(&[]).await;
    waits_for_the_connection("etcd", "v3", |_| json!({"endpoints": [etcd.endpoint()]})).await;
}

#[tokio::test]
async fn a_create_waits_for_the_first_attempt_to_connect_redis() {
    let redis = Redis::start(&[]).await;
    waits_for_the_connection("redis", "v1", |_| json!({"address": redis.address()})).await;
}
