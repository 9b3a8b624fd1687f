// SPDX-License-Identifier: Apache-2.0

use atomix_proto::countermap::event::{Event as Arm, Inserted, Removed, Updated};
use atomix_proto::countermap::{
    ClearRequest, DecrementRequest, EntriesRequest, Entry, Event, EventsRequest, GetRequest,
    IncrementRequest, InsertRequest, LockRequest, RemoveRequest, SetRequest, SizeRequest, UnlockRequest,
    UpdateRequest,
};

use crate::served::{Served, all, id, next, opened};

pub(crate) async fn call(served: &Served) {
    let mut map = opened!(
        served,
        countermap,
        counter_map_client::CounterMapClient,
        counter_maps_client::CounterMapsClient
    );
    let key = || "k".to_owned();
    let events = EventsRequest { id: id("p"), key: String::new() };
    let mut events = map.events(events).await.unwrap().into_inner();
    assert_eq!(next(&mut events).await.event.unwrap().event, None, "the acknowledgement");

    let set = SetRequest { id: id("p"), key: key(), value: 3 };
    assert_eq!(map.set(set).await.unwrap().into_inner().prev_value, 0);
    map.insert(InsertRequest { id: id("p"), key: "other".to_owned(), value: 9 }).await.unwrap();
    let update = UpdateRequest { id: id("p"), key: key(), prev_value: 3, value: 5 };
    assert_eq!(map.update(update).await.unwrap().into_inner().prev_value, 3);
    let increment = IncrementRequest { id: id("p"), key: key(), delta: 2 };
    assert_eq!(map.increment(increment).await.unwrap().into_inner().prev_value, 5);
    let decrement = DecrementRequest { id: id("p"), key: key(), delta: 1 };
    assert_eq!(map.decrement(decrement).await.unwrap().into_inner().prev_value, 7);
    let get = GetRequest { id: id("p"), key: key() };
    assert_eq!(map.get(get).await.unwrap().into_inner().value, 6);
    assert_eq!(map.size(SizeRequest { id: id("p") }).await.unwrap().into_inner().size, 2);
    let entries = map.entries(EntriesRequest { id: id("p"), watch: false }).await.unwrap().into_inner();
    let entries: Vec<_> = all(entries).await.into_iter().map(|answer| answer.entry.unwrap()).collect();
    assert_eq!(entries, [Entry { key: key(), value: 6 }, Entry { key: "other".to_owned(), value: 9 }]);
    let remove = RemoveRequest { id: id("p"), key: key(), prev_value: 6 };
    assert_eq!(map.remove(remove).await.unwrap().into_inner().value, 6);

    let keys = || vec![key(), "other".to_owned()];
    map.lock(LockRequest { id: id("p"), keys: keys(), timeout: None }).await.unwrap();
    map.unlock(UnlockRequest { id: id("p"), keys: keys() }).await.unwrap();
    map.clear(ClearRequest { id: id("p") }).await.unwrap();
    assert_eq!(map.size(SizeRequest { id: id("p") }).await.unwrap().into_inner().size, 0);

    let event = |key: &str, event| Event { key: key.to_owned(), event: Some(event) };
    let updated = |value, prev_value| event("k", Arm::Updated(Updated { value, prev_value }));
    for expected in [
        event("k", Arm::Inserted(Inserted { value: 3 })),
        event("other", Arm::Inserted(Inserted { value: 9 })),
        updated(5, 3),
        updated(7, 5),
        updated(6, 7),
        event("k", Arm::Removed(Removed { value: 6 })),
        event("other", Arm::Removed(Removed { value: 9 })),
    ] {
        assert_eq!(next(&mut events).await.event, Some(expected));
    }
}
