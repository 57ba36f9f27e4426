//! Who bills: one ledger at a time settles and issues, by a lease; others answer and wait, or only
//! answer.
//!
//! The owner's generation is in each transaction, so that one that was frozen past its term
//! commits nothing. Maintenance of the tables is the ingester's.

use nilometer_contract::Causes;
use std::sync::{PoisonError, RwLock};

use nilometer_store::{Claimant, Holder, Lease, LeaseConfig, Position, Taken};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::error::LedgerError;
use crate::settlement::Settlement;
use crate::stored::read::view_of;

/// Name of the lease.
const LEASE: &str = "bill";
/// Application id under which the tables of billing keep their owner's generation.
const OWNER: &str = "bill/owner";

/// Whether this ledger may write.
#[derive(Debug, Default)]
pub(crate) struct Standing(RwLock<Option<Box<Holder>>>);

impl Standing {
    fn set(&self, holder: Option<Box<Holder>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = holder;
    }

    /// Who bills instead.
    fn holder(&self) -> Option<Box<Holder>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Settlement {
    /// Settles as [`run`](Self::run) does, as soon as and as long as it owns the tables of
    /// billing; until then it follows what their owner states, or is refused, as configured.
    pub async fn run_owned(
        &self,
        role: &str,
        config: LeaseConfig,
        cancel: CancellationToken,
    ) -> Result<(), LedgerError> {
        let holder = Holder::here(role, self.core.clock.now());
        let mut claimant = self.core.storage.claimant(LEASE, holder, config.term);
        let claimed = self.writer.lock().await.usage.position(OWNER).await;
        claimant.is_above(claimed.map_err(LedgerError::Store)?.unwrap_or(0));
        let lease = match claimant.take().await.map_err(LedgerError::Lease)? {
            Taken::Ours(lease) => lease,
            Taken::Held(holder) if !config.wait => return Err(LedgerError::Owned(holder)),
            Taken::Held(holder) => {
                self.standing.set(Some(holder));
                match self.stand_by(&mut claimant, &cancel).await {
                    Some(lease) => lease,
                    None => return Ok(()),
                }
            }
        };
        self.take_over(lease.generation()).await?;
        let given_back = CancellationToken::new();
        let mut kept = std::pin::pin!(lease.keep(given_back.cancelled()));
        let done = tokio::select! {
            done = self.run(cancel) => done,
            lost = &mut kept => return lost.map_err(LedgerError::Lease),
        };
        given_back.cancel();
        if let Err(error) = kept.await {
            warn!(error = %Causes(&error), "billing is not given back, the next owner waits for the term");
        }
        done
    }

    /// Ready to settle and issue; else who does it instead.
    pub fn readiness(&self) -> Result<(), String> {
        match self.standing.holder() {
            Some(holder) => Err(format!("billing is done by {holder}; waiting for it")),
            None => Ok(()),
        }
    }

    /// Refuses to write what another owns.
    pub(crate) fn may_write(&self) -> Result<(), LedgerError> {
        if self.core.config.reads_only {
            return Err(LedgerError::ReadsOnly);
        }
        self.standing.holder().map_or(Ok(()), |holder| Err(LedgerError::Owned(holder)))
    }

    /// Shows what the owner states until the lease is free; none if cancelled before.
    async fn stand_by(&self, claimant: &mut Claimant, cancel: &CancellationToken) -> Option<Lease> {
        let standing = &self.standing;
        let mut known = None;
        let waiting = claimant.wait(|holder| {
            if known.as_ref() != Some(holder) {
                info!(%holder, "billing has an owner, waiting for it");
                standing.set(Some(Box::new(holder.clone())));
                known = Some(holder.clone());
            }
        });
        tokio::select! {
            () = self.follow(cancel) => None,
            lease = waiting => Some(lease),
        }
    }

    /// Shows what the process that bills states, until cancelled.
    pub async fn follow(&self, cancel: &CancellationToken) {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(self.core.config.interval) => {}
            }
            let mut writer = self.writer.lock().await;
            if let Err(error) = self.refresh(&mut writer).await {
                warn!(error = %Causes(&error), "what the owner of billing states cannot be read");
            }
        }
    }

    async fn take_over(&self, generation: i64) -> Result<(), LedgerError> {
        let mut writer = self.writer.lock().await;
        let writer = &mut *writer;
        for table in [&mut writer.usage, &mut writer.charges, &mut writer.invoices] {
            table.claim(OWNER, generation).await.map_err(LedgerError::Commit)?;
        }
        writer.owner = Some(generation);
        self.refresh(writer).await?;
        let mut stored = (*self.core.stored()).clone();
        stored.invoices = view_of(&writer.invoices);
        self.core.publish(stored);
        self.standing.set(None);
        info!(generation, "billing is owned");
        Ok(())
    }
}

/// The owner's position, which makes a commit conflict with the claim of a later owner.
pub(crate) fn owned_by(owner: Option<i64>) -> impl Iterator<Item = Position> {
    let position = |next| Position { app: OWNER.to_owned(), from: Some(next), next };
    owner.map(position).into_iter()
}
