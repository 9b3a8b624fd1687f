// SPDX-License-Identifier: Apache-2.0

use atomix_proto::counter::{
    CloseRequest, DecrementRequest, GetRequest, IncrementRequest, SetRequest, UpdateRequest,
};

use crate::served::{Served, id, opened};

pub(crate) async fn call(served: &Served) {
    let mut counter =
        opened!(served, counter, counter_client::CounterClient, counters_client::CountersClient);
    let increment = IncrementRequest { id: id("p"), delta: 5 };
    assert_eq!(counter.increment(increment).await.unwrap().into_inner().value, 5);
    let decrement = DecrementRequest { id: id("p"), delta: 7 };
    assert_eq!(counter.decrement(decrement).await.unwrap().into_inner().value, -2);
    let set = SetRequest { id: id("p"), value: 40 };
    assert_eq!(counter.set(set).await.unwrap().into_inner().value, 40);
    let update = UpdateRequest { id: id("p"), check: 40, update: 42 };
    assert_eq!(counter.update(update).await.unwrap().into_inner().value, 42);
    assert_eq!(counter.get(GetRequest { id: id("p") }).await.unwrap().into_inner().value, 42);
    counter.close(CloseRequest { id: id("p") }).await.unwrap();
    counter.get(GetRequest { id: id("p") }).await.unwrap_err();
}
