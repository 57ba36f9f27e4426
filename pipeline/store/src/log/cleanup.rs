//! Keeping a log short: checkpoints, and deletion of what they make superfluous.
//!
//! For maintenance only. The two newest checkpoints stay, with all commits since the older, so
//! that a damaged newest one costs nothing.

use futures::TryStreamExt;
use object_store::ObjectStore;

use super::{CHECKPOINT_EVERY, Log, Name, RETENTION_MILLIS, State, folder};
use crate::table::StoreError;
use crate::vacuum::delete;

impl Log {
    /// Writes a checkpoint if one is due; says whether it did. While commits could not be read it
    /// does not, so that the next start still finds them missing.
    pub(crate) async fn keep_short(&self, state: &mut State, now: i64) -> Result<bool, StoreError> {
        let since = state.version - state.checkpoint.unwrap_or(0);
        if since < CHECKPOINT_EVERY || !state.unread.is_empty() {
            return Ok(false);
        }
        self.settle(state, now).await?;
        Ok(true)
    }

    /// Writes a checkpoint, so that nobody needs the commits before.
    pub(crate) async fn settle(&self, state: &mut State, now: i64) -> Result<(), StoreError> {
        state.dropped.retain(|_, at| *at >= now - RETENTION_MILLIS);
        self.write_checkpoint(state).await?;
        state.checkpoint = Some(state.version);
        Ok(())
    }

    /// Deletes commits and checkpoints from before the second newest checkpoint that are old
    /// enough; says how many.
    pub(crate) async fn clean_up(&self, now: i64) -> Result<usize, StoreError> {
        let folder = folder();
        let mut objects = Vec::new();
        let mut listed = self.store.list(Some(&folder));
        while let Some(object) = listed.try_next().await.map_err(|cause| self.refused(cause))? {
            objects.extend(Name::of(&object.location).map(|name| (name, object)));
        }
        let mut checkpoints: Vec<i64> =
            objects.iter().filter_map(|(name, _)| name.checkpoint()).collect();
        checkpoints.sort_unstable();
        let Some(&kept) = checkpoints.iter().rev().nth(1) else { return Ok(0) };
        objects.retain(|(name, object)| {
            let (Name::Commit(version) | Name::Checkpoint(version)) = name;
            let age = now - object.last_modified.timestamp_millis();
            *version < kept && age > RETENTION_MILLIS
        });
        let paths = objects.into_iter().map(|(_, object)| object.location);
        delete(self.store.as_ref(), paths).await.map_err(|cause| self.refused(cause))
    }
}
