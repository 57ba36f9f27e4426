//! The connection to the log: the attempt under way, when to try again, since when it fails.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use nilometer_contract::Timestamp;
use tokio::time::Instant;

use crate::flight::{Landed, Route};

const FIRST_BACKOFF: Duration = Duration::from_millis(250);
pub(crate) const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// Longest reason that is kept, in characters.
const MOST_REASON: usize = 300;

/// The connection to the log.
pub(crate) struct Line {
    pub(crate) route: Arc<Route>,
    /// Whether the last attempt failed, or none was made yet.
    pub(crate) away: bool,
    /// Whether the topics are known to exist.
    pub(crate) ensured: bool,
    pub(crate) retry_at: Instant,
    pub(crate) flight: Option<Pin<Box<dyn Future<Output = Landed> + Send>>>,
    backoff: Duration,
    outage: Option<Outage>,
}

/// A time in which attempts failed.
pub(crate) struct Outage {
    pub(crate) began: Instant,
    pub(crate) since: Timestamp,
    /// The first error.
    pub(crate) why: String,
}

impl Line {
    pub(crate) fn new(route: Route) -> Self {
        Line {
            route: Arc::new(route),
            away: true,
            ensured: false,
            retry_at: Instant::now(),
            flight: None,
            backoff: FIRST_BACKOFF,
            outage: None,
        }
    }

    /// Waits for the attempt under way, for ever when there is none.
    pub(crate) async fn landed(&mut self) -> Landed {
        let landed = match &mut self.flight {
            Some(flight) => poll_fn(|context| flight.as_mut().poll(context)).await,
            None => std::future::pending().await,
        };
        self.flight = None;
        landed
    }

    /// An attempt went well; tells of the time in which they did not.
    pub(crate) fn works(&mut self) -> Option<Outage> {
        self.backoff = FIRST_BACKOFF;
        self.retry_at = Instant::now();
        self.outage.take()
    }

    /// An attempt failed; the next one waits, longer each time.
    pub(crate) fn fails(&mut self, now: Timestamp, why: &str) {
        self.outage.get_or_insert_with(|| Outage {
            began: Instant::now(),
            since: now,
            why: why.chars().take(MOST_REASON).collect(),
        });
        self.retry_at = Instant::now() + self.backoff;
        self.backoff = (self.backoff * 2).min(LONGEST_BACKOFF);
    }
}
