// SPDX-License-Identifier: Apache-2.0
//! A wire to a server that can be cut.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use atomix_env::Shutdown;
use parking_lot::Mutex;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

/// Passes connections on to a server until it is told to cut them.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// Ends the connections there are.
    cut: Shutdown,
    open: bool,
}

impl Proxy {
    pub(crate) async fn start(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { cut: Shutdown::new(), open: true }));
        let shared = Arc::clone(&state);
        tokio::task::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (cut, open) = {
                    let state = shared.lock();
                    (state.cut.clone(), state.open)
                };
                if !open {
                    continue;
                }
                tokio::task::spawn(async move {
                    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else {
                        return;
                    };
                    client.set_nodelay(true).unwrap();
                    server.set_nodelay(true).unwrap();
                    tokio::select! {
                        () = cut.cancelled() => {}
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                    }
                });
            }
        });
        Self { address, state }
    }

    pub(crate) fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// Cuts all connections; new ones are passed on.
    pub(crate) fn cut(&self) {
        std::mem::take(&mut self.state.lock().cut).cancel();
    }

    /// Cuts all connections and lets nobody through.
    pub(crate) fn close(&self) {
        self.state.lock().open = false;
        self.cut();
    }

    /// Lets connections through again.
    pub(crate) fn open(&self) {
        self.state.lock().open = true;
    }
}
