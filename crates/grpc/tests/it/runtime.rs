// SPDX-License-Identifier: Apache-2.0

use atomix_proto::runtime::runtime_client::RuntimeClient;
use atomix_proto::runtime::{
    ConfigureRequest, ConnectRequest, DisconnectRequest, DriverId, ProgramRequest, ProgramRoute, RoutingRule,
    StoreId,
};
use atomix_runtime::Routes;

use crate::served::{Served, store};

pub(crate) async fn call(served: &Served) {
    let mut control = RuntimeClient::new(served.control().await);
    let more = || Some(StoreId { namespace: String::new(), name: "more".to_owned() });
    let connect = ConnectRequest {
        store_id: more(),
        driver_id: Some(DriverId { name: "memory".to_owned(), version: "v1".to_owned() }),
        config: r#"{"bytes-max":1048576}"#.into(),
    };
    control.connect(connect).await.unwrap();
    assert!(served.runtime.store(&store("more")).is_some());
    let configure = ConfigureRequest { store_id: more(), config: r#"{"bytes-max":2097152}"#.into() };
    control.configure(configure).await.unwrap();
    let route = ProgramRoute { store_id: more(), rules: vec![RoutingRule::default()] };
    control.program(ProgramRequest { routes: vec![route] }).await.unwrap();
    let routes = served.runtime.routes();
    assert!(
        matches!(routes.as_deref(), Some(Routes::Later(routes)) if routes.len() == 1),
        "{routes:?}"
    );
    control.disconnect(DisconnectRequest { store_id: more() }).await.unwrap();
    assert!(served.runtime.store(&store("more")).is_none());
}
