//! One HTTP server for every role of the process, with its health and metrics.
//!
//! `/healthz` says that the process answers; `/readyz` that it does all its work: the log read up
//! to where it ended at the start, records taken, commits done; `/metrics` is for Prometheus.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use nilometer_accounts::{Accounts, Denied};
use nilometer_contract::Role;
use nilometer_http::Problem;
use prometheus::{Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Whether a role is ready; else what it waits for.
pub(crate) type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

#[derive(Clone)]
struct Health {
    registries: Vec<Registry>,
    readiness: Vec<Readiness>,
}

/// Everything to serve.
pub(crate) struct Site {
    /// Routes of the roles.
    pub(crate) routes: Router,
    /// Metrics of the roles.
    pub(crate) registries: Vec<Registry>,
    /// Readiness of the roles.
    pub(crate) readiness: Vec<Readiness>,
    /// What asks clients for their keys; none lets everybody in.
    pub(crate) accounts: Option<Arc<Accounts>>,
}

/// Takes the address; fails with advice when it is in use.
pub(crate) async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}; is another nilometer running? choose with --http")
    })
}

impl Site {
    /// Serves until cancelled; requests under way are finished.
    pub(crate) async fn serve(
        self,
        listener: TcpListener,
        cancel: CancellationToken,
    ) -> anyhow::Result<()> {
        let health = Health { registries: self.registries, readiness: self.readiness };
        let open = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .with_state(health.clone());
        let metrics = Router::new().route("/metrics", get(metrics)).with_state(health);
        let guarded = self
            .routes
            .merge(metrics)
            .fallback(nothing_here)
            .layer(from_fn_with_state(self.accounts, authenticate));
        let site = open.merge(guarded);
        axum::serve(listener, site)
            .with_graceful_shutdown(cancel.cancelled_owned())
            .await
            .context("the HTTP server failed")
    }
}

async fn nothing_here() -> Problem {
    let detail = "no such path; see GET /v1/tables, POST /v1/sql, GET /v1/usage, /v1/charges, \
                  /v1/invoices, /v1/nodes";
    Problem::new(StatusCode::NOT_FOUND, "not found", detail)
}

async fn authenticate(
    State(accounts): State<Option<Arc<Accounts>>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(accounts) = accounts else { return next.run(request).await };
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or("");
    let (status, title, detail) = match accounts.authenticate(given).await {
        Ok(principal) if principal.role == Role::Operator => return next.run(request).await,
        Ok(_) => (StatusCode::FORBIDDEN, "forbidden", "only operators are answered"),
        Err(denied @ Denied::Refused(_)) => {
            debug!(reason = denied.reason(), "credentials refused");
            let detail = "send `Authorization: Bearer …` with a key that is valid; \
                          `nilometer key create` makes one";
            (StatusCode::UNAUTHORIZED, "unauthorized", detail)
        }
        Err(Denied::Unavailable(error)) => {
            warn!(error = &*error as &dyn std::error::Error, "credentials cannot be checked");
            (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "keys cannot be checked; try again")
        }
    };
    Problem::new(status, title, detail).into_response()
}

async fn ready(State(health): State<Health>) -> Response {
    let waiting: Vec<String> = health.readiness.iter().filter_map(|ready| ready().err()).collect();
    match waiting.is_empty() {
        true => "ready\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, waiting.join("\n") + "\n").into_response(),
    }
}

async fn metrics(State(health): State<Health>) -> Response {
    let families: Vec<_> = health.registries.iter().flat_map(Registry::gather).collect();
    match TextEncoder::new().encode_to_string(&families) {
        Ok(text) => text.into_response(),
        Err(error) => Problem::internal(&error).into_response(),
    }
}
