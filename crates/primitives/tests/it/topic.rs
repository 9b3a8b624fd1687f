// SPDX-License-Identifier: Apache-2.0

use std::sync::Arc;
use std::time::Duration;

use atomix_env::{Env, WallTime};
use atomix_primitives::topic::Message;
use atomix_primitives::{Kind, Limits, Reason, Topic};
use bytes::Bytes;
use futures::StreamExt;

use crate::ground::{Ground, all, caller, next, reason, silent, soon, take};
use crate::stores::{forgetful_store, needs};

fn open() -> Topic {
    Topic::open(Ground::real().backing(Kind::Topic))
}

#[tokio::test]
async fn a_subscriber_sees_what_is_published_after_it_came() {
    let topic = open();
    topic.publish("before".into()).await.unwrap();
    let mut messages = topic.subscribe(&caller(1)).await.unwrap();
    topic.publish("one".into()).await.unwrap();
    topic.publish("two".into()).await.unwrap();
    let seen = take(&mut messages, 2).await;
    assert_eq!(seen.iter().map(|message| &message.payload[..]).collect::<Vec<_>>(), [b"one", b"two"]);
    silent(&mut messages).await;
}

#[tokio::test]
async fn offsets_begin_at_one_and_have_no_gaps() {
    needs!(Dense);
    let topic = open();
    let mut messages = topic.subscribe(&caller(1)).await.unwrap();
    for _ in 0..100 {
        topic.publish(Bytes::new()).await.unwrap();
    }
    let offsets: Vec<u64> = take(&mut messages, 100).await.iter().map(|message| message.offset).collect();
    assert_eq!(offsets, (1..=100).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_message_carries_the_time_of_its_publication() {
    needs!(Dense);
    let (ground, clock) = Ground::manual();
    let topic = Topic::open(ground.backing(Kind::Topic));
    let mut messages = topic.subscribe(&caller(1)).await.unwrap();
    clock.advance(Duration::from_millis(1234));
    let timestamp = WallTime::from_unix(ground.env.wall().since_unix());
    topic.publish("one".into()).await.unwrap();
    clock.advance(Duration::from_secs(10));
    let message = next(&mut messages).await;
    assert_eq!(message, Message { offset: 1, timestamp, payload: "one".into() });
}

#[tokio::test]
async fn equal_and_empty_payloads_are_messages_of_their_own() {
    let (ground, _) = Ground::manual();
    let topic = Topic::open(ground.backing(Kind::Topic));
    let mut messages = topic.subscribe(&caller(1)).await.unwrap();
    for payload in ["", "", "same", "same"] {
        topic.publish(payload.into()).await.unwrap();
    }
    let payloads: Vec<Bytes> =
        take(&mut messages, 4).await.into_iter().map(|message| message.payload).collect();
    assert_eq!(payloads, ["", "", "same", "same"]);
}

#[tokio::test]
async fn a_payload_beyond_the_limit_is_refused() {
    let ground = Ground::real().limited(Limits { value_bytes_max: 4, ..Limits::default() });
    let topic = Topic::open(ground.backing(Kind::Topic));
    topic.publish("four".into()).await.unwrap();
    assert_eq!(reason(topic.publish("five5".into()).await), Reason::Invalid);
}

#[tokio::test]
async fn a_subscription_ends_when_the_caller_closes_and_others_go_on() {
    needs!(Dense);
    let topic = open();
    let (one, two) = (caller(1), caller(2));
    let ended = topic.subscribe(&one).await.unwrap();
    let mut open = topic.subscribe(&two).await.unwrap();
    one.closed.cancel();
    assert_eq!(all(ended).await, []);
    topic.publish("one".into()).await.unwrap();
    assert_eq!(next(&mut open).await.offset, 1);
}

#[tokio::test]
async fn a_subscriber_that_is_too_slow_is_told_so() {
    needs!(History);
    let topic = Topic::open(Ground::on(forgetful_store(4), Env::real()).backing(Kind::Topic));
    let mut messages = topic.subscribe(&caller(1)).await.unwrap();
    for _ in 0..10 {
        topic.publish(Bytes::new()).await.unwrap();
    }
    assert_eq!(reason(soon(messages.next()).await.unwrap()), Reason::WatchOverrun);
    assert!(soon(messages.next()).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn all_subscribers_see_one_order_and_publishers_their_own() {
    const PUBLISHERS: usize = 16;
    const EACH: usize = 50;
    needs!(Dense);
    let topic = Arc::new(open());
    let mut readers = Vec::new();
    for session in 0..4 {
        let mut messages = topic.subscribe(&caller(session)).await.unwrap();
        readers.push(tokio::spawn(async move { take(&mut messages, PUBLISHERS * EACH).await }));
    }
    let publishers = (0..PUBLISHERS).map(|publisher| {
        let topic = Arc::clone(&topic);
        tokio::spawn(async move {
            for count in 0..EACH {
                topic.publish(format!("{publisher} {count}").into()).await.unwrap();
            }
        })
    });
    for publisher in publishers.collect::<Vec<_>>() {
        publisher.await.unwrap();
    }
    let mut seen = Vec::new();
    for reader in readers {
        seen.push(reader.await.unwrap());
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]), "all see the same messages in the same order");
    let offsets: Vec<u64> = seen[0].iter().map(|message| message.offset).collect();
    assert_eq!(offsets, (1..=(PUBLISHERS * EACH) as u64).collect::<Vec<_>>());
    for publisher in 0..PUBLISHERS {
        let prefix = format!("{publisher} ");
        let own: Vec<String> = seen[0]
            .iter()
            .map(|message| String::from_utf8(message.payload.to_vec()).unwrap())
            .filter(|payload| payload.starts_with(&prefix))
            .collect();
        let expected: Vec<String> = (0..EACH).map(|count| format!("{publisher} {count}")).collect();
        assert_eq!(own, expected);
    }
}
