// SPDX-License-Identifier: Apache-2.0

use atomix_proto::indexedmap::event::Event as Arm;
use atomix_proto::indexedmap::{
    AppendRequest, ClearRequest, EntriesRequest, Entry, EventsRequest, FirstEntryRequest, GetRequest,
    LastEntryRequest, NextEntryRequest, PrevEntryRequest, RemoveRequest, SizeRequest, UpdateRequest,
};

use crate::served::{Served, all, id, next, opened};

fn shown(entry: Option<Entry>) -> (String, u64, String) {
    let entry = entry.unwrap();
    let value = entry.value.unwrap().value;
    (entry.key, entry.index, String::from_utf8(value.to_vec()).unwrap())
}

fn entry(key: &str, index: u64, value: &str) -> (String, u64, String) {
    (key.to_owned(), index, value.to_owned())
}

pub(crate) async fn call(served: &Served) {
    let mut map = opened!(
        served,
        indexedmap,
        indexed_map_client::IndexedMapClient,
        indexed_maps_client::IndexedMapsClient
    );
    let events = EventsRequest { id: id("p"), key: String::new() };
    let mut events = map.events(events).await.unwrap().into_inner();
    assert_eq!(next(&mut events).await.event.unwrap().event, None, "the acknowledgement");

    for (key, index) in [("a", 1), ("b", 2), ("c", 3)] {
        let append = AppendRequest { id: id("p"), key: key.to_owned(), value: "1".into(), ttl: None };
        let answer = map.append(append).await.unwrap().into_inner();
        assert_eq!(shown(answer.entry), entry(key, index, "1"));
    }
    let update = UpdateRequest {
        id: id("p"),
        key: "b".to_owned(),
        index: 0,
        value: "2".into(),
        ttl: None,
        prev_version: 0,
    };
    assert_eq!(shown(map.update(update).await.unwrap().into_inner().entry), entry("b", 2, "2"));
    let get = GetRequest { id: id("p"), key: String::new(), index: 2 };
    assert_eq!(shown(map.get(get).await.unwrap().into_inner().entry), entry("b", 2, "2"));
    let first = FirstEntryRequest { id: id("p") };
    assert_eq!(shown(map.first_entry(first).await.unwrap().into_inner().entry), entry("a", 1, "1"));
    let last = LastEntryRequest { id: id("p") };
    assert_eq!(shown(map.last_entry(last).await.unwrap().into_inner().entry), entry("c", 3, "1"));
    let previous = PrevEntryRequest { id: id("p"), index: 3 };
    assert_eq!(shown(map.prev_entry(previous).await.unwrap().into_inner().entry), entry("b", 2, "2"));
    let behind = NextEntryRequest { id: id("p"), index: 2 };
    assert_eq!(shown(map.next_entry(behind).await.unwrap().into_inner().entry), entry("c", 3, "1"));
    let remove = RemoveRequest { id: id("p"), key: "a".to_owned(), index: 0, prev_version: 0 };
    assert_eq!(shown(map.remove(remove).await.unwrap().into_inner().entry), entry("a", 1, "1"));
    assert_eq!(map.size(SizeRequest { id: id("p") }).await.unwrap().into_inner().size, 2);
    let entries = map.entries(EntriesRequest { id: id("p"), watch: false }).await.unwrap().into_inner();
    let entries: Vec<_> = all(entries).await.into_iter().map(|answer| shown(answer.entry)).collect();
    assert_eq!(entries, [entry("b", 2, "2"), entry("c", 3, "1")]);
    map.clear(ClearRequest { id: id("p") }).await.unwrap();
    assert_eq!(map.size(SizeRequest { id: id("p") }).await.unwrap().into_inner().size, 0);

    let mut seen = Vec::new();
    for _ in 0..7 {
        let event = next(&mut events).await.event.unwrap();
        let change = match event.event.unwrap() {
            Arm::Inserted(_) => "inserted",
            Arm::Updated(_) => "updated",
            Arm::Removed(_) => "removed",
        };
        seen.push((change, event.key, event.index));
    }
    let expected = [
        ("inserted", "a", 1),
        ("inserted", "b", 2),
        ("inserted", "c", 3),
        ("updated", "b", 2),
        ("removed", "a", 1),
        ("removed", "b", 2),
        ("removed", "c", 3),
    ];
    assert_eq!(seen, expected.map(|(change, key, index)| (change, key.to_owned(), index)));
}
