//! A throwaway certificate authority (ECDSA P-256) and the server certificates it issues.
//!
//! Its certificate is what `SALLYPORT_OUTBOUND_CA_FILE` names in tests. Keys live in memory only.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use rustls::crypto::CryptoProvider;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// The provider every TLS configuration of this crate names, so that nothing hangs on a process-wide default.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A certificate authority that exists as long as the value does.
pub struct TestAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pem: String,
}

impl TestAuthority {
    /// Makes a new key and its self-signed certificate.
    ///
    /// # Errors
    /// When the key or the certificate cannot be made.
    pub fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params
            .distinguished_name
            .push(DnType::CommonName, format!("Sallyport test authority {}", crate::random_hex::<4>()));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let issuer = CertifiedIssuer::self_signed(params, key).context("self-signing the test authority")?;
        let pem = issuer.pem();
        Ok(Self { issuer, pem })
    }

    /// The authority's certificate in PEM.
    pub fn ca_pem(&self) -> &str {
        &self.pem
    }

    /// The authority's certificate in DER.
    pub fn ca_der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// Writes the certificate to `ca.pem` in `folder` and returns the path, for `SALLYPORT_OUTBOUND_CA_FILE`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_ca(&self, folder: &Path) -> Result<PathBuf> {
        let path = folder.join("ca.pem");
        std::fs::write(&path, &self.pem).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// A server certificate for `names`: DNS names, and IP addresses in their text form.
    ///
    /// # Errors
    /// When a name is neither.
    pub fn issue_server(&self, names: &[&str]) -> Result<ServerIdentity> {
        self.issue(names, false)
    }

    /// As [`issue_server`](Self::issue_server), but the certificate ended in 2001: clients must refuse it.
    ///
    /// # Errors
    /// As there.
    pub fn issue_expired_server(&self, names: &[&str]) -> Result<ServerIdentity> {
        self.issue(names, true)
    }

    fn issue(&self, names: &[&str], expired: bool) -> Result<ServerIdentity> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).context("subject alternative names")?;
        params.distinguished_name.push(DnType::CommonName, "Sallyport test server");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        if expired {
            params.not_before = date_time_ymd(2000, 1, 1);
            params.not_after = date_time_ymd(2001, 1, 1);
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &self.issuer).context("signing the server certificate")?;
        Ok(ServerIdentity {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            chain: vec![certificate.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        })
    }

    /// A TLS client configuration that trusts this authority and nothing else, offering HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// When rustls refuses the root.
    pub fn client_config(&self) -> Result<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca_der())?;
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// A server's certificate chain and private key.
pub struct ServerIdentity {
    certificate_pem: String,
    key_pem: String,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl ServerIdentity {
    /// The chain in PEM, leaf first, without the root.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The private key in PEM (PKCS#8).
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// Writes `server.pem` and `server.key` to `folder` and returns both paths, in that order.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(PathBuf, PathBuf)> {
        let (certificate, key) = (folder.join("server.pem"), folder.join("server.key"));
        std::fs::write(&certificate, &self.certificate_pem)?;
        std::fs::write(&key, &self.key_pem)?;
        Ok((certificate, key))
    }

    /// A TLS server configuration that offers HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// When rustls refuses the key or the chain.
    pub fn server_config(&self) -> Result<rustls::ServerConfig> {
        self.server_config_with_alpn(&["h2", "http/1.1"])
    }

    /// A TLS server configuration that offers the given protocols, best first.
    ///
    /// # Errors
    /// As [`server_config`](Self::server_config).
    pub fn server_config_with_alpn(&self, protocols: &[&str]) -> Result<rustls::ServerConfig> {
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())?;
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Ok(config)
    }
}
