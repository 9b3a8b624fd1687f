// SPDX-License-Identifier: Apache-2.0
//! The routes in force.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use atomix_primitives::{Error, Kind, Reason};

use crate::routes::{Placement, Routes};

/// Holds the routes in force, and replaces them while calls run.
#[derive(Debug)]
pub(crate) struct Router {
    routes: ArcSwapOption<Routes>,
    /// Routes, and rules or services in all of them together.
    max: usize,
}

// === impl Router ===

impl Router {
    pub(crate) fn new(max: usize) -> Self {
        Self { routes: ArcSwapOption::empty(), max }
    }

    /// Checks `routes` and puts them in force. An empty set removes all routes.
    pub(crate) fn program(&self, routes: Routes) -> Result<(), Error> {
        if let Some((_, error)) = routes.mistakes().into_iter().next() {
            return Err(error);
        }
        routes.check_size(self.max)?;
        let routes = (!routes.is_empty()).then(|| Arc::new(routes));
        if self.routes.load().as_deref() != routes.as_deref() {
            self.routes.store(routes);
        }
        Ok(())
    }

    /// Returns the routes in force, if there are any.
    pub(crate) fn load(&self) -> Option<Arc<Routes>> {
        self.routes.load_full()
    }

    /// Returns the routes in force, or [`Reason::NotProgrammed`].
    pub(crate) fn require(&self) -> Result<Arc<Routes>, Error> {
        self.load().ok_or_else(|| {
            Error::new(
                Reason::NotProgrammed,
                "no routes are set: call Program, or give routes in the configuration file",
            )
        })
    }

    /// Returns the store and the configuration of a primitive.
    pub(crate) fn place(&self, kind: Kind, name: &str, tags: &[String]) -> Result<Placement, Error> {
        self.require()?.place(kind, name, tags)
    }
}
