// SPDX-License-Identifier: Apache-2.0
//! The wire protocol, by generated clients: codes, presence, configurations, the life of stores and streams.
#![allow(
    clippy::disallowed_methods,
    clippy::unnecessary_wraps,
    clippy::unwrap_used,
    reason = "a test may fail, waits in real time, and writes messages as they are"
)]

use std::time::Duration;

use atomix_chaos::Server;
use atomix_proto::inspect::ListSessionsRequest;
use atomix_proto::inspect::inspector_client::InspectorClient;
use atomix_proto::runtime::runtime_client::RuntimeClient;
use atomix_proto::runtime::{
    ConfigureRequest, ConnectRequest, DisconnectRequest, DriverId, PrimitiveId, ProgramRequest, ProgramRoute,
    RoutingRule, StoreId,
};
use atomix_proto::{counter, lock, map, proxy};
use atomix_transport::abuse as raw;
use bytes::Bytes;
use counter::counter_client::CounterClient;
use lock::lock_client::LockClient;
use map::map_client::MapClient;
use map::maps_client::MapsClient;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_types::StatusExt;

async fn channel(address: &str) -> Channel {
    Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

fn id(name: &str) -> Option<PrimitiveId> {
    Some(PrimitiveId { name: name.to_owned() })
}

fn store(name: &str) -> Option<StoreId> {
    Some(StoreId { namespace: String::new(), name: name.to_owned() })
}

fn connect(name: &str, config: &'static [u8]) -> ConnectRequest {
    let driver_id = Some(DriverId { name: "memory".to_owned(), version: "v1".to_owned() });
    ConnectRequest { store_id: store(name), driver_id, config: Bytes::from_static(config) }
}

fn program(routes: &[(&str, &str)]) -> ProgramRequest {
    let routes = routes.iter().map(|(name, tag)| {
        let tags: Vec<String> = tag.split_whitespace().map(str::to_owned).collect();
        let rule = RoutingRule {
            tags,
            config: Bytes::from_static(br#"{"cache":{"enabled":true,"size":3}}"#),
            ..RoutingRule::default()
        };
        ProgramRoute { store_id: store(name), rules: vec![rule] }
    });
    ProgramRequest { routes: routes.collect() }
}

fn put(key: &str, value: &'static [u8]) -> map::PutRequest {
    map::PutRequest { id: id("m"), key: key.to_owned(), value: value.into(), ttl: None, prev_version: 0 }
}

#[tokio::test]
async fn configurations_come_raw_in_an_any_or_not_at_all() {
    let server = Server::start();
    let mut control = RuntimeClient::new(channel(server.control()).await);
    for (name, config, code) in [
        ("json", &b"{\"bytes-max\":1048576}"[..], Code::Ok),
        ("any", b"\x12\x15{\"bytes-max\":1048576}", Code::Ok),
        ("none", b"", Code::Ok),
        ("list", b"[]", Code::InvalidArgument),
        ("field", b"{\"bites-max\":1}", Code::InvalidArgument),
    ] {
        let code_is =
            control.connect(connect(name, config)).await.map_or_else(|status| status.code(), |_| Code::Ok);
        assert_eq!(code_is, code, "{name}");
    }
    let unknown = control.connect(connect("field", b"{\"bites-max\":1}")).await.unwrap_err();
    assert!(unknown.message().contains("bites-max"), "{unknown:?}");
    assert_eq!(control.connect(connect("json", b"")).await.unwrap_err().code(), Code::AlreadyExists);
    let driver_id = Some(DriverId { name: "nothing".to_owned(), version: "v1".to_owned() });
    let wrong = ConnectRequest { store_id: store("x"), driver_id, config: Bytes::new() };
    assert_eq!(control.connect(wrong).await.unwrap_err().code(), Code::NotFound);
    let missing = ConfigureRequest { store_id: store("x"), config: Bytes::new() };
    assert_eq!(control.configure(missing).await.unwrap_err().code(), Code::NotFound);
    let missing = DisconnectRequest { store_id: store("x") };
    assert_eq!(control.disconnect(missing).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn both_generations_connect_the_same_stores() {
    let server = Server::start();
    let channel = channel(server.control()).await;
    let (mut later, mut seed) =
        (RuntimeClient::new(channel.clone()), proxy::proxy_client::ProxyClient::new(channel));
    let request = proxy::ConnectRequest {
        store_id: Some(proxy::StoreId { namespace: String::new(), name: "s".to_owned() }),
        driver_id: Some(proxy::DriverId { name: "memory".to_owned(), version: "v1".to_owned() }),
        config: Bytes::new(),
    };
    seed.connect(request.clone()).await.unwrap();
    assert_eq!(later.connect(connect("s", b"")).await.unwrap_err().code(), Code::AlreadyExists);
    later.disconnect(DisconnectRequest { store_id: store("s") }).await.unwrap();
    seed.connect(request).await.unwrap();
}

#[tokio::test]
async fn a_primitive_that_was_not_created_is_unavailable_and_its_streams_are_not_found() {
    let server = Server::start();
    let mut maps = MapClient::new(channel(server.listen()).await);
    let status = maps.get(map::GetRequest { id: id("m"), key: "k".to_owned() }).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.get_error_details().error_info().unwrap().reason, "PRIMITIVE_NOT_OPEN");
    let status = maps.events(map::EventsRequest { id: id("m"), key: String::new() }).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let nameless = map::CreateRequest { id: None, tags: Vec::new() };
    maps.create(nameless).await.unwrap();
}

#[tokio::test]
async fn routes_are_replaced_for_what_is_created_later() {
    let server = Server::start();
    let mut control = RuntimeClient::new(channel(server.control()).await);
    let mut maps = MapsClient::new(channel(server.listen()).await);
    let create = |tag: &str| map::CreateRequest { id: id("m"), tags: vec![tag.to_owned()] };
    let first = maps.create(create("none")).await.unwrap().into_inner().config.unwrap();
    assert!(!first.cache.unwrap().enabled);
    control.program(program(&[("memory", "cached")])).await.unwrap();
    control.program(program(&[("memory", "cached")])).await.unwrap();
    // An open primitive keeps its route.
    assert_eq!(maps.create(create("cached")).await.unwrap().into_inner().config.unwrap(), first);
    let other = map::CreateRequest { id: id("other"), tags: vec!["cached".to_owned()] };
    let cache = maps.create(other).await.unwrap().into_inner().config.unwrap().cache.unwrap();
    assert_eq!((cache.enabled, cache.size), (true, 3));
    let nowhere = map::CreateRequest { id: id("nowhere"), tags: Vec::new() };
    assert_eq!(maps.create(nowhere).await.unwrap_err().code(), Code::PermissionDenied);
    control.program(ProgramRequest { routes: Vec::new() }).await.unwrap();
    let early = map::CreateRequest { id: id("early"), tags: Vec::new() };
    assert_eq!(maps.create(early).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_disconnected_store_ends_its_streams_and_waiting_calls() {
    let server = Server::start();
    let mut control = RuntimeClient::new(channel(server.control()).await);
    let clients = (channel(server.listen()).await, channel(server.listen()).await);
    // A connection of its own: the one of the lock's holder is closed, maybe before the stream has ended.
    let mut maps = MapClient::new(channel(server.listen()).await);
    maps.create(map::CreateRequest { id: id("m"), tags: Vec::new() }).await.unwrap();
    let mut events =
        maps.events(map::EventsRequest { id: id("m"), key: String::new() }).await.unwrap().into_inner();
    let registered = events.message().await.unwrap().unwrap();
    assert_eq!(registered.event.unwrap().event, None, "one acknowledgement comes first");
    maps.put(put("k", b"1")).await.unwrap();
    assert!(events.message().await.unwrap().is_some());
    let (mut one, mut other) = (LockClient::new(clients.0), LockClient::new(clients.1));
    one.create(lock::CreateRequest { id: id("l"), tags: Vec::new() }).await.unwrap();
    one.lock(lock::LockRequest { id: id("l"), timeout: None }).await.unwrap();
    let waiting =
        tokio::spawn(async move { other.lock(lock::LockRequest { id: id("l"), timeout: None }).await });
    server.until_waiting(1).await;
    control.disconnect(DisconnectRequest { store_id: store("memory") }).await.unwrap();
    assert_eq!(events.message().await.unwrap(), None, "the stream ends without an error");
    let ended = tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(ended.code(), Code::Cancelled | Code::Unavailable), "{ended:?}");
    assert_eq!(maps.put(put("k", b"1")).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_new_configuration_keeps_entries_and_watches() {
    let server = Server::start();
    let mut control = RuntimeClient::new(channel(server.control()).await);
    let mut maps = MapClient::new(channel(server.listen()).await);
    maps.create(map::CreateRequest { id: id("m"), tags: Vec::new() }).await.unwrap();
    maps.put(put("k", b"1")).await.unwrap();
    let mut events =
        maps.events(map::EventsRequest { id: id("m"), key: String::new() }).await.unwrap().into_inner();
    events.message().await.unwrap().unwrap();
    let configure =
        |config: &'static [u8]| ConfigureRequest { store_id: store("memory"), config: config.into() };
    control.configure(configure(b"{\"bytes-max\": 2048}")).await.unwrap();
    let full = maps.put(put("large", &[7; 4096])).await.unwrap_err();
    assert_eq!(
        (full.code(), full.get_error_details().error_info().unwrap().reason.as_str()),
        (Code::Unavailable, "STORE_FULL")
    );
    assert_eq!(
        control.configure(configure(b"{\"bytes-max\": true}")).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    control.configure(configure(b"{\"bytes-max\": 1048576}")).await.unwrap();
    maps.put(put("large", &[7; 4096])).await.unwrap();
    let change = events.message().await.unwrap().unwrap().event.unwrap();
    assert_eq!(change.key, "large");
    let kept = maps.get(map::GetRequest { id: id("m"), key: "k".to_owned() }).await.unwrap().into_inner();
    assert_eq!(kept.value.unwrap().value, "1");
}

#[tokio::test]
async fn a_reader_that_is_too_slow_gets_an_error() {
    let server = Server::start();
    let mut control = RuntimeClient::new(channel(server.control()).await);
    let config = Bytes::from_static(b"{\"history-commits-max\": 16}");
    control.configure(ConfigureRequest { store_id: store("memory"), config }).await.unwrap();
    let mut maps = MapClient::new(channel(server.listen()).await);
    maps.create(map::CreateRequest { id: id("m"), tags: Vec::new() }).await.unwrap();
    // Windows so small that unread answers stay with the server.
    let narrow = Channel::from_shared(format!("http://{}", server.listen())).unwrap();
    let narrow = narrow.initial_stream_window_size(1024).initial_connection_window_size(65_535);
    let mut slow = MapClient::new(narrow.connect().await.unwrap());
    let mut events =
        slow.events(map::EventsRequest { id: id("m"), key: String::new() }).await.unwrap().into_inner();
    for round in 0..2000 {
        maps.put(put(&format!("k{round}"), &[7; 1024])).await.unwrap();
    }
    let mut seen = 0;
    let end = loop {
        match events.message().await {
            Ok(Some(_)) => seen += 1,
            Ok(None) => panic!("the stream ended as if it were complete"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::DataLoss, "after {seen} events");
}

#[tokio::test]
async fn a_named_increment_may_be_sent_again() {
    let server = Server::start();
    let mut counters = CounterClient::new(channel(server.listen()).await);
    counters.create(counter::CreateRequest { id: id("c"), tags: Vec::new() }).await.unwrap();
    let increment = |name: &'static str| {
        let mut request = Request::new(counter::IncrementRequest { id: id("c"), delta: 1 });
        request.metadata_mut().insert("atomix-request-id", name.parse().unwrap());
        request
    };
    for (name, value) in [("a", 1), ("b", 2), ("a", 1), ("b", 2), ("c", 3)] {
        assert_eq!(counters.increment(increment(name)).await.unwrap().into_inner().value, value);
    }
}

#[tokio::test]
async fn a_deadline_ends_a_waiting_lock_and_leaves_no_place_in_the_queue() {
    let server = Server::start();
    let clients = (channel(server.listen()).await, channel(server.listen()).await);
    let (mut one, mut other) = (LockClient::new(clients.0), LockClient::new(clients.1));
    one.create(lock::CreateRequest { id: id("l"), tags: Vec::new() }).await.unwrap();
    let first =
        one.lock(lock::LockRequest { id: id("l"), timeout: None }).await.unwrap().into_inner().version;
    let mut short = Request::new(lock::LockRequest { id: id("l"), timeout: None });
    short.set_timeout(Duration::from_millis(100));
    assert!(other.lock(short).await.is_err());
    server.until_idle().await;
    one.unlock(lock::UnlockRequest { id: id("l") }).await.unwrap();
    let free = one.get_lock(lock::GetLockRequest { id: id("l") }).await.unwrap_err();
    assert_eq!(free.code(), Code::NotFound, "a waiter that has left is granted nothing");
    let zero = Some(prost_types::Duration::default());
    let second =
        other.lock(lock::LockRequest { id: id("l"), timeout: zero }).await.unwrap().into_inner().version;
    assert!(second > first);
    let refused = one.lock(lock::LockRequest { id: id("l"), timeout: zero }).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted);
    assert_eq!(one.unlock(lock::UnlockRequest { id: id("l") }).await.unwrap_err().code(), Code::Aborted);
}

/// Takes the lock `l` by hand, on a connection that does not answer pings, and gives the call up when its answer is there:
/// the reset crosses the answer, as far as the server can tell.
fn lock_and_give_up(address: &str) -> raw::Client {
    const RST_STREAM: u8 = 3;
    let message = vec![0x0a, 3, 0x0a, 1, b'l'];
    let call = |method: &str| raw::Call {
        path: format!("/atomix.runtime.lock.v1.Lock/{method}"),
        message: message.clone(),
    };
    let mut client = raw::Client::connect(address.parse().unwrap()).unwrap();
    client.call(&call("Create")).unwrap();
    client.raw().acknowledge_nothing();
    let stream = client.start(&call("Lock")).unwrap();
    client.finish(stream).unwrap();
    client.raw().frame(RST_STREAM, 0, stream, &8u32.to_be_bytes());
    assert!(client.raw().push().unwrap());
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_whose_answer_is_given_up_is_had_by_the_next_caller() {
    let server = Server::start();
    let mut other = LockClient::new(channel(server.listen()).await);
    other.create(lock::CreateRequest { id: id("l"), tags: Vec::new() }).await.unwrap();
    // The connection lives on: not its end frees the lock.
    let _alive = lock_and_give_up(server.listen());
    let timeout = Some(prost_types::Duration { seconds: 20, nanos: 0 });
    other.lock(lock::LockRequest { id: id("l"), timeout }).await.unwrap();
}

#[tokio::test]
async fn health_reports_the_process_its_services_and_its_stores() {
    use tonic_health::pb::health_client::HealthClient;
    let server = Server::start();
    for address in [server.listen(), server.control()] {
        let mut health = HealthClient::new(channel(address).await);
        for (service, code) in [("", Code::Ok), ("store:/memory", Code::Ok), ("nothing", Code::NotFound)] {
            let request = tonic_health::pb::HealthCheckRequest { service: service.to_owned() };
            let answered = health.check(request).await.map_or_else(|status| status.code(), |_| Code::Ok);
            assert_eq!(answered, code, "{service}");
        }
    }
}

#[tokio::test]
async fn reflection_lists_the_services_of_every_port() {
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
    let server = Server::start();
    for address in [server.listen(), server.control()] {
        for version in ["v1", "v1alpha"] {
            let mut client = tonic::client::Grpc::new(channel(address).await);
            client.ready().await.unwrap();
            let list = Some(MessageRequest::ListServices(String::new()));
            let request = ServerReflectionRequest { host: String::new(), message_request: list };
            let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
            // The messages of both versions are the same.
            let codec =
                tonic_prost::ProstCodec::<ServerReflectionRequest, ServerReflectionResponse>::default();
            let answers = client.server_streaming(Request::new(request), path.parse().unwrap(), codec).await;
            let answer = answers.unwrap().into_inner().message().await.unwrap().unwrap();
            let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
                panic!("not a list: {answer:?}");
            };
            let named = |name: &str| list.service.iter().any(|service| service.name == name);
            assert!(named("grpc.health.v1.Health"), "{list:?}");
            let of_primitives = address == server.listen();
            assert_eq!(named("atomix.runtime.map.v1.Map"), of_primitives, "{list:?}");
            assert_eq!(named("atomix.inspect.v1.Inspector"), !of_primitives, "{list:?}");
        }
    }
}

#[tokio::test]
async fn a_service_of_the_other_port_is_named_with_that_port() {
    let server = Server::start();
    let unimplemented = async |address: &str, path: &'static str| {
        let mut client = tonic::client::Grpc::new(channel(address).await);
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<map::GetRequest, map::GetResponse>::default();
        let request = Request::new(map::GetRequest::default());
        let refused = client.unary(request, path.parse().unwrap(), codec).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented);
        refused.message().to_owned()
    };
    let (listen, control) = (server.listen(), server.control());
    let message = unimplemented(listen, "/atomix.inspect.v1.Inspector/ListStores").await;
    assert!(message.contains(&format!("control port ({control})")), "{message}");
    let message = unimplemented(control, "/atomix.runtime.map.v1.Map/Get").await;
    assert!(message.contains(&format!("primitives port ({listen})")), "{message}");
    let message = unimplemented(listen, "/atomix.runtime.map.v1.Map/Gets").await;
    assert!(message.contains("method=`/atomix.runtime.map.v1.Map/Gets`"), "{message}");
    let message = unimplemented(listen, "/a.B/C").await;
    assert!(message.contains("no such service") && message.contains("`/a.B/C`"), "{message}");
}

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_with_a_code_that_clients_know() {
    let server = Server::start_with(&["--set", "limits.message-bytes-max=64KiB"]);
    let mut maps = MapClient::new(channel(server.listen()).await);
    maps.create(map::CreateRequest { id: id("m"), tags: Vec::new() }).await.unwrap();
    let mut large = put("k", b"");
    large.value = vec![7; 65_536].into();
    let refused = maps.put(large).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("limits.message-bytes-max"), "{refused:?}");
}

/// Waits until the one session of the server has as many waiting calls and streams.
async fn until_long_calls(server: &Server, count: u64) {
    let mut inspector = InspectorClient::new(channel(server.control()).await);
    for _ in 0..1_000 {
        let sessions = inspector.list_sessions(ListSessionsRequest::default()).await.unwrap().into_inner();
        // The inspector has a session as well.
        let most = sessions.sessions.iter().max_by_key(|session| session.long_calls).unwrap();
        assert_eq!(most.long_calls_max, 4);
        if most.long_calls == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("there are never {count} waiting calls and streams");
}

#[tokio::test]
async fn waiting_calls_and_streams_leave_room_for_the_call_that_ends_the_wait() {
    let server = Server::start_with(&["--set", "limits.streams-per-connection-max=4"]);
    let channel = channel(server.listen()).await;
    let mut locks = LockClient::new(channel.clone());
    let mut maps = MapClient::new(channel);
    locks.create(lock::CreateRequest { id: id("l"), tags: Vec::new() }).await.unwrap();
    maps.create(map::CreateRequest { id: id("m"), tags: Vec::new() }).await.unwrap();
    let request = || lock::LockRequest { id: id("l"), timeout: None };
    locks.lock(request()).await.unwrap();
    let events = || map::EventsRequest { id: id("m"), key: String::new() };
    let stream = maps.events(events()).await.unwrap();
    let mut waiting: Vec<_> = (0..3)
        .map(|_| {
            let mut locks = locks.clone();
            tokio::spawn(async move { locks.lock(request()).await })
        })
        .collect();
    until_long_calls(&server, 4).await;

    let reason = |status: &tonic::Status| status.get_error_details().error_info().unwrap().reason.clone();
    let refused = locks.lock(request()).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "WAITERS_FULL"));
    assert!(refused.message().contains("limits.streams-per-connection-max: max=`4`"), "{refused:?}");
    // UNAVAILABLE would make the Go SDK open it again at once and for ever.
    let refused = maps.events(events()).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Aborted, "STREAMS_FULL"));
    maps.put(put("k", b"v")).await.unwrap();
    let shown = server.run(&["inspect", "sessions"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains(" 4/4 "), "{shown:?}");

    locks.unlock(lock::UnlockRequest { id: id("l") }).await.unwrap();
    until_long_calls(&server, 3).await;
    let again = maps.events(events()).await.unwrap();
    until_long_calls(&server, 4).await;
    drop((stream, again));
    until_long_calls(&server, 2).await;
    waiting.drain(..).for_each(|waiting| waiting.abort());
    until_long_calls(&server, 0).await;
}
