//! Damage to what is kept: spools on disk, data files of tables.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::world::World;

/// How often it is noted how long the files of a spool are.
const NOTE_EVERY_MILLIS: u64 = 1_000;
/// What was written before so many notes is synced: an agent syncs every second.
const SYNCED_AFTER: usize = 3;

type Lengths = BTreeMap<PathBuf, u64>;

/// What is surely synced of a spool.
pub(crate) struct Disk {
    folder: PathBuf,
    /// The newest last.
    notes: Mutex<Vec<Lengths>>,
    away: Mutex<Option<i64>>,
}

impl Disk {
    /// Watches the files of a spool, until nobody else holds it.
    pub(crate) fn watch(world: &Arc<World>, folder: PathBuf) -> Arc<Self> {
        let disk = Arc::new(Disk { folder, notes: Mutex::default(), away: Mutex::default() });
        let (world, watched) = (world.clone(), Arc::downgrade(&disk));
        tokio::spawn(async move {
            while let Some(disk) = watched.upgrade() {
                disk.note();
                drop(disk);
                world.slot(5, std::time::Duration::from_millis(NOTE_EVERY_MILLIS)).await;
            }
        });
        disk
    }

    /// What is away stays as it is.
    fn note(&self) {
        if self.away_since().is_some() {
            return;
        }
        let mut notes = self.notes.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        notes.push(lengths(&self.folder));
        let old = notes.len().saturating_sub(SYNCED_AFTER);
        notes.drain(..old);
    }

    /// Takes away a part of what may not be synced, as a loss of power does.
    pub(crate) fn lose_power(&self, world: &World, key: &str) -> anyhow::Result<()> {
        let notes = self.notes.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let synced = notes.first().cloned().unwrap_or_default();
        for (path, length) in lengths(&self.folder) {
            let kept = synced.get(&path).copied().unwrap_or(0).min(length);
            let name = path.strip_prefix(&self.folder).unwrap_or(&path).display();
            let left = kept + world.pick(&format!("{key} {name}"), length - kept + 1);
            if left < length {
                world.note(format!("{name} keeps {left} of {length} bytes"));
                OpenOptions::new().write(true).open(&path)?.set_len(left)?;
            }
        }
        Ok(())
    }

    /// Flips a bit in one of its segments, if there is any.
    pub(crate) fn flip(&self, world: &World, key: &str) -> anyhow::Result<()> {
        let files: Vec<(PathBuf, u64)> =
            lengths(&self.folder).into_iter().filter(|(_, length)| *length > 0).collect();
        let place = world.pick(&format!("{key} file"), files.len() as u64) as usize;
        let Some((path, length)) = files.get(place) else { return Ok(()) };
        let at = world.pick(&format!("{key} byte"), *length);
        let mut bytes = fs::read(path)?;
        bytes[at as usize] ^= 1 << world.pick(&format!("{key} bit"), 8);
        let name = path.strip_prefix(&self.folder).unwrap_or(path).display();
        world.note(format!("a bit flips in byte {at} of {length} of {name}"));
        Ok(fs::write(path, bytes)?)
    }

    /// Takes its folders away, or gives them back.
    pub(crate) fn set_away(&self, world: &World, away: bool) -> anyhow::Result<()> {
        let mut since = self.away.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if away == since.is_some() {
            return Ok(());
        }
        *since = away.then(|| world.elapsed());
        for lane in ["samples", "events"] {
            let (here, there) = (self.folder.join(lane), self.folder.join(format!("{lane}-away")));
            let (from, to) = if away { (here, there) } else { (there, here) };
            if from.is_dir() {
                fs::rename(&from, &to)?;
            }
        }
        Ok(())
    }

    /// Since when its folders are away, if they are.
    pub(crate) fn away_since(&self) -> Option<i64> {
        *self.away.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn lengths(folder: &Path) -> Lengths {
    let lanes = ["samples", "events"].map(|lane| folder.join(lane));
    let files = lanes.iter().filter_map(|lane| fs::read_dir(lane).ok()).flatten().flatten();
    files.filter_map(|file| Some((file.path(), file.metadata().ok()?.len()))).collect()
}

/// Flips a bit in one data file of a table; names are random, so files are told apart by size.
pub(crate) async fn flip_data(
    world: &World,
    objects: &dyn ObjectStore,
    key: &str,
) -> anyhow::Result<()> {
    let all: Vec<_> = objects.list(None).try_collect().await?;
    let mut files: Vec<(u64, ObjectPath)> = all
        .into_iter()
        .filter(|object| object.location.as_ref().contains("/samples/day="))
        .map(|object| (object.size, object.location))
        .collect();
    files.sort();
    let place = world.pick(&format!("{key} file"), files.len() as u64) as usize;
    let Some((size, path)) = files.get(place) else { return Ok(()) };
    let mut bytes = objects.get(path).await?.bytes().await?.to_vec();
    let at = world.pick(&format!("{key} byte"), *size) as usize;
    bytes[at] ^= 1 << world.pick(&format!("{key} bit"), 8);
    world.note(format!("a bit flips in byte {at} of a file of {size} bytes"));
    objects.put(path, bytes.into()).await?;
    Ok(())
}
