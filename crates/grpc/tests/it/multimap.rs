// SPDX-License-Identifier: Apache-2.0

use atomix_proto::multimap::event::{Added, Event as Arm};
use atomix_proto::multimap::{
    ClearRequest, ContainsRequest, EntriesRequest, Entry, Event, EventsRequest, GetRequest, PutAllRequest,
    PutEntriesRequest, PutRequest, RemoveAllRequest, RemoveEntriesRequest, RemoveRequest, ReplaceRequest,
    SizeRequest,
};

use crate::served::{Served, all, id, next, opened};

fn values(values: &[&str]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn entry(key: &str, of_key: &[&str]) -> Entry {
    Entry { key: key.to_owned(), values: values(of_key) }
}

pub(crate) async fn call(served: &Served) {
    let mut map =
        opened!(served, multimap, multi_map_client::MultiMapClient, multi_maps_client::MultiMapsClient);
    let events = EventsRequest { id: id("p"), key: String::new() };
    let mut events = map.events(events).await.unwrap().into_inner();
    assert_eq!(next(&mut events).await.event.unwrap().event, None, "the acknowledgement");

    let a = || "a".to_owned();
    map.put(PutRequest { id: id("p"), key: a(), value: "1".to_owned() }).await.unwrap();
    let first = next(&mut events).await.event;
    assert_eq!(first, Some(Event { key: a(), event: Some(Arm::Added(Added { value: "1".to_owned() })) }));
    let put = PutAllRequest { id: id("p"), key: a(), values: values(&["2", "3"]) };
    assert!(map.put_all(put).await.unwrap().into_inner().updated);
    let put = PutEntriesRequest { id: id("p"), entries: vec![entry("b", &["4", "5"])] };
    assert!(map.put_entries(put).await.unwrap().into_inner().updated);
    let contains = ContainsRequest { id: id("p"), key: a(), value: "3".to_owned() };
    assert!(map.contains(contains).await.unwrap().into_inner().result);
    let get = GetRequest { id: id("p"), key: a() };
    assert_eq!(map.get(get).await.unwrap().into_inner().values, values(&["1", "2", "3"]));
    assert_eq!(map.size(SizeRequest { id: id("p") }).await.unwrap().into_inner().size, 2);
    let remove = RemoveRequest { id: id("p"), key: a(), value: "1".to_owned() };
    map.remove(remove).await.unwrap();
    let remove = RemoveAllRequest { id: id("p"), key: a(), values: values(&["2"]) };
    assert!(map.remove_all(remove).await.unwrap().into_inner().updated);
    let remove = RemoveEntriesRequest { id: id("p"), entries: vec![entry("b", &["4"])] };
    assert!(map.remove_entries(remove).await.unwrap().into_inner().updated);
    let entries = map.entries(EntriesRequest { id: id("p"), watch: false }).await.unwrap().into_inner();
    let entries: Vec<_> = all(entries).await.into_iter().map(|answer| answer.entry.unwrap()).collect();
    assert_eq!(entries, [entry("a", &["3"]), entry("b", &["5"])]);
    let replace = ReplaceRequest { id: id("p"), key: a(), values: values(&["6"]) };
    assert_eq!(map.replace(replace).await.unwrap().into_inner().prev_values, values(&["3"]));
    map.clear(ClearRequest { id: id("p") }).await.unwrap();
    assert_eq!(map.size(SizeRequest { id: id("p") }).await.unwrap().into_inner().size, 0);
}
