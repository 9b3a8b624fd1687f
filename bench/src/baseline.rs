// SPDX-License-Identifier: Apache-2.0
//! Serves [`Bare`] with tonic as it is, in different layouts of threads.

use std::path::PathBuf;
use std::sync::Arc;

use crate::bare::{Bare, Behind};
use crate::etcd::Etcd;
use anyhow::Context;
use atomix_env::Env;
use atomix_load::Channel;
use clap::{Args, ValueEnum};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::Builder;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

/// Serves `Counter.Increment`, `Map.Put`, `Map.Get` and `Map.Events` with tonic and nothing else.
#[derive(Debug, Clone, Args)]
pub(crate) struct Baseline {
    /// Port of the loopback
    #[arg(long)]
    port: u16,
    /// Path of a Unix socket
    #[arg(long)]
    unix: PathBuf,
    /// Threads
    #[arg(long, value_enum, default_value_t = Layout::Shipped)]
    layout: Layout,
    /// Sends one command to this Redis for each call: `redis://host:port` or `unix:/path`
    #[arg(long)]
    redis: Option<String>,
    /// Sends one request to this etcd for each call: `host:port`
    #[arg(long, conflicts_with = "redis")]
    etcd: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Layout {
    /// One runtime of tokio with a worker for each core, as `#[tokio::main]` makes it
    Shipped,
    /// One thread
    Single,
    /// A thread for each core with a runtime of its own; the kernel spreads connections over them
    PerCore,
}

/// Serves until the process is ended.
pub(crate) fn run(options: &Baseline) -> anyhow::Result<()> {
    let unix = std::os::unix::net::UnixListener::bind(&options.unix)?;
    unix.set_nonblocking(true)?;
    let cores = std::thread::available_parallelism()?.get();
    let bare = Bare::new(Behind::Nothing);
    let builder = match options.layout {
        Layout::Single => Builder::new_current_thread(),
        Layout::Shipped => Builder::new_multi_thread(),
        Layout::PerCore => {
            let (failed, failures) = std::sync::mpsc::channel();
            for core in 0..cores {
                let (options, unix, bare, failed) =
                    (options.clone(), unix.try_clone()?, bare.clone(), failed.clone());
                Env::real().thread(&format!("core {core}"), move || {
                    failed.send(on(Builder::new_current_thread(), &options, unix, bare)).ok();
                })?;
            }
            return failures.recv()?;
        }
    };
    on(builder, options, unix, bare)
}

/// Serves on one runtime.
fn on(
    mut builder: Builder,
    options: &Baseline,
    unix: std::os::unix::net::UnixListener,
    bare: Bare,
) -> anyhow::Result<()> {
    builder.enable_all().build()?.block_on(async {
        let behind = match (&options.redis, &options.etcd) {
            (Some(url), _) => {
                let client = redis::Client::open(url.replacen("unix:", "redis+unix://", 1))?;
                Behind::Redis(client.get_multiplexed_async_connection().await?)
            }
            (None, Some(server)) => {
                Behind::Etcd(Arc::new(Etcd::new(Channel::connect(&Env::real(), server).await?)))
            }
            (None, None) => Behind::Nothing,
        };
        let routes = bare.with(behind).routes();
        let server = || Server::builder().add_routes(routes.clone());
        let tcp = TcpIncoming::from(listener(options.port)?).with_nodelay(Some(true));
        let unix = UnixListenerStream::new(tokio::net::UnixListener::from_std(unix)?);
        let (tcp, unix) =
            futures::join!(server().serve_with_incoming(tcp), server().serve_with_incoming(unix));
        tcp.and(unix).context("the server ended")
    })
}

/// Binds a port together with all other runtimes of this process.
fn listener(port: u16) -> anyhow::Result<tokio::net::TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], port)).into())?;
    socket.listen(1024)?;
    Ok(tokio::net::TcpListener::from_std(socket.into())?)
}
