//! Whether a store may hold tables: asked before the first table is opened.
//!
//! Two writers of one table are kept apart by the store alone, which must let a commit's name be
//! taken once. A store that does not would lose commits without a word, so it is tried out: an
//! object is created twice, and the second time must fail.

use deltalake_core::logstore::ObjectStoreRef;
use futures::StreamExt;
use nilometer_contract::Causes;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode};
use tracing::warn;
use uuid::Uuid;

const TEXT: &str = "Written to try the store out for tables; may be deleted.";

/// Why an object store is no place for tables, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Commits of one writer could overwrite those of another.
    #[error(
        "the store lets an object be created that exists already, so commits would be lost: it \
         must honour `If-None-Match: *` of PutObject"
    )]
    Unconditional,
    /// The bucket is not made here.
    #[error("the bucket does not exist: create it, or check store.location")]
    NoBucket(#[source] Answer),
    /// Neither writing nor reading is allowed.
    #[error(
        "the store refuses the credentials: check aws_access_key_id and aws_secret_access_key in \
         store.options or AWS_… in the environment, and what they may do with the bucket"
    )]
    Refused(#[source] Answer),
    /// There are no credentials.
    #[error(
        "there are no credentials, and this machine gets none from a cloud: set aws_access_key_id \
         and aws_secret_access_key in store.options, or AWS_ACCESS_KEY_ID and \
         AWS_SECRET_ACCESS_KEY in the environment"
    )]
    NoCredentials(#[source] Answer),
    /// Anything else.
    #[error("the store does not answer well: check aws_endpoint and aws_region in store.options")]
    Unwell(#[source] Answer),
    /// Rows would travel in the clear.
    #[error("{0} is not encrypted: use https, or set aws_allow_http = \"true\" in store.options")]
    PlainHttp(String),
}

/// What a store answered, in one line: its client repeats the whole page at each level.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Answer(String);

/// Tries the store out below `root`; leaves nothing there.
///
/// Credentials that may only read are told in the log, and let pass: readers need no more.
pub(crate) async fn probe(
    store: &ObjectStoreRef,
    root: &Path,
    from_instance: bool,
) -> Result<(), PlaceError> {
    let path = root.clone().join("_probe").join(Uuid::new_v4().to_string());
    let create = || store.put_opts(&path, TEXT.into(), PutMode::Create.into());
    let first = create().await;
    // A request that was repeated for want of an answer may find its own object.
    if let Err(error) = first
        && !matches!(error, Error::AlreadyExists { .. })
    {
        if is_denied(&error) && can_list(store, root).await {
            warn!(%root, error = %Causes(&error), "the store may be read, but not written");
            return Ok(());
        }
        return Err(explained(error, from_instance));
    }
    let again = create().await;
    if let Err(error) = store.delete(&path).await {
        warn!(%path, error = %Causes(&error), "probe not deleted");
    }
    match again {
        Err(Error::AlreadyExists { .. }) => Ok(()),
        Err(error) => Err(explained(error, from_instance)),
        Ok(_) => Err(PlaceError::Unconditional),
    }
}

async fn can_list(store: &dyn ObjectStore, root: &Path) -> bool {
    store.list(Some(root)).next().await.is_none_or(|first| first.is_ok())
}

fn is_denied(error: &Error) -> bool {
    matches!(error, Error::PermissionDenied { .. } | Error::Unauthenticated { .. })
}

fn explained(error: Error, from_instance: bool) -> PlaceError {
    let answer = Answer::of(&error);
    match error {
        Error::NotFound { .. } if answer.0.starts_with("NoSuchBucket") => {
            PlaceError::NoBucket(answer)
        }
        _ if is_denied(&error) => PlaceError::Refused(answer),
        _ if from_instance => PlaceError::NoCredentials(answer),
        _ => PlaceError::Unwell(answer),
    }
}

impl Answer {
    fn of(error: &Error) -> Self {
        let text = error.to_string();
        let tagged = |tag: &str| {
            let (_, rest) = text.split_once(&format!("<{tag}>"))?;
            rest.split_once("</").map(|(inner, _)| inner)
        };
        if let (Some(code), Some(message)) = (tagged("Code"), tagged("Message")) {
            return Answer(format!("{code}: {message}"));
        }
        let mut root: &dyn std::error::Error = error;
        while let Some(cause) = root.source() {
            root = cause;
        }
        let root = root.to_string();
        Answer(if text.contains(&root) { text } else { format!("{text}: {root}") })
    }
}
