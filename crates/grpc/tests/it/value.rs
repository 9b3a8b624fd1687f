// SPDX-License-Identifier: Apache-2.0

use atomix_proto::value::event::Event as Arm;
use atomix_proto::value::{
    DeleteRequest, EventsRequest, GetRequest, InsertRequest, SetRequest, UpdateRequest, VersionedValue,
    WatchRequest,
};
use bytes::Bytes;

use crate::served::{Served, id, next, opened};

fn text(value: Option<VersionedValue>) -> Option<Bytes> {
    value.map(|value| value.value)
}

pub(crate) async fn call(served: &Served) {
    let mut value = opened!(served, value, value_client::ValueClient, values_client::ValuesClient);
    let mut events = value.events(EventsRequest { id: id("p") }).await.unwrap().into_inner();
    assert_eq!(next(&mut events).await.event.unwrap().event, None, "the acknowledgement");

    let insert = InsertRequest { id: id("p"), value: "1".into(), ttl: None };
    let first = value.insert(insert).await.unwrap().into_inner().version;
    let mut values = value.watch(WatchRequest { id: id("p") }).await.unwrap().into_inner();
    assert_eq!(text(next(&mut values).await.value), Some("1".into()));
    let set = SetRequest { id: id("p"), value: "2".into(), ttl: None };
    let set = value.set(set).await.unwrap().into_inner();
    assert!(set.version > first);
    assert_eq!(text(set.prev_value), Some("1".into()));
    assert_eq!(text(next(&mut values).await.value), Some("2".into()));
    let update = UpdateRequest { id: id("p"), value: "3".into(), ttl: None, prev_version: set.version };
    assert_eq!(text(value.update(update).await.unwrap().into_inner().prev_value), Some("2".into()));
    let got = value.get(GetRequest { id: id("p") }).await.unwrap().into_inner();
    assert_eq!(text(got.value), Some("3".into()));
    let deleted = value.delete(DeleteRequest { id: id("p"), prev_version: 0 }).await.unwrap().into_inner();
    assert_eq!(text(deleted.value), Some("3".into()));

    let mut seen = Vec::new();
    for _ in 0..4 {
        let (change, value) = match next(&mut events).await.event.unwrap().event.unwrap() {
            Arm::Created(created) => ("created", created.value),
            Arm::Updated(updated) => ("updated", updated.value),
            Arm::Deleted(deleted) => ("deleted", deleted.value),
        };
        seen.push((change, text(value).unwrap()));
    }
    let expected = [("created", "1"), ("updated", "2"), ("updated", "3"), ("deleted", "3")];
    assert_eq!(seen, expected.map(|(change, value)| (change, Bytes::from(value))));
}
