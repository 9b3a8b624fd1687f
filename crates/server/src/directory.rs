// SPDX-License-Identifier: Apache-2.0
//! Finds the service that a request names.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::LazyLock;

use atomix_transport::RequestBody;
use futures::future::BoxFuture;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;
use tower::Service;

type Request = http::Request<RequestBody>;

/// An answer that is being made.
pub(crate) type Answering = BoxFuture<'static, Result<http::Response<Body>, Infallible>>;

/// The services of a port, by name.
///
/// One look-up and one virtual call. The router of tonic, which takes what is not found here, costs several allocations
/// a call: it would be a fifth of what a call on the memory store costs.
pub(crate) struct Directory {
    services: HashMap<&'static str, Box<dyn Dispatch>>,
    /// Made when it is first asked: what tools ask for takes as long to make as everything else at the start.
    others: LazyLock<Routes>,
}

trait Dispatch: Send + Sync {
    fn call(&self, request: Request) -> Answering;
}

// === impl Directory ===

impl Directory {
    /// Makes a directory without services of its own; `others` takes what is not found.
    pub(crate) fn new(others: fn() -> Routes) -> Self {
        Self { services: HashMap::new(), others: LazyLock::new(others) }
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
        self.services.insert(S::NAME, Box::new(service));
    }

    pub(crate) fn call(&self, request: Request) -> Answering {
        // `/package.Service/Method`
        let service = request.uri().path().split('/').nth(1).and_then(|name| self.services.get(name));
        match service {
            Some(service) => service.call(request),
            None => Box::pin(Routes::clone(&self.others).call(request)),
        }
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.services.keys()).finish()
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
