// SPDX-License-Identifier: Apache-2.0
//! Stopgap of the lead, to be replaced as a whole: see the brief.
#![allow(missing_docs, missing_debug_implementations, clippy::pedantic)]
use std::any::Any;
use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock, atomic::{AtomicU64, Ordering}};
use std::time::Duration;

use atomix_env::{Env, Shutdown};
use hyper_util::rt::{TokioExecutor, TokioIo};

#[derive(Debug, Clone)]
pub struct Limits {
    pub streams_per_connection_max: u32, pub local_reset_streams_max: usize, pub pending_reset_streams_max: usize,
    pub header_list_bytes_max: u32, pub stream_window: u32, pub connection_window: u32, pub ping_interval: Duration,
    pub ping_timeout: Duration, pub preface_timeout: Duration, pub connections_max: usize,
    pub connections_per_peer_max: usize, pub pings_per_second_max: u32, pub idle_timeout: Duration,
    pub stream_send_bytes_max: usize, pub connection_send_bytes_max: usize,
}
pub struct Connection { peer: String, owner: OnceLock<Box<dyn Any + Send + Sync>>, close: Shutdown, #[allow(dead_code)] id: u64 }
impl Connection {
    pub fn owner<T: 'static>(&self) -> Option<&T> { self.owner.get()?.downcast_ref() }
    pub fn set_owner<T: Any + Send + Sync>(&self, owner: T) { drop(self.owner.set(Box::new(owner))); }
    pub fn peer(&self) -> &str { &self.peer }
    pub fn close(&self) { self.close.cancel(); }
}
pub trait Observer: Send + Sync + 'static { fn opened(&self, c: &Arc<Connection>); fn closed(&self, c: &Arc<Connection>); }
#[derive(Debug)] pub enum Listener { Tcp(tokio::net::TcpListener), Unix(tokio::net::UnixListener, String) }
impl Listener {
    pub async fn tcp(host: &str, port: u16) -> io::Result<Self> { Ok(Self::Tcp(tokio::net::TcpListener::bind((host, port)).await?)) }
    pub async fn unix(path: &std::path::Path) -> io::Result<Self> { Ok(Self::Unix(tokio::net::UnixListener::bind(path)?, path.display().to_string())) }
}
impl fmt::Display for Listener { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { match self { Self::Tcp(l) => write!(f, "{}", l.local_addr().unwrap()), Self::Unix(_, p) => write!(f, "unix:{p}") } } }
#[derive(Debug, Clone, Copy, Default)] pub struct Drained { pub cut: usize }
impl std::ops::Add for Drained { type Output = Self; fn add(self, o: Self) -> Self { Self { cut: self.cut + o.cut } } }
struct Closed<O: Observer>(Arc<O>, Arc<Connection>);
impl<O: Observer> Drop for Closed<O> { fn drop(&mut self) { self.0.closed(&self.1); } }

pub async fn serve<S, O, B>(listeners: Vec<Listener>, service: S, limits: Limits, observer: Arc<O>, env: Env, shutdown: Shutdown, grace: Duration) -> Drained
where S: tower::Service<http::Request<hyper::body::Incoming>, Response = http::Response<B>, Error = std::convert::Infallible> + Clone + Send + Sync + 'static, S::Future: Send,
 B: http_body::Body<Data = bytes::Bytes> + Send + 'static, B::Error: Into<Box<dyn std::error::Error + Send + Sync>>, O: Observer {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let tasks = Arc::new(());
    let accept = listeners.into_iter().map(|listener| { let (service, limits, observer, env, shutdown, tasks) = (service.clone(), limits.clone(), observer.clone(), env.clone(), shutdown.clone(), tasks.clone());
        async move { loop {
            let (io, peer): (Box<dyn Io>, String) = tokio::select! { () = shutdown.cancelled() => return,
                io = async { match &listener { Listener::Tcp(l) => l.accept().await.map(|(s, p)| { s.set_nodelay(true).ok(); (Box::new(s) as Box<dyn Io>, p.to_string()) }), Listener::Unix(l, _) => l.accept().await.map(|(s, _)| (Box::new(s) as Box<dyn Io>, "unix".to_owned())) } } => match io { Ok(io) => io, Err(_) => continue } };
            let connection = Arc::new(Connection { peer, owner: OnceLock::new(), close: Shutdown::new(), id: NEXT.fetch_add(1, Ordering::Relaxed) });
            observer.opened(&connection);
            let closed = Closed(observer.clone(), connection.clone());
            let (service, shutdown, tasks) = (service.clone(), shutdown.clone(), tasks.clone());
            let c2 = connection.clone();
            let svc = hyper::service::service_fn(move |mut r: http::Request<hyper::body::Incoming>| { r.extensions_mut().insert(c2.clone()); let mut s = service.clone(); s.call(r) });
            let mut b = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            b.timer(hyper_util::rt::TokioTimer::new()).max_concurrent_streams(limits.streams_per_connection_max).max_local_error_reset_streams(limits.local_reset_streams_max);
            let conn = b.serve_connection(TokioIo::new(io), svc);
            env.spawn(async move { let _t = tasks; let _c = closed; let mut conn = std::pin::pin!(conn);
                tokio::select! { _ = conn.as_mut() => return, () = connection.close.cancelled() => return, () = shutdown.cancelled() => {} }
                conn.as_mut().graceful_shutdown();
                let _ = conn.await; });
        } } });
    futures::future::join_all(accept).await;
    let deadline = env.now() + grace;
    while Arc::strong_count(&tasks) > 1 && env.now() < deadline { env.sleep(Duration::from_millis(10)).await; }
    Drained { cut: Arc::strong_count(&tasks) - 1 }
}
trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Io for T {}
