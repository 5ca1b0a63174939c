//! HTTPS on the main listener, with a certificate that is read again when its files change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::listener::Tls;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Reads the certificate, and keeps looking for a new one.
///
/// # Errors
/// When a file cannot be read, is not PEM, or key and certificate do not belong together.
pub(crate) fn start(cert: PathBuf, key: PathBuf) -> Result<Tls> {
    let config = Arc::new(ArcSwap::new(read(&cert, &key)?));
    let watched = Arc::clone(&config);
    tokio::spawn(async move {
        let mut seen = changed(&cert, &key);
        loop {
            tokio::time::sleep(LOOK).await;
            let now = changed(&cert, &key);
            if now == seen {
                continue;
            }
            match read(&cert, &key) {
                Ok(config) => {
                    watched.store(config);
                    tracing::info!("the TLS certificate was read again");
                    seen = now;
                }
                // Perhaps only half of it is written; the old one stays in force until the new one is whole.
                Err(error) => tracing::warn!(error = format!("{error:#}"), "the new TLS certificate cannot be used"),
            }
        }
    });
    Ok(config)
}

fn changed(cert: &Path, key: &Path) -> [Option<SystemTime>; 2] {
    [cert, key].map(|path| std::fs::metadata(path).and_then(|m| m.modified()).ok())
}

fn read(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>> {
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("tls_cert_file: {} is not a PEM certificate chain", cert.display()))?;
    let private = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("tls_key_file: {} is not a PEM private key", key.display()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS versions")?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .context("tls_cert_file and tls_key_file do not belong together")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
