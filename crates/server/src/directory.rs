// SPDX-License-Identifier: Apache-2.0
//! Finds the method that a request names.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::future::ready;
use std::sync::LazyLock;

use atomix_proto::DESCRIPTOR_SET;
use atomix_transport::RequestBody;
use futures::future::BoxFuture;
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tower::Service;

type Request = http::Request<RequestBody>;

/// An answer that is being made.
pub(crate) type Answering = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

/// The methods of a port, by path.
///
/// One look-up and one virtual call. The router of tonic, which takes what is not found here, costs several allocations
/// a call: it would be a fifth of what a call on the memory store costs.
pub(crate) struct Directory {
    /// By `/package.Service/Method`.
    methods: HashMap<String, Method>,
    services: Vec<(&'static str, Box<dyn Dispatch>)>,
    /// Reflection. Made when it is first asked: what tools ask for takes as long to make as everything else at the start.
    reflection: LazyLock<Routes, Box<dyn FnOnce() -> Routes + Send>>,
    elsewhere: Elsewhere,
}

/// A method that a request may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Method {
    /// The position of its service; none of them for reflection.
    service: Option<usize>,
    pub(crate) class: Class,
}

/// How long a call may last by its nature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// It answers at once.
    Answers,
    /// It waits for others.
    Waits,
    /// It streams.
    Streams,
}

/// The services of another port.
#[derive(Debug, Default)]
struct Elsewhere {
    names: Vec<&'static str>,
    /// Its name and its addresses.
    port: String,
}

trait Dispatch: Send + Sync {
    fn call(&self, request: Request) -> Answering;
}

/// The methods of all services that have descriptors, each with whether it streams to the client.
static METHODS: LazyLock<HashMap<String, Vec<(String, bool)>>> = LazyLock::new(|| {
    let sets = [DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET];
    let files = sets.into_iter().flat_map(|set| {
        FileDescriptorSet::decode(set).expect("the descriptor set is our own and whole").file
    });
    let services = files.flat_map(|file| {
        let package = file.package().to_owned();
        file.service.into_iter().map(move |service| {
            let methods = service.method.iter();
            let methods =
                methods.map(|method| (method.name().to_owned(), method.server_streaming())).collect();
            (format!("{package}.{}", service.name()), methods)
        })
    });
    services.collect()
});

/// Characters of a path that an error repeats.
const SHOWN_CHARS_MAX: usize = 200;

const REFLECTION: &str = "/grpc.reflection.";

// === impl Directory ===

impl Directory {
    /// Makes a directory without services; `reflection` takes what names that.
    pub(crate) fn new(reflection: impl FnOnce() -> Routes + Send + 'static) -> Self {
        Self {
            methods: HashMap::new(),
            services: Vec::new(),
            reflection: LazyLock::new(Box::new(reflection)),
            elsewhere: Elsewhere::default(),
        }
    }

    /// Adds a service.
    pub(crate) fn add<S>(&mut self, service: S)
    where
        S: Service<Request, Response = http::Response<Body>, Error = Infallible, Future = Answering>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
    {
        let position = Some(self.services.len());
        for (name, streams) in METHODS.get(S::NAME).into_iter().flatten() {
            let class = match name.as_str() {
                _ if *streams => Class::Streams,
                "Lock" => Class::Waits,
                _ => Class::Answers,
            };
            self.methods.insert(format!("/{}/{name}", S::NAME), Method { service: position, class });
        }
        self.services.push((S::NAME, Box::new(service)));
    }

    /// Names the port that has the services which `other` has and this one has not.
    pub(crate) fn refer_to(&mut self, other: &Self, port: String) {
        let names = other.services.iter().map(|(name, _)| *name).collect();
        self.elsewhere = Elsewhere { names, port };
    }

    /// Finds the method of a path.
    pub(crate) fn method(&self, path: &str) -> Option<Method> {
        let method = self.methods.get(path).copied();
        method.or_else(|| {
            path.starts_with(REFLECTION).then_some(Method { service: None, class: Class::Streams })
        })
    }

    /// Calls a method that was found for the request.
    pub(crate) fn call(&self, method: Option<Method>, request: Request) -> Answering {
        match method {
            Some(Method { service: Some(position), .. }) => self.services[position].1.call(request),
            Some(Method { service: None, .. }) => Box::pin(Routes::clone(&self.reflection).call(request)),
            None => {
                let refusal = Status::unimplemented(self.why_not(request.uri().path()));
                Box::pin(ready(Ok(refusal.into_http())))
            }
        }
    }

    /// Says why there is no such method.
    fn why_not(&self, path: &str) -> String {
        let service = path.split('/').nth(1).unwrap_or_default();
        let cut = if path.chars().nth(SHOWN_CHARS_MAX).is_some() { "…" } else { "" };
        let shown: String = path.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_default).collect();
        if self.services.iter().any(|(name, _)| *name == service) {
            format!(
                "the service has no such method, is the client newer than this server? method=`{shown}{cut}`"
            )
        } else if self.elsewhere.names.contains(&service) {
            format!("the service is on the {}: connect there: service=`{service}`", self.elsewhere.port)
        } else {
            format!("there is no such service, is this the right server? method=`{shown}{cut}`")
        }
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.services.iter().map(|(name, _)| name)).finish()
    }
}

impl<S> Dispatch for S
where
    S: Service<Request, Response = http::Response<Body>, Error = Infallible, Future = Answering>,
    S: Clone + Send + Sync,
{
    fn call(&self, request: Request) -> Answering {
        // A generated service is always ready, and as cheap to clone as an `Arc`.
        Service::call(&mut self.clone(), request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_methods_of_all_services_are_known() {
        let methods = |name: &str| METHODS[name].iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>();
        assert!(methods("atomix.runtime.lock.v1.Lock").contains(&"Lock"));
        assert!(methods("grpc.health.v1.Health").contains(&"Check"));
        let streams = |service: &str, method: &str| METHODS[service].contains(&(method.to_owned(), true));
        assert!(streams("atomix.runtime.map.v1.Map", "Events"));
        assert!(!streams("atomix.runtime.map.v1.Map", "Get"));
    }
}
