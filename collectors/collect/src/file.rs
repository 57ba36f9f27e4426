//! Files that outlive a loss of power: their bytes are synced, and then the folder that names them.
//!
//! | file | when it is made to last |
//! |---|---|
//! | `events/*.seg`, `samples/*.seg` | within a second of the write, and at every stop |
//! | `gaps` | before what it tells of is removed |
//! | `known` | within a second of a change, before the events that it covers are removed |
//! | `epoch.json` | before an epoch begins |
//! | `dead_letters/*` | before the record is taken from its partition |
//! | the folders | when they are made |
//!
//! When the sources were last asked is kept as the time of change of `epoch.json`, and when each
//! observed last as that of `seen/<source>`; both last as the file system has them.
//!
//! What is removed need not last: a segment that is back after a loss of power is sent again. The
//! file `lock` says nothing by being there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use nilometer_contract::{Timestamp, micros};

/// Replaces a file; on disk when this returns. After a crash there is the old one or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = File::create(&draft)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&draft, path)?;
    path.parent().map_or(Ok(()), sync_folder)
}

/// Makes a folder and those above it that are missing; on disk when this returns.
pub(crate) fn create_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.map_or(Ok(()), create_folder)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_folder(parent.unwrap_or(Path::new(".")))
}

/// Makes the names in a folder last.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Keeps an instant with a file, as when it was changed: no bytes are written for it. A file that
/// is missing is made.
pub(crate) fn set_changed(path: &Path, at: Timestamp) -> io::Result<()> {
    let file = match File::options().append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = File::create(path)?;
            path.parent().map_or(Ok(()), sync_folder)?;
            file
        }
        opened => opened?,
    };
    let since = Duration::from_micros(u64::try_from(at.0).unwrap_or(0));
    file.set_modified(UNIX_EPOCH + since)
}

/// When a file was changed; nothing when there is none.
pub(crate) fn changed(path: &Path) -> io::Result<Option<Timestamp>> {
    let since = match fs::metadata(path) {
        Ok(about) => about.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(Timestamp(micros(since))))
}

/// When a file was changed, as far as that is known and not ahead of `now`; else `now`.
pub(crate) fn changed_by(path: &Path, now: Timestamp) -> Timestamp {
    changed(path).ok().flatten().unwrap_or(now).min(now)
}

/// The bytes of a file, nothing when there is none.
pub(crate) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
