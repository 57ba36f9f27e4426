//! Tables on a real S3 server, which the tests share.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

use nilometer_clock::SystemClock;
use nilometer_store::{Storage, StorageConfig};
use nilometer_testbed::s3::S3;
use tempfile::TempDir;

/// A server and its folder; ends with the last test that uses it.
struct Server {
    s3: Mutex<S3>,
    _folder: TempDir,
}

/// A prefix of its own on a server.
pub(crate) struct Bucket {
    server: Arc<Server>,
    storage: Storage,
}

fn start() -> Option<Arc<Server>> {
    let folder = tempfile::tempdir().unwrap();
    let s3 = S3::start(folder.path()).unwrap()?;
    Some(Arc::new(Server { s3: Mutex::new(s3), _folder: folder }))
}

impl Bucket {
    fn of(server: Arc<Server>) -> Self {
        static BUCKETS: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("of-tests/{}", BUCKETS.fetch_add(1, Ordering::Relaxed));
        let s3 = server.s3.lock().unwrap();
        let options = s3.options().into_iter().collect();
        let config = StorageConfig { location: s3.location(&prefix), options };
        let storage = Storage::open(&config, Arc::new(SystemClock)).unwrap();
        drop(s3);
        Bucket { server, storage }
    }

    /// On the server that all share; none, and it is said, where no server can be had.
    pub(crate) fn shared() -> Option<Self> {
        static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap();
        let server = match shared.upgrade() {
            Some(server) => server,
            None => start()?,
        };
        *shared = Arc::downgrade(&server);
        Some(Self::of(server))
    }

    /// On a server of its own, which may be killed.
    pub(crate) fn alone() -> Option<Self> {
        start().map(Self::of)
    }

    /// Another on the same server.
    pub(crate) fn beside(&self) -> Self {
        Self::of(self.server.clone())
    }

    pub(crate) fn storage(&self) -> Storage {
        self.storage.clone()
    }

    /// Kills the server, or starts it again on the same objects.
    pub(crate) fn set_running(&self, running: bool) {
        let mut s3 = self.server.s3.lock().unwrap();
        if running { s3.restart().unwrap() } else { s3.kill().unwrap() }
    }
}

/// The same tests with tables in a folder and on S3.
macro_rules! everywhere {
    ($($name:ident),* $(,)?) => {
        mod local {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name($crate::place::Place::new()).await;
            })*
        }

        mod s3 {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                if let Some(place) = $crate::place::Place::on_s3() {
                    super::$name(place).await;
                }
            })*
        }
    };
}
pub(crate) use everywhere;
