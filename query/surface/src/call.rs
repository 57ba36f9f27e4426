//! A request that passed the gate and is as its route has it.

use std::collections::BTreeMap;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use nilometer_contract::{Principal, Scope, Timestamp};
use serde::de::DeserializeOwned;
use url::form_urlencoded;

use crate::format::Format;
use crate::note::Note;
use crate::problem::Problem;
use crate::route::{Kind, Place, Route};

/// A request, checked: each parameter is declared and of its kind, what must be there is there.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who asks.
    pub principal: Principal,
    /// The format that the client gets.
    pub format: Format,
    /// What the handler adds to the audit.
    pub note: Note,
    route: &'static Route,
    values: BTreeMap<&'static str, String>,
    path: String,
    body: Bytes,
}

/// Which rows of an answer are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Most rows.
    pub limit: usize,
    /// Rows before it.
    pub offset: usize,
}

impl Call {
    /// Checks parameters. `path` is the path as it was sent, `in_path` what stood in it, decoded.
    pub(crate) fn new(
        route: &'static Route,
        (principal, format, note): (Principal, Format, Note),
        path: &str,
        in_path: Vec<(String, String)>,
        query: &str,
    ) -> Result<Self, Problem> {
        let mut values = BTreeMap::new();
        let in_query = form_urlencoded::parse(query.as_bytes()).into_owned();
        let given = in_path.into_iter().map(|pair| (Place::Path, pair));
        let given = given.chain(in_query.map(|pair| (Place::Query, pair)));
        for (place, (name, value)) in given {
            let known = route.all_parameters().find(|it| it.name == name && it.place == place);
            let Some(parameter) = known else {
                let known: Vec<&str> = route.all_parameters().map(|it| it.name).collect();
                let detail = match known.is_empty() {
                    true => format!("unknown parameter {name:?}; there are none"),
                    false => format!("unknown parameter {name:?}; there are {}", known.join(", ")),
                };
                return Err(Problem::bad_request(detail).about(&name));
            };
            if let Some(fault) = parameter.kind.fault(&value) {
                return Err(Problem::bad_request(format!("{name} {fault}")).about(&name));
            }
            if values.insert(parameter.name, value).is_some() {
                return Err(Problem::bad_request(format!("{name} is given twice")).about(&name));
            }
        }
        let lacking =
            route.all_parameters().find(|it| it.required && !values.contains_key(it.name));
        if let Some(parameter) = lacking {
            let name = parameter.name;
            return Err(Problem::bad_request(format!("{name} is missing")).about(name));
        }
        let (path, body) = (path.to_owned(), Bytes::new());
        Ok(Call { principal, format, note, route, values, path, body })
    }

    pub(crate) fn with_body(self, body: Bytes) -> Self {
        Call { body, ..self }
    }

    /// What the principal may see.
    pub fn scope(&self) -> &Scope {
        &self.principal.scope
    }

    /// A parameter, if it was given.
    ///
    /// # Panics
    ///
    /// If the route does not declare it.
    pub fn get(&self, name: &str) -> Option<&str> {
        let declared = self.route.all_parameters().any(|it| it.name == name);
        assert!(declared, "{} reads {name}, which it does not declare", self.route.name());
        self.values.get(name).map(String::as_str)
    }

    /// A parameter as a text of its own.
    pub fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    /// A parameter that the route requires.
    pub fn required(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }

    /// A parameter that the route declares as an instant, and requires.
    pub fn instant(&self, name: &str) -> Result<Timestamp, Problem> {
        let instant = self.required(name).parse();
        instant.map_err(|_| Problem::bad_request(format!("{name} is no instant")).about(name))
    }

    /// The page that is wanted.
    pub fn page(&self) -> Page {
        let usual = self.route.page.map_or(0, |page| page.usual);
        let number = |name: &str| self.get(name).and_then(|text| text.parse::<u64>().ok());
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        Page {
            limit: size(number("limit").unwrap_or(usual)),
            offset: size(number("offset").unwrap_or(0)),
        }
    }

    /// The body, which is an object: a list of its values is none, though serde would take it.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        if self.body.trim_ascii_start().first() != Some(&b'{') {
            return Err(Problem::bad_request("the body is no JSON object"));
        }
        serde_json::from_slice(&self.body).map_err(|error| {
            let mut problem =
                Problem::bad_request(format!("the body is not as asked for: {error}"));
            problem.line = Some(error.line() as u64);
            problem.column = Some(error.column() as u64);
            problem
        })
    }

    /// Says where the page after this one is, if there is one.
    pub fn link_next(&self, response: &mut Response, more: bool) {
        if !more {
            return;
        }
        let Page { limit, offset } = self.page();
        let mut query = form_urlencoded::Serializer::new(String::new());
        let others = self.route.parameters.iter().filter(|it| it.place == Place::Query);
        for parameter in others {
            if let Some(value) = self.values.get(parameter.name) {
                query.append_pair(parameter.name, value);
            }
        }
        query.append_pair("limit", &limit.to_string());
        query.append_pair("offset", &offset.saturating_add(limit).to_string());
        let link = format!("<{}?{}>; rel=\"next\"", self.path, query.finish());
        if let Ok(link) = HeaderValue::from_str(&link) {
            response.headers_mut().insert(header::LINK, link);
        }
    }

    /// Query parameters and path parameters for the audit, in order of their names.
    pub(crate) fn summary(&self) -> String {
        let pairs = self.values.iter().map(|(name, value)| format!("{name}={value}"));
        pairs.collect::<Vec<_>>().join(" ")
    }

    /// A text in the format that the client gets.
    pub fn answer(&self, body: String) -> Response {
        let status = StatusCode::from_u16(self.route.answer.status).unwrap_or(StatusCode::OK);
        let kind = [(header::CONTENT_TYPE, self.format.content_type())];
        (status, kind, body).into_response()
    }

    /// A document as JSON.
    pub fn answer_json(&self, value: &serde_json::Value) -> Response {
        self.answer(value.to_string())
    }
}

impl Page {
    /// The rows of it, of all rows.
    pub fn of<'a, T>(&self, rows: &'a [T]) -> &'a [T] {
        let start = self.offset.min(rows.len());
        &rows[start..start.saturating_add(self.limit).min(rows.len())]
    }

    /// Whether there are rows after it.
    pub fn has_more(&self, total: usize) -> bool {
        self.offset.saturating_add(self.limit) < total
    }
}

/// What is wrong with a value that a body holds, by the same rules as a parameter.
pub fn check(name: &str, kind: Kind, value: &str) -> Result<(), Problem> {
    match kind.fault(value) {
        None => Ok(()),
        Some(fault) => Err(Problem::bad_request(format!("{name} {fault}")).about(name)),
    }
}
