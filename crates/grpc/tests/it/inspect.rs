// SPDX-License-Identifier: Apache-2.0

use std::sync::Arc;

use atomix_conformance::FixedStoreDriver;
use atomix_proto::inspect::inspector_client::InspectorClient;
use atomix_proto::inspect::{
    BackupStoreRequest, ClosePrimitiveRequest, DeletePrimitiveRequest, DisconnectStoreRequest,
    EndSessionRequest, ExplainRouteRequest, ListDriversRequest, ListLocksRequest, ListPrimitivesRequest,
    ListRoutesRequest, ListSessionsRequest, ListStoresRequest, StoreState,
};
use atomix_proto::lock::lock_client::LockClient;
use atomix_proto::lock::{self, LockRequest};
use atomix_proto::runtime::StoreId;

use crate::served::{Served, all, id};
use crate::stub_store::StubStore;

fn the_store() -> Option<StoreId> {
    Some(StoreId { namespace: String::new(), name: "store".to_owned() })
}

pub(crate) async fn call(served: &Served) {
    let mut locks = LockClient::new(served.primitives().await);
    let create = lock::CreateRequest { id: id("p"), tags: vec!["tag".to_owned()] };
    locks.create(create.clone()).await.unwrap();
    let token = locks.lock(LockRequest { id: id("p"), timeout: None }).await.unwrap().into_inner().version;
    let mut inspector = InspectorClient::new(served.control().await);

    let drivers = inspector.list_drivers(ListDriversRequest {}).await.unwrap().into_inner().drivers;
    assert_eq!(drivers.iter().map(|driver| driver.name.as_str()).collect::<Vec<_>>(), ["memory"]);
    let stores = inspector.list_stores(ListStoresRequest {}).await.unwrap().into_inner().stores;
    assert_eq!(stores.len(), 1);
    assert_eq!((stores[0].store_id.clone(), stores[0].state()), (the_store(), StoreState::Ready));
    let routes = inspector.list_routes(ListRoutesRequest {}).await.unwrap().into_inner();
    assert!(routes.programmed && routes.routes.len() == 1, "{routes:?}");
    let explain = ExplainRouteRequest {
        kind: "Lock".to_owned(),
        version: String::new(),
        name: "p".to_owned(),
        tags: Vec::new(),
    };
    let explained = inspector.explain_route(explain).await.unwrap().into_inner();
    assert_eq!((explained.matched, explained.store_id), (true, the_store()));
    let found = inspector.list_primitives(ListPrimitivesRequest::default()).await.unwrap().into_inner();
    let found: Vec<_> = found.primitives.iter().map(|found| (found.name.as_str(), &found.tags[..])).collect();
    assert_eq!(found, [("p", &["tag".to_owned()][..])]);
    let sessions = inspector.list_sessions(ListSessionsRequest::default()).await.unwrap().into_inner();
    let owner = sessions.sessions.into_iter().find(|session| !session.holdings.is_empty()).unwrap();
    assert_eq!(owner.holdings[0].token, token);
    let found = inspector.list_locks(ListLocksRequest::default()).await.unwrap().into_inner();
    let holder = found.locks[0].holder.clone().unwrap();
    assert_eq!((holder.token, &holder.session), (token, &owner.id));
    inspector.end_session(EndSessionRequest { id: holder.session }).await.unwrap();

    let mut locks = LockClient::new(served.primitives().await);
    locks.create(create.clone()).await.unwrap();
    let close = ClosePrimitiveRequest { kind: "Lock".to_owned(), name: "p".to_owned() };
    let closed = inspector.close_primitive(close).await.unwrap().into_inner().usage.unwrap();
    assert_eq!((closed.store_id, closed.sessions), (the_store(), 1));
    locks.create(create).await.unwrap();
    let delete = DeletePrimitiveRequest {
        kind: "Lock".to_owned(),
        name: "p".to_owned(),
        force: true,
        ..DeletePrimitiveRequest::default()
    };
    let deleted = inspector.delete_primitive(delete).await.unwrap().into_inner().usage.unwrap();
    assert_eq!(deleted.store_id, the_store());
    let disconnect = DisconnectStoreRequest { store_id: the_store(), force: false };
    inspector.disconnect_store(disconnect).await.unwrap();
    let stores = inspector.list_stores(ListStoresRequest {}).await.unwrap().into_inner().stores;
    assert_eq!(stores, []);

    backup(served).await;
}

/// The memory store has no backup.
async fn backup(served: &Served) {
    let driver = FixedStoreDriver::new(|| Arc::new(StubStore::default()) as _);
    let other = Served::start_with(atomix_config::Config::default(), Arc::new(driver)).await;
    let mut inspector = InspectorClient::new(other.control().await);
    let pieces = inspector.backup_store(BackupStoreRequest { store_id: the_store() }).await.unwrap();
    let pieces: Vec<_> = all(pieces.into_inner()).await.into_iter().map(|answer| answer.piece).collect();
    assert_eq!(pieces, ["one", "two"]);
    served.answered.lock().extend(other.answered.lock().iter().cloned());
    other.stop().await;
}
