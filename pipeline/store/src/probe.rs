//! Whether a store may hold tables: asked before the first table is opened.
//!
//! Two writers of one table are kept apart by the store alone, which must let a commit's name be
//! taken once. A store that does not would lose commits without a word, so it is tried out:
//! several create the same object at once, and one may succeed.

use deltalake_core::logstore::ObjectStoreRef;
use futures::StreamExt;
use futures::future::join_all;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode};
use tracing::warn;
use uuid::Uuid;

/// How many create the same object: enough to catch a store that looks first and writes then.
const RIVALS: usize = 8;

/// Why an object store is no place for tables, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Commits of one writer could overwrite those of another.
    #[error(
        "the store let {0} writers create the same object, so commits would be lost: it must \
         honour `If-None-Match: *` of PutObject, also for requests at the same time"
    )]
    Unconditional(usize),
    /// The bucket is not made here.
    #[error("the bucket does not exist: create it, or check store.location")]
    NoBucket(#[source] Error),
    /// Neither writing nor reading is allowed.
    #[error(
        "the store refuses the credentials: check aws_access_key_id and aws_secret_access_key in \
         store.options or AWS_… in the environment, and what they may do with the bucket"
    )]
    Refused(#[source] Error),
    /// There are no credentials.
    #[error(
        "there are no credentials, and this machine gets none from a cloud: set aws_access_key_id \
         and aws_secret_access_key in store.options, or AWS_ACCESS_KEY_ID and \
         AWS_SECRET_ACCESS_KEY in the environment"
    )]
    NoCredentials(#[source] Error),
    /// Anything else.
    #[error("the store does not answer well: check aws_endpoint and aws_region in store.options")]
    Unwell(#[source] Error),
    /// Rows would travel in the clear.
    #[error("{0} is not encrypted: use https, or set aws_allow_http = \"true\" in store.options")]
    PlainHttp(String),
}

/// Tries the store out below `root`; leaves nothing there.
///
/// Credentials that may only read are told in the log, and let pass: readers need no more.
pub(crate) async fn probe(
    store: &ObjectStoreRef,
    root: &Path,
    from_instance: bool,
) -> Result<(), PlaceError> {
    let path = root.clone().join("_probe").join(Uuid::new_v4().to_string());
    let rivals = (0..RIVALS).map(|rival| {
        let text = format!("probe {rival} of a store for tables; may be deleted");
        store.put_opts(&path, text.into(), PutMode::Create.into())
    });
    let mut created = 0;
    let mut failed = None;
    for put in join_all(rivals).await {
        match put {
            Ok(_) => created += 1,
            Err(Error::AlreadyExists { .. }) => {}
            Err(error) => failed = Some(error),
        }
    }
    if created > 0 {
        if let Err(error) = store.delete(&path).await {
            warn!(%path, %error, "probe not deleted");
        }
        return if created == 1 { Ok(()) } else { Err(PlaceError::Unconditional(created)) };
    }
    let Some(error) = failed else { return Ok(()) };
    if is_denied(&error) && can_list(store, root).await {
        warn!(%root, %error, "the store may be read, but not written");
        return Ok(());
    }
    Err(explained(error, from_instance))
}

async fn can_list(store: &dyn ObjectStore, root: &Path) -> bool {
    store.list(Some(root)).next().await.is_none_or(|first| first.is_ok())
}

fn is_denied(error: &Error) -> bool {
    matches!(error, Error::PermissionDenied { .. } | Error::Unauthenticated { .. })
}

fn explained(error: Error, from_instance: bool) -> PlaceError {
    match error {
        Error::NotFound { .. } if error.to_string().contains("NoSuchBucket") => {
            PlaceError::NoBucket(error)
        }
        _ if is_denied(&error) => PlaceError::Refused(error),
        _ if from_instance => PlaceError::NoCredentials(error),
        _ => PlaceError::Unwell(error),
    }
}
