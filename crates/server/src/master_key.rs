//! Where the master key comes from: a setting, a file, or with the embedded database a file made on first start.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use sallyport_credentials::MasterKey;
use sallyport_domain::entropy::Entropy;
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use crate::settings::Settings;

/// Reads the master key, or makes one where that is allowed.
///
/// # Errors
/// When none is set with PostgreSQL, when a file cannot be read or is open to others, or when it is not 32 bytes in base64.
pub(crate) fn load(settings: &Settings, entropy: &dyn Entropy) -> Result<MasterKey> {
    if let Some(text) = &settings.master_key {
        return MasterKey::from_base64(text.expose_secret().trim()).context("master_key");
    }
    if let Some(path) = &settings.master_key_file {
        return read(path).with_context(|| format!("master_key_file: {}", path.display()));
    }
    if !settings.is_embedded() {
        bail!(
            "master_key or master_key_file must be set with PostgreSQL: 32 bytes in base64, such as from: openssl rand -base64 32"
        );
    }
    let path = settings.data_dir.join("master.key");
    match create(&path, entropy) {
        Ok(key) => Ok(key),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            read(&path).with_context(|| path.display().to_string())
        }
        Err(error) => Err(error).with_context(|| format!("cannot write {}", path.display())),
    }
}

fn read(path: &Path) -> Result<MasterKey> {
    let text = Zeroizing::new(std::fs::read_to_string(path).context("cannot be read")?);
    let mode = std::fs::metadata(path)?.permissions().mode();
    if mode & 0o007 != 0 {
        tracing::warn!(path = %path.display(), "the master key's file can be read by everyone; make it 0600");
    }
    Ok(MasterKey::from_base64(text.trim())?)
}

fn create(path: &Path, entropy: &dyn Entropy) -> std::io::Result<MasterKey> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let key = MasterKey::generate(entropy).map_err(std::io::Error::other)?;
    file.write_all(key.to_base64().as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    tracing::info!(path = %path.display(), "made a master key; keep a copy: without it the signing keys cannot be read");
    Ok(key)
}
