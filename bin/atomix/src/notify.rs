// SPDX-License-Identifier: Apache-2.0
//! Notifications for a service manager, by the protocol of `sd_notify(3)`: datagrams to the socket that `NOTIFY_SOCKET`
//! names. Without that variable nothing is sent.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use atomix_env::Env;
use rustix::time::{ClockId, clock_gettime};

/// A service manager that wants to know how the process is.
pub(crate) struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// The time within which it wants a sign of life.
    watchdog: Option<Duration>,
}

// === impl Manager ===

impl Manager {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` through `variable`.
    pub(crate) fn find(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let number = |name: &str| variable(name)?.to_str()?.parse::<u64>().ok();
        let socket = variable("NOTIFY_SOCKET").filter(|name| !name.is_empty()).and_then(|name| {
            let found = connect(&name);
            if let Err(error) = &found {
                tracing::warn!(%error, socket = ?name, "the service manager cannot be notified");
            }
            found.ok()
        });
        let ours = number("WATCHDOG_PID").is_none_or(|id| id == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|micros| ours && *micros > 0);
        Self { socket, watchdog: watchdog.map(Duration::from_micros) }
    }

    pub(crate) fn ready(&self) {
        self.send("READY=1\nSTATUS=serving");
    }

    /// Notifies that the configuration is read again; [`Manager::ready`] follows.
    pub(crate) fn reloading(&self) {
        // `Type=notify-reload` wants to know when, by this clock.
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reading the configuration again"));
    }

    pub(crate) fn stopping(&self, why: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={why}"));
    }

    /// Gives signs of life for ever, twice as often as the manager wants them.
    pub(crate) async fn keep_alive(&self, env: &Env) {
        let Some(watchdog) = self.watchdog.filter(|_| self.socket.is_some()) else {
            return std::future::pending().await;
        };
        loop {
            self.send("WATCHDOG=1");
            env.sleep(watchdog / 2).await;
        }
    }

    fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(message.as_bytes(), address)
        {
            tracing::debug!(%error, "the service manager was not notified");
        }
    }
}

fn connect(name: &OsStr) -> std::io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not stop the process.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_manager_is_told_by_datagrams() {
        let folder = std::env::temp_dir().join(format!("atomix-notify-{}", Env::real().random()));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("socket");
        let socket = UnixDatagram::bind(&path).unwrap();
        let variable = |name: &str| match name {
            "NOTIFY_SOCKET" => Some(path.clone().into_os_string()),
            "WATCHDOG_USEC" => Some("60000000".into()),
            _ => None,
        };
        let manager = Manager::find(variable);
        let env = Env::real();
        manager.ready();
        manager.reloading();
        assert!(futures::poll!(Box::pin(manager.keep_alive(&env))).is_pending());
        manager.stopping("SIGTERM");
        let read = || {
            let mut buffer = [0; 256];
            let bytes = socket.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..bytes].to_vec()).unwrap()
        };
        assert_eq!(read(), "READY=1\nSTATUS=serving");
        let reloading = read();
        assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
        assert_eq!(read(), "WATCHDOG=1");
        assert_eq!(read(), "STOPPING=1\nSTATUS=SIGTERM");
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn without_a_manager_nothing_is_sent_and_the_watchdog_of_another_process_is_not_ours() {
        let variable = |name: &str| match name {
            "WATCHDOG_USEC" => Some("1000".into()),
            "WATCHDOG_PID" => Some("1".into()),
            _ => None,
        };
        let manager = Manager::find(variable);
        assert!(manager.socket.is_none() && manager.watchdog.is_none());
        manager.ready();
    }
}
