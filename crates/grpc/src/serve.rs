// SPDX-License-Identifier: Apache-2.0
//! The ports: which services they offer, and how they begin and end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use atomix_config::{ByteSize, Config, Listen, SocketMode};
use atomix_env::{Shutdown, Workers};
use atomix_proto::DESCRIPTOR_SET;
use atomix_runtime::{Runtime, Session};
use atomix_transport::{Connection, Drained, Kind, Limits, Listener, Observer, SocketRights, Transport};
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;

use crate::call::{Register, Services};
use crate::call_service::CallService;
use crate::directory::Directory;
use crate::health::Health;
use crate::{
    control, counter, countermap, election, indexedmap, inspect, list, lock, map, multimap, set, topic, value,
};

/// The settings of a server.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Addresses of the primitives.
    pub listen: Vec<Listen>,
    /// Addresses of the control services.
    pub control: Vec<Listen>,
    /// The users who may connect to the sockets of the primitives.
    pub listen_rights: SocketRights,
    /// The users who may connect to the sockets of the control services.
    pub control_rights: SocketRights,
    /// The limits of a connection.
    pub transport: Limits,
    /// The deadline of a call that has none.
    pub deadline_default: Duration,
    /// The time that running calls have to finish when the server ends.
    pub grace: Duration,
    /// The workers that serve the connections of the primitives; `None` for the tokio runtime of the caller.
    pub workers: Option<Workers>,
}

/// The gRPC server of a runtime.
#[derive(Debug)]
pub struct Server {
    runtime: Arc<Runtime>,
    settings: Settings,
}

/// A server whose ports are bound; it answers once [`Bound::run`] runs.
#[derive(Debug)]
pub struct Bound {
    server: Server,
    listen: Vec<Listener>,
    control: Vec<Listener>,
}

/// The services of the primitives: the registration of a primitive on the wire.
const PRIMITIVES: &[Register] = &[
    counter::register,
    countermap::register,
    election::register,
    indexedmap::register,
    list::register,
    lock::register,
    map::register,
    multimap::register,
    set::register,
    topic::register,
    value::register,
];

/// The services of operators.
const CONTROLS: &[Register] = &[control::register, inspect::register];

/// Opens a session for each connection.
#[derive(Debug)]
struct Sessions {
    runtime: Arc<Runtime>,
}

// === impl Settings ===

impl Settings {
    /// Reads the settings of `config`. The caller starts the `workers`.
    pub fn new(config: &Config, workers: Option<Workers>) -> Self {
        let limits = &config.limits;
        Self {
            listen: config.listen.clone(),
            control: config.control.clone(),
            listen_rights: rights(config.sockets.mode, &config.sockets.group),
            control_rights: rights(config.sockets.control_mode, &config.sockets.control_group),
            transport: Limits {
                long_calls_per_connection_max: limits.streams_per_connection_max,
                streams_per_connection_max: Limits::streams_beside(limits.streams_per_connection_max),
                local_reset_streams_max: limits.local_reset_streams_max as usize,
                pending_reset_streams_max: limits.pending_reset_streams_max as usize,
                header_list_bytes_max: size(limits.header_list_bytes_max),
                stream_window: size(limits.stream_window),
                connection_window: size(limits.connection_window),
                ping_interval: limits.ping_interval.get(),
                ping_timeout: limits.ping_timeout.get(),
                preface_timeout: limits.preface_timeout.get(),
                connections_max: limits.connections_max as usize,
                connections_per_peer_max: limits.connections_per_peer_max as usize,
                control_connections_max: limits.control_connections_max as usize,
                pings_per_second_max: limits.pings_per_second_max,
                idle_timeout: limits.idle_timeout.get(),
                stream_send_bytes_max: limits.stream_send_bytes_max.as_usize(),
                connection_send_bytes_max: limits.connection_send_bytes_max.as_usize(),
                connection_receive_bytes_max: limits.connection_receive_bytes_max.as_usize(),
                message_bytes_max: limits.message_bytes_max.as_usize(),
                buffers_bytes_max: limits.buffers_bytes_max.as_usize(),
            },
            deadline_default: limits.call_deadline_default.get(),
            grace: config.drain.grace.get(),
            workers,
        }
    }
}

fn rights(mode: SocketMode, group: &str) -> SocketRights {
    let mode = match mode {
        SocketMode::Auto => None,
        SocketMode::Bits(bits) => Some(bits),
    };
    SocketRights { mode, group: (!group.is_empty()).then(|| group.to_owned()) }
}

fn size(size: ByteSize) -> u32 {
    u32::try_from(size.as_usize()).unwrap_or(u32::MAX)
}

// === impl Server ===

impl Server {
    /// Makes a server. Binds nothing yet.
    pub fn new(runtime: Arc<Runtime>, settings: Settings) -> Self {
        Self { runtime, settings }
    }

    /// Binds all ports, or none. From now on connections wait to be answered.
    pub async fn bind(self) -> io::Result<Bound> {
        let listen = bind(&self.settings.listen, &self.settings.listen_rights).await?;
        let control = bind(&self.settings.control, &self.settings.control_rights).await?;
        Ok(Bound { server: self, listen, control })
    }

    /// The services of applications.
    fn primitives(&self) -> Directory {
        self.port(PRIMITIVES)
    }

    /// The services of operators.
    fn controls(&self) -> Directory {
        self.port(CONTROLS)
    }

    /// Makes the directory of a port, with health and reflection, which every port has.
    fn port(&self, services: &[Register]) -> Directory {
        let shared = Services {
            runtime: Arc::clone(&self.runtime),
            long_calls_max: self.settings.transport.long_calls_per_connection_max,
        };
        let mut directory = Directory::default();
        for register in services {
            register(&mut directory, &shared);
        }
        let names = directory.names();
        directory.add(HealthServer::new(Health::new(Arc::clone(&self.runtime), names.clone())));
        directory.reflect(move || reflection(&names));
        directory
    }

    fn call_service(&self, directory: Directory) -> CallService {
        CallService::new(directory, Arc::clone(&self.runtime), self.settings.deadline_default)
    }
}

/// Makes the reflection of a port that has the services of these names.
fn reflection(names: &[&'static str]) -> Routes {
    const EVERYWHERE: [&str; 3] = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ];
    let builder = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        names.iter().chain(&EVERYWHERE).fold(builder, |builder, name| builder.with_service_name(*name))
    };
    // Tools speak either version.
    let mut routes = Routes::builder();
    routes.add_service(builder().build_v1().expect("the descriptor set is our own and whole"));
    routes.add_service(builder().build_v1alpha().expect("the descriptor set is our own and whole"));
    routes.routes().prepare()
}

// === impl Bound ===

impl Bound {
    /// Returns the addresses of the primitives, with the ports that were taken.
    pub fn listen(&self) -> Vec<String> {
        self.listen.iter().map(ToString::to_string).collect()
    }

    /// Returns the addresses of the control services, with the ports that were taken.
    pub fn control(&self) -> Vec<String> {
        self.control.iter().map(ToString::to_string).collect()
    }

    /// Serves until `shutdown`, then drains: accepts no new connections and calls, ends streams and waiting calls with
    /// `DRAINING`, and lets running calls finish within the grace. Returns the number of cut connections and calls.
    pub async fn run(self, shutdown: Shutdown) -> Drained {
        let Self { server, listen, control } = self;
        let runtime = Arc::clone(&server.runtime);
        let workers = &server.settings.workers;
        let (mut primitives, mut controls) = (server.primitives(), server.controls());
        let port = |name, addresses: &[Listener]| {
            let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            format!("{name} port ({})", addresses.join(", "))
        };
        primitives.refer_to(&controls, port("control", &control));
        controls.refer_to(&primitives, port("primitives", &listen));
        let (primitives, controls) = (server.call_service(primitives), server.call_service(controls));
        let observer = Sessions { runtime: Arc::clone(&runtime) };
        let transport = Transport::new(server.settings.transport.clone(), observer, runtime.env().clone());
        let drain = async {
            shutdown.cancelled().await;
            // The drain stops new connections and streams before it ends the existing ones, so that a client does not
            // come back here.
            runtime.drain();
            transport.drained(server.settings.grace).await
        };
        let listen =
            transport.serve(listen, workers.as_ref(), primitives, Kind::Primitives, shutdown.clone());
        let control = transport.serve(control, None, controls, Kind::Control, shutdown.clone());
        let (drained, (), ()) = futures::join!(drain, listen, control);
        drained
    }
}

// === impl Sessions ===

impl Observer for Sessions {
    fn opened(&self, connection: &Arc<Connection>) {
        let closer = Arc::downgrade(connection);
        let end = Box::new(move || {
            if let Some(connection) = closer.upgrade() {
                connection.close();
            }
        });
        connection.set_owner(self.runtime.open_session(connection.peer().to_string(), end));
    }

    fn may_close(&self, connection: &Arc<Connection>) -> bool {
        // An SDK keeps its connection open while the application makes no calls.
        connection.owner::<Arc<Session>>().is_none_or(|session| session.primitives() == 0)
    }

    fn closed(&self, connection: &Arc<Connection>) {
        if let Some(session) = connection.owner::<Arc<Session>>() {
            self.runtime.close_session(session);
        }
    }
}

async fn bind(addresses: &[Listen], rights: &SocketRights) -> io::Result<Vec<Listener>> {
    let mut listeners = Vec::with_capacity(addresses.len());
    for address in addresses {
        let listener = match address {
            Listen::Tcp { host, port } => Listener::tcp(host, *port).await,
            Listen::Unix(path) => Listener::unix_with(path, rights).await,
        };
        let explained = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot listen: address=`{address}`: {error}"))
        };
        listeners.push(listener.map_err(explained)?);
    }
    Ok(listeners)
}

#[cfg(test)]
mod tests {
    use atomix_env::Env;

    use crate::call_class::CallClass;
    use crate::call_class::tests::rpcs;

    use super::*;

    #[tokio::test]
    async fn the_ports_together_serve_every_rpc_with_its_class() {
        let config = Config::default();
        let runtime = Runtime::new(atomix_runtime::Settings::new(&config, Env::real(), Vec::new()));
        let server = Server::new(runtime, Settings::new(&config, None));
        let ports = [server.primitives(), server.controls()];
        for (path, method) in rpcs() {
            let found: Vec<_> = ports.iter().filter_map(|port| port.method(&path)).collect();
            assert!(!found.is_empty(), "no port serves {path}: add its service");
            for found in found {
                assert_eq!(found.class == CallClass::Streaming, method.server_streaming(), "{path}");
            }
        }
        assert_eq!(ports[0].method("/atomix.runtime.lock.v1.Lock/Lock").unwrap().class, CallClass::Waiting);
    }
}
