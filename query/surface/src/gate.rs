//! The gate that every request passes: who asks, whether it may, and how often.
//!
//! ```text
//!  request ─▶ authenticators ─▶ principal ─▶ role of the route ─▶ rate ─▶ handler ─▶ audit
//!                 │ 401 503                     │ 403              │ 429
//! ```
//!
//! A handler is called with a principal (invariant 20a); no route can forget to ask for one.

mod audit;
mod audit_record;
mod credentials;
mod limit;

use std::sync::Arc;

use axum::http::{HeaderValue, StatusCode, header};
use nilometer_clock::SharedClock;
use nilometer_contract::Principal;

use crate::problem::Problem;
use crate::route::Route;

pub use audit::{Audit, NoAudit};
pub(crate) use audit::{begun, set_principal};
pub use audit_record::{AUDIT, AUDIT_TABLE, AuditRecord, InvalidAudit, MAX_AUDIT_BYTES};
pub use credentials::{
    Authenticator, ClientCertificate, ClientCertificates, Credentials, Denied, Loopback,
    OperatorToken, Peer, Secret, Trusted,
};
pub use limit::{Rate, RateLimiter};

/// What every request passes.
pub struct Gate {
    pub(crate) authenticators: Vec<Arc<dyn Authenticator>>,
    pub(crate) limiter: RateLimiter,
    pub(crate) audit: Arc<dyn Audit>,
    pub(crate) clock: SharedClock,
}

impl Gate {
    /// A gate that asks one authenticator after the other; the first that knows the credentials
    /// decides.
    pub fn new(
        authenticators: Vec<Arc<dyn Authenticator>>,
        rate: Rate,
        audit: Arc<dyn Audit>,
        clock: SharedClock,
    ) -> Self {
        Gate { authenticators, limiter: RateLimiter::new(rate), audit, clock }
    }

    /// A gate for callers within the program and for tests: whoever asks is this principal.
    pub fn trusting(principal: Principal, clock: SharedClock) -> Self {
        Gate::new(vec![Arc::new(Trusted(principal))], Rate::UNLIMITED, Arc::new(NoAudit), clock)
    }

    /// Who asks. Who is refused is limited by its address, so that guessing is slow.
    pub async fn principal(&self, credentials: &Credentials) -> Result<Principal, Problem> {
        let from = credentials.peer.map_or_else(|| "-".to_owned(), |peer| peer.ip().to_string());
        let guesses = format!("refused {from}");
        let mut denied = Denied::Unknown;
        for authenticator in &self.authenticators {
            match authenticator.authenticate(credentials).await {
                Ok(principal) => return Ok(principal),
                Err(Denied::Unknown) => {}
                Err(other) => {
                    denied = other;
                    break;
                }
            }
        }
        self.pass(&guesses)?;
        Err(denied.into())
    }

    /// Whether it may ask this, now.
    pub(crate) fn admit(&self, principal: &Principal, route: &Route) -> Result<(), Problem> {
        if !route.access.admits(principal.role) {
            let detail = format!("{} is not for the role {}", route.name(), principal.role);
            return Err(Problem::new(StatusCode::FORBIDDEN, "not allowed", detail));
        }
        match route.quiet {
            true => Ok(()),
            false => self.pass(&principal.name),
        }
    }

    fn pass(&self, name: &str) -> Result<(), Problem> {
        self.limiter.take(name, self.clock.steady()).map_err(|wait| {
            let seconds = wait.as_secs_f64().ceil().max(1.0) as u64;
            let detail = format!("too many requests; try again in {seconds} s");
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "too many requests", detail)
                .with_header(header::RETRY_AFTER, HeaderValue::from(seconds))
        })
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        let detail = denied.to_string();
        match denied {
            Denied::Unavailable(_) => {
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "cannot authenticate", detail)
                    .with_header(header::RETRY_AFTER, HeaderValue::from(5))
            }
            _ => Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).with_header(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"nilometer\""),
            ),
        }
    }
}
