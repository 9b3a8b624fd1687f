// SPDX-License-Identifier: Apache-2.0
//! Configurations of stores: their secrets show nowhere, and files that they name stop nothing.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "processes are awaited in real time")]

use std::fs::File;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use atomix_chaos::{Server, program};
use atomix_servers::etcd::Etcd;
use atomix_servers::redis::Redis;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Part of every secret.
const PLANTED: &str = "hunter2";

/// A certificate that signed itself, for `localhost`.
const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBfTCCASOgAwIBAgIUBBSPM+PsxITmX3RmnuHZJG7x+C4wCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MB4XDTI2MTEzMDIyMjAwNVoXDTM2MTEyNzIy
MjAwNVowFDESMBAGA1UEAwwJbG9jYWxob3N0MFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAEHEWIUkjtnCZkpgq0rF9fXxq23k7dliRuJZlhTNXXSFxc8uLKCri2B1vb
n4AVYvedycMZqrzMSedkVQl4VpzPuaNTMFEwHQYDVR0OBBYEFJd3M/2pPrmvpcPN
RCv9f0na5nB/MB8GA1UdIwQYMBaAFJd3M/2pPrmvpcPNRCv9f0na5nB/MA8GA1Ud
EwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIgeGTTn1+Ll/nqSqvDQnI1pgGk
Nq4NJpKf7YOvzrcEPzYCIQD6TdiZwq6Qr3VD1r3+M6lC9kNwuIGkGrVoEd9o97KS
CQ==
-----END CERTIFICATE-----
";

const WAIT_TIMEOUT: Duration = Duration::from_mins(1);

fn all_of(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs `atomix store list` until every one of `stores` is as it should be.
fn until_listed(server: &Server, stores: &[(&str, &str)]) -> String {
    let began = Instant::now();
    loop {
        let listed = all_of(&server.run(&["store", "list"]));
        let is_so = |(store, state): &(&str, &str)| {
            listed.lines().any(|line| line.contains(store) && line.contains(state))
        };
        if stores.iter().all(is_so) {
            return listed;
        }
        assert!(began.elapsed() < WAIT_TIMEOUT, "{stores:?}\n{listed}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::too_many_lines, reason = "one list of planted secrets, searched for in one list of outputs")]
async fn secrets_of_stores_show_in_no_output() {
    let folder = tempfile::tempdir().unwrap();
    let redis = Redis::start(&["--requirepass", "hunter2-redis"]).await;
    let etcd = Etcd::start(&[]).await;
    let store = |name: &str, driver: &str, config: Value| json!({"name": name, "driver": {"name": driver}, "config": config});
    let unreachable = "127.0.0.1:1";
    let key = "-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----";
    let certificate = folder.path().join("certificate.pem");
    std::fs::write(&certificate, CERTIFICATE).unwrap();
    let tls = |key: &str| json!({"ca": certificate, "cert": certificate, "key": key});
    let stores = json!([
        store("memory", "memory", json!({})),
        store("works-redis", "redis", json!({"address": redis.address(), "password": "hunter2-redis"})),
        store("refused-redis", "redis", json!({"Addr": redis.address(), "Password": "hunter2-wrong"})),
        store(
            "away-redis",
            "redis",
            json!({"address": unreachable, "sentinel-master": "m",
            "sentinel-username": "s", "sentinel-password": "hunter2-sentinel"})
        ),
        store(
            "works-etcd",
            "etcd",
            json!({"endpoints": [etcd.endpoint()], "username": "u",
            "password": "hunter2-etcd"})
        ),
        store(
            "away-etcd",
            "etcd",
            json!({"endpoints": [unreachable], "username": "u", "Password": "hunter2-away"})
        ),
    ]);
    // These are looked at when they are connected; at the start they would end it.
    let keys = [("key-etcd", tls(key)), ("path-etcd", tls("MC4CAQAwhunter2"))];
    let set = format!("stores={stores}");
    let mut outputs = Vec::new();
    let serve = |arguments: &[&str]| {
        let output = Command::new(program()).arg("serve").args(arguments).output().unwrap();
        (output.status.success(), all_of(&output))
    };
    let (printed_well, printed) = serve(&["--print-config", "--set", &set]);
    assert!(printed_well && printed.matches("(hidden)").count() == 5, "{printed}");
    outputs.push(printed);
    let yaml = folder.path().join("atomix.yaml");
    let with_keys =
        keys.iter().map(|(name, tls)| store(name, "etcd", json!({"endpoints": [unreachable], "tls": tls})));
    let with_keys: Vec<Value> = stores.as_array().unwrap().iter().cloned().chain(with_keys).collect();
    std::fs::write(&yaml, format!("stores: {}", Value::from(with_keys))).unwrap();
    let (printed_well, printed) = serve(&["--print-config", "--config", yaml.to_str().unwrap()]);
    assert!(printed_well);
    outputs.push(printed);

    let mistakes = [
        ("etcd", json!({"endpoints": ["https://u:hunter2@a:1"]})),
        ("etcd", json!({"endpoints": "https://u:hunter2@a:1"})),
        ("etcd", json!({"endpoints": ["a:1"], "username": "u", "password": {"hunter2": "hunter2"}})),
        ("etcd", json!({"endpoints": ["a:1"], "password": "hunter2"})),
        ("etcd", json!({"endpoints": ["a:1"], "tls": "hunter2"})),
        ("etcd", json!({"endpoints": ["a:1"], "pasword": "hunter2"})),
        ("etcd", json!({"endpoints": ["a:1"], "tls": {"ca": "x", "key": ["hunter2"]}})),
        ("redis", json!({"address": "redis://u:hunter2@a:1/0"})),
        ("redis", json!({"address": "u:hunter2@a:1"})),
        ("redis", json!({"Addr": "a:1", "Password": ["hunter2"]})),
        ("redis", json!({"Addr": "a:1", "Pasword": "hunter2"})),
        ("memory", json!({"password": "hunter2"})),
        ("disk", json!({"dir": ["hunter2"]})),
        ("raft", json!({"password": "hunter2"})),
    ];
    for (driver, config) in &mistakes {
        let set = format!("stores={}", json!([store("bad", driver, config.clone())]));
        let (is_valid, output) = serve(&["--check-config", "--set", &set]);
        assert!(!is_valid, "{output}");
        outputs.push(output);
    }
    // A text that is no JSON any more, with the secret in the line in question.
    for text in [r#"stores=[{"password": "hunter2]"#, "stores=password: hunter2 hunter2: x", "stores=hunter2"]
    {
        let (is_valid, output) = serve(&["--check-config", "--set", text]);
        assert!(!is_valid, "{output}");
        outputs.push(output);
    }

    let log = folder.path().join("log");
    let mut command = Command::new(program());
    command.args([
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--control",
        "127.0.0.1:0",
        "--set",
        "log.level=trace",
    ]);
    command.args(["--set", &set]).stderr(File::create(&log).unwrap());
    let server = Server::start_command(command);
    for (name, tls) in &keys {
        let config = json!({"endpoints": [unreachable], "tls": tls}).to_string();
        let output = server.run(&["store", "connect", name, "etcd", &config]);
        assert!(output.status.success(), "{output:?}");
        outputs.push(all_of(&output));
    }
    let states = [
        ("works-redis", "ready"),
        ("refused-redis", "password"),
        ("away-redis", "cannot connect"),
        ("works-etcd", "ready"),
        ("away-etcd", "cannot be reached"),
        ("key-etcd", "`tls.key`"),
        ("path-etcd", "`tls.key`"),
    ];
    outputs.push(until_listed(&server, &states));
    for (driver, config) in &mistakes {
        let output = server.run(&["store", "connect", "bad", driver, &config.to_string()]);
        assert!(!output.status.success(), "{output:?}");
        outputs.push(all_of(&output));
        let output = server.run(&[
            "-o",
            "json",
            "store",
            "configure",
            &format!("works-{driver}"),
            &config.to_string(),
        ]);
        assert!(!output.status.success(), "{output:?}");
        outputs.push(all_of(&output));
    }
    let output = server.run(&["store", "connect", "bad", "etcd", r#"{"password": "hunter2"#]);
    assert!(!output.status.success());
    outputs.push(all_of(&output));
    for arguments in [
        &["inspect"][..],
        &["inspect", "stores"],
        &["-o", "json", "inspect", "stores"],
        &["-o", "json", "store", "list"],
        &["-o", "json", "inspect", "drivers"],
        &["route", "list"],
    ] {
        let output = server.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        outputs.push(all_of(&output));
    }
    drop(server);
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(log.contains("TRACE"), "{log}");
    outputs.push(log);
    for output in outputs {
        let at = output.lines().find(|line| line.contains(PLANTED));
        assert_eq!(at, None);
    }
}

#[test]
fn files_that_a_store_names_stop_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut server = Server::start();
    for file in [fifo.to_str().unwrap(), "/dev/zero", "/dev/random"] {
        let redis = json!({"address": "127.0.0.1:1", "tls": true, "tls-ca-file": file}).to_string();
        let etcd = json!({"endpoints": ["127.0.0.1:1"], "tls": {"ca": file}}).to_string();
        for (driver, config) in [("redis", redis), ("etcd", etcd)] {
            let name = format!("{driver}{}", file.replace('/', "-"));
            let output = server.run(&["store", "connect", &name, driver, &config]);
            assert!(output.status.success(), "{output:?}");
            until_listed(&server, &[(&name, "not a regular file")]);
        }
    }
    assert!(server.resident() < 200 << 20);
    let id = Pid::from_raw(i32::try_from(server.id()).unwrap()).unwrap();
    kill_process(id, Signal::TERM).unwrap();
    assert_eq!(server.wait(WAIT_TIMEOUT), Some(0));
}
