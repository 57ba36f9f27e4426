//! Deletes files that nobody needs any more.
//!
//! A file that a commit dropped stays for a while, because readers may hold a view that names it;
//! one that no commit ever named may be of a commit that is under way.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

use crate::table::{StoreError, Table};

/// Deletes data files that left the table, or that were written for nothing, longer ago than
/// `age`; says how many. The stamps of the object store are compared with the table's clock.
pub async fn vacuum(table: &Table, age: Duration) -> Result<usize, StoreError> {
    let dropped: &HashMap<String, i64> = &table.state.dropped;
    let files = table.files();
    let used: HashSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    // Somebody may make them good again.
    let aside: HashSet<String> = table.aside().into_iter().collect();
    let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    let horizon = table.now_millis().saturating_sub(age);
    let unused = |object: &ObjectMeta| {
        let path = object.location.as_ref();
        let data = path.ends_with(".parquet") && !path.starts_with("_delta_log");
        let since = object.last_modified.timestamp_millis();
        let since = dropped.get(path).copied().unwrap_or(since).max(since);
        data && !aside.contains(path) && !used.contains(path) && since < horizon
    };
    let refused = |cause| StoreError::Object { table: table.def().name, cause };
    let store = table.object_store();
    let listed = store.list(None).try_filter(|object| std::future::ready(unused(object)));
    let old: Vec<ObjectMeta> = listed.try_collect().await.map_err(refused)?;
    let paths = old.into_iter().map(|object| object.location);
    delete(store.as_ref(), paths).await.map_err(refused)
}

/// Deletes objects; says how many there still were.
pub(crate) async fn delete(
    store: &dyn ObjectStore,
    paths: impl Iterator<Item = Path> + Send + 'static,
) -> object_store::Result<usize> {
    let mut deleted = store.delete_stream(futures::stream::iter(paths.map(Ok)).boxed());
    let mut count = 0;
    while let Some(done) = deleted.next().await {
        match done {
            Ok(_) => count += 1,
            // Another was faster.
            Err(object_store::Error::NotFound { .. }) => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(count)
}
