//! Where tables lie: a local folder, or any S3-compatible object store.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use deltalake_core::logstore::ObjectStoreRef;
use nilometer_clock::SharedClock;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use serde::Deserialize;
use tokio::sync::OnceCell;
use url::Url;

use crate::aside::Suspects;
use crate::checked::Checked;
use crate::files::DataFile;
use crate::local::DurableLocal;
use crate::probe::{PlaceError, probe};
use crate::s3::{self, Opened};
use crate::table::{StoreError, Table};
use nilometer_contract::TableDef;

/// Where the tables are.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageConfig {
    /// `s3://bucket/prefix`, or a path of this machine.
    pub location: String,
    /// Options of the object store, such as `aws_endpoint` or `aws_region`. What is not here is
    /// taken from `AWS_…` in the environment; credentials also from the instance.
    #[serde(default)]
    pub options: HashMap<String, String>,
}

impl fmt::Debug for StorageConfig {
    /// Tells which options there are; some are secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options: BTreeSet<&str> = self.options.keys().map(String::as_str).collect();
        let Self { location, .. } = self;
        f.debug_struct("StorageConfig")
            .field("location", location)
            .field("options", &options)
            .finish()
    }
}

/// An open place for tables.
#[derive(Clone)]
pub struct Storage {
    root: Url,
    store: ObjectStoreRef,
    clock: SharedClock,
    /// Shared by all tables that are opened from here.
    suspects: Suspects,
    /// None for a local folder, of which is known what it does.
    untried: Option<Arc<Untried>>,
}

/// Of a store that is tried out before the first table is opened, once.
struct Untried {
    from_instance: bool,
    tried: OnceCell<()>,
}

impl Storage {
    /// Opens the place; creates a local folder that is missing. Whether an object store is there
    /// and fit shows when the first table is opened. The clock is for what Delta notes of files and
    /// commits, and for the age of files that nobody needs.
    pub fn open(config: &StorageConfig, clock: SharedClock) -> Result<Self, StoreError> {
        match config.location.starts_with("s3://") {
            true => Self::s3(config, clock),
            false => Self::local(config.location.as_ref(), clock),
        }
    }

    /// A folder of this machine.
    pub fn local(path: &std::path::Path, clock: SharedClock) -> Result<Self, StoreError> {
        let refused = |cause: std::io::Error| StoreError::Location {
            location: path.display().to_string(),
            cause: Box::new(cause),
        };
        std::fs::create_dir_all(path).map_err(refused)?;
        let path = path.canonicalize().map_err(refused)?;
        let root = Url::from_directory_path(&path).map_err(|()| StoreError::Location {
            location: path.display().to_string(),
            cause: "not an absolute path".into(),
        })?;
        Ok(Storage {
            root,
            store: Arc::new(DurableLocal::default()),
            clock,
            suspects: Suspects::default(),
            untried: None,
        })
    }

    fn s3(config: &StorageConfig, clock: SharedClock) -> Result<Self, StoreError> {
        let Opened { root, store, from_instance } = s3::open(config)
            .map_err(|cause| StoreError::Location { location: config.location.clone(), cause })?;
        let untried = Untried { from_instance, tried: OnceCell::new() };
        let (suspects, untried) = (Suspects::default(), Some(Arc::new(untried)));
        Ok(Storage { root, store, clock, suspects, untried })
    }

    /// Opens a table; creates it when it is missing.
    ///
    /// The first of an object store also finds out whether two writers can use it, see
    /// [`PlaceError`].
    pub async fn table(&self, def: &'static TableDef) -> Result<Table, StoreError> {
        let location = self.root.join(&format!("{}/", def.name)).map_err(|cause| {
            StoreError::Location { location: self.root.to_string(), cause: Box::new(cause) }
        })?;
        if let Some(untried) = &self.untried {
            self.try_out(untried).await?;
        } else {
            let refused = |cause: Box<dyn std::error::Error + Send + Sync>| StoreError::Location {
                location: location.to_string(),
                cause,
            };
            let folder = location.to_file_path().map_err(|()| refused("not a path".into()))?;
            std::fs::create_dir_all(folder).map_err(|cause| refused(Box::new(cause)))?;
        }
        let folder = Path::from_url_path(location.path()).map_err(|cause| {
            StoreError::Location { location: location.to_string(), cause: Box::new(cause) }
        })?;
        Table::open(
            def,
            Arc::new(PrefixStore::new(self.store.clone(), folder)),
            self.suspects.clone(),
            self.clock.clone(),
        )
        .await
    }

    async fn try_out(&self, untried: &Untried) -> Result<(), StoreError> {
        let refused = |cause| StoreError::Location { location: self.root.to_string(), cause };
        let root = Path::from_url_path(self.root.path()).map_err(|cause| refused(cause.into()))?;
        let tried =
            untried.tried.get_or_try_init(|| probe(&self.store, &root, untried.from_instance));
        tried.await.map(|_| ()).map_err(|cause: PlaceError| refused(cause.into()))
    }

    /// The same place reached through another object store, such as one that counts or fails.
    #[must_use]
    pub fn through(self, wrap: impl FnOnce(ObjectStoreRef) -> ObjectStoreRef) -> Self {
        Storage { store: wrap(self.store), ..self }
    }

    /// A data file, of which nothing is read that was not written; its path is then that below
    /// the root of the object store.
    pub fn checked(&self, file: &Arc<DataFile>) -> Checked {
        let (store, suspects) = (self.object_store(), self.suspects.clone());
        Checked { store, suspects, file: file.clone() }
    }

    /// The object store under all tables.
    pub fn object_store(&self) -> ObjectStoreRef {
        self.store.clone()
    }

    /// Where the tables are, as a URL that ends in a slash.
    pub fn root(&self) -> &Url {
        &self.root
    }
}
