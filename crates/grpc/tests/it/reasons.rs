// SPDX-License-Identifier: Apache-2.0
//! Every reason for which the server refuses a call, as a client sees it.

use std::sync::Arc;
use std::time::Duration;

use atomix_config::{Config, LaterRoute, Rule};
use atomix_driver_memory::MemoryDriver;
use atomix_primitives::Reason;
use atomix_proto::inspect::inspector_client::InspectorClient;
use atomix_proto::inspect::{
    BackupStoreRequest, ClosePrimitiveRequest, DisconnectStoreRequest, EndSessionRequest,
    ListPrimitivesRequest,
};
use atomix_proto::map::commit_request::operation::Operation as Arm;
use atomix_proto::map::commit_request::{Insert, Operation};
use atomix_proto::runtime::runtime_client::RuntimeClient;
use atomix_proto::runtime::{self, ConfigureRequest, ConnectRequest, StoreId};
use atomix_proto::{counter, countermap, list, lock, map, value};
use atomix_runtime::Routes;
use atomix_store::ErrorKind;
use counter::counter_client::CounterClient;
use list::list_client::ListClient;
use lock::lock_client::LockClient;
use map::map_client::MapClient;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use crate::served::{Recorder, Served, id, next, store};
use crate::stub_store::StubStore;

#[tokio::test]
async fn every_reason_reaches_the_client_with_the_code_of_its_page() {
    for reason in Reason::ALL {
        let limit = Duration::from_secs(20);
        let refused = tokio::time::timeout(limit, Box::pin(refused(*reason))).await;
        let status = refused.unwrap_or_else(|_| panic!("no answer: {reason:?}"));
        let details = status.get_error_details();
        let info = details.error_info().unwrap_or_else(|| panic!("{reason:?}: {status:?}"));
        assert_eq!((info.reason.as_str(), info.domain.as_str()), (reason.code(), "atomix"), "{status:?}");
        assert_eq!(status.code(), code_of_page(*reason), "{reason:?}: {status:?}");
        assert!(!status.message().is_empty(), "{reason:?}");
        let retry = details.retry_info().is_some();
        assert_eq!(retry, status.code() == Code::Unavailable, "{reason:?}: {status:?}");
    }
}

/// Reads the gRPC code in the page of a reason.
fn code_of_page(reason: Reason) -> Code {
    let page = format!("{}/../../docs/errors/{}.md", env!("CARGO_MANIFEST_DIR"), reason.code());
    let page = std::fs::read_to_string(page).unwrap();
    let code = page.lines().find_map(|line| line.strip_prefix("gRPC code: ")).unwrap();
    let codes = (0..=16).map(Code::from_i32);
    let named = codes.into_iter().find(|known| format!("{known:?}").to_uppercase() == code.replace('_', ""));
    named.unwrap_or_else(|| panic!("no code: {code}"))
}

/// Makes a call that the server refuses for this reason. The compiler requests an arm for each reason.
async fn refused(reason: Reason) -> Status {
    match reason {
        Reason::KeyNotFound => key_not_found().await,
        Reason::ValueNotSet => value_not_set().await,
        Reason::LockFree => lock_free().await,
        Reason::NotKnown => not_known().await,
        Reason::KeyExists => key_exists().await,
        Reason::StoreExists => connect("memory", "store").await,
        Reason::VersionMismatch => version_mismatch().await,
        Reason::ValueMismatch => value_mismatch().await,
        Reason::KeyRepeated => key_repeated().await,
        Reason::LockTimeout => lock_timeout().await,
        Reason::LockNotHeld => lock_not_held().await,
        Reason::Fenced => fenced().await,
        Reason::InUse => in_use().await,
        Reason::Contention => contention().await,
        Reason::Invalid => invalid().await,
        Reason::StoreUnavailable => of_store(ErrorKind::Unavailable).await,
        Reason::StoreClosed => of_store(ErrorKind::Closed).await,
        Reason::StoreFull => of_store(ErrorKind::Full).await,
        Reason::WaitersFull => waiters_full().await,
        Reason::StreamsFull => streams_full().await,
        Reason::PrimitivesFull => primitives_full().await,
        Reason::HostLost => host_lost().await,
        Reason::NotProgrammed => not_programmed().await,
        Reason::NotOpen => not_open().await,
        Reason::Draining => draining().await,
        Reason::Closed => closed().await,
        Reason::DeadlineExceeded => deadline_exceeded().await,
        Reason::OutcomeUnknown => of_store(ErrorKind::OutcomeUnknown).await,
        Reason::WatchOverrun => watch_overrun().await,
        Reason::StoreCorrupt => of_store(ErrorKind::Corrupt).await,
        Reason::NoRoute => no_route().await,
        Reason::StoreDenied => of_store(ErrorKind::Denied).await,
        Reason::DriverUnknown => connect("unknown", "other").await,
        Reason::Unsupported => unsupported().await,
        Reason::Internal => of_store(ErrorKind::Internal).await,
    }
}

// --- Primitives ---

async fn counter(served: &Served) -> CounterClient<Recorder> {
    let mut counter = CounterClient::new(served.primitives().await);
    counter.create(counter::CreateRequest { id: id("p"), tags: Vec::new() }).await.unwrap();
    counter
}

async fn map(served: &Served) -> MapClient<Recorder> {
    let mut map = MapClient::new(served.primitives().await);
    map.create(map::CreateRequest { id: id("p"), tags: Vec::new() }).await.unwrap();
    map
}

async fn lock(served: &Served) -> LockClient<Recorder> {
    let mut lock = LockClient::new(served.primitives().await);
    lock.create(lock::CreateRequest { id: id("p"), tags: Vec::new() }).await.unwrap();
    lock
}

fn get() -> counter::GetRequest {
    counter::GetRequest { id: id("p") }
}

fn put(key: &str, value: &'static [u8]) -> map::PutRequest {
    map::PutRequest { id: id("p"), key: key.to_owned(), value: value.into(), ttl: None, prev_version: 0 }
}

fn forever() -> lock::LockRequest {
    lock::LockRequest { id: id("p"), timeout: None }
}

/// Opens the events of the map `p`; they are registered when this returns.
async fn events(map: &mut MapClient<Recorder>) -> Streaming<map::EventsResponse> {
    let request = map::EventsRequest { id: id("p"), key: String::new() };
    let mut events = map.events(request).await.unwrap().into_inner();
    next(&mut events).await;
    events
}

/// Waits until so many calls wait for the lock `p`.
async fn waiting(served: &Served, waiters: u64) {
    let mut inspector = InspectorClient::new(served.control().await);
    let locks = ListPrimitivesRequest { kind: "Lock".to_owned(), ..ListPrimitivesRequest::default() };
    loop {
        let found = inspector.list_primitives(locks.clone()).await.unwrap().into_inner().primitives;
        if found[0].waiters >= waiters {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn key_not_found() -> Status {
    let served = Served::start().await;
    let request = map::GetRequest { id: id("p"), key: "k".to_owned() };
    map(&served).await.get(request).await.unwrap_err()
}

async fn value_not_set() -> Status {
    let served = Served::start().await;
    let mut value = value::value_client::ValueClient::new(served.primitives().await);
    value.create(value::CreateRequest { id: id("p"), tags: Vec::new() }).await.unwrap();
    value.get(value::GetRequest { id: id("p") }).await.unwrap_err()
}

async fn lock_free() -> Status {
    let served = Served::start().await;
    lock(&served).await.get_lock(lock::GetLockRequest { id: id("p") }).await.unwrap_err()
}

async fn key_exists() -> Status {
    let served = Served::start().await;
    let mut map = map(&served).await;
    map.put(put("k", b"1")).await.unwrap();
    let insert =
        map::InsertRequest { id: id("p"), key: "k".to_owned(), value: b"2".as_slice().into(), ttl: None };
    map.insert(insert).await.unwrap_err()
}

async fn version_mismatch() -> Status {
    let served = Served::start().await;
    let mut map = map(&served).await;
    map.put(put("k", b"1")).await.unwrap();
    map.put(map::PutRequest { prev_version: 77, ..put("k", b"2") }).await.unwrap_err()
}

async fn fenced() -> Status {
    let served = Served::start().await;
    let mut map = map(&served).await;
    let guarded = |token: u64| {
        let mut request = tonic::Request::new(put("k", b"1"));
        request.metadata_mut().append("atomix-guard", format!("lock=l,token={token}").parse().unwrap());
        request
    };
    map.put(guarded(2)).await.unwrap();
    map.put(guarded(1)).await.unwrap_err()
}

async fn value_mismatch() -> Status {
    let served = Served::start().await;
    let mut map = countermap::counter_map_client::CounterMapClient::new(served.primitives().await);
    map.create(countermap::CreateRequest { id: id("p"), tags: Vec::new() }).await.unwrap();
    map.set(countermap::SetRequest { id: id("p"), key: "k".to_owned(), value: 1 }).await.unwrap();
    let update = countermap::UpdateRequest { id: id("p"), key: "k".to_owned(), value: 3, prev_value: 2 };
    map.update(update).await.unwrap_err()
}

async fn key_repeated() -> Status {
    let served = Served::start().await;
    let insert = Insert { key: "k".to_owned(), value: b"1".as_slice().into(), ttl: None };
    let operations = vec![Operation { operation: Some(Arm::Insert(insert)) }; 2];
    map(&served).await.commit(map::CommitRequest { id: id("p"), operations }).await.unwrap_err()
}

async fn lock_timeout() -> Status {
    let served = Served::start().await;
    let (mut owner, mut other) = (lock(&served).await, lock(&served).await);
    owner.lock(forever()).await.unwrap();
    let at_once = lock::LockRequest { id: id("p"), timeout: Some(prost_types::Duration::default()) };
    other.lock(at_once).await.unwrap_err()
}

async fn lock_not_held() -> Status {
    let served = Served::start().await;
    lock(&served).await.unlock(lock::UnlockRequest { id: id("p") }).await.unwrap_err()
}

async fn invalid() -> Status {
    let served = Served::start().await;
    let long = counter::CreateRequest { id: id(&"n".repeat(2000)), tags: Vec::new() };
    CounterClient::new(served.primitives().await).create(long).await.unwrap_err()
}

async fn not_open() -> Status {
    let served = Served::start().await;
    CounterClient::new(served.primitives().await).get(get()).await.unwrap_err()
}

async fn closed() -> Status {
    let served = Served::start().await;
    let mut map = map(&served).await;
    let mut events = events(&mut map).await;
    let close = ClosePrimitiveRequest { kind: "Map".to_owned(), name: "p".to_owned() };
    InspectorClient::new(served.control().await).close_primitive(close).await.unwrap();
    events.message().await.unwrap_err()
}

// --- Limits ---

fn limited(limit: impl FnOnce(&mut atomix_config::Limits)) -> Config {
    let mut config = Config::default();
    limit(&mut config.limits);
    config
}

async fn waiters_full() -> Status {
    let config = limited(|limits| limits.streams_per_connection_max = 1);
    let served = Served::start_with(config, Arc::new(MemoryDriver)).await;
    let connection = served.primitives().await;
    let mut map = MapClient::new(connection.clone());
    map.create(map::CreateRequest { id: id("p"), tags: Vec::new() }).await.unwrap();
    let _events = events(&mut map).await;
    let mut lock = LockClient::new(connection);
    lock.create(lock::CreateRequest { id: id("p"), tags: Vec::new() }).await.unwrap();
    lock.lock(forever()).await.unwrap_err()
}

async fn streams_full() -> Status {
    let config = limited(|limits| limits.streams_per_connection_max = 1);
    let served = Served::start_with(config, Arc::new(MemoryDriver)).await;
    let mut map = map(&served).await;
    let _events = events(&mut map).await;
    map.events(map::EventsRequest { id: id("p"), key: String::new() }).await.unwrap_err()
}

async fn primitives_full() -> Status {
    let config = limited(|limits| limits.primitives_max = 1);
    let served = Served::start_with(config, Arc::new(MemoryDriver)).await;
    let mut counter = counter(&served).await;
    counter.create(counter::CreateRequest { id: id("other"), tags: Vec::new() }).await.unwrap_err()
}

async fn deadline_exceeded() -> Status {
    let deadline = Duration::from_millis(100);
    let config = limited(|limits| limits.call_deadline_default = atomix_config::Duration::new(deadline));
    let stub = Arc::new(StubStore::default());
    let served = Served::start_with(config, stub.driver()).await;
    let mut counter = counter(&served).await;
    stub.hang();
    counter.get(get()).await.unwrap_err()
}

async fn watch_overrun() -> Status {
    let served = Served::start().await;
    let short = ConfigureRequest {
        store_id: Some(StoreId { namespace: String::new(), name: "store".to_owned() }),
        config: r#"{"history-commits-max":16}"#.into(),
    };
    RuntimeClient::new(served.control().await).configure(short).await.unwrap();
    let mut writer = map(&served).await;
    let mut reader = MapClient::new(served.narrow().await);
    reader.create(map::CreateRequest { id: id("p"), tags: Vec::new() }).await.unwrap();
    let mut events = events(&mut reader).await;
    for at in 0..2000 {
        writer.put(put(&format!("k{at}"), &[7; 1024])).await.unwrap();
    }
    loop {
        match events.message().await {
            Ok(event) => assert!(event.is_some(), "the stream ended as if it were complete"),
            Err(status) => return status,
        }
    }
}

// --- Stores and routes ---

/// Makes a call whose store fails in this way.
async fn of_store(kind: ErrorKind) -> Status {
    let stub = Arc::new(StubStore::default());
    let served = Served::start_with(Config::default(), stub.driver()).await;
    let mut map = map(&served).await;
    stub.fail(kind);
    map.put(put("k", b"1")).await.unwrap_err()
}

async fn contention() -> Status {
    let stub = Arc::new(StubStore::default());
    let served = Served::start_with(Config::default(), stub.driver()).await;
    let mut list = ListClient::new(served.primitives().await);
    list.create(list::CreateRequest { id: id("p"), tags: Vec::new() }).await.unwrap();
    let value = || Some(list::Value { value: b"1".as_slice().into() });
    list.append(list::AppendRequest { id: id("p"), value: value() }).await.unwrap();
    stub.conflict();
    list.insert(list::InsertRequest { id: id("p"), index: 0, value: value() }).await.unwrap_err()
}

/// Another member deletes the record of this one, as if it were dead.
async fn host_lost() -> Status {
    let mut config = Config::default();
    config.sessions.timeout = atomix_config::Duration::new(Duration::from_secs(1));
    let stub = Arc::new(StubStore::default());
    let served = Served::start_with(config, stub.driver()).await;
    let (mut owner, mut other) = (lock(&served).await, lock(&served).await);
    owner.lock(forever()).await.unwrap();
    let waits = tokio::spawn(async move { other.lock(forever()).await });
    waiting(&served, 1).await;
    stub.erase("host").await;
    waits.await.unwrap().unwrap_err()
}

async fn not_programmed() -> Status {
    let served = Served::start_bare(Config::default(), Arc::new(MemoryDriver)).await;
    let create = counter::CreateRequest { id: id("p"), tags: Vec::new() };
    CounterClient::new(served.primitives().await).create(create).await.unwrap_err()
}

async fn no_route() -> Status {
    let served = Served::start().await;
    let rule = Rule { tags: vec!["other".to_owned()], ..Rule::default() };
    let routes = vec![LaterRoute { store: store("store"), rules: vec![rule] }];
    served.runtime.program(Routes::Later(routes)).unwrap();
    let create = counter::CreateRequest { id: id("p"), tags: Vec::new() };
    CounterClient::new(served.primitives().await).create(create).await.unwrap_err()
}

// --- Control ---

async fn connect(driver: &str, name: &str) -> Status {
    let served = Served::start().await;
    let connect = ConnectRequest {
        store_id: Some(StoreId { namespace: String::new(), name: name.to_owned() }),
        driver_id: Some(runtime::DriverId { name: driver.to_owned(), version: "v1".to_owned() }),
        config: bytes::Bytes::new(),
    };
    RuntimeClient::new(served.control().await).connect(connect).await.unwrap_err()
}

async fn not_known() -> Status {
    let served = Served::start().await;
    let end = EndSessionRequest { id: "1-1".to_owned() };
    InspectorClient::new(served.control().await).end_session(end).await.unwrap_err()
}

async fn in_use() -> Status {
    let served = Served::start().await;
    map(&served).await.put(put("k", b"1")).await.unwrap();
    let store_id = Some(StoreId { namespace: String::new(), name: "store".to_owned() });
    let disconnect = DisconnectStoreRequest { store_id, force: false };
    InspectorClient::new(served.control().await).disconnect_store(disconnect).await.unwrap_err()
}

async fn unsupported() -> Status {
    let served = Served::start().await;
    let store_id = Some(StoreId { namespace: String::new(), name: "store".to_owned() });
    let mut inspector = InspectorClient::new(served.control().await);
    inspector.backup_store(BackupStoreRequest { store_id }).await.unwrap_err()
}

async fn draining() -> Status {
    let served = Served::start().await;
    let (mut owner, mut other) = (lock(&served).await, lock(&served).await);
    owner.lock(forever()).await.unwrap();
    let waits = tokio::spawn(async move { other.lock(forever()).await });
    waiting(&served, 1).await;
    served.shutdown.cancel();
    waits.await.unwrap().unwrap_err()
}
