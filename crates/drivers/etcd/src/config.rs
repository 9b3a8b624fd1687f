// SPDX-License-Identifier: Apache-2.0
//! The configuration of a store.

use std::path::PathBuf;
use std::time::Duration;

use atomix_store::{
    Error, HistoryBudget, JsonObject, Retention, Secret, fold, parse_config, printable, rename_fields,
};
use serde::Deserialize;

/// The configuration of an etcd store. The names are those of etcd's own client where it has the setting, and read without
/// regard to case, hyphens and underscores. Null is the default everywhere; so is zero for the times and sizes of a request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Settings {
    /// The members to connect to: `host:port`, `http://host:port` or `https://host:port`. One is used at a time.
    pub endpoints: Vec<String>,
    /// The user for etcd's authentication. Empty: none.
    pub username: String,
    /// The user's password.
    pub password: Secret,
    /// Certificates, as files or inline. Every endpoint is spoken to over TLS if it is set.
    pub tls: Option<Tls>,
    /// The prefix of every key in etcd. Stores with different prefixes share nothing. Default `atomix/`.
    pub prefix: String,
    /// Timeout of an attempt to connect to one member. Default 2 s.
    #[serde(deserialize_with = "atomix_store::deserialize_duration")]
    pub dial_timeout: Duration,
    /// Timeout of a request once it is sent. Default 5 s.
    #[serde(deserialize_with = "atomix_store::deserialize_duration")]
    pub request_timeout: Duration,
    /// Interval of the probes of a connection with requests in flight. etcd ends connections that probe more
    /// often than every 5 s. Default 6 s.
    #[serde(deserialize_with = "atomix_store::deserialize_duration")]
    pub dial_keep_alive_time: Duration,
    /// Timeout of a probe. Default 3 s.
    #[serde(deserialize_with = "atomix_store::deserialize_duration")]
    pub dial_keep_alive_timeout: Duration,
    /// Whether a connection is probed also without requests and watches; etcd must be set up to allow it.
    /// Default no.
    pub permit_without_stream: bool,
    /// Bytes of a request that etcd takes (its `--max-request-bytes`). Default 1.5 MiB; at least 64 KiB.
    pub request_bytes_max: usize,
    /// Bytes of an answer to a read. Larger ones are requested in smaller parts. Default 64 MiB; at least 64
    /// KiB.
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
    /// The time for which a keyspace is still watched without followers. Default 30 s.
    #[serde(deserialize_with = "atomix_store::deserialize_duration")]
    pub watch_linger: Duration,
}

/// Certificates. Each is the path of a PEM file of at most 1 MiB, which is read whenever a connection is made, or PEM text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Tls {
    /// The certificate authority of the members.
    pub ca: String,
    /// The certificate that is shown to the members. Empty: none.
    pub cert: String,
    /// Its key.
    pub key: Secret,
    /// The name that the certificates of the members must have. Empty: the host of the endpoint.
    pub server_name: String,
}

/// Our names.
const FIELDS: &[&str] = &[
    "endpoints",
    "username",
    "password",
    "tls",
    "prefix",
    "dial-timeout",
    "request-timeout",
    "dial-keep-alive-time",
    "dial-keep-alive-timeout",
    "permit-without-stream",
    "request-bytes-max",
    "answer-bytes-max",
    "txn-ops-max",
    "history-commits-max",
    "history-bytes-max",
    "histories-bytes-max",
    "watch-linger",
];

/// Other names of the fields, folded: the names of etcd's own client, `clientv3.Config`, which the original's
/// driver took.
const NAMES: &[(&str, &str)] =
    &[("maxcallsendmsgsize", "request-bytes-max"), ("maxcallrecvmsgsize", "answer-bytes-max")];

/// Fields of etcd's own client that are accepted without effect: the endpoints are those that are given, an old cluster
/// refuses by itself what it cannot do, and a request is never repeated blindly.
const WITHOUT_EFFECT: &[&str] = &[
    "autosyncinterval",
    "rejectoldcluster",
    "maxunaryretries",
    "backoffwaitbetween",
    "backoffjitterfraction",
];

/// Bytes of a request beside its content: the envelope around it in etcd's log.
pub(crate) const ENVELOPE: usize = 4096;

/// The least bytes of a request and of an answer: less carries next to nothing.
const BYTES_MIN: usize = 16 * ENVELOPE;

// === impl Settings ===

impl Settings {
    /// Returns the files that the certificates are in.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let Some(tls) = &self.tls else { return Vec::new() };
        let certificates = [&tls.ca, &tls.cert].into_iter().filter(|pem| !pem.is_empty() && !is_inline(pem));
        // A key without its PEM frame would look like a relative path, and be shown as one.
        let key = Some(tls.key.expose_secret()).filter(|key| key.starts_with(['/', '.']));
        certificates.map(String::as_str).chain(key).map(PathBuf::from).collect()
    }

    /// Reads and checks a configuration. Every error names its field.
    pub fn read(config: &JsonObject) -> Result<Self, Error> {
        let mut settings: Self = parse_config(&rename_fields(config, FIELDS, NAMES, WITHOUT_EFFECT)?)?;
        settings.set_defaults();
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
            Some(tls) if tls.cert.is_empty() != tls.key.is_empty() => {
                return wrong("`tls` needs both `cert` and `key`, or none of them");
            }
            None | Some(_) => {}
        }
        if settings.username.is_empty() && !settings.password.is_empty() {
            return wrong("`password` without `username`");
        }
        if settings.history_commits_max == 0 {
            return wrong("`history-commits-max` must be at least 1");
        }
        if settings.txn_ops_max < 16 {
            return wrong("`txn-ops-max` must be at least 16");
        }
        for (name, bytes) in [
            ("request-bytes-max", settings.request_bytes_max),
            ("answer-bytes-max", settings.answer_bytes_max),
        ] {
            if bytes < BYTES_MIN {
                return wrong(&format!("`{name}` must be at least {BYTES_MIN}, or 0 for the default"));
            }
        }
        Ok(settings)
    }

    /// Returns whether the value of a field, by its folded path, may be shown: all but secrets.
    pub(crate) fn shows(field: &str) -> bool {
        let known = || {
            let ours = FIELDS.iter().any(|ours| fold(ours) == field);
            ours || NAMES.iter().any(|(other, _)| *other == field) || WITHOUT_EFFECT.contains(&field)
        };
        matches!(field, "tls.ca" | "tls.cert" | "tls.servername") || (field != "password" && known())
    }

    /// Zero is the default, as in etcd's own client.
    fn set_defaults(&mut self) {
        let default = Self::default();
        for (time, default) in [
            (&mut self.dial_timeout, default.dial_timeout),
            (&mut self.request_timeout, default.request_timeout),
            (&mut self.dial_keep_alive_time, default.dial_keep_alive_time),
            (&mut self.dial_keep_alive_timeout, default.dial_keep_alive_timeout),
        ] {
            if time.is_zero() {
                *time = default;
            }
        }
        for (size, default) in [
            (&mut self.request_bytes_max, default.request_bytes_max),
            (&mut self.answer_bytes_max, default.answer_bytes_max),
            (&mut self.txn_ops_max, default.txn_ops_max),
        ] {
            if *size == 0 {
                *size = default;
            }
        }
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
            password: Secret::default(),
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
            histories_bytes_max: HistoryBudget::BYTES_MAX,
            watch_linger: Duration::from_secs(30),
        }
    }
}

/// Returns whether `pem` is the text itself and not a path.
pub(crate) fn is_inline(pem: &str) -> bool {
    pem.contains("-----BEGIN")
}

/// Returns host and port of an endpoint. One with credentials is refused, and the message does not repeat them.
pub(crate) fn address(endpoint: &str) -> Result<(String, u16), Error> {
    if let Some((_, host)) = endpoint.rsplit_once('@') {
        return Err(Error::config(format!(
            "store configuration is wrong: `endpoints` takes no credentials, give them as `username` and `password`: host=`{}`",
            printable(host)
        )));
    }
    let wrong = || {
        Error::config(format!(
            "store configuration is wrong: `endpoints` takes host:port, http://host:port or https://host:port: endpoint=`{}`",
            printable(endpoint)
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
            let mut config = json!({"endpoints": ["a:1"], "dial-timeout": "1s"});
            config[key] = value;
            read(config).unwrap_err()
        };
        assert!(read(json!({})).unwrap_err().contains("`endpoints`"));
        assert!(with("endpoints", json!(["nowhere"])).contains("endpoint=`nowhere`"));
        assert!(with("endpoints", json!(["a:port"])).contains("endpoint=`a:port`"));
        assert!(with("no-such-field", json!(1)).contains("no-such-field"));
        assert!(with("dial-timeout", json!("5 parsecs")).contains("5 parsecs"));
        assert!(with("endpoints", json!(["https://a:1"])).contains("`tls`"));
        assert!(with("tls", json!({})).contains("`ca`"));
        assert!(with("tls", json!({"ca": "x", "cert": "y"})).contains("`key`"));
        assert!(with("tls", json!({"ca": "x", "verify": false})).contains("verify"));
        assert!(with("password", json!("p")).contains("`username`"));
        assert!(with("history-commits-max", json!(0)).contains("history-commits-max"));
        assert!(with("txn-ops-max", json!(1)).contains("txn-ops-max"));
        assert!(with("request-bytes-max", json!(1)).contains("request-bytes-max"));
        assert!(with("MaxCallRecvMsgSize", json!(1)).contains("answer-bytes-max"));
        assert!(with("Logger", json!("x")).contains("Logger"));
        assert!(with("DialTimeout", json!(1)).contains("dial-timeout"));
    }

    /// `json.Marshal(clientv3.Config{Endpoints: …})` of client v3.5.6, which the original was built with, and of v3.6.5.
    #[test]
    fn the_configuration_that_go_writes_is_the_default() {
        let plain = read(json!({"endpoints": ["http://127.0.0.1:2379"]})).unwrap();
        for text in [
            include_str!("../tests/fixtures/clientv3-3.5.6.json"),
            include_str!("../tests/fixtures/clientv3-3.6.5.json"),
        ] {
            assert_eq!(read(serde_json::from_str(text).unwrap()).unwrap(), plain);
        }
    }

    #[test]
    fn null_and_zero_are_the_default() {
        let mut config = json!({"endpoints": ["a:1"]});
        let plain = read(config.clone()).unwrap();
        for field in FIELDS.iter().filter(|field| **field != "endpoints") {
            config[*field] = Value::Null;
        }
        assert_eq!(read(config.clone()).unwrap(), plain);
        for field in [
            "dial-timeout",
            "request-timeout",
            "dial-keep-alive-time",
            "dial-keep-alive-timeout",
            "request-bytes-max",
            "answer-bytes-max",
            "txn-ops-max",
        ] {
            config[field] = json!(0);
        }
        assert_eq!(read(config).unwrap(), plain);
    }

    #[test]
    fn every_field_has_a_name_that_is_understood() {
        for field in FIELDS {
            let error = read(json!({ *field: 1.5 })).unwrap_err();
            assert!(error.contains(&format!("`{field}`")), "{field}: {error}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let config = json!({
            "endpoints": ["a:1"],
            "username": "u",
            "password": "hunter2",
            "TLS": {"ca": "ca.pem", "cert": "c.pem", "key": "hunter2", "server-name": "s"},
            "MaxCallRecvMsgSize": 1_000_000,
        });
        let settings = read(config.clone()).unwrap();
        assert!(!format!("{settings:?}").contains("hunter2"), "{settings:?}");
        let shown = atomix_store::redact(config.as_object().unwrap(), &Settings::shows);
        let mut expected = config;
        expected["password"] = json!(atomix_store::HIDDEN);
        expected["TLS"]["key"] = json!(atomix_store::HIDDEN);
        assert_eq!(Value::Object(shown), expected);
        for endpoint in ["https://u:hunter2@a:1", "u:hunter2@a:1", "hunter2@a:1", "http://u:hun@ter2@a:1"] {
            let error = read(json!({"endpoints": [endpoint]})).unwrap_err();
            assert!(error.contains("`username`") && error.ends_with("host=`a:1`"), "{error}");
        }
    }

    #[test]
    fn addresses_are_split() {
        assert_eq!(address("https://[::1]:2379/").unwrap(), ("::1".to_owned(), 2379));
        assert_eq!(address("etcd.example:1").unwrap(), ("etcd.example".to_owned(), 1));
    }
}
