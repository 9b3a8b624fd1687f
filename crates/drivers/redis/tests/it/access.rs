// SPDX-License-Identifier: Apache-2.0
//! Users, passwords, rights, certificates, sockets.

use std::path::Path;
use std::process::Command;

use atomix_servers::free_port;
use atomix_servers::redis::Redis;
use atomix_store::{Durability, ErrorKind, Keyspace, Txn, WatchFrom, Write};
use serde_json::json;

use crate::fixture::{Fixture, config, connect};

/// The least that a user must be allowed, as `docs.md` has it.
const RIGHTS: &str = "~atomix:* &atomix:* +fcall +fcall_ro +function|load +hget +hmget +hset +hdel +zadd +zrem +zlexcount \
                      +zrangebylex +zrevrangebylex +xadd +xtrim +xrange +rpush +lpop +lrange +llen +expire \
                      +time +del +spublish +ssubscribe +sunsubscribe +ping";

fn put() -> Txn {
    Txn::new().write(Write::Put { key: "k".into(), value: "v".into() })
}

#[tokio::test]
async fn a_user_with_the_rights_of_the_documents_can_do_everything() {
    let documents = include_str!("../../docs.md").split_whitespace().collect::<Vec<_>>().join(" ");
    let rights: Vec<&str> = RIGHTS.split_whitespace().collect();
    assert!(documents.contains(&rights.join(" ")), "the documents have other rights");
    let fixture = Fixture::start(&[]).await;
    fixture.redis.ask(&[&["ACL", "SETUSER", "app", "on", ">secret"], &rights[..]].concat());
    let user = |password: &str| {
        config(json!({ "Addr": fixture.redis.address(), "Username": "app", "Password": password }))
    };
    let error = connect(user("wrong")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let store = connect(user("secret")).await.unwrap();
    // It may not ask about persistence.
    assert_eq!(store.profile().durability, Durability::Unknown);
    let keyspace = Keyspace::new("map/it");
    let watch = store.watch(&keyspace, WatchFrom::Now).await.unwrap();
    store.commit(&keyspace, put()).await.unwrap();
    store.check().await.unwrap();
    drop(watch);
}

#[tokio::test]
async fn a_right_that_is_missing_shows_when_the_store_is_connected() {
    let fixture = Fixture::start(&[]).await;
    for missing in RIGHTS.split_whitespace().filter(|right| right.starts_with('+')) {
        // These serve watches only, and the check of connections.
        if ["+ssubscribe", "+sunsubscribe", "+ping", "+xrange", "+xtrim"].contains(&missing) {
            continue;
        }
        fixture.redis.ask(&["FUNCTION", "FLUSH"]);
        fixture.redis.ask(&["ACL", "DELUSER", "app"]);
        let rights: Vec<&str> = RIGHTS.split_whitespace().filter(|right| *right != missing).collect();
        fixture.redis.ask(&[&["ACL", "SETUSER", "app", "on", ">secret"], &rights[..]].concat());
        let user = json!({ "Addr": fixture.redis.address(), "Username": "app", "Password": "secret" });
        match connect(config(user)).await {
            Ok(_) => assert_eq!(missing, "+lpop", "only needed after many named requests"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Denied, "{missing}: {error}"),
        }
    }
}

#[tokio::test]
async fn a_server_with_a_password_wants_it() {
    let fixture = Fixture::start(&["--requirepass", "secret"]).await;
    let error = connect(fixture.fresh(json!({}))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    connect(fixture.fresh(json!({ "Password": "secret" }))).await.unwrap();
}

#[tokio::test]
async fn a_server_is_reached_through_its_socket() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("redis.sock").display().to_string();
    let _redis = Redis::start(&["--unixsocket", &socket]).await;
    let store = connect(config(json!({ "Network": "unix", "Addr": socket }))).await.unwrap();
    store.commit(&Keyspace::new("map/it"), put()).await.unwrap();
}

/// Makes an authority, and a certificate of the loopback interface that it has signed.
fn certificates(folder: &Path) {
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").unwrap();
    for command in [
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca-key.pem -out ca.pem",
        "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout key.pem -out request.pem",
        "x509 -req -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile names -out cert.pem",
    ] {
        let openssl = Command::new("openssl").args(command.split(' ')).current_dir(folder).output().unwrap();
        assert!(openssl.status.success(), "{}", String::from_utf8_lossy(&openssl.stderr));
    }
}

#[tokio::test]
async fn a_server_is_reached_over_tls_and_only_with_a_certificate_that_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (ca, cert, key, port) = (file("ca.pem"), file("cert.pem"), file("key.pem"), free_port().to_string());
    let _redis = Redis::start(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &ca,
    ])
    .await;
    let address = format!("127.0.0.1:{port}");
    let with = |fields: serde_json::Value| {
        let mut tls = config(json!({ "address": address, "tls": true }));
        tls.extend(config(fields));
        tls
    };
    let trusted = with(json!({ "tls-ca-file": ca, "tls-cert-file": cert, "tls-key-file": key }));
    let store = connect(trusted).await.unwrap();
    let keyspace = Keyspace::new("map/it");
    let watch = store.watch(&keyspace, WatchFrom::Now).await.unwrap();
    store.commit(&keyspace, put()).await.unwrap();
    drop(watch);
    // A certificate of ours is wanted, and theirs is trusted by name.
    for wrong in [
        json!({ "tls-ca-file": ca }),
        json!({ "tls-cert-file": cert, "tls-key-file": key }),
        json!({ "tls-ca-file": ca, "tls-cert-file": cert, "tls-key-file": key, "tls-server-name": "other" }),
    ] {
        let error = connect(with(wrong.clone())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{wrong}: {error}");
    }
    let error = connect(with(json!({ "tls-ca-file": file("no-such-file") }))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
}
