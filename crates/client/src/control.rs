// SPDX-License-Identifier: Apache-2.0
//! Connecting stores and programming routes.

use atomix_proto::runtime as wire;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use wire::runtime_client::RuntimeClient;

use crate::client::Client;
use crate::error::{Access, Error, Kind, Result};
use crate::open::rpc;
use crate::store::{DriverId, StoreId};

/// The calls of the control service. Calls that are given up may be applied.
#[derive(Debug, Clone)]
pub struct Control {
    client: Client,
}

/// Leads primitives to a store.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The store.
    pub store: StoreId,
    /// The rules that select primitives. Empty: all that no rule of another route names.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// Names primitives. What is empty does not matter. Written, the type may also be `type: {name: Map, version: v1}`, as
/// configuration files have it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "RuleText")]
pub struct Rule {
    /// The type, such as `Map`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The version of the type, such as `v1`. Empty: any.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// The names; `*` stands for every name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// The tags that the primitive must have, all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The configuration of the primitives: a JSON object.
    #[serde(skip_serializing_if = "Json::is_null")]
    pub config: Json,
}

/// A rule as it is written.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RuleText {
    kind: String,
    version: String,
    r#type: Option<TypeText>,
    names: Vec<String>,
    tags: Vec<String>,
    config: Json,
}

/// A type as configuration files, and the JSON form of `Program`, write it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TypeText {
    name: String,
    #[serde(default, alias = "apiVersion", alias = "api_version")]
    version: String,
}

// === impl Client ===

impl Client {
    /// Returns the calls that connect stores and program routes.
    pub fn control(&self) -> Control {
        Control { client: self.clone() }
    }
}

impl Control {
    /// Connects a store. Does not wait for it to be reachable.
    ///
    /// `config` is what the driver wants, as a JSON object; null stands for the defaults. Fails with
    /// [`Kind::AlreadyExists`] if the store is connected.
    pub async fn connect(&self, store: impl Into<StoreId>, driver: DriverId, config: &Json) -> Result<()> {
        let request = wire::ConnectRequest {
            store_id: Some(store.into().wire()),
            driver_id: Some(driver.wire()),
            config: text(config)?,
        };
        self.client.control_call(Access::Write, request, rpc!(RuntimeClient.connect)).await?;
        Ok(())
    }

    /// Gives a connected store another configuration. On failure it keeps the one that it has.
    ///
    /// Fails with [`Kind::NotFound`] if the store is not connected.
    pub async fn configure(&self, store: impl Into<StoreId>, config: &Json) -> Result<()> {
        let request = wire::ConfigureRequest { store_id: Some(store.into().wire()), config: text(config)? };
        self.client.control_call(Access::Write, request, rpc!(RuntimeClient.configure)).await?;
        Ok(())
    }

    /// Disconnects a store and drops its primitives from the runtime. What they stored stays.
    ///
    /// Fails with [`Kind::NotFound`] if the store is not connected.
    pub async fn disconnect(&self, store: impl Into<StoreId>) -> Result<()> {
        let request = wire::DisconnectRequest { store_id: Some(store.into().wire()) };
        self.client.control_call(Access::Write, request, rpc!(RuntimeClient.disconnect)).await?;
        Ok(())
    }

    /// Replaces all routes. Primitives that are open stay where they are.
    pub async fn program(&self, routes: impl IntoIterator<Item = Route>) -> Result<()> {
        let routes = routes.into_iter().map(Route::wire).collect::<Result<_>>()?;
        let request = wire::ProgramRequest { routes };
        // The same routes again are no change, so this may be repeated.
        self.client.control_call(Access::Read, request, rpc!(RuntimeClient.program)).await?;
        Ok(())
    }
}

// === impl Route ===

impl Route {
    /// Leads all primitives to a store.
    pub fn all(store: impl Into<StoreId>) -> Self {
        Self { store: store.into(), rules: Vec::new() }
    }

    fn wire(self) -> Result<wire::ProgramRoute> {
        let rules = self.rules.into_iter().map(Rule::wire).collect::<Result<_>>()?;
        Ok(wire::ProgramRoute { store_id: Some(self.store.wire()), rules })
    }
}

impl Rule {
    fn wire(self) -> Result<wire::RoutingRule> {
        let kind = (!self.kind.is_empty())
            .then_some(wire::PrimitiveType { name: self.kind, api_version: self.version });
        Ok(wire::RoutingRule {
            r#type: kind,
            names: self.names,
            tags: self.tags,
            config: text(&self.config)?,
        })
    }
}

impl TryFrom<RuleText> for Rule {
    type Error = &'static str;

    fn try_from(text: RuleText) -> std::result::Result<Self, Self::Error> {
        let RuleText { kind, version, r#type, names, tags, config } = text;
        let (kind, version) = match r#type {
            None => (kind, version),
            Some(of) if kind.is_empty() && version.is_empty() => (of.name, of.version),
            Some(_) => return Err("a rule has `kind` and `version`, or `type`, not both"),
        };
        if kind.is_empty() && !version.is_empty() {
            return Err("a rule with a `version` has a `kind`");
        }
        Ok(Self { kind, version, names, tags, config })
    }
}

/// Writes a configuration as the wire wants it: the text of an object, or nothing.
fn text(config: &Json) -> Result<Bytes> {
    match config {
        Json::Null => Ok(Bytes::new()),
        Json::Object(_) => Ok(Bytes::from(config.to_string())),
        Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Array(_) => {
            Err(Error::new(Kind::Invalid, "configuration is not an object, write `{\"key\": value}`"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_an_object_or_nothing() {
        assert_eq!(text(&Json::Null).unwrap(), Bytes::new());
        assert_eq!(text(&serde_json::json!({"a": 1})).unwrap(), "{\"a\":1}");
        assert_eq!(text(&serde_json::json!([1])).unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn a_route_is_read_from_json() {
        let text = r#"{"store":{"name":"a"},"rules":[{"kind":"Map","names":["*"],"config":{"cache":{}}}]}"#;
        let route: Route = serde_json::from_str(text).unwrap();
        let wire = route.wire().unwrap();
        assert_eq!(wire.rules[0].r#type.as_ref().unwrap().name, "Map");
        assert_eq!(wire.rules[0].config, "{\"cache\":{}}");
        assert!(serde_json::from_str::<Route>(r#"{"store":{"name":"a"},"rule":[]}"#).is_err());
    }

    #[test]
    fn a_rule_names_its_type_in_either_way() {
        let rule = |text| serde_json::from_str::<Rule>(text);
        let kind = rule(r#"{"kind": "Map", "version": "v1"}"#).unwrap();
        assert_eq!(kind, rule(r#"{"type": {"name": "Map", "version": "v1"}}"#).unwrap());
        assert_eq!(kind, rule(r#"{"type": {"name": "Map", "apiVersion": "v1"}}"#).unwrap());
        let written = serde_json::to_string(&kind).unwrap();
        assert_eq!(kind, serde_json::from_str(&written).unwrap());
        assert!(rule(r#"{"kind": "Map", "type": {"name": "Map"}}"#).is_err());
        assert!(rule(r#"{"version": "v1"}"#).is_err());
        assert!(rule(r#"{"knd": "Map"}"#).is_err());
    }
}
