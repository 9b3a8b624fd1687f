// SPDX-License-Identifier: Apache-2.0
//! Certificates for connections. No message repeats the content of a file or of a field.

use std::path::Path;
use std::sync::Arc;

use atomix_env::Env;
use atomix_remote::tls::{certificates, private_key, refused, unreadable};
use atomix_store::{Error, printable};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use crate::config::{Tls, is_inline};

/// Reads the certificates. Reads files each time, so that renewed certificates are used.
pub(crate) async fn load(env: &Env, tls: &Tls) -> Result<Arc<ClientConfig>, Error> {
    let ca = text(env, "tls.ca", &tls.ca, true).await?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates("tls.ca", &ca)? {
        roots.add(certificate).map_err(refused("tls.ca"))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(refused("tls.ca"))?
        .with_root_certificates(roots);
    let mut config = if tls.cert.is_empty() {
        builder.with_no_client_auth()
    } else {
        let chain = certificates("tls.cert", &text(env, "tls.cert", &tls.cert, true).await?)?;
        // A key without its PEM frame would look like a path, so errors do not repeat it.
        let key = private_key("tls.key", &text(env, "tls.key", tls.key.expose_secret(), false).await?)?;
        builder.with_client_auth_cert(chain, key).map_err(refused("tls.key"))?
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// Returns the PEM text of a field: the field itself, or the content of the file that it names.
async fn text(env: &Env, field: &str, pem: &str, shows_path: bool) -> Result<Vec<u8>, Error> {
    if is_inline(pem) {
        return Ok(pem.as_bytes().to_vec());
    }
    env.read_file(Path::new(pem)).await.map_err(|error| {
        let file = if shows_path { format!(": file=`{}`", printable(pem)) } else { String::new() };
        let message = format!("store configuration is wrong: `{field}` cannot be read{file}");
        unreadable(message, error)
    })
}
