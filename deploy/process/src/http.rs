//! One HTTP server for every role of the process, with its health and metrics.
//!
//! `/healthz` says that the process answers; `/readyz` that it does all its work: the log read up
//! to where it ended at the start, records taken, commits done; `/metrics` is for Prometheus.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use nilometer_surface::gate::Peer;
use nilometer_surface::tls::{Tls, TlsListener};
use nilometer_surface::{Access, Answer, Call, Format, Gate, Problem, Route, Surface};
use prometheus::{Registry, TextEncoder};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::listen::Readers;

/// Whether a role is ready; else what it waits for.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What a role says of itself as text.
const fn health(path: &'static str, summary: &'static str, access: Access) -> Route {
    Route {
        method: Method::GET,
        path,
        summary,
        tag: "service",
        parameters: &[],
        page: None,
        body: None,
        answer: Answer {
            status: 200,
            formats: &[Format::Table],
            schema: || json!({"type": "string"}),
        },
        access,
        quiet: true,
    }
}

static HEALTHZ: Route = health("/healthz", "Whether the process answers", Access::Everyone);
static READYZ: Route = health("/readyz", "Whether it does all its work", Access::Everyone);
static METRICS: Route = health("/metrics", "Metrics for Prometheus", Access::OPERATOR);
static OPEN_METRICS: Route = health("/metrics", "Metrics for Prometheus", Access::Everyone);

/// Everything to serve.
pub(crate) struct Site {
    /// Routes of the roles.
    pub(crate) surface: Surface,
    /// Metrics of the roles.
    pub(crate) registries: Vec<Registry>,
    /// Readiness of the roles.
    pub(crate) readiness: Vec<Readiness>,
    /// Who may read the metrics.
    pub(crate) metrics: Readers,
    /// What every request passes.
    pub(crate) gate: Gate,
    /// Certificates; without them it is plain HTTP.
    pub(crate) tls: Option<Arc<Tls>>,
}

/// Takes the address; fails with advice when it is in use.
///
/// # Errors
///
/// If it cannot be had.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
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
        let (registries, readiness) = (self.registries, self.readiness);
        let of_metrics = match self.metrics {
            Readers::Operator => &METRICS,
            Readers::Everyone => &OPEN_METRICS,
        };
        let surface = self
            .surface
            .with(&HEALTHZ, |call: Call| async move { Ok(call.answer("ok\n".to_owned())) })
            .with(&READYZ, move |call| {
                let ready = ready(&readiness, &call);
                async move { ready }
            })
            .with(of_metrics, move |call| {
                let metrics = metrics(&registries, &call);
                async move { metrics }
            });
        let site = surface.router(self.gate).into_make_service_with_connect_info::<Peer>();
        let stop = cancel.cancelled_owned();
        let served = match self.tls {
            None => axum::serve(listener, site).with_graceful_shutdown(stop).await,
            Some(tls) => {
                let listener = TlsListener::new(listener, tls)?;
                axum::serve(listener, site).with_graceful_shutdown(stop).await
            }
        };
        served.context("the HTTP server failed")
    }
}

fn ready(readiness: &[Readiness], call: &Call) -> Result<Response, Problem> {
    let waiting: Vec<String> = readiness.iter().filter_map(|ready| ready().err()).collect();
    match waiting.is_empty() {
        true => Ok(call.answer("ready\n".to_owned())),
        false => {
            let (status, detail) = (StatusCode::SERVICE_UNAVAILABLE, waiting.join("; "));
            Err(Problem::new(status, "not ready", detail))
        }
    }
}

fn metrics(registries: &[Registry], call: &Call) -> Result<Response, Problem> {
    let families: Vec<_> = registries.iter().flat_map(Registry::gather).collect();
    let text = TextEncoder::new().encode_to_string(&families);
    text.map(|text| call.answer(text)).map_err(|error| Problem::internal(&error))
}
