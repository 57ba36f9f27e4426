//! What a source is: something that observes resources and says what it saw.
//!
//! The agent asks each source to observe once per interval; between two intervals a source may
//! push what its system tells it (a domain stopped, a container exited) through its [`Outlet`].
//! A source degrades: what it cannot read it leaves out and says so, it never invents a value.

use async_trait::async_trait;
use nilometer_clock::Clock;
use nilometer_contract::{BatchBuilder, Epoch, LifecycleEvent};
use tokio::sync::mpsc;

/// What a source saw: samples, and events in the order in which they happened.
#[derive(Debug)]
pub struct Observation {
    /// The clock's epoch when this was begun; none where the instants are the source's own.
    pub epoch: Epoch,
    /// Samples, each stamped with the instant at which it was read.
    pub samples: BatchBuilder,
    /// Lifecycle events.
    pub events: Vec<LifecycleEvent>,
}

/// Why a source could not observe at all this time; it is asked again next interval.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct SourceError {
    /// What failed, with what to do about it where that is known.
    pub what: String,
    /// The cause.
    #[source]
    pub cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Where a source pushes observations between two intervals; bounded, so sending waits.
pub type Outlet = mpsc::Sender<Observation>;

/// Observes resources.
#[async_trait]
pub trait Source: Send {
    /// Name on samples, events and metrics, such as `libvirt`.
    fn name(&self) -> &'static str;

    /// Observes everything once. At its first call it reports every resource it finds as
    /// created, with the true start where the system tells it; later only what changed.
    async fn observe(&mut self) -> Result<Observation, SourceError>;
}

/// What looking for a source on this machine gave.
pub enum Discovery {
    /// It is there.
    Found {
        /// Ready to observe.
        source: Box<dyn Source>,
        /// What was found, for people: `containerd 1.6.20, 3 pods`.
        what: String,
    },
    /// It is not there.
    Absent {
        /// Why, for people: `no socket at /run/containerd/containerd.sock`.
        reason: String,
    },
}

impl Observation {
    /// Nothing seen yet by this source, whose samples bring instants of their own.
    pub fn new(source: &str) -> Self {
        let (samples, events) = (BatchBuilder::new(source), Vec::new());
        Observation { epoch: Epoch::none(), samples, events }
    }

    /// Nothing seen yet by this source, whose samples are stamped by a clock.
    pub fn begin(source: &str, clock: &dyn Clock) -> Self {
        let mut begun = Self::new(source);
        begun.resume(clock);
        begun
    }

    /// Goes on in the clock's epoch of this moment, unless there are samples already.
    ///
    /// Samples of one observation must be stamped within one epoch; the agent drops those of an
    /// observation during which another began.
    pub fn resume(&mut self, clock: &dyn Clock) {
        if self.samples.is_empty() {
            self.epoch = clock.epoch();
        }
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty() && self.events.is_empty()
    }
}

impl SourceError {
    /// A failure with its cause.
    pub fn new(
        what: impl Into<String>,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        SourceError { what: what.into(), cause: Some(cause.into()) }
    }
}
