//! Where tables lie in a test: a folder, or a prefix of the one S3 server of this binary.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use nilometer_clock::SystemClock;
use nilometer_store::{SAMPLES, Storage, StorageConfig, Table};
use nilometer_testbed::s3::S3;
use tempfile::TempDir;

/// An empty place for tables.
pub(crate) struct Place {
    pub(crate) config: StorageConfig,
    folder: Arc<Folder>,
}

/// A folder, with the server that keeps its objects there.
struct Folder {
    server: Option<S3>,
    folder: TempDir,
}

impl Place {
    pub(crate) fn local() -> Self {
        let folder = Folder { server: None, folder: tempfile::tempdir().unwrap() };
        let location = folder.folder.path().display().to_string();
        let config = StorageConfig { location, options: Default::default() };
        Place { config, folder: Arc::new(folder) }
    }

    /// None, and it is said, where no server can be had. Tests share one; it ends with the last.
    pub(crate) fn s3() -> Option<Self> {
        static SHARED: Mutex<Weak<Folder>> = Mutex::new(Weak::new());
        static PLACES: AtomicU32 = AtomicU32::new(0);
        let mut shared = SHARED.lock().unwrap();
        let folder = match shared.upgrade() {
            Some(folder) => folder,
            None => {
                let folder = tempfile::tempdir().unwrap();
                let server = Some(S3::start(folder.path()).unwrap()?);
                Arc::new(Folder { server, folder })
            }
        };
        *shared = Arc::downgrade(&folder);
        let server = folder.server.as_ref()?;
        let prefix = format!("of-tests/{}", PLACES.fetch_add(1, Ordering::Relaxed));
        let options = server.options().into_iter().collect();
        let config = StorageConfig { location: server.location(&prefix), options };
        Some(Place { config, folder })
    }

    /// Whether the tables are not in a folder whose files can be damaged at will.
    pub(crate) fn is_remote(&self) -> bool {
        self.folder.server.is_some()
    }

    /// The folder of the tables, if it is one.
    pub(crate) fn folder(&self) -> std::path::PathBuf {
        self.folder.folder.path().to_owned()
    }

    pub(crate) fn storage(&self) -> Storage {
        Storage::open(&self.config, Arc::new(SystemClock)).unwrap()
    }

    pub(crate) async fn samples(&self) -> Table {
        self.storage().table(&SAMPLES).await.unwrap()
    }
}

/// The same tests of every kind of place.
macro_rules! everywhere {
    ($($name:ident),* $(,)?) => {
        mod local {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name($crate::place::Place::local()).await;
            })*
        }

        mod s3 {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                if let Some(place) = $crate::place::Place::s3() {
                    super::$name(place).await;
                }
            })*
        }
    };
}
pub(crate) use everywhere;
