// SPDX-License-Identifier: Apache-2.0
//! `atomix.runtime.topic.v1`.

use atomix_primitives::{Kind, Topic};
use atomix_proto::topic;
use tonic::{Request, Response, Status};

use crate::call::{Answers, Services, call, create_and_close, services, stream_call};
use crate::convert::timestamp;
use crate::status::{status, stream_status};

services!(topic::topic_server::TopicServer, topic::topics_server::TopicsServer);

#[tonic::async_trait]
impl topic::topics_server::Topics for Services {
    create_and_close!(Kind::Topic, topic, |_config| topic::Config {});
}

#[tonic::async_trait]
impl topic::topic_server::Topic for Services {
    create_and_close!(Kind::Topic, topic, |_config| topic::Config {});

    async fn publish(
        &self,
        request: Request<topic::PublishRequest>,
    ) -> Result<Response<topic::PublishResponse>, Status> {
        let (topic, request) = call!(self, Topic, request);
        topic.publish(request.payload).await.map_err(status)?;
        Ok(Response::new(topic::PublishResponse {}))
    }

    type SubscribeStream = Answers<topic::SubscribeResponse>;

    /// The response headers are sent when the subscription is registered: there is no message that could say so.
    async fn subscribe(
        &self,
        request: Request<topic::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let (topic, _) = stream_call!(self, Topic, request);
        let messages = topic.subscribe(&topic.caller()).await.map_err(stream_status)?;
        Ok(topic.stream(None, messages, |message| topic::SubscribeResponse {
            offset: message.offset,
            timestamp: Some(timestamp(message.timestamp)),
            payload: message.payload,
        }))
    }
}
