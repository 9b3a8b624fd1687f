// SPDX-License-Identifier: Apache-2.0
//! Opens a primitive by its kind.

use crate::error::Error;
use crate::kind::{Kind, primitives};
use crate::kit::backing::Backing;
use crate::primitive::{Primitive, PrimitiveConfig, TypedPrimitive};

macro_rules! open {
    ($($module:ident::$primitive:ident = $name:literal, $type_name:literal, $residue:ident;)+) => {
        /// Opens the primitive of this kind whose content is in `backing`.
        pub async fn open(
            kind: Kind,
            backing: Backing,
            config: PrimitiveConfig,
        ) -> Result<Box<dyn Primitive>, Error> {
            Ok(match kind {
                $(Kind::$primitive => {
                    Box::new(crate::$module::$primitive::open_configured(backing, config).await?)
                })+
            })
        }
    };
}

primitives!(open);
