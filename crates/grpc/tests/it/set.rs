// SPDX-License-Identifier: Apache-2.0

use atomix_proto::set::event::{Added, Event as Arm, Removed};
use atomix_proto::set::{
    AddRequest, ClearRequest, ContainsRequest, Element, ElementsRequest, EventsRequest, RemoveRequest,
    SizeRequest,
};

use crate::served::{Served, all, id, next, opened};

fn element(value: &str) -> Option<Element> {
    Some(Element { value: value.to_owned() })
}

pub(crate) async fn call(served: &Served) {
    let mut set = opened!(served, set, set_client::SetClient, sets_client::SetsClient);
    let mut events = set.events(EventsRequest { id: id("p") }).await.unwrap().into_inner();
    assert_eq!(next(&mut events).await.event.unwrap().event, None, "the acknowledgement");

    for value in ["a", "b"] {
        let add = AddRequest { id: id("p"), element: element(value), ttl: None };
        assert!(set.add(add).await.unwrap().into_inner().added);
    }
    let contains = ContainsRequest { id: id("p"), element: element("a") };
    assert!(set.contains(contains).await.unwrap().into_inner().contains);
    assert_eq!(set.size(SizeRequest { id: id("p") }).await.unwrap().into_inner().size, 2);
    let elements = ElementsRequest { id: id("p"), watch: false };
    let elements = all(set.elements(elements).await.unwrap().into_inner()).await;
    let elements: Vec<_> = elements.into_iter().map(|answer| answer.element).collect();
    assert_eq!(elements, [element("a"), element("b")]);
    let remove = RemoveRequest { id: id("p"), element: element("a") };
    assert!(set.remove(remove).await.unwrap().into_inner().removed);
    set.clear(ClearRequest { id: id("p") }).await.unwrap();
    assert_eq!(set.size(SizeRequest { id: id("p") }).await.unwrap().into_inner().size, 0);

    for expected in [
        Arm::Added(Added { element: element("a") }),
        Arm::Added(Added { element: element("b") }),
        Arm::Removed(Removed { element: element("a"), expired: false }),
        Arm::Removed(Removed { element: element("b"), expired: false }),
    ] {
        assert_eq!(next(&mut events).await.event.unwrap().event, Some(expected));
    }
}
