// SPDX-License-Identifier: Apache-2.0

use atomix_proto::list::event::{Appended, Event as Arm, Inserted, Removed, Updated};
use atomix_proto::list::{
    AppendRequest, ClearRequest, Event, EventsRequest, GetRequest, InsertRequest, Item, ItemsRequest,
    RemoveRequest, SetRequest, SizeRequest, Value,
};

use crate::served::{Served, all, id, next, opened};

fn value(text: &'static str) -> Option<Value> {
    Some(Value { value: text.into() })
}

fn item(index: u32, text: &'static str) -> Option<Item> {
    Some(Item { index, value: value(text) })
}

pub(crate) async fn call(served: &Served) {
    let mut list = opened!(served, list, list_client::ListClient, lists_client::ListsClient);
    let mut events =
        list.events(EventsRequest { id: id("p"), replay: false }).await.unwrap().into_inner();
    assert_eq!(next(&mut events).await.event.unwrap().event, None, "the acknowledgement");

    list.append(AppendRequest { id: id("p"), value: value("b") }).await.unwrap();
    let insert = InsertRequest { id: id("p"), index: 0, value: value("a") };
    assert_eq!(list.insert(insert).await.unwrap().into_inner().item, item(0, "a"));
    let set = SetRequest { id: id("p"), index: 1, value: value("c") };
    assert_eq!(list.set(set).await.unwrap().into_inner().item, item(1, "c"));
    let get = GetRequest { id: id("p"), index: 1 };
    assert_eq!(list.get(get).await.unwrap().into_inner().item, item(1, "c"));
    assert_eq!(list.size(SizeRequest { id: id("p") }).await.unwrap().into_inner().size, 2);
    let items = list.items(ItemsRequest { id: id("p"), watch: false }).await.unwrap().into_inner();
    let items: Vec<_> = all(items).await.into_iter().map(|answer| answer.item).collect();
    assert_eq!(items, [item(0, "a"), item(1, "c")]);
    let remove = RemoveRequest { id: id("p"), index: 0 };
    assert_eq!(list.remove(remove).await.unwrap().into_inner().item, item(0, "a"));
    list.clear(ClearRequest { id: id("p") }).await.unwrap();
    assert_eq!(list.size(SizeRequest { id: id("p") }).await.unwrap().into_inner().size, 0);

    for (index, expected) in [
        (0, Arm::Appended(Appended { value: value("b") })),
        (0, Arm::Inserted(Inserted { value: value("a") })),
        (1, Arm::Updated(Updated { value: value("c"), prev_value: value("b") })),
        (0, Arm::Removed(Removed { value: value("a") })),
        (0, Arm::Removed(Removed { value: value("c") })),
    ] {
        assert_eq!(next(&mut events).await.event, Some(Event { index, event: Some(expected) }));
    }
}
