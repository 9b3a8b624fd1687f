// SPDX-License-Identifier: Apache-2.0
//! Which store a primitive lives in: `contract/runtime.md` sections 5 and 6.

use atomix_config::{JsonObject, LaterRoute, Rule, SeedRoute, StoreId};
use atomix_primitives::{Error, Kind, Reason};

use crate::primitive_config::parse_primitive_config;

/// All routes of a runtime, in one of the two styles.
#[derive(Debug, Clone, PartialEq)]
pub enum Routes {
    /// The first route whose tags the primitive has.
    Seed(Vec<SeedRoute>),
    /// Rules are narrowed down by name, then tags, then type.
    Later(Vec<LaterRoute>),
}

/// The store and the configuration that the routes give to a primitive.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    /// The store.
    pub store_id: StoreId,
    /// The configuration of the primitive in the route.
    pub config: JsonObject,
}

/// The decision that led to a placement.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// The placement; `None` if no route leads anywhere.
    pub placement: Option<Placement>,
    /// The steps of the decision, in order.
    pub steps: Vec<Step>,
}

/// One step of an explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The part that was examined.
    pub name: &'static str,
    /// The candidates that were left.
    pub remaining: Vec<String>,
    /// Why.
    pub note: String,
}

/// A route of the later style, with one of its rules or, bare, without any.
#[derive(Debug, Clone, Copy)]
struct Candidate<'a> {
    route: &'a LaterRoute,
    rule: Option<&'a Rule>,
}

/// The primitive to be placed.
struct Subject<'a> {
    kind: Kind,
    version: &'a str,
    name: &'a str,
    tags: &'a [String],
}

/// Every primitive type has this version in both generations.
const VERSION: &str = "v1";

// === impl Routes ===

impl Routes {
    /// Places the primitive, or returns [`Reason::NoRoute`].
    pub fn place(&self, kind: Kind, name: &str, tags: &[String]) -> Result<Placement, Error> {
        let subject = Subject { kind, version: VERSION, name, tags };
        let placement = match self {
            Self::Seed(routes) => seed(routes, &subject),
            Self::Later(routes) => later(routes, &subject, &mut |_| {}),
        };
        placement.ok_or_else(|| {
            Error::new(
                Reason::NoRoute,
                format!(
                    "no route leads anywhere: ask `atomix route explain`: type=`{}` tags=`{}`",
                    kind.type_name(),
                    tags.join(",")
                ),
            )
        })
    }

    /// Places the primitive and explains how.
    pub fn explain(&self, kind: Kind, version: &str, name: &str, tags: &[String]) -> Explanation {
        let version = if version.is_empty() { VERSION } else { version };
        let subject = Subject { kind, version, name, tags };
        let mut steps = Vec::new();
        let placement = match self {
            Self::Seed(routes) => {
                for route in routes {
                    let missing: Vec<&str> =
                        route.tags.iter().filter(|tag| !tags.contains(tag)).map(String::as_str).collect();
                    let note = match missing.as_slice() {
                        [] => "the primitive has all tags of the route: first match, taken".to_owned(),
                        missing => format!("the primitive lacks tags: {}", missing.join(", ")),
                    };
                    let taken = missing.is_empty();
                    steps.push(Step { name: "tags", remaining: vec![route.store.to_string()], note });
                    if taken {
                        break;
                    }
                }
                seed(routes, &subject)
            }
            Self::Later(routes) => later(routes, &subject, &mut |step| steps.push(step)),
        };
        Explanation { placement, steps }
    }

    /// Returns everything that is wrong with the routes, each with the key of its place.
    pub fn mistakes(&self) -> Vec<(String, Error)> {
        let mut mistakes = Vec::new();
        let mut note = |key: String, checked: Result<(), Error>| {
            mistakes.extend(checked.err().map(|error| (key, error)));
        };
        match self {
            Self::Seed(routes) => {
                for (at, route) in routes.iter().enumerate() {
                    for (index, service) in route.services.iter().enumerate() {
                        let config = parse_primitive_config(&service.config).map(drop);
                        note(format!("routes[{at}].services[{index}].config"), config);
                    }
                }
            }
            Self::Later(routes) => {
                for (at, route) in routes.iter().enumerate() {
                    for (index, rule) in route.rules.iter().enumerate() {
                        let kind = type_name(rule);
                        let known = if kind.is_empty() { Ok(()) } else { kind_named(kind).map(drop) };
                        note(format!("routes[{at}].rules[{index}].type.name"), known);
                        let config = parse_primitive_config(&rule.config).map(drop);
                        note(format!("routes[{at}].rules[{index}].config"), config);
                    }
                }
            }
        }
        mistakes
    }

    /// Writes the rules of each route as a line each; a route of the later style without rules takes everything.
    pub fn rules(&self) -> Vec<Vec<String>> {
        let Self::Later(routes) = self else { return Vec::new() };
        let lines = |route: &LaterRoute| match route.rules.as_slice() {
            [] => vec![rule_text(None)],
            rules => rules.iter().map(|rule| rule_text(Some(rule))).collect(),
        };
        routes.iter().map(lines).collect()
    }

    /// Refuses more routes, or more rules or services in all of them, than `max`.
    pub(crate) fn check_size(&self, max: usize) -> Result<(), Error> {
        let (routes, parts) = match self {
            Self::Seed(routes) => (routes.len(), routes.iter().map(|route| route.services.len()).sum()),
            Self::Later(routes) => (routes.len(), routes.iter().map(|route| route.rules.len()).sum()),
        };
        if routes.max(parts) <= max {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "too many routes, or rules and services in them: program fewer or raise `limits.routes-max`: \
             routes=`{routes}` rules-and-services=`{parts}` routes-max=`{max}`"
        )))
    }

    /// Returns whether there is no route at all.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Seed(routes) => routes.is_empty(),
            Self::Later(routes) => routes.is_empty(),
        }
    }
}

/// Finds the kind that routes call by this name, such as `Map`.
pub fn kind_named(name: &str) -> Result<Kind, Error> {
    let unknown = || {
        let kinds = Kind::ALL.map(Kind::type_name).join(", ");
        Error::invalid(format!("no such type: type=`{name}` types=`{kinds}`"))
    };
    Kind::find(name).ok_or_else(unknown)
}

fn seed(routes: &[SeedRoute], subject: &Subject<'_>) -> Option<Placement> {
    let route = routes.iter().find(|route| route.tags.iter().all(|tag| subject.tags.contains(tag)))?;
    let service = route.services.iter().find(|service| names_service(&service.name, subject.kind));
    let config = service.map(|service| service.config.clone()).unwrap_or_default();
    Some(Placement { store_id: route.store.clone(), config })
}

/// Service names are accepted with `runtime` (as the documents have them) and without (as the seed's binary had them).
fn names_service(name: &str, kind: Kind) -> bool {
    let (package, service) = (kind.name(), kind.type_name());
    name == format!("atomix.runtime.{package}.{VERSION}.{service}")
        || name == format!("atomix.{package}.{VERSION}.{service}")
}

fn later(routes: &[LaterRoute], subject: &Subject<'_>, tell: &mut dyn FnMut(Step)) -> Option<Placement> {
    let mut candidates: Vec<Candidate<'_>> = Vec::new();
    for route in routes {
        if route.rules.is_empty() {
            candidates.push(Candidate { route, rule: None });
        }
        candidates.extend(route.rules.iter().map(|rule| Candidate { route, rule: Some(rule) }));
    }
    let mut step = |name,
                    candidates: &mut Vec<Candidate<'_>>,
                    hit: &dyn Fn(&Rule) -> bool,
                    open: &dyn Fn(&Rule) -> bool| {
        let hits = candidates.iter().any(|candidate| candidate.rule.is_some_and(hit));
        candidates.retain(|candidate| match candidate.rule {
            None => !hits,
            Some(rule) if hits => hit(rule),
            Some(rule) => open(rule),
        });
        let note = if hits {
            "rules that ask for it drop all that do not"
        } else {
            "no rule asks for it: those that ask for another are dropped"
        };
        tell(Step {
            name,
            remaining: candidates.iter().map(Candidate::to_string).collect(),
            note: note.to_owned(),
        });
    };
    step(
        "name",
        &mut candidates,
        &|rule| rule.names.iter().any(|name| name != "*" && name == subject.name),
        &|rule| rule.names.iter().all(|name| name == "*"),
    );
    step(
        "tags",
        &mut candidates,
        &|rule| !rule.tags.is_empty() && rule.tags.iter().all(|tag| subject.tags.contains(tag)),
        &|rule| rule.tags.is_empty(),
    );
    step("type", &mut candidates, &|rule| has_type(rule, subject), &|rule| type_name(rule).is_empty());
    // The first one, unless a later rule has strictly more tags.
    let mut taken: Option<&Candidate<'_>> = None;
    for candidate in &candidates {
        if taken.is_none_or(|taken| candidate.tags() > taken.tags()) {
            taken = Some(candidate);
        }
    }
    tell(Step {
        name: "choice",
        remaining: taken.iter().map(ToString::to_string).collect(),
        note: match taken {
            Some(_) => "the first one with the most tags is taken".to_owned(),
            None => "nothing is left, and no step is taken back".to_owned(),
        },
    });
    let taken = taken?;
    let config = taken.rule.map(|rule| rule.config.clone()).unwrap_or_default();
    Some(Placement { store_id: taken.route.store.clone(), config })
}

fn type_name(rule: &Rule) -> &str {
    rule.primitive_type.as_ref().map_or("", |of| of.name.as_str())
}

fn has_type(rule: &Rule, subject: &Subject<'_>) -> bool {
    rule.primitive_type.as_ref().is_some_and(|of| {
        of.name == subject.kind.type_name() && (of.version.is_empty() || of.version == subject.version)
    })
}

// === impl Candidate ===

impl Candidate<'_> {
    fn tags(&self) -> usize {
        self.rule.map_or(0, |rule| rule.tags.len())
    }
}

impl std::fmt::Display for Candidate<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.route.store, rule_text(self.rule))
    }
}

fn rule_text(rule: Option<&Rule>) -> String {
    let Some(rule) = rule else { return "everything".to_owned() };
    let mut parts = Vec::new();
    if let Some(of) = &rule.primitive_type {
        let version = if of.version.is_empty() { String::new() } else { format!("/{}", of.version) };
        parts.push(format!("type {}{version}", of.name));
    }
    if !rule.names.is_empty() {
        parts.push(format!("names {}", rule.names.join(", ")));
    }
    if !rule.tags.is_empty() {
        parts.push(format!("tags {}", rule.tags.join(", ")));
    }
    if parts.is_empty() { "everything".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests;
