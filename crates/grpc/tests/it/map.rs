// SPDX-License-Identifier: Apache-2.0

use atomix_proto::map::commit_request::operation::Operation as Arm;
use atomix_proto::map::commit_request::{self, Operation};
use atomix_proto::map::commit_response::result::Result as ResultArm;
use atomix_proto::map::event::Event as EventArm;
use atomix_proto::map::{
    ClearRequest, CommitRequest, EntriesRequest, EventsRequest, GetRequest, InsertRequest, LockRequest,
    PutRequest, RemoveRequest, SizeRequest, UnlockRequest, UpdateRequest, VersionedValue,
};
use bytes::Bytes;

use crate::served::{Served, all, id, next, opened};

fn text(value: Option<VersionedValue>) -> Option<Bytes> {
    value.map(|value| value.value)
}

pub(crate) async fn call(served: &Served) {
    let mut map = opened!(served, map, map_client::MapClient, maps_client::MapsClient);
    let events = EventsRequest { id: id("p"), key: String::new() };
    let mut events = map.events(events).await.unwrap().into_inner();
    assert_eq!(next(&mut events).await.event.unwrap().event, None, "the acknowledgement");

    let (a, b) = (|| "a".to_owned(), || "b".to_owned());
    let put = PutRequest { id: id("p"), key: a(), value: "1".into(), ttl: None, prev_version: 0 };
    let put = map.put(put).await.unwrap().into_inner();
    assert_eq!(put.prev_value, None);
    let insert = InsertRequest { id: id("p"), key: b(), value: "2".into(), ttl: None };
    assert!(map.insert(insert).await.unwrap().into_inner().version > put.version);
    let update =
        UpdateRequest { id: id("p"), key: a(), value: "3".into(), ttl: None, prev_version: put.version };
    let updated = map.update(update).await.unwrap().into_inner();
    assert_eq!(text(updated.prev_value), Some("1".into()));
    let got = map.get(GetRequest { id: id("p"), key: a() }).await.unwrap().into_inner().value.unwrap();
    assert_eq!(got, VersionedValue { value: "3".into(), version: updated.version });
    assert_eq!(map.size(SizeRequest { id: id("p") }).await.unwrap().into_inner().size, 2);
    let entries = map.entries(EntriesRequest { id: id("p"), watch: false }).await.unwrap().into_inner();
    let entries: Vec<_> = all(entries).await.into_iter().map(|answer| answer.entry.unwrap()).collect();
    let entries: Vec<_> = entries.into_iter().map(|entry| (entry.key, text(entry.value))).collect();
    assert_eq!(entries, [(a(), Some("3".into())), (b(), Some("2".into()))]);
    let remove = RemoveRequest { id: id("p"), key: b(), prev_version: 0 };
    assert_eq!(text(map.remove(remove).await.unwrap().into_inner().value), Some("2".into()));

    let operations = [
        Arm::Put(commit_request::Put { key: b(), value: "4".into(), ttl: None, prev_version: 0 }),
        Arm::Insert(commit_request::Insert { key: "c".to_owned(), value: "5".into(), ttl: None }),
        Arm::Update(commit_request::Update {
            key: a(),
            value: "6".into(),
            ttl: None,
            prev_version: updated.version,
        }),
    ];
    let operations = operations.into_iter().map(|operation| Operation { operation: Some(operation) });
    let commit = CommitRequest { id: id("p"), operations: operations.collect() };
    let results = map.commit(commit).await.unwrap().into_inner().results;
    let results: Vec<_> = results.into_iter().map(|result| result.result.unwrap()).collect();
    assert!(
        matches!(&results[..], [ResultArm::Put(_), ResultArm::Insert(_), ResultArm::Update(_)]),
        "{results:?}"
    );

    let keys = || vec![a(), b()];
    map.lock(LockRequest { id: id("p"), keys: keys(), timeout: None }).await.unwrap();
    map.unlock(UnlockRequest { id: id("p"), keys: keys() }).await.unwrap();
    map.clear(ClearRequest { id: id("p") }).await.unwrap();
    assert_eq!(map.size(SizeRequest { id: id("p") }).await.unwrap().into_inner().size, 0);

    let mut seen = Vec::new();
    for _ in 0..10 {
        let event = next(&mut events).await.event.unwrap();
        let (change, value) = match event.event.unwrap() {
            EventArm::Inserted(inserted) => ("inserted", inserted.value),
            EventArm::Updated(updated) => ("updated", updated.value),
            EventArm::Removed(removed) => ("removed", removed.value),
        };
        seen.push((change, event.key, text(value).unwrap()));
    }
    let expected = [
        ("inserted", "a", "1"),
        ("inserted", "b", "2"),
        ("updated", "a", "3"),
        ("removed", "b", "2"),
        ("inserted", "b", "4"),
        ("inserted", "c", "5"),
        ("updated", "a", "6"),
        ("removed", "a", "6"),
        ("removed", "b", "4"),
        ("removed", "c", "5"),
    ];
    assert_eq!(seen, expected.map(|(change, key, value)| (change, key.to_owned(), Bytes::from(value))));
}
