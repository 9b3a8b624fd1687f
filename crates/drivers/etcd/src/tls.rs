// SPDX-License-Identifier: Apache-2.0
//! Certificates for connections. No message repeats what a file or a text holds.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use atomix_env::Env;
use atomix_kv::{Error, printable};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use crate::config::{Tls, is_inline};

/// Reads the certificates. Files are read anew each time, so that renewed ones are used.
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
        // A key that was given without its PEM frame would look like a path: it is not repeated.
        let key = text(env, "tls.key", tls.key.expose_secret(), false).await?;
        let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| unusable("tls.key", &error))?;
        builder.with_client_auth_cert(chain, key).map_err(refused("tls.key"))?
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// Returns the PEM text of a field: the field itself, or the file that it names.
async fn text(env: &Env, field: &str, pem: &str, shows_path: bool) -> Result<Vec<u8>, Error> {
    if is_inline(pem) {
        return Ok(pem.as_bytes().to_vec());
    }
    env.read_file(Path::new(pem)).await.map_err(|error| {
        let file = if shows_path { format!(": file=`{}`", printable(pem)) } else { String::new() };
        let message = format!("store configuration is wrong: `{field}` cannot be read{file}");
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
