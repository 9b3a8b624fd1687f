// SPDX-License-Identifier: Apache-2.0
//! A way to a server that can be made long, stopped, or cut.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atomix_env::{Env, Instant, Shutdown};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

/// Carries bytes between clients and a server. When it is dropped its connections end.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Shutdown,
}

/// One of the two directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// From clients to the server.
    Requests,
    /// From the server to clients.
    Answers,
}

#[derive(Debug)]
struct Shared {
    env: Env,
    server: String,
    refusing: watch::Sender<bool>,
    requests: Way,
    answers: Way,
    /// Ends the connections that there are.
    cut: Mutex<Shutdown>,
}

/// The action on the bytes of one direction.
#[derive(Debug)]
struct Way {
    mood: watch::Sender<Mood>,
    /// The number of bytes that still pass. The connection is cut after the last one.
    left: AtomicU64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Mood {
    delay: Duration,
    stalled: bool,
}

const ALL: u64 = u64::MAX;
/// How many chunks may be on their way at a time.
const CHUNKS: usize = 256;

// === impl Proxy ===

impl Proxy {
    /// Opens a port for a server, given as `host:port`.
    pub async fn start(server: impl Into<String>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("the loopback has a port");
        let address = listener.local_addr().expect("it is bound");
        let stop = Shutdown::new();
        let shared = Arc::new(Shared {
            server: server.into(),
            refusing: watch::Sender::new(false),
            requests: Way::new(),
            answers: Way::new(),
            cut: Mutex::new(stop.child_token()),
            env: Env::real(),
        });
        let (serve, stopped) = (serve(listener, Arc::clone(&shared)), stop.clone());
        shared.env.detach(async move {
            tokio::select! {
                () = serve => {}
                () = stopped.cancelled() => {}
            }
        });
        Self { address, shared, stop }
    }

    /// Returns `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Lets bytes of one direction arrive so much later. Order and throughput stay.
    pub fn delay(&self, half: Half, delay: Duration) {
        self.shared.way(half).mood.send_modify(|mood| mood.delay = delay);
    }

    /// Lets bytes of one direction wait. Nothing is lost, connections stay, and new ones seem to work.
    pub fn stall(&self, half: Half) {
        self.shared.way(half).mood.send_modify(|mood| mood.stalled = true);
    }

    /// Lets nothing through, without closing: both directions wait.
    pub fn black_hole(&self) {
        self.stall(Half::Requests);
        self.stall(Half::Answers);
    }

    /// Lets only so many more bytes of one direction through, and then cuts the connection of the last one.
    pub fn cut_after(&self, half: Half, bytes: u64) {
        self.shared.way(half).left.store(bytes, Ordering::SeqCst);
    }

    /// Cuts all connections. New ones are passed on.
    pub fn cut(&self) {
        let fresh = self.stop.child_token();
        std::mem::replace(&mut *self.shared.cut(), fresh).cancel();
    }

    /// Cuts all connections and takes no new ones.
    pub fn refuse(&self) {
        self.shared.refusing.send_replace(true);
        self.cut();
    }

    /// Lets everything through again, in time.
    pub fn pass(&self) {
        for way in [&self.shared.requests, &self.shared.answers] {
            way.left.store(ALL, Ordering::SeqCst);
            way.mood.send_replace(Mood::default());
        }
        self.shared.refusing.send_replace(false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

// === impl Shared ===

impl Shared {
    fn cut(&self) -> MutexGuard<'_, Shutdown> {
        self.cut.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn way(&self, half: Half) -> &Way {
        match half {
            Half::Requests => &self.requests,
            Half::Answers => &self.answers,
        }
    }
}

// === impl Way ===

impl Way {
    fn new() -> Self {
        Self { mood: watch::Sender::new(Mood::default()), left: AtomicU64::new(ALL) }
    }

    /// Carries bytes until one side ends, or the last byte that was allowed has gone.
    async fn carry(&self, env: &Env, from: OwnedReadHalf, to: OwnedWriteHalf) {
        let (sender, receiver) = mpsc::channel(CHUNKS);
        tokio::select! {
            () = self.give(env, receiver, to) => {}
            () = async {
                self.take(env, from, sender).await;
                // Bytes that were read are still to be written.
                std::future::pending::<()>().await;
            } => {}
        }
    }

    async fn take(&self, env: &Env, mut from: OwnedReadHalf, chunks: mpsc::Sender<(Instant, Vec<u8>)>) {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(len @ 1..) = from.read(&mut buffer).await {
            let due = env.now() + self.mood.borrow().delay;
            if chunks.send((due, buffer[..len].to_vec())).await.is_err() {
                return;
            }
        }
    }

    async fn give(&self, env: &Env, mut chunks: mpsc::Receiver<(Instant, Vec<u8>)>, mut to: OwnedWriteHalf) {
        let mut moods = self.mood.subscribe();
        while let Some((due, chunk)) = chunks.recv().await {
            let early = due.since(env.now());
            if !early.is_zero() {
                env.sleep(early).await;
            }
            // The sender of moods lives as long as this does.
            drop(moods.wait_for(|mood| !mood.stalled).await);
            let allowed = self.left.load(Ordering::SeqCst);
            let len = chunk.len().min(usize::try_from(allowed).unwrap_or(usize::MAX));
            if to.write_all(&chunk[..len]).await.is_err() {
                return;
            }
            if allowed != ALL {
                let rest = allowed - len as u64;
                self.left.store(rest, Ordering::SeqCst);
                if rest == 0 {
                    return;
                }
            }
        }
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        if *shared.refusing.borrow() {
            continue;
        }
        let (cut, shared) = (shared.cut().clone(), Arc::clone(&shared));
        shared.env.clone().detach(async move {
            tokio::select! {
                () = connect(client, &shared) => {}
                () = cut.cancelled() => {}
            }
        });
    }
}

async fn connect(client: TcpStream, shared: &Shared) {
    let Ok(server) = TcpStream::connect(&shared.server).await else { return };
    for stream in [&client, &server] {
        // A peer that has closed the connection meanwhile is noticed below.
        drop(stream.set_nodelay(true));
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = shared.requests.carry(&shared.env, from_client, to_server) => {}
        () = shared.answers.carry(&shared.env, from_server, to_client) => {}
    }
}
