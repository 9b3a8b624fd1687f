// SPDX-License-Identifier: Apache-2.0
// Included by the examples of the documentation: runs an example against a server of its own on a free port.

// An expression, because an example is the body of a function.
{
/// Runs `example` with the addresses of the primitives and of the control services.
fn served(example: fn(String, String) -> futures::future::BoxFuture<'static, atomix_client::Result<()>>) {
    use std::sync::Arc;

    use atomix_config::{DriverId, Identity, LaterRoute, Listen, StoreId};

    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    tokio.block_on(async {
        let runtime = atomix_runtime::Runtime::new(atomix_runtime::Settings {
            env: atomix_env::Env::real(),
            drivers: vec![Arc::new(atomix_driver_memory::MemoryDriver)],
            identity: Identity::Connection,
            limits: atomix_primitives::Limits::default(),
            name_bytes_max: 1024,
            primitives_max: 1000,
            session_timeout: std::time::Duration::from_secs(10),
            close_grace: std::time::Duration::ZERO,
        });
        let store = StoreId { namespace: String::new(), name: "memory".to_owned() };
        let driver = DriverId { name: "memory".to_owned(), version: "v1".to_owned() };
        runtime.connect(store.clone(), driver, atomix_config::Object::new()).await.unwrap();
        runtime.program(atomix_runtime::Routes::Later(vec![LaterRoute { store, rules: Vec::new() }])).unwrap();
        let settings = atomix_server::Settings {
            listen: vec![Listen::tcp("127.0.0.1", 0)],
            control: vec![Listen::tcp("127.0.0.1", 0)],
            transport: atomix_transport::Limits::default(),
            message_bytes_max: 4 << 20,
            deadline_default: std::time::Duration::from_secs(10),
            grace: std::time::Duration::ZERO,
            workers: None,
        };
        let bound = atomix_server::Server::new(runtime, settings).bind().await.unwrap();
        let (endpoint, control) =
            (format!("http://{}", bound.listen()[0]), format!("http://{}", bound.control()[0]));
        let shutdown = atomix_env::Shutdown::new();
        let server = tokio::spawn(bound.run(shutdown.clone()));
        example(endpoint, control).await.unwrap();
        shutdown.cancel();
        server.await.unwrap();
    });
}

served
}
