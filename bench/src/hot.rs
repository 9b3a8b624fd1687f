// SPDX-License-Identifier: Apache-2.0
//! Goes through a hot path a number of times, for valgrind to count what that takes. What the start takes is left when the
//! count of fewer rounds is taken off; so figures do not depend on how busy the machine is.

use std::hint::black_box;
use std::sync::Arc;

use crate::bare::{Bare, Behind};
use anyhow::{Context, Result};
use atomix_config::{Config, DriverId, JsonObject, LaterRoute, Listen, StoreId};
use atomix_engine::Engine;
use atomix_env::{Env, Shutdown};
use atomix_load::work::{Mix, Op, Subject};
use atomix_load::{Target, frame};
use atomix_primitives::{Counter, Kind, Map, TypedPrimitive};
use atomix_proto::map;
use atomix_proto::runtime::PrimitiveId;
use atomix_runtime::{Routes, Runtime, Session};
use atomix_store::{Driver, Limits, Read, Txn, Write};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use prost::Message;
use tokio_stream::wrappers::UnixListenerStream;

/// Goes through a hot path.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Hot {
    /// The path
    #[arg(value_enum)]
    path: Path,
    /// How often
    rounds: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Path {
    /// Reads a `PutRequest` of 100 bytes
    Decode,
    /// Writes a `PutResponse` of 100 bytes
    Encode,
    /// Finds an open primitive by its name
    Lookup,
    /// Applies a put to the engine
    EnginePut,
    /// Applies an addition to the engine
    EngineAdd,
    /// `Map.Put` on the memory store, without a server
    Put,
    /// `Map.Get` on the memory store, without a server
    Get,
    /// `Counter.Increment` on the memory store, without a server
    Increment,
    /// A `Map.Put` from a client to a bare server and back, both in this process
    CallBare,
    /// The same to our server
    CallOurs,
}

const NAME: &str = "bench";

/// Goes through the path.
pub(crate) fn run(hot: Hot) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(go(hot))
}

async fn go(Hot { path, rounds }: Hot) -> Result<()> {
    let (key, value) = (Bytes::from_static(b"key-000000000001"), Bytes::from_static(&[b'v'; 100]));
    match path {
        Path::Decode => {
            let id = Some(PrimitiveId { name: NAME.to_owned() });
            let key = String::from_utf8(key.to_vec())?;
            let request = frame(&map::PutRequest { id, key, value, ttl: None, prev_version: 0 }).slice(5..);
            for _ in 0..rounds {
                black_box(map::PutRequest::decode(black_box(request.clone()))?);
            }
        }
        Path::Encode => {
            let prev_value = Some(map::VersionedValue { value, version: 1_000_000 });
            let answer = map::PutResponse { version: 1_000_001, prev_value };
            for _ in 0..rounds {
                black_box(frame(black_box(&answer)));
            }
        }
        Path::EnginePut | Path::EngineAdd => {
            let write = match path {
                Path::EnginePut => Write::Put { key: key.clone(), value },
                _ => Write::Add { key: key.clone(), delta: 1 },
            };
            let txn = Txn { writes: vec![write], reads: vec![Read::Get { key }], ..Txn::default() };
            let (mut engine, limits) = (Engine::new(), Limits::default());
            for _ in 0..rounds {
                black_box(
                    engine.apply(black_box(&txn), &limits).map_err(|error| anyhow::anyhow!("{error:?}"))?,
                );
            }
        }
        Path::Lookup | Path::Put | Path::Get | Path::Increment => inside(path, rounds, &value).await?,
        Path::CallBare | Path::CallOurs => call(path, rounds).await?,
    }
    Ok(())
}

async fn inside(path: Path, rounds: u32, value: &Bytes) -> Result<()> {
    let runtime = runtime().await?;
    let session = runtime.open_session("hot".to_owned(), Box::new(|| {}));
    let counter = open(&runtime, &session, Kind::Counter).await?;
    let map = open(&runtime, &session, Kind::Map).await?;
    let counter = Counter::downcast(counter.primitive()).context("a counter was asked for")?;
    let map = Map::downcast(map.primitive()).context("a map was asked for")?;
    map.put("key-000000000001", value.clone(), None, 0).await.map_err(failed)?;
    for _ in 0..rounds {
        match path {
            Path::Put => {
                black_box(map.put("key-000000000001", value.clone(), None, 0).await.map_err(failed)?);
            }
            Path::Get => {
                black_box(map.get("key-000000000001").await.map_err(failed)?);
            }
            Path::Increment => {
                black_box(counter.increment(1, None).await.map_err(failed)?);
            }
            _ => {
                black_box(runtime.find_for(&session, Kind::Map, black_box(NAME)).await.map_err(failed)?);
            }
        }
    }
    Ok(())
}

/// Calls one after the other, over a Unix socket.
async fn call(path: Path, rounds: u32) -> Result<()> {
    let (env, folder) = (Env::real(), tempfile::tempdir()?);
    let socket = folder.path().join("s");
    if matches!(path, Path::CallBare) {
        let incoming = UnixListenerStream::new(tokio::net::UnixListener::bind(&socket)?);
        let routes = Bare::new(Behind::Nothing).routes();
        let server = tonic::transport::Server::builder().add_routes(routes).serve_with_incoming(incoming);
        env.detach(async { server.await.expect("a bare server serves") });
    } else {
        let config =
            Config { listen: vec![Listen::Unix(socket.clone())], control: Vec::new(), ..Config::default() };
        let settings = atomix_grpc::Settings::new(&config, None);
        let bound = atomix_grpc::Server::new(runtime().await?, settings).bind().await?;
        env.detach(async { _ = bound.run(Shutdown::new()).await });
    }
    let subject = Subject { name: NAME.to_owned(), tags: Vec::new(), keys: 1, value_bytes: 100 };
    let address = format!("unix:{}", socket.display());
    let target = subject.work(&env, &address, 1, Mix::only(Op::Put)).await?.remove(0);
    for _ in 0..rounds {
        target.call(0).await?;
    }
    Ok(())
}

async fn open(
    runtime: &Arc<Runtime>,
    session: &Arc<Session>,
    kind: Kind,
) -> Result<Arc<atomix_runtime::PrimitiveHandle>> {
    runtime.create(session, kind, NAME, &[]).await.map_err(failed)?;
    let open = runtime.find_for(session, kind, NAME).await.map_err(failed)?;
    open.context("what was created is open")
}

/// A runtime with a memory store.
async fn runtime() -> Result<Arc<Runtime>> {
    let drivers: Vec<Arc<dyn Driver>> = vec![Arc::new(atomix_driver_memory::MemoryDriver)];
    let runtime = Runtime::new(atomix_runtime::Settings::new(&Config::default(), Env::real(), drivers));
    let store = StoreId { namespace: String::new(), name: "memory".to_owned() };
    let driver = DriverId { name: "memory".to_owned(), version: "v1".to_owned() };
    runtime.connect(store.clone(), driver, JsonObject::new()).await.map_err(failed)?;
    runtime.program(Routes::Later(vec![LaterRoute { store, rules: Vec::new() }])).map_err(failed)?;
    Ok(runtime)
}

fn failed(error: impl std::fmt::Debug) -> anyhow::Error {
    anyhow::anyhow!("{error:?}")
}
