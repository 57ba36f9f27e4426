//! Who ingests: one owner of the tables at a time, by a lease; a second one waits and follows.
//!
//! ```text
//! open ─ lease free ──────────────▶ claim ─▶ own: read, commit, renew ─▶ drain, give back
//!      └ held ─▶ follow the owner ─────┘            └ lost: stop
//! ```
//!
//! The lease keeps the others waiting; that an owner whose term passed commits nothing is kept by
//! the generation in each transaction.

use nilometer_contract::Causes;
use std::sync::Arc;
use std::time::Duration;

use nilometer_clock::SharedClock;
use nilometer_log::{Log, LogError};
use nilometer_store::{
    Claimant, CommitError, Holder, Lease, LeaseError, Storage, StoreError, Taken,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::IngestConfig;
use crate::flush::Overtaken;
use crate::follow::Follower;
use crate::ingester::Owner;
use crate::load::restored;
use crate::metrics::Metrics;
use crate::positions::note_logs;
use crate::sink::Sink;
use crate::tail::{Tail, prepare};
use crate::view::Tables;

/// Name of the lease.
const LEASE: &str = "ingest";

/// Why an ingester or a follower stopped.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The tables could not be opened or read.
    #[error("the tables cannot be used")]
    Store(#[source] StoreError),
    /// The log could not be prepared.
    #[error("the log cannot be used")]
    Log(#[source] LogError),
    /// Another ingester owns the tables, and this one is not to wait for it.
    #[error(
        "the tables are owned by {0}: stop it, or let this one wait for it with \
         store.lease.second = \"wait\""
    )]
    Owned(Box<Holder>),
    /// The ownership of the tables could not be asked for, or was lost.
    #[error("the tables are not owned")]
    Lease(#[source] LeaseError),
    /// A later ingester has the tables.
    #[error("ingestion stopped")]
    Overtaken(#[source] Overtaken),
    /// The tables could not be repaired; what was done until then stays done.
    #[error("the tables cannot be repaired now; try again")]
    Repair(#[source] CommitError),
    /// The metrics are no good.
    #[error("the metrics cannot be set up")]
    Metrics(#[source] prometheus::Error),
}

/// Moves records from the log into the tables, each exactly once, as soon as it owns them.
pub struct Ingester {
    stage: Stage,
    tables: Tables,
    metrics: Metrics,
    stop_deadline: Duration,
    owns: watch::Sender<bool>,
}

enum Stage {
    /// Another owns the tables: they are followed until they are free.
    Standby(Box<Follower>, Claimant),
    Owning(Box<Owner>, Lease),
}

impl Ingester {
    /// Opens the tables, takes them if nobody owns them, makes sure of the topics, and learns
    /// where to go on. Where another ingester owns the tables this one follows them meanwhile, or
    /// is refused, as configured.
    pub async fn open(
        config: IngestConfig,
        log: Arc<dyn Log>,
        storage: &Storage,
        clock: SharedClock,
        metrics: Metrics,
    ) -> Result<Self, IngestError> {
        let topics = prepare(&config, log.as_ref()).await.map_err(IngestError::Log)?;
        let mut sink = Sink::open(storage, &config.others).await.map_err(IngestError::Store)?;
        let (lease, stop_deadline) = (config.lease, config.stop_deadline);
        let holder = Holder::here(config.role, clock.now());
        let mut claimant = storage.claimant(LEASE, holder, lease.term);
        claimant.is_above(sink.claimed().await.map_err(IngestError::Store)?);
        let taken = match claimant.take().await.map_err(IngestError::Lease)? {
            Taken::Ours(taken) => {
                claim(&mut sink, &taken).await?;
                Some(taken)
            }
            Taken::Held(holder) if !lease.wait => return Err(IngestError::Owned(holder)),
            Taken::Held(_) => None,
        };
        let tail = Tail::open(config, (log, topics), &mut sink, clock, metrics.clone()).await?;
        let tables = tail.tables();
        let stage = match taken {
            Some(lease) => Stage::Owning(Box::new(own(tail, sink).await?), lease),
            None => Stage::Standby(Box::new(Follower::of(tail, sink)), claimant),
        };
        let owns = watch::Sender::new(false);
        Ok(Ingester { stage, tables, metrics, stop_deadline, owns })
    }

    /// A handle for readers.
    pub fn tables(&self) -> Tables {
        self.tables.clone()
    }

    /// Becomes true once the tables are owned: only then may they be maintained.
    pub fn owns(&self) -> watch::Receiver<bool> {
        self.owns.subscribe()
    }

    /// Ingests until cancelled, then commits what it has received, within the deadline; what is
    /// not committed then stays in the log. Dropping the future stops all its work at once, as a
    /// crash would.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), IngestError> {
        let (owner, lease) = match self.stage {
            Stage::Owning(owner, lease) => (owner, lease),
            Stage::Standby(follower, claimant) => {
                let taken = stand_by(*follower, claimant, &self.metrics, &cancel).await?;
                let Some((owner, lease)) = taken else { return Ok(()) };
                (Box::new(owner), lease)
            }
        };
        self.metrics.owned();
        info!(generation = lease.generation(), "the tables are owned");
        self.owns.send_replace(true);
        let given_back = CancellationToken::new();
        // Kept in the same task: an ingester that hangs does not renew, and one that is dropped
        // is known to be gone.
        let mut kept = std::pin::pin!(lease.keep(given_back.cancelled()));
        let done = tokio::select! {
            done = owner.run(cancel.clone()) => done,
            lost = &mut kept => return lost.map_err(IngestError::Lease),
            () = overdue(&cancel, self.stop_deadline) => Ok(()),
        };
        given_back.cancel();
        if let Err(error) = kept.await {
            warn!(error = %Causes(&error), "the tables are not given back, the next owner waits for the term");
        }
        done
    }
}

/// Follows until the lease is free, and takes the tables over; none if cancelled before.
async fn stand_by(
    mut follower: Follower,
    mut claimant: Claimant,
    metrics: &Metrics,
    cancel: &CancellationToken,
) -> Result<Option<(Owner, Lease)>, IngestError> {
    let mut known = None;
    let waiting = claimant.wait(|holder| {
        if known.as_ref() != Some(holder) {
            info!(%holder, "the tables have an owner, waiting for it and following it");
            metrics.waits_for(holder);
            known = Some(holder.clone());
        }
    });
    let lease = tokio::select! {
        done = follower.follow(cancel) => return done.map(|()| None),
        lease = waiting => lease,
    };
    let (tail, mut sink) = follower.into_parts();
    claim(&mut sink, &lease).await?;
    let tail = tail.reopen(&mut sink).await?;
    Ok(Some((own(tail, sink).await?, lease)))
}

/// Begins to own tables that are claimed.
async fn own(tail: Tail, mut sink: Sink) -> Result<Owner, IngestError> {
    let restored = restored(&mut sink).await.map_err(IngestError::Store)?;
    note_logs(&mut sink, &tail.state.reading).await.map_err(lost)?;
    Ok(Owner::of(tail, sink, restored))
}

async fn claim(sink: &mut Sink, lease: &Lease) -> Result<(), IngestError> {
    sink.claim(lease.generation()).await.map_err(lost)
}

fn lost(error: CommitError) -> IngestError {
    match error {
        CommitError::Store(error) => IngestError::Store(error),
        overtaken => IngestError::Overtaken(Overtaken(overtaken)),
    }
}

async fn overdue(cancel: &CancellationToken, deadline: Duration) {
    cancel.cancelled().await;
    tokio::time::sleep(deadline).await;
    warn!(?deadline, "not everything was committed in time; the log keeps the rest");
}
