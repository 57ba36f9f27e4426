//! A database of its own for each test, a clock by hand, and all that is logged.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, Once, PoisonError, Weak};
use std::time::Duration;

use nilometer_accounts::{
    Accounts, Config, CreatedKey, Denied, Directory, ExposeSecret, KeyRequest, Location,
    SecretString,
};
use nilometer_clock::Clock;
use nilometer_contract::{MICROS_PER_SECOND, Principal, Role, Timestamp, Validity};
use nilometer_testbed::postgres::Postgres;
use sqlx::{AnyPool, Executor, SqlSafeStr};
use tempfile::TempDir;

/// When all tests begin.
pub(crate) const START: Timestamp = Timestamp(1_793_577_600 * MICROS_PER_SECOND);

/// A clock that moves by hand.
pub(crate) struct Hand {
    wall: AtomicI64,
    steady: AtomicU64,
}

impl Hand {
    /// Lets time pass, by both clocks.
    pub(crate) fn pass(&self, seconds: u64) {
        self.wall.fetch_add(seconds as i64 * MICROS_PER_SECOND, Ordering::Relaxed);
        self.steady.fetch_add(seconds, Ordering::Relaxed);
    }

    /// Sets the wall clock alone.
    pub(crate) fn set(&self, at: Timestamp) {
        self.wall.store(at.0, Ordering::Relaxed);
    }
}

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp(self.wall.load(Ordering::Relaxed))
    }

    fn steady(&self) -> Duration {
        Duration::from_secs(self.steady.load(Ordering::Relaxed))
    }
}

/// An instant so many seconds after the beginning.
pub(crate) fn after(seconds: i64) -> Timestamp {
    START.plus_micros(seconds * MICROS_PER_SECOND)
}

/// A period in seconds after the beginning.
pub(crate) fn period(start: i64, end: i64) -> Validity {
    Validity { start: after(start), end: after(end) }
}

/// From now on.
pub(crate) fn from_now() -> Validity {
    Validity { start: START, end: Timestamp::MAX }
}

/// One database.
pub(crate) struct Bed {
    pub(crate) directory: Directory,
    pub(crate) clock: Arc<Hand>,
    pub(crate) location: Location,
    /// Folder of SQLite's files, or of all data of PostgreSQL.
    files: PathBuf,
    _folder: Option<TempDir>,
    _server: Option<Arc<Server>>,
}

struct Server {
    postgres: Postgres,
    folder: TempDir,
}

impl Bed {
    pub(crate) async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // A path that a URL must not misread.
        let files = folder.path().join("100% data?#");
        let location = Location::parse(&"".into(), &files).unwrap();
        Bed { _folder: Some(folder), ..Bed::open(location, files, None).await }
    }

    /// None where there is no PostgreSQL.
    pub(crate) async fn postgres() -> Option<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let server = tokio::task::spawn_blocking(server).await.unwrap()?;
        let name = format!("accounts_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let url = server.postgres.database(&name).unwrap();
        let location = Location::parse(&url.into(), Path::new("")).unwrap();
        let files = server.folder.path().to_owned();
        Some(Bed::open(location, files, Some(server)).await)
    }

    async fn open(location: Location, files: PathBuf, server: Option<Arc<Server>>) -> Self {
        capture_logs();
        let clock = Arc::new(Hand { wall: AtomicI64::new(START.0), steady: AtomicU64::new(1_000) });
        let directory = Directory::open(&location, clock.clone()).await.unwrap();
        Bed { directory, clock, location, files, _folder: None, _server: server }
    }

    /// The database once more, as another process has it.
    pub(crate) async fn again(&self) -> Directory {
        Directory::open(&self.location, self.clock.clone()).await.unwrap()
    }

    /// The gate's question, as one process asks it.
    pub(crate) fn gate(&self) -> Accounts {
        self.gate_with(&Config::default())
    }

    pub(crate) fn gate_with(&self, config: &Config) -> Accounts {
        let none = SecretString::from("");
        Accounts::new(self.directory.clone(), config, &none, Vec::new()).unwrap()
    }

    /// Accounts of these names.
    pub(crate) async fn accounts(&self, names: &[&str]) {
        for name in names {
            self.directory.accounts.add(name, "").await.unwrap();
        }
    }

    pub(crate) async fn key(&self, role: Role, account: Option<&str>) -> CreatedKey {
        self.directory.keys.create(request(role, account)).await.unwrap()
    }

    /// Runs a statement that no interface of ours has.
    pub(crate) async fn sql(&self, statement: &'static str) {
        let url = match &self.location {
            Location::Postgres(url) => url.expose_secret().to_owned(),
            Location::Sqlite(path) => {
                let path = path.to_str().unwrap().replace('%', "%25").replace('?', "%3f");
                format!("sqlite://{}", path.replace('#', "%23"))
            }
        };
        let pool = AnyPool::connect(&url).await.unwrap();
        pool.execute(statement.into_sql_str()).await.unwrap();
        pool.close().await;
    }

    /// Everything on disk.
    pub(crate) async fn bytes_on_disk(&self) -> Vec<u8> {
        if let Some(server) = &self._server {
            server.postgres.sql("CHECKPOINT").unwrap();
        }
        let mut bytes = Vec::new();
        collect(&self.files, &mut bytes);
        bytes
    }
}

/// A key of a role to create.
pub(crate) fn request(role: Role, account: Option<&str>) -> KeyRequest {
    KeyRequest {
        label: "a test's".to_owned(),
        role,
        account: account.map(str::to_owned),
        user: None,
        expires_at: None,
    }
}

/// What a token is answered.
pub(crate) async fn ask(gate: &Accounts, token: &SecretString) -> Result<Principal, Denied> {
    gate.authenticate(token.expose_secret()).await
}

/// The token is not let in, with the answer that says nothing; why, for the operator.
pub(crate) async fn refused(gate: &Accounts, token: &str) -> String {
    let denied = gate.authenticate(token).await.unwrap_err();
    assert!(matches!(denied, Denied::Refused(_)), "{denied:?}");
    assert_eq!(denied.to_string(), "the credentials are missing, wrong, expired or revoked");
    assert_eq!(format!("{denied:?}"), "Refused");
    assert!(std::error::Error::source(&denied).is_none());
    denied.reason().to_owned()
}

/// Whether bytes hold others.
pub(crate) fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// All that was logged so far, at any level, by anything.
pub(crate) fn logged() -> Vec<u8> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

static LOG: LazyLock<Mutex<Vec<u8>>> = LazyLock::new(Mutex::default);

struct Capture;

impl io::Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn capture_logs() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let level = tracing_subscriber::filter::LevelFilter::TRACE;
        let lines = tracing_subscriber::fmt().with_max_level(level).with_ansi(false);
        lines.with_writer(|| Capture).init();
    });
}

/// One server for the tests that run at the same time; it ends with the last of them.
fn server() -> Option<Arc<Server>> {
    static RUNNING: Mutex<Weak<Server>> = Mutex::new(Weak::new());
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(server) = running.upgrade() {
        return Some(server);
    }
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start(folder.path()).unwrap()?;
    let server = Arc::new(Server { postgres, folder });
    *running = Arc::downgrade(&server);
    Some(server)
}

fn collect(folder: &Path, bytes: &mut Vec<u8>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => collect(&entry.path(), bytes),
            // A running server removes files now and then.
            kind if kind.is_file() => bytes.extend(std::fs::read(entry.path()).unwrap_or_default()),
            _ => {}
        }
    }
}
