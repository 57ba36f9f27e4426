//! A lease: one process at a time owns something in a store, for a term that it renews.
//!
//! ```text
//! <root>/_leases/<name>/<generation>.json
//!
//! free ── create generation n, once ──▶ owned ── write it anew each third of the term ──▶ owned
//!  ▲                                      │
//!  └── given back · its process is gone · seen unchanged for a term ──▶ create n + 1
//! ```
//!
//! Two clocks are never compared: who waits measures the term himself, from when he first saw
//! what is still there. Of two that find it free, the store lets one create the next generation.
//! Only its owner writes the object of a generation, so a write needs no condition.
//!
//! A lease keeps others waiting and no more: an owner that was frozen may not know yet that its
//! term is over. So whoever writes under a lease puts its [generation](Lease::generation) into the
//! transaction ([`Table::claim`](crate::Table::claim)), where a later owner's is found.

use nilometer_contract::Causes;
use std::time::Duration;

use deltalake_core::logstore::ObjectStoreRef;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::holder::{Alive, Holder};
use crate::local::SignOfLife;
use crate::storage::Storage;

/// Renewals in a term: two may fail.
const RENEWALS: u32 = 3;
/// Looks in a term while waiting.
const LOOKS: u32 = 15;
/// Longest time that giving back may take; who comes next waits for the term then.
const GIVING_BACK: Duration = Duration::from_secs(5);

/// How something is owned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseConfig {
    /// How long an owner that no longer renews is waited for.
    pub term: Duration,
    /// Whether to wait for another owner; else starting fails with its name.
    pub wait: bool,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        LeaseConfig { term: Duration::from_secs(30), wait: true }
    }
}

/// Why a lease is not had, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Another owner has it, since this one did not renew it within its term.
    #[error("the term passed without a renewal, and now {0} owns it")]
    Lost(Box<Holder>),
    /// The store refused.
    #[error("the lease cannot be read or written")]
    Store(#[source] Error),
}

/// What asking for a lease gave.
#[derive(Debug)]
pub enum Taken {
    /// It is ours.
    Ours(Lease),
    /// Another has it.
    Held(Box<Holder>),
}

/// Asks for a lease.
#[derive(Debug)]
pub struct Claimant {
    place: Place,
    holder: Holder,
    alive: Option<Alive>,
    term: Duration,
    /// No generation up to this one is taken.
    floor: i64,
    seen: Option<(Sighting, Instant)>,
}

/// Something owned. Dropped without being [given back](Self::give_back), it is lost as if the
/// process had died.
#[derive(Debug)]
pub struct Lease {
    place: Place,
    record: Record,
    generation: i64,
    _alive: Alive,
}

/// Where the objects of one lease lie.
#[derive(Clone, Debug)]
struct Place {
    store: ObjectStoreRef,
    folder: Path,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    holder: Holder,
    term_millis: u64,
    /// Times that it was renewed.
    renewed: u64,
    given_back: bool,
}

/// An object as it was seen; any renewal makes it another.
#[derive(Clone, Debug, PartialEq)]
struct Sighting {
    generation: i64,
    text: Vec<u8>,
    e_tag: Option<String>,
    modified_micros: i64,
}

impl Storage {
    /// Asks for a lease of this store, as a process in this role.
    pub fn claimant(&self, name: &str, holder: Holder, term: Duration) -> Claimant {
        let root = Path::from_url_path(self.root().path()).unwrap_or_default();
        let folder = root.join("_leases").join(name);
        let place = Place { store: self.object_store(), folder };
        let alive = Some(holder.live());
        Claimant { place, holder, alive, term, floor: 0, seen: None }
    }
}

impl Claimant {
    /// Takes no generation up to this one: the tables have seen it.
    pub fn is_above(&mut self, generation: i64) {
        self.floor = self.floor.max(generation);
    }

    /// Takes the lease if it is free.
    pub async fn take(&mut self) -> Result<Taken, LeaseError> {
        let looked = Instant::now();
        let newest = self.place.newest().await.map_err(LeaseError::Store)?;
        let generation = newest.as_ref().map_or(0, |seen| seen.generation);
        if let Some(sighting) = newest {
            let record = sighting.record();
            if let Some(record) = record.as_ref().filter(|found| found.holder.is(&self.holder)) {
                // Created by a try that seemed to fail.
                return Ok(Taken::Ours(self.leased(record.clone(), generation)));
            }
            let free = record.as_ref().is_some_and(|it| it.given_back || it.holder.is_gone());
            if !free && !self.is_over(&sighting, record.as_ref(), looked) {
                let holder = record.map_or_else(Holder::unknown, |record| record.holder);
                return Ok(Taken::Held(Box::new(holder)));
            }
        }
        self.create(generation.max(self.floor) + 1).await
    }

    /// Whether a term has passed, by our clock, since this was first seen as it still is.
    fn is_over(&mut self, now: &Sighting, record: Option<&Record>, looked: Instant) -> bool {
        let term = record.map_or(self.term, |record| Duration::from_millis(record.term_millis));
        match &self.seen {
            Some((seen, since)) if seen == now => looked.duration_since(*since) >= term,
            _ => {
                self.seen = Some((now.clone(), Instant::now()));
                false
            }
        }
    }

    async fn create(&mut self, generation: i64) -> Result<Taken, LeaseError> {
        let holder = self.holder.clone();
        let term_millis = u64::try_from(self.term.as_millis()).unwrap_or(u64::MAX);
        let record = Record { holder, term_millis, renewed: 0, given_back: false };
        let path = self.place.path(generation);
        match self.place.put(&path, &record, PutMode::Create.into()).await {
            Ok(()) => {}
            Err(Error::AlreadyExists { .. }) => {
                // Another was faster, or an answer to ourselves was lost: the next look tells.
                let seen = self.place.get(generation).await.map_err(LeaseError::Store)?;
                let found = seen.as_ref().and_then(Sighting::record);
                let holder = found.map_or_else(Holder::unknown, |record| record.holder);
                if !holder.is(&self.holder) {
                    return Ok(Taken::Held(Box::new(holder)));
                }
            }
            Err(error) => return Err(LeaseError::Store(error)),
        }
        self.place.forget_before(generation).await;
        Ok(Taken::Ours(self.leased(record, generation)))
    }

    fn leased(&mut self, record: Record, generation: i64) -> Lease {
        let alive = self.alive.take().unwrap_or_else(|| self.holder.live());
        Lease { place: self.place.clone(), record, generation, _alive: alive }
    }

    /// Waits until the lease is ours; `held` hears of each owner that is waited for. A store that
    /// does not answer is asked again.
    pub async fn wait(&mut self, mut held: impl FnMut(&Holder)) -> Lease {
        loop {
            match self.take().await {
                Ok(Taken::Ours(lease)) => return lease,
                Ok(Taken::Held(holder)) => held(&holder),
                Err(error) => {
                    warn!(error = %Causes(&error), folder = %self.place.folder, "a lease cannot be asked for");
                }
            }
            tokio::time::sleep(self.term / LOOKS).await;
        }
    }
}

impl Lease {
    /// Which owner this is, by count. Every owner's is larger than those of all before.
    pub fn generation(&self) -> i64 {
        self.generation
    }

    /// Says that the owner lives.
    pub async fn renew(&mut self) -> Result<(), LeaseError> {
        if let Some(next) = self.place.get(self.generation + 1).await.map_err(LeaseError::Store)? {
            let holder = next.record().map_or_else(Holder::unknown, |record| record.holder);
            return Err(LeaseError::Lost(Box::new(holder)));
        }
        self.record.renewed += 1;
        let mut options = PutOptions::from(PutMode::Overwrite);
        options.extensions.insert(SignOfLife);
        let path = self.place.path(self.generation);
        self.place.put(&path, &self.record, options).await.map_err(LeaseError::Store)
    }

    /// Renews the lease until `stop`, then gives it back; ends sooner if it is lost.
    pub async fn keep(mut self, stop: impl Future<Output = ()>) -> Result<(), LeaseError> {
        let mut stop = std::pin::pin!(stop);
        let term = Duration::from_millis(self.record.term_millis);
        loop {
            tokio::select! {
                () = &mut stop => break,
                () = tokio::time::sleep(term / RENEWALS) => {}
            }
            match self.renew().await {
                Err(LeaseError::Store(error)) => {
                    warn!(error = %Causes(&error), folder = %self.place.folder, "a lease is not renewed");
                }
                done => done?,
            }
        }
        match tokio::time::timeout(GIVING_BACK, self.give_back()).await {
            Ok(done) => done,
            Err(_) => Ok(()),
        }
    }

    /// Gives the lease back, so that the next owner need not wait.
    pub async fn give_back(mut self) -> Result<(), LeaseError> {
        self.record.given_back = true;
        let path = self.place.path(self.generation);
        let given = self.place.put(&path, &self.record, PutMode::Overwrite.into()).await;
        given.map_err(LeaseError::Store)?;
        info!(lease = %self.place.folder, generation = self.generation, "given back");
        Ok(())
    }
}

impl Place {
    fn path(&self, generation: i64) -> Path {
        self.folder.clone().join(format!("{generation:019}.json"))
    }

    async fn generations(&self) -> Result<Vec<i64>, Error> {
        let mut found = self.store.list(Some(&self.folder));
        let mut generations = Vec::new();
        while let Some(object) = found.try_next().await? {
            let name = object.location.filename().and_then(|name| name.strip_suffix(".json"));
            let generation = name.and_then(|name| name.parse::<i64>().ok());
            // No lease of ours: none could follow it.
            generations.extend(generation.filter(|generation| *generation < i64::MAX));
        }
        Ok(generations)
    }

    async fn newest(&self) -> Result<Option<Sighting>, Error> {
        match self.generations().await?.into_iter().max() {
            Some(generation) => self.get(generation).await,
            None => Ok(None),
        }
    }

    async fn get(&self, generation: i64) -> Result<Option<Sighting>, Error> {
        let found = match self.store.get(&self.path(generation)).await {
            Ok(found) => found,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let (e_tag, modified) = (found.meta.e_tag.clone(), found.meta.last_modified);
        let text = found.bytes().await?.to_vec();
        Ok(Some(Sighting { generation, text, e_tag, modified_micros: modified.timestamp_micros() }))
    }

    async fn put(&self, path: &Path, record: &Record, options: PutOptions) -> Result<(), Error> {
        let text = serde_json::to_vec(record).unwrap_or_default();
        self.store.put_opts(path, text.into(), options).await.map(drop)
    }

    /// Deletes what earlier owners left; best effort, since only the newest counts.
    async fn forget_before(&self, generation: i64) {
        let Ok(found) = self.generations().await else { return };
        for old in found.into_iter().filter(|old| *old < generation) {
            if let Err(error) = self.store.delete(&self.path(old)).await {
                warn!(error = %Causes(&error), folder = %self.folder, "an old lease is not deleted");
            }
        }
    }
}

impl Sighting {
    fn record(&self) -> Option<Record> {
        serde_json::from_slice(&self.text).ok()
    }
}
