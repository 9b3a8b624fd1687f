// SPDX-License-Identifier: Apache-2.0

use atomix_proto::topic::{PublishRequest, SubscribeRequest};

use crate::served::{Served, id, next, opened};

pub(crate) async fn call(served: &Served) {
    let mut topic = opened!(served, topic, topic_client::TopicClient, topics_client::TopicsClient);
    let mut messages = topic.subscribe(SubscribeRequest { id: id("p") }).await.unwrap().into_inner();
    let mut offset = None;
    for payload in ["first", "second"] {
        topic.publish(PublishRequest { id: id("p"), payload: payload.into() }).await.unwrap();
        let message = next(&mut messages).await;
        assert_eq!(message.payload, payload);
        assert_eq!(message.offset, offset.map_or(message.offset, |before: u64| before + 1));
        assert!(message.timestamp.is_some());
        offset = Some(message.offset);
    }
}
