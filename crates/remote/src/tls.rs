// SPDX-License-Identifier: Apache-2.0
//! Certificates in the configurations of remote stores. No message repeats the content of a file or of a field.

use std::io;

use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use atomix_store::Error;

/// Reads the certificates of a PEM text; one at least. `field` names the configuration field in errors.
pub fn certificates(field: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certificates {
        Ok(none) if none.is_empty() => Err(unusable(field, &pem::Error::NoItemsFound)),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(unusable(field, &error)),
    }
}

/// Reads the private key of a PEM text. `field` names the configuration field in errors.
pub fn private_key(field: &str, pem: &[u8]) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| unusable(field, &error))
}

/// Returns the error of a field whose content rustls refuses.
pub fn refused(field: &'static str) -> impl Fn(rustls::Error) -> Error {
    move |error| Error::config(format!("store configuration is wrong: `{field}` is refused")).caused_by(error)
}

/// Returns the error of a file that cannot be read: temporary if the file system did not answer, else a mistake in the
/// configuration.
pub fn unreadable(message: String, error: io::Error) -> Error {
    let temporary = matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::ResourceBusy);
    let unreadable = if temporary { Error::unavailable(message) } else { Error::config(message) };
    unreadable.caused_by(error)
}

/// The error of a text that is not PEM. The error of the parser would repeat a line of the text.
fn unusable(field: &str, error: &pem::Error) -> Error {
    let why = if matches!(error, pem::Error::NoItemsFound) {
        "has nothing of the right kind"
    } else {
        "is not valid PEM"
    };
    Error::config(format!("store configuration is wrong: `{field}` {why}"))
}
