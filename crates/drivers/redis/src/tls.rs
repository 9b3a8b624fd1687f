// SPDX-License-Identifier: Apache-2.0
//! Certificates for connections. No message repeats what a file holds.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use atomix_env::Env;
use atomix_kv::{Error, printable};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use crate::Settings;

/// Reads the certificates of the settings, or those that the machine trusts.
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
        // What the machine cannot read of its own certificates it does not trust.
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
            let key = PrivateKeyDer::from_pem_slice(&read(env, "tls-key-file", key).await?);
            let key = key.map_err(|error| unusable("tls-key-file", &error))?;
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
        // A file system that does not answer may be back later.
        let later = matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::ResourceBusy);
        let wrong = if later { Error::unavailable(message) } else { Error::config(message) };
        wrong.caused_by(error)
    })
}

fn certificates(field: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(none) if none.is_empty() => Err(unusable(field, &pem::Error::NoItemsFound)),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(unusable(field, &error)),
    }
}

/// The error of a text that is no PEM. That of the reader would repeat a line of it.
fn unusable(field: &str, error: &pem::Error) -> Error {
    let why = if matches!(error, pem::Error::NoItemsFound) {
        "has nothing of the right kind"
    } else {
        "is not valid PEM"
    };
    Error::config(format!("store configuration is wrong: `{field}` {why}"))
}

fn refused(field: &'static str) -> impl Fn(rustls::Error) -> Error {
    move |error| Error::config(format!("store configuration is wrong: `{field}` is refused")).caused_by(error)
}
