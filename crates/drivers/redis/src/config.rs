// SPDX-License-Identifier: Apache-2.0
//! The configuration of a store, in our names and in those of the original.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use atomix_store::{Error, HistoryBudget, JsonObject, Secret, fold, parse_config, printable, rename_fields};
use serde::Deserialize;

/// The configuration of a Redis store. Field names are read without regard to case, hyphens and underscores.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// The address of Redis: `host:port`, or the path of a socket. Default `127.0.0.1:6379`. With
    /// `sentinel-master` a sentinel, with `cluster` a node; more of them go into `addresses`.
    pub address: Option<String>,
    /// More addresses of sentinels or nodes.
    pub addresses: Vec<String>,
    /// `tcp` or `unix`, as the original has it. Not needed: a socket is known by its slash.
    pub network: Option<String>,
    /// The name of a master that sentinels know. Without it the addresses are those of Redis itself.
    pub sentinel_master: Option<String>,
    /// Whether the addresses are nodes of a Redis Cluster.
    pub cluster: bool,
    /// The name of the user (ACL).
    pub username: Option<String>,
    /// The password of the user, or of the server.
    pub password: Option<Secret>,
    /// The name of the user at the sentinels.
    pub sentinel_username: Option<String>,
    /// The password at the sentinels.
    pub sentinel_password: Option<Secret>,
    /// The number of the database. Default 0.
    pub database: u32,
    /// The prefix of every key and channel. Default `atomix:`.
    pub key_prefix: String,
    /// Whether to speak TLS.
    pub tls: bool,
    /// The certificate authorities of the server, as PEM. Default: those that the machine trusts.
    pub tls_ca_file: Option<PathBuf>,
    /// Our own certificate, as PEM.
    pub tls_cert_file: Option<PathBuf>,
    /// The key of our own certificate, as PEM.
    pub tls_key_file: Option<PathBuf>,
    /// The name that the certificate of the server must have. Default: the host of the address.
    pub tls_server_name: Option<String>,
    /// Timeout of connecting. Default 5 s, also for zero.
    #[serde(deserialize_with = "atomix_store::deserialize_duration")]
    pub connect_timeout: Duration,
    /// Timeout of a call. Default 3 s, also for zero.
    #[serde(deserialize_with = "atomix_store::deserialize_duration")]
    pub response_timeout: Duration,
    /// Maximum of connections for calls: one for all, and one for each thread that serves clients while there
    /// are enough. Default 16, also for zero; more count as 16.
    pub connections: usize,
    /// Number of replicas that must have a commit before it is answered. Default 0.
    pub wait_replicas: u32,
    /// Timeout of waiting for them. Default 1 s.
    #[serde(deserialize_with = "atomix_store::deserialize_duration")]
    pub wait_timeout: Duration,
    /// Commits per keyspace that a watch may lag behind; Redis keeps up to twice as many. Default 4,096; at least 1.
    pub history_commits_max: usize,
    /// Bytes of those commits, at most. Default 4 MiB; at least 1,024.
    pub history_bytes_max: usize,
    /// Bytes of the histories of all keyspaces in this runtime. Beyond, each keeps what its watches have not seen yet, and its
    /// last few commits. Default 64 MiB.
    pub histories_bytes_max: usize,
    /// The persistence of Redis according to the operator, used if Redis does not report it.
    pub persistence: Option<Persistence>,
    /// Whether to use a Redis that may evict what it keeps.
    pub allow_eviction: bool,
}

/// The persistence of Redis. The names are those of its own documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Persistence {
    /// Append-only file, synced before every answer.
    Always,
    /// Append-only file, synced every second.
    Everysec,
    /// Snapshots now and then, or an append-only file that is never synced.
    Snapshots,
    /// Nothing.
    None,
}

/// Other names of the fields, all lower case and without hyphens: first the names of go-redis, which the
/// original's driver took.
const NAMES: &[(&str, &str)] = &[
    ("addr", "address"),
    ("addrs", "addresses"),
    ("mastername", "sentinel-master"),
    ("db", "database"),
    ("dialtimeout", "connect-timeout"),
    ("readtimeout", "response-timeout"),
    ("poolsize", "connections"),
];

/// Fields of go-redis that are accepted without effect.
const WITHOUT_EFFECT: &[&str] = &[
    "writetimeout",
    "maxretries",
    "minretrybackoff",
    "maxretrybackoff",
    "minidleconns",
    "maxidleconns",
    "maxconnage",
    "connmaxlifetime",
    "connmaxidletime",
    "pooltimeout",
    "poolfifo",
    "idletimeout",
    "idlecheckfrequency",
    "contexttimeoutenabled",
];

/// Our own names.
const FIELDS: &[&str] = &[
    "address",
    "addresses",
    "network",
    "sentinel-master",
    "cluster",
    "username",
    "password",
    "sentinel-username",
    "sentinel-password",
    "database",
    "key-prefix",
    "tls",
    "tls-ca-file",
    "tls-cert-file",
    "tls-key-file",
    "tls-server-name",
    "connect-timeout",
    "response-timeout",
    "connections",
    "wait-replicas",
    "wait-timeout",
    "history-commits-max",
    "history-bytes-max",
    "histories-bytes-max",
    "persistence",
    "allow-eviction",
];

const CONNECTIONS_MAX: usize = 16;

// === impl Settings ===

impl Settings {
    /// Returns the files that the certificates are in.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        [&self.tls_ca_file, &self.tls_cert_file, &self.tls_key_file].into_iter().flatten().cloned().collect()
    }

    /// Reads and checks a configuration. An error names the field.
    pub fn read(config: &JsonObject) -> Result<Self, Error> {
        let mut settings: Self = parse_config(&rename_fields(config, FIELDS, NAMES, WITHOUT_EFFECT)?)?;
        settings.connections = settings.connections.min(CONNECTIONS_MAX);
        // In the original zero is the default, too.
        let default = Self::default();
        if settings.connections == 0 {
            settings.connections = default.connections;
        }
        if settings.connect_timeout.is_zero() {
            settings.connect_timeout = default.connect_timeout;
        }
        if settings.response_timeout.is_zero() {
            settings.response_timeout = default.response_timeout;
        }
        // And so is an empty text.
        for text in [&mut settings.address, &mut settings.network, &mut settings.username] {
            *text = text.take().filter(|text| !text.is_empty());
        }
        settings.password = settings.password.filter(|password| !password.is_empty());
        settings.check()?;
        Ok(settings)
    }

    /// Returns whether the value of a field, by its folded path, may be shown: all but secrets.
    pub(crate) fn shows(field: &str) -> bool {
        let known = || {
            let ours = FIELDS.iter().any(|ours| fold(ours) == field);
            ours || NAMES.iter().any(|(other, _)| *other == field) || WITHOUT_EFFECT.contains(&field)
        };
        !matches!(field, "password" | "sentinelpassword") && known()
    }

    fn check(&self) -> Result<(), Error> {
        let at_least = |name, value, least| {
            if value < least { Err(wrong(format!("`{name}` must be at least {least}"))) } else { Ok(()) }
        };
        at_least("history-commits-max", self.history_commits_max, 1)?;
        at_least("history-bytes-max", self.history_bytes_max, 1024)?;
        if self.wait_replicas > 0 && self.wait_timeout < Duration::from_millis(1) {
            // For Redis zero means without end.
            return Err(wrong("`wait-timeout` must be at least 1 ms".to_owned()));
        }
        if self.key_prefix.contains(['{', '}']) {
            return Err(wrong("`key-prefix` must not contain braces: they mark the hash slot".to_owned()));
        }
        if self.cluster && self.sentinel_master.is_some() {
            return Err(wrong("`cluster` and `sentinel-master` exclude each other".to_owned()));
        }
        if self.cluster && self.database != 0 {
            return Err(wrong("`database` must be 0: a cluster has no other".to_owned()));
        }
        if !self.cluster && self.sentinel_master.is_none() && !self.addresses.is_empty() {
            return Err(wrong(
                "`addresses` needs `cluster` or `sentinel-master`: one Redis has one `address`".to_owned(),
            ));
        }
        if !matches!(self.network.as_deref(), None | Some("tcp" | "unix")) {
            return Err(wrong("`network` must be `tcp` or `unix`".to_owned()));
        }
        for address in self.addresses() {
            check_address(&address)?;
        }
        if self.tls_cert_file.is_some() != self.tls_key_file.is_some() {
            return Err(wrong("`tls-cert-file` and `tls-key-file` need each other".to_owned()));
        }
        Ok(())
    }

    /// All addresses, at least one.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let all: Vec<String> = self.address.iter().chain(&self.addresses).cloned().collect();
        if !all.is_empty() {
            return all;
        }
        let port = if self.sentinel_master.is_some() { 26379 } else { 6379 };
        vec![format!("127.0.0.1:{port}")]
    }
}

/// Refuses what is neither `host:port` nor a path. Credentials are not repeated.
fn check_address(address: &str) -> Result<(), Error> {
    let is_path = address.starts_with(['/', '.']) && !address.contains("://");
    if is_path {
        return Ok(());
    }
    if let Some((_, host)) = address.rsplit_once('@') {
        return Err(wrong(format!(
            "`address` takes no credentials, give them as `username` and `password`: host=`{}`",
            printable(host)
        )));
    }
    let is_url = address.contains("://");
    if is_url {
        return Err(wrong(format!(
            "`address` is no URL, write `host:port` and set `tls` and `database`: address=`{}`",
            printable(address)
        )));
    }
    let has_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if !has_port && !address.contains('/') {
        let address = printable(address);
        return Err(wrong(format!("`address` is neither `host:port` nor a path: address=`{address}`")));
    }
    Ok(())
}

fn wrong(message: impl fmt::Display) -> Error {
    Error::config(format!("store configuration is wrong: {message}"))
}

impl Default for Settings {
    fn default() -> Self {
        let retention = atomix_store::Retention::default();
        Self {
            address: None,
            addresses: Vec::new(),
            network: None,
            sentinel_master: None,
            cluster: false,
            username: None,
            password: None,
            sentinel_username: None,
            sentinel_password: None,
            database: 0,
            key_prefix: "atomix:".to_owned(),
            tls: false,
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            tls_server_name: None,
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(3),
            connections: CONNECTIONS_MAX,
            wait_replicas: 0,
            wait_timeout: Duration::from_secs(1),
            history_commits_max: retention.commits_max,
            history_bytes_max: retention.bytes_max,
            histories_bytes_max: HistoryBudget::BYTES_MAX,
            persistence: None,
            allow_eviction: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atomix_store::ErrorKind;

    fn read(config: serde_json::Value) -> Result<Settings, Error> {
        let serde_json::Value::Object(config) = config else { panic!("it is no object") };
        Settings::read(&config)
    }

    fn refusal(config: serde_json::Value) -> String {
        let error = read(config).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        error.to_string()
    }

    #[test]
    fn an_empty_configuration_is_the_default() {
        let settings = read(serde_json::json!({})).unwrap();
        assert_eq!(settings, Settings::default());
        assert_eq!(settings.addresses(), ["127.0.0.1:6379"]);
    }

    #[test]
    fn the_names_of_the_original_are_understood() {
        let settings = read(serde_json::json!({
            "Network": "tcp", "Addr": "redis:6380", "Username": "u", "Password": "p", "DB": 3,
            "DialTimeout": 2_000_000_000, "ReadTimeout": "1m1.5s", "WriteTimeout": 1, "PoolSize": 100,
            "MaxRetries": 3, "MinIdleConns": 1, "TLSConfig": null,
        }))
        .unwrap();
        assert_eq!(settings.addresses(), ["redis:6380"]);
        assert_eq!((settings.database, settings.connections), (3, 16));
        assert_eq!(settings.connect_timeout, Duration::from_secs(2));
        assert_eq!(settings.response_timeout, Duration::from_millis(61_500));
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut config = serde_json::json!({
            "Addr": "redis:6380", "Username": "u", "Password": "hunter2", "sentinel_password": "hunter2", "DB": 3,
            "PoolSize": 4, "MaxRetries": 3, "tls-key-file": "/key.pem", "tls-cert-file": "/cert.pem",
        });
        let settings = read(config.clone()).unwrap();
        assert!(!format!("{settings:?}").contains("hunter2"), "{settings:?}");
        let shown = atomix_store::redact(config.as_object().unwrap(), &Settings::shows);
        for secret in ["Password", "sentinel_password"] {
            config[secret] = serde_json::json!(atomix_store::HIDDEN);
        }
        assert_eq!(serde_json::Value::Object(shown), config);
        for address in ["redis://u:hunter2@a:1", "u:hunter2@a:1", "u:hunter/2@a:1", "hunter2@a:1"] {
            let error = refusal(serde_json::json!({"address": address}));
            assert!(error.contains("`username`") && error.ends_with("host=`a:1`"), "{error}");
        }
    }

    /// `redis.Options` of Go has functions and cannot be written as JSON by Go; what is null or zero there is the default.
    #[test]
    fn null_and_zero_are_the_default() {
        let settings = read(serde_json::json!({
            "Network": null, "Addr": "127.0.0.1:6379", "Dialer": null, "OnConnect": null, "Username": null,
            "CredentialsProvider": null, "Password": null, "DB": 0, "MaxRetries": 0, "MinRetryBackoff": 0,
            "MaxRetryBackoff": 0, "DialTimeout": 0, "ReadTimeout": 0, "WriteTimeout": 0, "PoolFIFO": false,
            "PoolSize": 0, "MinIdleConns": 0, "MaxConnAge": 0, "PoolTimeout": 0, "IdleTimeout": 0,
            "IdleCheckFrequency": 0, "TLSConfig": null, "Limiter": null,
        }));
        let expected = Settings { address: Some("127.0.0.1:6379".to_owned()), ..Settings::default() };
        assert_eq!(settings.unwrap(), expected);
        let empty =
            read(serde_json::json!({"Network": "", "Addr": "", "Username": "", "Password": ""})).unwrap();
        assert_eq!(empty, Settings::default());
    }

    #[test]
    fn every_field_has_a_name_that_is_understood() {
        for field in FIELDS {
            let error = refusal(serde_json::json!({ *field: { "no": "such value" } }));
            assert!(error.contains(&format!("`{field}`: ")), "{field}: {error}");
        }
    }

    #[test]
    fn a_wrong_configuration_is_refused_by_name() {
        for (config, name) in [
            (serde_json::json!({"Adress": "x:1"}), "Adress"),
            (serde_json::json!({"address": "x"}), "address"),
            (serde_json::json!({"address": "redis://x:1"}), "address"),
            (serde_json::json!({"address": "x:1", "Addr": "y:1"}), "address"),
            (serde_json::json!({"addresses": ["x:1"]}), "addresses"),
            (serde_json::json!({"cluster": true, "DB": 1}), "database"),
            (serde_json::json!({"cluster": true, "MasterName": "m"}), "sentinel-master"),
            (serde_json::json!({"key-prefix": "a{b"}), "key-prefix"),
            (serde_json::json!({"history-commits-max": 0}), "history-commits-max"),
            (serde_json::json!({"wait-replicas": 1, "wait-timeout": 0}), "wait-timeout"),
            (serde_json::json!({"tls-cert-file": "x"}), "tls-key-file"),
            (serde_json::json!({"Network": "udp"}), "network"),
        ] {
            let error = refusal(config);
            assert!(error.contains(&format!("`{name}`")), "{name}: {error}");
        }
    }
}
