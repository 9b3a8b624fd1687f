// SPDX-License-Identifier: Apache-2.0
//! Free objects in configurations.

/// A JSON object as an operator wrote it, such as the configuration of a store, which only its reader understands.
pub type JsonObject = serde_json::Map<String, serde_json::Value>;
