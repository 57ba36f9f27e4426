//! Where tables lie: a local folder, or any S3-compatible object store.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use deltalake_core::DeltaResult;
use deltalake_core::logstore::{
    LogStore, LogStoreFactory, LogStoreRef, ObjectStoreRef, StorageConfig as DeltaConfig,
    default_logstore, logstore_factories, logstore_with,
};
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use serde::Deserialize;
use url::Url;

use crate::local::DurableLocal;
use crate::schema::TableDef;
use crate::table::{StoreError, Table};

/// Where the tables are.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageConfig {
    /// `s3://bucket/prefix`, or a path of this machine.
    pub location: String,
    /// Options of the object store, such as `aws_endpoint` or `aws_region`; credentials may come
    /// from here or from the instance.
    #[serde(default)]
    pub options: HashMap<String, String>,
}

/// An open place for tables.
#[derive(Clone)]
pub struct Storage {
    root: Url,
    store: ObjectStoreRef,
    local: bool,
}

#[derive(Debug)]
struct PlainLogStore;

impl LogStoreFactory for PlainLogStore {
    fn with_options(
        &self,
        prefixed: ObjectStoreRef,
        root: ObjectStoreRef,
        location: &Url,
        options: &DeltaConfig,
    ) -> DeltaResult<Arc<dyn LogStore>> {
        Ok(default_logstore(prefixed, root, location, options))
    }
}

impl Storage {
    /// Opens the place; creates a local folder that is missing.
    pub fn open(config: &StorageConfig) -> Result<Self, StoreError> {
        match config.location.starts_with("s3://") {
            true => Self::s3(config),
            false => Self::local(Path::new(&config.location)),
        }
    }

    /// A folder of this machine.
    pub fn local(path: &Path) -> Result<Self, StoreError> {
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
        Ok(Storage { root, store: Arc::new(DurableLocal::default()), local: true })
    }

    fn s3(config: &StorageConfig) -> Result<Self, StoreError> {
        let refused = |cause: Box<dyn std::error::Error + Send + Sync>| StoreError::Location {
            location: config.location.clone(),
            cause,
        };
        let location = format!("{}/", config.location.trim_end_matches('/'));
        let root = Url::parse(&location).map_err(|error| refused(Box::new(error)))?;
        let mut builder = AmazonS3Builder::from_env()
            .with_url(location.as_str())
            .with_conditional_put(S3ConditionalPut::ETagMatch);
        for (key, value) in &config.options {
            let key = key.parse().map_err(|error: object_store::Error| refused(Box::new(error)))?;
            builder = builder.with_config(key, value);
        }
        let store = builder.build().map_err(|error| refused(Box::new(error)))?;
        let scheme = Url::parse("s3://").map_err(|error| refused(Box::new(error)))?;
        logstore_factories().insert(scheme, Arc::new(PlainLogStore));
        Ok(Storage { root, store: Arc::new(store), local: false })
    }

    /// Opens a table; creates it when it is missing.
    pub async fn table(&self, def: &'static TableDef) -> Result<Table, StoreError> {
        let location = self.root.join(&format!("{}/", def.name)).map_err(|cause| {
            StoreError::Location { location: self.root.to_string(), cause: Box::new(cause) }
        })?;
        if self.local {
            let refused = |cause: Box<dyn std::error::Error + Send + Sync>| StoreError::Location {
                location: location.to_string(),
                cause,
            };
            let folder = location.to_file_path().map_err(|()| refused("not a path".into()))?;
            std::fs::create_dir_all(folder).map_err(|cause| refused(Box::new(cause)))?;
        }
        let store: LogStoreRef =
            logstore_with(self.store.clone(), &location, DeltaConfig::default())
                .map_err(|cause| StoreError::delta(def, "open", cause))?;
        Table::open(def, store).await
    }

    /// The same place reached through another object store, such as one that counts or fails.
    #[must_use]
    pub fn through(self, wrap: impl FnOnce(ObjectStoreRef) -> ObjectStoreRef) -> Self {
        Storage { store: wrap(self.store), ..self }
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
