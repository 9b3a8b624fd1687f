// SPDX-License-Identifier: Apache-2.0
//! Finds the method that a request names.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::future::ready;
use std::sync::LazyLock;

use atomix_transport::RequestBody;
use futures::future::BoxFuture;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tower::Service;

use crate::call_class::{CallClass, methods};

type Request = http::Request<RequestBody>;

/// The future of an answer.
pub(crate) type Answering = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

/// The methods of a port, by path.
///
/// A call costs one look-up and one virtual call. The router of tonic, which serves reflection only, allocates several
/// times per call: a fifth of the cost of a call on the memory store.
pub(crate) struct Directory {
    /// By `/package.Service/Method`.
    methods: HashMap<String, Method>,
    services: Vec<(&'static str, Box<dyn Dispatch>)>,
    /// Reflection. Built on first use: it takes as long to build as the rest of the start.
    reflection: Reflection,
    elsewhere: Elsewhere,
}

type Reflection = LazyLock<Routes, Box<dyn FnOnce() -> Routes + Send>>;

/// A method that a request may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Method {
    /// The position of its service; `None` for reflection.
    service: Option<usize>,
    pub(crate) class: CallClass,
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

/// Characters of a path that an error repeats.
const SHOWN_CHARS_MAX: usize = 200;

const REFLECTION: &str = "/grpc.reflection.";

// === impl Directory ===

impl Directory {
    /// Returns the names of the services.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.services.iter().map(|(name, _)| *name).collect()
    }

    /// Adds the reflection services, which `build` makes when they are used first.
    pub(crate) fn reflect(&mut self, build: impl FnOnce() -> Routes + Send + 'static) {
        self.reflection = LazyLock::new(Box::new(build));
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
        for (path, class) in methods(S::NAME) {
            self.methods.insert(path.clone(), Method { service: position, class: *class });
        }
        self.services.push((S::NAME, Box::new(service)));
    }

    /// Names the port that has the services which `other` has and this one has not.
    pub(crate) fn refer_to(&mut self, other: &Self, port: String) {
        self.elsewhere = Elsewhere { names: other.names(), port };
    }

    /// Finds the method of a path.
    pub(crate) fn method(&self, path: &str) -> Option<Method> {
        let method = self.methods.get(path).copied();
        method.or_else(|| {
            path.starts_with(REFLECTION).then_some(Method { service: None, class: CallClass::Streaming })
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

    /// Returns the message for a path that names no method.
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

impl Default for Directory {
    fn default() -> Self {
        Self {
            methods: HashMap::new(),
            services: Vec::new(),
            reflection: LazyLock::new(Box::new(Routes::default)),
            elsewhere: Elsewhere::default(),
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
