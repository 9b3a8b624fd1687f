// SPDX-License-Identifier: Apache-2.0

use atomix_proto::proxy::proxy_client::ProxyClient;
use atomix_proto::proxy::{ConfigureRequest, ConnectRequest, DisconnectRequest, DriverId, StoreId};

use crate::served::{Served, store};

pub(crate) async fn call(served: &Served) {
    let mut proxy = ProxyClient::new(served.control().await);
    let more = || Some(StoreId { namespace: String::new(), name: "more".to_owned() });
    let connect = ConnectRequest {
        store_id: more(),
        driver_id: Some(DriverId { name: "memory".to_owned(), version: "v1".to_owned() }),
        config: r#"{"bytes-max":1048576}"#.into(),
    };
    proxy.connect(connect).await.unwrap();
    assert!(served.runtime.store(&store("more")).is_some());
    let configure = ConfigureRequest { store_id: more(), config: r#"{"bytes-max":2097152}"#.into() };
    proxy.configure(configure).await.unwrap();
    proxy.disconnect(DisconnectRequest { store_id: more() }).await.unwrap();
    assert!(served.runtime.store(&store("more")).is_none());
}
