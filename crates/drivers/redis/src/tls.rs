// SPDX-License-Identifier: Apache-2.0
//! Certificates for connections. No message repeats the content of a file.

use std::path::Path;
use std::sync::Arc;

use atomix_env::Env;
use atomix_remote::tls::{certificates, private_key, refused, unreadable};
use atomix_store::{Error, printable};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use crate::config::Settings;

/// Reads the certificates of the settings, or the roots that the machine trusts.
pub(crate) async fn connector(env: &Env, settings: &Settings) -> Result<TlsConnector, Error> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = &settings.tls_ca_file {
        for certificate in certificates("tls-ca-file", &read(env, "tls-ca-file", file).await?)? {
            roots.add(certificate).map_err(refused("tls-ca-file"))?;
        }
    } else {
        let native = env.blocking("native certificates", || rustls_native_certs::load_native_certs().certs);
        let native = native.await.map_err(|error| {
            Error::unavailable("cannot read the certificates that the machine trusts").caused_by(error)
        })?;
        // Skips certificates of the machine that cannot be parsed.
        roots.add_parsable_certificates(native.iter().cloned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(refused("tls"))?
        .with_root_certificates(roots);
    let config = match (&settings.tls_cert_file, &settings.tls_key_file) {
        (Some(chain), Some(key)) => {
            let chain = certificates("tls-cert-file", &read(env, "tls-cert-file", chain).await?)?;
            let key = private_key("tls-key-file", &read(env, "tls-key-file", key).await?)?;
            builder.with_client_auth_cert(chain, key).map_err(refused("tls-key-file"))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn read(env: &Env, field: &str, file: &Path) -> Result<Vec<u8>, Error> {
    env.read_file(file).await.map_err(|error| {
        let file = file.display().to_string();
        let file = printable(&file);
        let message = format!("store configuration is wrong: `{field}` cannot be read: file=`{file}`");
        unreadable(message, error)
    })
}
