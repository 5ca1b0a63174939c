//! `sallyport backup` and `sallyport restore`: copies of the embedded database, and what keeps two programs from using one
//! database file while it is replaced.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sallyport_credentials::MasterKey;
use sallyport_domain::clock::{Clock, SystemClock};
use sallyport_domain::entropy::{SystemEntropy, uuid_v7};
use sallyport_domain::mrn::Resource;
use sallyport_domain::scope::Scope;
use sallyport_store::backup::{sqlite_file, sync_folder};
use sallyport_store::{AuditEntry, Store, StoreOptions};
use secrecy::ExposeSecret;

use crate::settings::Settings;
use crate::{keys, master_key, telemetry};

/// The files of one database, side files first: what is left of a move that was cut short is never played into another.
const PARTS: [&str; 3] = ["-wal", "-shm", ""];

/// Held by everyone who uses the embedded database's file, shared, and by whoever replaces it, alone.
#[derive(Debug)]
pub(crate) struct DatabaseLock {
    _file: File,
}

impl DatabaseLock {
    /// Says that the database is in use, for as long as the value lives. `None` with PostgreSQL.
    ///
    /// # Errors
    /// When the file is being replaced just now.
    pub(crate) fn shared(settings: &Settings) -> Result<Option<Self>> {
        if !settings.is_embedded() {
            return Ok(None);
        }
        let file = Self::file(&sqlite_file(settings.database_url.expose_secret())?)?;
        match file.try_lock_shared() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => bail!("the database is being restored just now"),
            Err(TryLockError::Error(error)) => Err(error).context("the database's lock file"),
        }
    }

    fn alone(database: &Path) -> Result<Self> {
        let file = Self::file(database)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => bail!("a server uses {}; stop it first", database.display()),
            Err(TryLockError::Error(error)) => Err(error).context("the database's lock file"),
        }
    }

    fn file(database: &Path) -> Result<File> {
        let path = beside(database, ".lock");
        let options = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        options.with_context(|| format!("cannot open {}", path.display()))
    }
}

/// The file with this ending added to its name.
fn beside(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn embedded(settings: &Settings) -> Result<PathBuf> {
    if !settings.is_embedded() {
        bail!("only the embedded database is copied by this command; for PostgreSQL use pg_dump and pg_restore");
    }
    Ok(sqlite_file(settings.database_url.expose_secret())?)
}

async fn open(file: &Path) -> Result<Store> {
    let url = format!("sqlite://{}", file.display());
    Ok(Store::connect(&StoreOptions { url, max_connections: 4 }).await?)
}

/// `sallyport backup FILE`: a whole copy, also while a server runs.
///
/// # Errors
/// When there is no embedded database, or the file is there or cannot be written.
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) async fn back_up(settings: Settings, to: &Path) -> Result<()> {
    telemetry::start_logging(&settings.log, settings.log_format)?;
    let database = embedded(&settings)?;
    if !database.exists() {
        bail!("there is no database at {}", database.display());
    }
    let _lock = DatabaseLock::shared(&settings)?;
    let store = open(&database).await?;
    let copied = store.back_up(to).await;
    store.close().await;
    copied?;
    println!("{} is a whole copy of {}", to.display(), database.display());
    println!("Without the master key nobody can use the signing keys in it: keep a copy of that too, somewhere else.");
    Ok(())
}

/// `sallyport restore FILE`: puts a copy in the place of the database, which no server may use meanwhile.
///
/// # Errors
/// When a server runs, a database is there and `force` is not said, the copy is damaged, or its keys were sealed with another
/// master key. Then nothing has changed.
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) async fn restore(settings: Settings, from: &Path, force: bool, keep_credentials: bool) -> Result<()> {
    telemetry::start_logging(&settings.log, settings.log_format)?;
    let database = embedded(&settings)?;
    if !from.exists() {
        bail!("there is no file {}", from.display());
    }
    crate::serve::make_data_folder(&settings)?;
    let _lock = DatabaseLock::alone(&database)?;
    // The side files too: SQLite would play those of an older database into the one that is put there.
    let there = |ending: &&str| beside(&database, ending).symlink_metadata().is_ok();
    let parts: Vec<&str> = PARTS.into_iter().filter(there).collect();
    if !parts.is_empty() && !force {
        bail!("there is a database at {}; with --force it is set aside", database.display());
    }
    // The keys are tried before anything is touched, with the key that the server will have.
    let master = master_key::load(&settings, &SystemEntropy)?;
    let fresh = beside(&database, ".restoring");
    let prepared = prepare(&settings, from, &fresh, &master, keep_credentials).await;
    let prepared = prepared.and_then(|()| give_to_owner_of_folder(&database));
    if prepared.is_err() {
        remove(&fresh);
    }
    prepared?;
    if !parts.is_empty() {
        let aside = beside(&database, &format!(".before-{}", SystemClock.now().seconds()));
        for ending in parts {
            std::fs::rename(beside(&database, ending), beside(&aside, ending))
                .context("the database could not be set aside")?;
        }
        sync_folder(&database)?;
        println!("the database that was there is now {}", aside.display());
    }
    std::fs::rename(&fresh, &database).context("the copy could not be put in place")?;
    sync_folder(&database)?;
    println!("{} is restored from {}", database.display(), from.display());
    if !keep_credentials {
        println!(
            "Every credential issued until now has ended, and the signing keys are new; workloads exchange their tokens anew."
        );
        println!(
            "What was deleted or disabled after the copy was taken is back: look at API tokens, standing keys and trusts."
        );
    }
    Ok(())
}

/// Copies and checks, and makes the copy what the server is to find.
async fn prepare(
    settings: &Settings,
    from: &Path,
    fresh: &Path,
    master: &MasterKey,
    keep_credentials: bool,
) -> Result<()> {
    remove(fresh);
    let mut target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(fresh)?;
    let mut source = File::open(from).with_context(|| format!("cannot read {}", from.display()))?;
    std::io::copy(&mut source, &mut target).context("the copy could not be read")?;
    target.sync_all()?;
    drop(target);
    let store = open(fresh).await?;
    let outcome = check(settings, &store, master, keep_credentials).await;
    store.close().await;
    outcome.with_context(|| format!("{} is not restored", from.display()))?;
    File::open(fresh)?.sync_all()?;
    Ok(())
}

async fn check(settings: &Settings, store: &Store, master: &MasterKey, keep_credentials: bool) -> Result<()> {
    store.check_integrity().await?;
    store.migrate().await.context("it cannot be brought to this version's schema")?;
    keys::open(&store.load_keys().await?, master)?;
    if !keep_credentials {
        let now = SystemClock.now();
        let platform = settings.mrn_domain.format(&Resource::Scope(Scope::Platform));
        let audit = AuditEntry {
            id: uuid_v7(now, &SystemEntropy),
            time: now,
            actor: platform.clone(),
            action: "restore".to_owned(),
            target: platform,
            scope: Scope::Platform,
            organization: None,
            before: None,
            after: None,
            request_id: None,
            source_ip: None,
        };
        store.end_all_credentials(now, &audit).await?;
        // One that leaked since would sign again.
        let seams =
            keys::Seams { clock: &SystemClock, entropy: &SystemEntropy, mrns: &settings.mrn_domain, by: "restore" };
        keys::rotate_by_command(store, master, seams, true).await?;
    }
    Ok(())
}

/// Gives what root has made here, the copy and the lock beside it, to whoever has the folder: the server could not open them.
/// Everyone else makes files of their own, and could not give them away.
fn give_to_owner_of_folder(database: &Path) -> Result<()> {
    const ROOT: u32 = 0;
    let folder = database.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let owner = std::fs::metadata(folder)?;
    for ending in [".restoring", ".lock"] {
        let file = beside(database, ending);
        if std::fs::metadata(&file)?.uid() == ROOT && owner.uid() != ROOT {
            std::os::unix::fs::chown(&file, Some(owner.uid()), Some(owner.gid()))
                .with_context(|| format!("{} cannot be given to the owner of its folder", file.display()))?;
        }
    }
    Ok(())
}

fn remove(file: &Path) {
    for ending in PARTS {
        let _ = std::fs::remove_file(beside(file, ending));
    }
}
