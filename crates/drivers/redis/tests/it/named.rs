// SPDX-License-Identifier: Apache-2.0
//! Requests with a name, and how they are forgotten.

use atomix_store::{ErrorKind, Keyspace, Txn, Write};
use serde_json::json;

use crate::fixture::{Fixture, connect};

fn add(name: &str) -> Txn {
    Txn::new().write(Write::Add { key: "n".into(), delta: 1 }).once(name.to_owned())
}

/// Adds a name to the order of names, as old as `age` seconds.
const REMEMBER: &str = "local at = tonumber(redis.call('TIME')[1]) - tonumber(ARGV[2]) \
    redis.call('LPUSH', KEYS[1], '\\0' .. struct.pack('>I8', at) .. ARGV[1])";

#[tokio::test]
async fn a_named_request_is_forgotten_after_its_time_and_not_before() {
    let fixture = Fixture::start(&[]).await;
    let store = connect(fixture.fresh(json!({ "key-prefix": "named:" }))).await.unwrap();
    let keyspace = Keyspace::new("counter/c");
    let (outcomes, order) = ("named:{counter/c}o", "named:{counter/c}q");
    let ask = |command: &[&str]| fixture.redis.ask(command).trim().to_owned();
    let remembered = |name: &str| ask(&["HEXISTS", outcomes, name]).ends_with('1');
    for name in ["young", "old", "earlier"] {
        store.commit(&keyspace, add(name)).await.unwrap();
    }
    // As if they had come at other times, and the last with an earlier version.
    ask(&["DEL", order]);
    ask(&["LPUSH", order, "earlier"]);
    ask(&["EVAL", REMEMBER, "1", order, "young", "299"]);
    ask(&["EVAL", REMEMBER, "1", order, "old", "301"]);
    store.commit(&keyspace, add("first")).await.unwrap();
    assert!(!remembered("old"));
    for at in 0..5 {
        store.commit(&keyspace, add(&at.to_string())).await.unwrap();
    }
    assert!(remembered("young") && remembered("earlier"));
    let seconds: u64 = ask(&["TTL", outcomes]).trim_start_matches("(integer) ").parse().unwrap();
    assert!((301..=600).contains(&seconds), "all of them go when no more come: {seconds}");
}

#[tokio::test]
async fn named_requests_beyond_the_bound_are_refused_and_none_is_forgotten() {
    let fixture = Fixture::start(&[]).await;
    let store = connect(fixture.fresh(json!({ "key-prefix": "many:" }))).await.unwrap();
    let keyspace = Keyspace::new("counter/c");
    let first = store.commit(&keyspace, add("first")).await.unwrap();
    let max = store.profile().limits.once_max;
    let fill = "local at = redis.call('TIME')[1] for n = 2, ARGV[1] do \
        redis.call('RPUSH', KEYS[1], '\\0' .. struct.pack('>I8', at) .. n) end";
    fixture.redis.ask(&["EVAL", fill, "1", "many:{counter/c}q", &max.to_string()]);
    let error = store.commit(&keyspace, add("another")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
    assert_eq!(store.commit(&keyspace, add("first")).await.unwrap(), first);
    let plain = Txn::new().write(Write::Add { key: "n".into(), delta: 1 });
    let outcome = store.commit(&keyspace, plain).await.unwrap();
    assert_eq!(
        outcome.writes[0],
        atomix_store::Written::Added { value: 2 },
        "the refused one was not applied"
    );
}
