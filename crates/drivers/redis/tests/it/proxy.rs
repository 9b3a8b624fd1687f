// SPDX-License-Identifier: Apache-2.0
//! A TCP proxy that can be told to cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use atomix_env::Shutdown;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// Carries bytes between clients and a server.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server: String,
    /// Refuses new connections.
    down: AtomicBool,
    /// How many more bytes of requests, and of answers, are let through. The connection is cut after the last one.
    requests: AtomicU64,
    answers: AtomicU64,
    /// Ends the connections that there are.
    cut: Mutex<Shutdown>,
}

const ALL: u64 = u64::MAX;

// === impl Proxy ===

impl Proxy {
    pub(crate) async fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            server,
            down: AtomicBool::new(false),
            requests: AtomicU64::new(ALL),
            answers: AtomicU64::new(ALL),
            cut: Mutex::new(Shutdown::new()),
        });
        tokio::task::spawn(serve(listener, Arc::clone(&shared)));
        Self { address, shared }
    }

    /// Lets only so many more bytes of requests through.
    pub(crate) fn cut_requests_after(&self, bytes: u64) {
        self.shared.requests.store(bytes, Ordering::SeqCst);
    }

    /// Lets only so many more bytes of answers through.
    pub(crate) fn cut_answers_after(&self, bytes: u64) {
        self.shared.answers.store(bytes, Ordering::SeqCst);
    }

    /// Cuts all connections, and refuses new ones until [`Proxy::up`].
    pub(crate) fn down(&self) {
        self.shared.down.store(true, Ordering::SeqCst);
        std::mem::take(&mut *self.shared.cut.lock()).cancel();
    }

    /// Lets everything through.
    pub(crate) fn up(&self) {
        self.shared.requests.store(ALL, Ordering::SeqCst);
        self.shared.answers.store(ALL, Ordering::SeqCst);
        self.shared.down.store(false, Ordering::SeqCst);
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        if shared.down.load(Ordering::SeqCst) {
            continue;
        }
        let Ok(server) = TcpStream::connect(&shared.server).await else { continue };
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let (cut, shared) = (shared.cut.lock().clone(), Arc::clone(&shared));
        tokio::task::spawn(async move {
            tokio::select! {
                () = carry(from_client, to_server, &shared.requests) => {}
                () = carry(from_server, to_client, &shared.answers) => {}
                () = cut.cancelled() => {}
            }
        });
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, left: &AtomicU64) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(len @ 1..) = from.read(&mut buffer).await {
        let allowed = left.load(Ordering::SeqCst);
        let len = len.min(usize::try_from(allowed).unwrap_or(usize::MAX));
        if to.write_all(&buffer[..len]).await.is_err() {
            return;
        }
        if allowed != ALL {
            let rest = allowed - len as u64;
            left.store(rest, Ordering::SeqCst);
            if rest == 0 {
                return;
            }
        }
    }
}
