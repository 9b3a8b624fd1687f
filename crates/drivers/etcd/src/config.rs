// SPDX-License-Identifier: Apache-2.0
//! The configuration of a store.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use atomix_kv::{Error, HistoryRoom, Retention, StoreConfig, parse_config};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// The configuration of an etcd store. The names are those of etcd's own client where it has the setting.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Settings {
    /// The members to connect to: `host:port`, `http://host:port` or `https://host:port`. One is used at a time.
    pub endpoints: Vec<String>,
    /// The user for etcd's authentication. Empty: none.
    pub username: String,
    /// The user's password.
    pub password: String,
    /// Certificates, as files or inline. Every endpoint is spoken to over TLS if it is set.
    pub tls: Option<Tls>,
    /// What every key in etcd begins with. Stores with different prefixes share nothing. Default `atomix/`.
    pub prefix: String,
    /// How long an attempt to connect to one member may take. Default 2 s.
    #[serde(deserialize_with = "atomix_kv::span")]
    pub dial_timeout: Duration,
    /// How long a request may take once it is sent. Default 5 s.
    #[serde(deserialize_with = "atomix_kv::span")]
    pub request_timeout: Duration,
    /// How often a connection is probed on which something is under way. etcd ends connections that probe more often than every 5 s. Default 6 s.
    #[serde(deserialize_with = "atomix_kv::span")]
    pub dial_keep_alive_time: Duration,
    /// How long a probe may stay unanswered. Default 3 s.
    #[serde(deserialize_with = "atomix_kv::span")]
    pub dial_keep_alive_timeout: Duration,
    /// Whether a connection is probed also when nothing is asked or watched; etcd must be set up to allow it. Default no.
    pub permit_without_stream: bool,
    /// Bytes of a request that etcd takes (its `--max-request-bytes`). Default 1.5 MiB.
    #[serde(alias = "MaxCallSendMsgSize")]
    pub request_bytes_max: usize,
    /// Bytes of an answer to a read. Larger ones are asked for in smaller parts. Default 64 MiB.
    #[serde(alias = "MaxCallRecvMsgSize")]
    pub answer_bytes_max: usize,
    /// Operations of a transaction that etcd takes (its `--max-txn-ops`). Default 128.
    pub txn_ops_max: usize,
    /// Commits per keyspace that a watch may lag behind. Default 4,096; at least 1.
    pub history_commits_max: usize,
    /// Bytes of those commits. Default 4 MiB.
    pub history_bytes_max: usize,
    /// Bytes of the histories of all keyspaces in this runtime. Beyond, each keeps what its watches have not seen yet, and its
    /// last few commits. Default 64 MiB.
    pub histories_bytes_max: usize,
    /// How long a keyspace is still watched when nobody follows it any more. Default 30 s.
    #[serde(deserialize_with = "atomix_kv::span")]
    pub watch_linger: Duration,
    /// Accepted from configurations of the original, without effect: the endpoints are those that are given.
    auto_sync_interval: Ignored,
    /// Accepted from configurations of the original, without effect: an old cluster refuses by itself what it cannot do.
    reject_old_cluster: Ignored,
}

/// Certificates. Each is the path of a PEM file, which is read at every connection, or PEM text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Tls {
    /// Who signs the certificates of the members.
    pub ca: String,
    /// The certificate that is shown to the members. Empty: none.
    pub cert: String,
    /// Its key.
    pub key: Pem,
    /// The name that the certificates of the members must have. Empty: the host of the endpoint.
    pub server_name: String,
}

/// A secret PEM: shows itself only if it is a path.
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
pub struct Pem(pub String);

#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
struct Ignored(IgnoredAny);

/// Bytes that a request needs beside what it says: the envelope around it in etcd's log.
pub(crate) const ENVELOPE: usize = 4096;

// === impl Settings ===

impl Settings {
    /// Returns the files that the certificates are in.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let pems = self.tls.iter().flat_map(|tls| [&tls.ca, &tls.cert, &tls.key.0]);
        pems.filter(|pem| !pem.is_empty() && !is_inline(pem)).map(PathBuf::from).collect()
    }

    /// Reads and checks a configuration. Every error names its field.
    pub fn read(config: &StoreConfig) -> Result<Self, Error> {
        let settings: Self = parse_config(config)?;
        let wrong = |what: &str| Err(Error::config(format!("store configuration is wrong: {what}")));
        if settings.endpoints.is_empty() {
            return wrong("`endpoints` must name at least one member, such as \"127.0.0.1:2379\"");
        }
        for endpoint in &settings.endpoints {
            address(endpoint)?;
        }
        let secure = settings.endpoints.iter().any(|endpoint| endpoint.starts_with("https://"));
        match &settings.tls {
            None if secure => return wrong("an https endpoint needs `tls` with `ca`"),
            Some(tls) if tls.ca.is_empty() => return wrong("`tls` needs `ca`"),
            Some(tls) if tls.cert.is_empty() != tls.key.0.is_empty() => {
                return wrong("`tls` needs both `cert` and `key`, or none of them");
            }
            None | Some(_) => {}
        }
        if settings.username.is_empty() && !settings.password.is_empty() {
            return wrong("`password` without `username`");
        }
        for (name, value) in [
            ("dial-timeout", settings.dial_timeout),
            ("request-timeout", settings.request_timeout),
            ("dial-keep-alive-time", settings.dial_keep_alive_time),
            ("dial-keep-alive-timeout", settings.dial_keep_alive_timeout),
        ] {
            if value.is_zero() {
                return wrong(&format!("`{name}` must be above zero"));
            }
        }
        if settings.history_commits_max == 0 {
            return wrong("`history-commits-max` must be at least 1");
        }
        if settings.txn_ops_max < 16 {
            return wrong("`txn-ops-max` must be at least 16");
        }
        if settings.request_bytes_max < 16 * ENVELOPE {
            return wrong(&format!("`request-bytes-max` must be at least {}", 16 * ENVELOPE));
        }
        Ok(settings)
    }

    pub(crate) fn retention(&self) -> Retention {
        Retention { commits_max: self.history_commits_max, bytes_max: self.history_bytes_max }
    }
}

impl Default for Settings {
    fn default() -> Self {
        let retention = Retention::default();
        Self {
            endpoints: Vec::new(),
            username: String::new(),
            password: String::new(),
            tls: None,
            prefix: "atomix/".to_owned(),
            dial_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(5),
            dial_keep_alive_time: Duration::from_secs(6),
            dial_keep_alive_timeout: Duration::from_secs(3),
            permit_without_stream: false,
            request_bytes_max: 3 * 512 * 1024,
            answer_bytes_max: 64 * 1024 * 1024,
            txn_ops_max: 128,
            history_commits_max: retention.commits_max,
            history_bytes_max: retention.bytes_max,
            histories_bytes_max: HistoryRoom::BYTES_MAX,
            watch_linger: Duration::from_secs(30),
            auto_sync_interval: Ignored::default(),
            reject_old_cluster: Ignored::default(),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("endpoints", &self.endpoints)
            .field("username", &self.username)
            .field("tls", &self.tls)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

// === impl Pem, Ignored ===

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if is_inline(&self.0) { "inline" } else { &self.0 })
    }
}

impl PartialEq for Ignored {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Ignored {}

/// Tells whether `pem` is the text itself and not a path.
pub(crate) fn is_inline(pem: &str) -> bool {
    pem.contains("-----BEGIN")
}

/// Returns host and port of an endpoint.
pub(crate) fn address(endpoint: &str) -> Result<(String, u16), Error> {
    let wrong = || {
        Error::config(format!(
            "store configuration is wrong: `endpoints` takes host:port, http://host:port or https://host:port: endpoint=`{endpoint}`"
        ))
    };
    let rest = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
    let rest = rest.unwrap_or(endpoint).trim_end_matches('/');
    let (host, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || host.contains('/') {
        return Err(wrong());
    }
    Ok((host.to_owned(), port.parse().map_err(|_| wrong())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(config: Value) -> Result<Settings, String> {
        let Value::Object(config) = config else { panic!("not an object") };
        Settings::read(&config).map_err(|error| error.to_string())
    }

    #[test]
    fn a_configuration_of_the_original_is_accepted() {
        let settings = read(json!({
            "endpoints": ["http://a:2379", "b:2379"],
            "auto-sync-interval": 0,
            "dial-timeout": 3_000_000_000u64,
            "dial-keep-alive-time": 10_000_000_000u64,
            "dial-keep-alive-timeout": "4s",
            "username": "u",
            "password": "p",
            "reject-old-cluster": true,
            "permit-without-stream": true,
            "MaxCallSendMsgSize": 1_000_000,
            "MaxCallRecvMsgSize": 2_000_000,
        }))
        .unwrap();
        assert_eq!(settings.dial_timeout, Duration::from_secs(3));
        assert_eq!(settings.dial_keep_alive_timeout, Duration::from_secs(4));
        assert_eq!((settings.request_bytes_max, settings.answer_bytes_max), (1_000_000, 2_000_000));
        assert!(settings.permit_without_stream);
        assert_eq!(settings.prefix, "atomix/");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let with = |key: &str, value: Value| {
            let mut config = json!({"endpoints": ["a:1"]});
            config[key] = value;
            read(config).unwrap_err()
        };
        assert!(read(json!({})).unwrap_err().contains("`endpoints`"));
        assert!(with("endpoints", json!(["nowhere"])).contains("endpoint=`nowhere`"));
        assert!(with("endpoints", json!(["a:port"])).contains("endpoint=`a:port`"));
        assert!(with("no-such-field", json!(1)).contains("no-such-field"));
        assert!(with("dial-timeout", json!("5 parsecs")).contains("5 parsecs"));
        assert!(with("request-timeout", json!(0)).contains("`request-timeout`"));
        assert!(with("endpoints", json!(["https://a:1"])).contains("`tls`"));
        assert!(with("tls", json!({})).contains("`ca`"));
        assert!(with("tls", json!({"ca": "x", "cert": "y"})).contains("`key`"));
        assert!(with("tls", json!({"ca": "x", "verify": false})).contains("verify"));
        assert!(with("password", json!("p")).contains("`username`"));
        assert!(with("history-commits-max", json!(0)).contains("history-commits-max"));
        assert!(with("txn-ops-max", json!(1)).contains("txn-ops-max"));
        assert!(with("request-bytes-max", json!(1)).contains("request-bytes-max"));
    }

    #[test]
    fn secrets_are_not_shown() {
        let settings = read(json!({
            "endpoints": ["a:1"],
            "username": "u",
            "password": "pass-word",
            "tls": {"ca": "ca.pem", "cert": "c.pem", "key": "-----BEGIN PRIVATE KEY-----"},
        }))
        .unwrap();
        let shown = format!("{settings:?}");
        assert!(!shown.contains("pass-word") && !shown.contains("BEGIN"), "{shown}");
    }

    #[test]
    fn addresses_are_split() {
        assert_eq!(address("https://[::1]:2379/").unwrap(), ("::1".to_owned(), 2379));
        assert_eq!(address("etcd.example:1").unwrap(), ("etcd.example".to_owned(), 1));
    }
}
