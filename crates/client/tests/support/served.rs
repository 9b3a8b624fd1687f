// SPDX-License-Identifier: Apache-2.0
// Included by the examples of the documentation: runs an example against a server of its own on a free port.

// An expression, because an example is the body of a function.
{
/// Runs `example` with the addresses of the primitives and of the control services.
fn served(example: fn(String, String) -> futures::future::BoxFuture<'static, atomix_client::Result<()>>) {
    use std::sync::Arc;

    use atomix_config::{Config, DriverId, LaterRoute, Listen, StoreId};

    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    tokio.block_on(async {
        let anywhere = || vec![Listen::tcp("127.0.0.1", 0)];
        let config = Config { listen: anywhere(), control: anywhere(), ..Config::default() };
        let (env, driver) = (atomix_env::Env::real(), Arc::new(atomix_driver_memory::MemoryDriver));
        let runtime =
            atomix_runtime::Runtime::new(atomix_runtime::Settings::new(&config, env, vec![driver]));
        let store = StoreId { namespace: String::new(), name: "memory".to_owned() };
        let driver = DriverId { name: "memory".to_owned(), version: "v1".to_owned() };
        runtime.connect(store.clone(), driver, atomix_config::JsonObject::new()).await.unwrap();
        runtime.program(atomix_runtime::Routes::Later(vec![LaterRoute { store, rules: Vec::new() }])).unwrap();
        let settings = atomix_grpc::Settings::new(&config, None);
        let bound = atomix_grpc::Server::new(runtime, settings).bind().await.unwrap();
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
