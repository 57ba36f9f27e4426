//! Routes with their handlers, and the server's half of every request.
//!
//! ```text
//!  path, method ─▶ gate ─▶ format ─▶ parameters ─▶ body ─▶ handler ─▶ body of the answer ─▶ audit
//!   404    405   401 403 429  406       400       413 415   any                        when it ends
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{ConnectInfo, RawPathParams, Request};
use axum::http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use futures::future::BoxFuture;
use nilometer_contract::{Principal, Role, Scope};
use tracing::error;

use crate::audited::audited;
use crate::call::Call;
use crate::format::Format;
use crate::gate::{AuditRecord, Credentials, Gate, Peer, begun, set_principal};
use crate::note::Note;
use crate::openapi::{DOCUMENT, document};
use crate::problem::Problem;
use crate::route::{Access, Route};

/// Answers a call.
pub type Handler = Arc<dyn Fn(Call) -> BoxFuture<'static, Result<Response, Problem>> + Send + Sync>;

/// Routes with their handlers, of one part of the program or of all.
#[derive(Clone, Default)]
pub struct Surface {
    endpoints: Vec<(&'static Route, Handler)>,
}

impl Surface {
    /// Nothing yet.
    pub fn new() -> Self {
        Surface::default()
    }

    /// With one more route.
    pub fn with<F, A>(mut self, route: &'static Route, handler: F) -> Self
    where
        F: Fn(Call) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Response, Problem>> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |call| Box::pin(handler(call)));
        self.endpoints.push((route, handler));
        self
    }

    /// With the routes of another part.
    pub fn merge(mut self, other: Surface) -> Self {
        self.endpoints.extend(other.endpoints);
        self
    }

    /// The routes, in order of path and method.
    pub fn routes(&self) -> Vec<&'static Route> {
        let mut routes: Vec<&'static Route> = self.endpoints.iter().map(|(it, _)| *it).collect();
        routes.sort_by_key(|route| (route.path, route.method.to_string()));
        routes
    }

    /// The server: each request passes the gate. `GET /v1/openapi.json` is added.
    ///
    /// # Panics
    ///
    /// If two routes have one path and method.
    pub fn router(self, gate: impl Into<Arc<Gate>>) -> Router {
        let gate = gate.into();
        let mut routes = self.routes();
        routes.push(&DOCUMENT);
        let text: Arc<str> = document(&routes).to_string().into();
        let surface = self.with(&DOCUMENT, move |call: Call| {
            let text = text.to_string();
            async move { Ok(call.answer(text)) }
        });
        let list: Arc<str> = list(&surface.routes()).into();
        let mut by_path: BTreeMap<&'static str, Vec<(&'static Route, Handler)>> = BTreeMap::new();
        for (route, handler) in surface.endpoints {
            let of_path = by_path.entry(route.path).or_default();
            let taken = of_path.iter().any(|(other, _)| other.method == route.method);
            assert!(!taken, "{} is there twice", route.name());
            of_path.push((route, handler));
        }
        let mut router = Router::new();
        for (path, endpoints) in by_path {
            let (gate, endpoints): (_, Arc<[_]>) = (gate.clone(), endpoints.into());
            let serve = move |in_path: Result<RawPathParams, _>, request: Request| {
                let (gate, endpoints) = (gate.clone(), endpoints.clone());
                async move {
                    let in_path: Result<RawPathParams, RawPathParamsRejection> = in_path;
                    let in_path = in_path.map_err(|error| Problem::bad_request(error.body_text()));
                    let in_path = in_path.map(|pairs| {
                        pairs.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
                    });
                    dispatch(&gate, &endpoints, in_path, request).await
                }
            };
            router = router.route(path, any(serve));
        }
        router.fallback(move |request: Request| nothing_here(gate.clone(), list.clone(), request))
    }
}

/// What there is, for who asks for something else.
fn list(routes: &[&'static Route]) -> String {
    let known = routes.iter().filter(|route| route.access != Access::Everyone);
    known.map(|route| route.name()).collect::<Vec<_>>().join(", ")
}

async fn nothing_here(gate: Arc<Gate>, list: Arc<str>, request: Request) -> Response {
    let credentials = Credentials::of(request.headers(), peer(request.extensions()));
    if let Err(problem) = gate.principal(&credentials).await {
        return problem.into_response();
    }
    let detail = format!("no such path; there are {list}");
    Problem::new(StatusCode::NOT_FOUND, "no such path", detail).into_response()
}

type InPath = Result<Vec<(String, String)>, Problem>;

/// One request, from its method to its audit record.
async fn dispatch(
    gate: &Arc<Gate>,
    endpoints: &[(&'static Route, Handler)],
    in_path: InPath,
    request: Request,
) -> Response {
    let is_head = *request.method() == Method::HEAD;
    let method = if is_head { Method::GET } else { request.method().clone() };
    let Some((route, handler)) = endpoints.iter().find(|(route, _)| route.method == method) else {
        return wrong_method(endpoints, &method);
    };
    let (start, peer) = (gate.clock.steady(), peer(request.extensions()));
    let from = peer.map_or_else(String::new, |peer| peer.address.to_string());
    let mut record = begun(gate.clock.now(), from, route.name());
    let note = Note::default();
    let answered = answer(gate, route, handler, (in_path, request), &note, &mut record).await;
    let mut response = answered.unwrap_or_else(|problem| hide(problem, &record).into_response());
    if is_head {
        *response.body_mut() = Body::empty();
    }
    record.status = response.status().as_u16();
    let limited = response.status() == StatusCode::TOO_MANY_REQUESTS;
    match route.quiet || limited || route.access == Access::Everyone {
        true => response,
        false => audited(response, gate.clone(), record, note, start),
    }
}

fn wrong_method(endpoints: &[(&'static Route, Handler)], method: &Method) -> Response {
    let mut known: Vec<&str> = endpoints.iter().map(|(route, _)| route.method.as_str()).collect();
    if known.contains(&"GET") {
        known.push("HEAD");
    }
    let known = known.join(", ");
    let detail = format!("{method} is not answered here; there are {known}");
    let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "no such method", detail);
    match HeaderValue::from_str(&known) {
        Ok(known) => problem.with_header(header::ALLOW, known).into_response(),
        Err(_) => problem.into_response(),
    }
}

async fn answer(
    gate: &Gate,
    route: &'static Route,
    handler: &Handler,
    (in_path, request): (InPath, Request),
    note: &Note,
    record: &mut AuditRecord,
) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let credentials = Credentials::of(&head.headers, peer(&head.extensions));
    let principal = match route.access {
        Access::Everyone => nobody(),
        Access::Roles(_) => gate.principal(&credentials).await?,
    };
    set_principal(record, &principal);
    gate.admit(&principal, route)?;
    let format = Format::negotiate(&head.headers, route.answer.formats)?;
    let (path, query) = (head.uri.path(), head.uri.query().unwrap_or_default());
    let call = Call::new(route, (principal, format, note.clone()), path, in_path?, query)?;
    note.set_query(&call.summary());
    let call = match &route.body {
        None => call,
        Some(wanted) => {
            is_json(&head.headers)?;
            let bytes = to_bytes(body, wanted.max_bytes).await.map_err(|_| {
                let most = wanted.max_bytes;
                let detail = format!("the body is longer than {most} bytes, or broke off");
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body too large", detail)
            })?;
            call.with_body(bytes)
        }
    };
    handler(call).await
}

fn peer(extensions: &Extensions) -> Option<&Peer> {
    extensions.get::<ConnectInfo<Peer>>().map(|ConnectInfo(peer)| peer)
}

/// Who asks what everyone may.
fn nobody() -> Principal {
    let (role, scope) = (Role::Viewer, Scope::projects([]));
    Principal { name: "nobody".into(), role, account: None, scope }
}

fn is_json(headers: &HeaderMap) -> Result<(), Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    match kind.eq_ignore_ascii_case("application/json") {
        true => Ok(()),
        false => {
            let detail = "the body is JSON: send `Content-Type: application/json`";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            Err(Problem::new(status, "unsupported media type", detail))
        }
    }
}

/// What went wrong within is for operators: others learn that it did, and the log has the rest.
fn hide(problem: Problem, record: &AuditRecord) -> Problem {
    if problem.status < 500 || problem.status == 503 {
        return problem;
    }
    error!(route = record.route, reason = problem.detail, "a request failed");
    if record.role == Role::Operator.as_str() {
        return problem;
    }
    Problem { detail: "the log of the server says what failed".to_owned(), ..problem }
}
