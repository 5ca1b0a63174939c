//! Where the master key comes from: a setting, a file, or with the embedded database a file made on first start; and the other
//! one beside it, while one replaces the other.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use sallyport_credentials::MasterKey;
use sallyport_domain::entropy::Entropy;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::settings::Settings;

/// Reads the master key, or makes one where that is allowed.
///
/// # Errors
/// When none is set with PostgreSQL, when a file cannot be read or is open to others, or when it is not 32 bytes in base64.
pub(crate) fn load(settings: &Settings, entropy: &dyn Entropy) -> Result<MasterKey> {
    let key = match given("master_key", settings.master_key.as_ref(), settings.master_key_file.as_deref())? {
        Some(key) => key,
        None => own(settings, entropy)?,
    };
    let (text, file) = (settings.fallback_master_key.as_ref(), settings.fallback_master_key_file.as_deref());
    Ok(match given("fallback_master_key", text, file)? {
        Some(other) => key.with_fallback(other),
        None => key,
    })
}

fn given(name: &str, text: Option<&SecretString>, file: Option<&Path>) -> Result<Option<MasterKey>> {
    match (text, file) {
        (Some(text), _) => {
            MasterKey::from_base64(text.expose_secret().trim()).with_context(|| name.to_owned()).map(Some)
        }
        (None, Some(path)) => read(path).with_context(|| format!("{name}_file: {}", path.display())).map(Some),
        (None, None) => Ok(None),
    }
}

/// The embedded database's own key, made on first start.
fn own(settings: &Settings, entropy: &dyn Entropy) -> Result<MasterKey> {
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
