// SPDX-License-Identifier: Apache-2.0
//! Addresses to listen on.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An address to listen on, written `host:port`, `[v6]:port`, `[v6%zone]:port` or `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Listen {
    /// A TCP port. `(host.as_str(), port)` can be bound or resolved as it stands.
    Tcp {
        /// An IP address (without brackets, perhaps with a zone) or a host name; never empty.
        host: String,
        /// The port; 0 takes a free one.
        port: u16,
    },
    /// A Unix domain socket at this path.
    Unix(PathBuf),
}

/// The kernel keeps the path of a socket in 108 bytes with a closing zero (Linux; other systems have a few less).
const UNIX_PATH_BYTES_MAX: usize = 107;

// === impl Listen ===

impl Listen {
    /// Makes a TCP address.
    pub fn tcp(host: impl Into<String>, port: u16) -> Self {
        Self::Tcp { host: host.into(), port }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(bytes) =
            text.strip_prefix("unix:").map(str::len).filter(|bytes| *bytes > UNIX_PATH_BYTES_MAX)
        {
            return Err(format!(
                "path of a socket is too long, choose a shorter one: bytes=`{bytes}` bytes-max=`{UNIX_PATH_BYTES_MAX}`"
            ));
        }
        parse(text).ok_or_else(|| format!("not an address, write host:port or unix:PATH: value=`{text}`"))
    }
}

fn parse(text: &str) -> Option<Listen> {
    if let Some(path) = text.strip_prefix("unix:") {
        let fits = (1..=UNIX_PATH_BYTES_MAX).contains(&path.len()) && !path.contains('\0');
        return fits.then(|| Listen::Unix(PathBuf::from(path)));
    }
    let (host, port) = text.rsplit_once(':')?;
    // `parse` alone would take a sign.
    let port = port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok())??;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let host = if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        // The zone is the name or the number of an interface; the resolver reads it.
        let (address, zone) = inner.split_once('%').unwrap_or((inner, "0"));
        let _: Ipv6Addr = address.parse().ok()?;
        (!zone.is_empty() && zone.bytes().all(plain)).then_some(inner)?
    } else {
        // An empty host means every interface to some programs and none to others: it has to be said (`0.0.0.0`).
        (!host.is_empty() && host.bytes().all(plain)).then_some(host)?
    };
    Some(Listen::tcp(host, port))
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_and_print() {
        for text in [
            "127.0.0.1:5678",
            "localhost:0",
            "[::1]:5678",
            "[::]:1",
            "[fe80::1%eth0]:5678",
            "[fe80::1%2]:1",
            "unix:/run/atomix.sock",
            "my-host.example:65535",
        ] {
            assert_eq!(text.parse::<Listen>().expect(text).to_string(), text);
        }
        assert_eq!("[::1]:1".parse(), Ok(Listen::tcp("::1", 1)));
    }

    #[test]
    fn doubtful_addresses_are_refused() {
        let long = format!("unix:/{}", "x".repeat(UNIX_PATH_BYTES_MAX));
        for text in [
            "",
            ":5678",
            "5678",
            "host",
            "host:",
            "host:65536",
            "host:+1",
            "::1:5678",
            "[x]:1",
            "[fe80::1%]:1",
            "[fe80::1%e%f]:1",
            "[%eth0]:1",
            "[::1]",
            "a b:1",
            "unix:",
            &long,
        ] {
            assert!(text.parse::<Listen>().is_err(), "{text}");
        }
    }
}
