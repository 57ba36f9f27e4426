//! Routes as data: what can be asked, by whom, with which parameters, in which formats.
//!
//! The router, the OpenAPI document, the list of a 404 and every check of a request come from
//! these values, so none of them can say something else than another.

use axum::http::Method;
use nilometer_contract::{Role, Timestamp};
use serde_json::{Value, json};

use crate::format::Format;

/// One thing that can be asked.
#[derive(Clone, Debug)]
pub struct Route {
    /// GET, POST or DELETE.
    pub method: Method,
    /// The path, parameters in braces.
    pub path: &'static str,
    /// What it is for, in a few words.
    pub summary: &'static str,
    /// Which part of the program answers.
    pub tag: &'static str,
    /// What may or must be given, in the path and the query string; others are refused.
    pub parameters: &'static [Parameter],
    /// The bounds of a page, where the answer comes in pages.
    pub page: Option<PageBounds>,
    /// What has to be sent.
    pub body: Option<Body>,
    /// What comes back.
    pub answer: Answer,
    /// Who may ask.
    pub access: Access,
    /// Whether programs ask it all the time: it is then neither limited nor in the audit.
    pub quiet: bool,
}

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everyone, also without credentials: it says nothing about the estate.
    Everyone,
    /// Principals of these roles.
    Roles(&'static [Role]),
}

impl Access {
    /// What tells about rows of projects: the scope says which.
    pub const TENANTS: Access =
        Access::Roles(&[Role::Operator, Role::AccountAdministrator, Role::Viewer]);
    /// What changes or tells about the estate as a whole.
    pub const OPERATOR: Access = Access::Roles(&[Role::Operator]);
    /// What serves placement.
    pub const SCHEDULER: Access = Access::Roles(&[Role::Operator, Role::Scheduler]);
    /// Whoever has proven who it is.
    pub const PRINCIPALS: Access = Access::Roles(&Role::ALL);

    /// Whether a role is among them.
    pub fn admits(self, role: Role) -> bool {
        match self {
            Access::Everyone => true,
            Access::Roles(roles) => roles.contains(&role),
        }
    }
}

/// One parameter.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// Name, as in the path or the query string.
    pub name: &'static str,
    /// Where it stands.
    pub place: Place,
    /// What it may hold.
    pub kind: Kind,
    /// Whether there is no answer without it.
    pub required: bool,
    /// One sentence.
    pub doc: &'static str,
}

/// Where a parameter stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the path, where the route has its name in braces.
    Path,
    /// In the query string.
    Query,
}

/// What a parameter may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text of at most 512 characters.
    Text,
    /// An instant, RFC 3339.
    Instant,
    /// The edge of a billing period: a month, a day, or an RFC 3339 instant.
    Edge,
    /// A number within bounds, both inclusive.
    Integer(u64, u64),
    /// One of these.
    Choice(&'static [&'static str]),
}

/// Longest text of a parameter.
pub(crate) const MAX_TEXT_CHARS: usize = 512;
/// Furthest that a page may begin.
const MAX_OFFSET: u64 = 100_000_000;

/// Bounds of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageBounds {
    /// Rows when nothing is asked for.
    pub usual: u64,
    /// Most rows.
    pub most: u64,
}

/// What has to be sent, in JSON.
#[derive(Clone, Copy, Debug)]
pub struct Body {
    /// Most bytes.
    pub max_bytes: usize,
    /// Its JSON Schema.
    pub schema: fn() -> Value,
}

/// What comes back.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// Status of success.
    pub status: u16,
    /// Formats, the usual one first.
    pub formats: &'static [Format],
    /// JSON Schema of the JSON format.
    pub schema: fn() -> Value,
}

impl Parameter {
    /// A parameter of the query string that may be left out.
    pub const fn optional(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Parameter { name, place: Place::Query, kind, required: false, doc }
    }

    /// A parameter of the query string without which there is no answer.
    pub const fn required(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Parameter { name, place: Place::Query, kind, required: true, doc }
    }

    /// A part of the path.
    pub const fn path(name: &'static str, doc: &'static str) -> Self {
        Parameter { name, place: Place::Path, kind: Kind::Text, required: true, doc }
    }
}

impl Kind {
    /// What is wrong with a text; nothing if it is of this kind.
    pub(crate) fn fault(self, text: &str) -> Option<String> {
        match self {
            Kind::Text => (text.chars().count() > MAX_TEXT_CHARS)
                .then(|| format!("is longer than {MAX_TEXT_CHARS} characters")),
            Kind::Instant => text
                .parse::<Timestamp>()
                .err()
                .map(|_| "is an instant such as 2026-11-02T00:00:00Z".to_owned()),
            Kind::Edge => (!is_edge(text)).then(|| {
                "is a month, a day or an instant, such as 2026-11, 2026-11-02 or \
                 2026-11-02T00:00:00Z"
                    .to_owned()
            }),
            Kind::Integer(least, most) => {
                let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
                let number = text.parse::<u64>().ok().filter(|_| digits);
                let within = number.is_some_and(|number| (least..=most).contains(&number));
                (!within).then(|| format!("is a number from {least} to {most}"))
            }
            Kind::Choice(known) => (!known.contains(&text))
                .then(|| format!("is one of {}, not {text:?}", known.join(", "))),
        }
    }

    /// Its JSON Schema, also for a property of a body.
    pub fn schema(self) -> Value {
        match self {
            Kind::Text => json!({"type": "string", "maxLength": MAX_TEXT_CHARS}),
            Kind::Instant => json!({"type": "string", "format": "date-time"}),
            Kind::Edge => json!({
                "anyOf": [
                    {"type": "string", "format": "date-time"},
                    {"type": "string", "format": "date"},
                    {"type": "string", "pattern": "^[0-9]{4}-(0[1-9]|1[0-2])$"},
                ],
            }),
            Kind::Integer(least, most) => {
                json!({"type": "integer", "minimum": least, "maximum": most})
            }
            Kind::Choice(known) => json!({"type": "string", "enum": known}),
        }
    }
}

/// `2026-11`, `2026-11-02`, or what has a time of day.
fn is_edge(text: &str) -> bool {
    let digits =
        |part: &str, count| part.len() == count && part.bytes().all(|b| b.is_ascii_digit());
    if text.contains(['T', 't']) {
        return text.parse::<Timestamp>().is_ok();
    }
    match text.split('-').collect::<Vec<_>>().as_slice() {
        [year, month] => digits(year, 4) && digits(month, 2),
        [year, month, day] => digits(year, 4) && digits(month, 2) && digits(day, 2),
        _ => false,
    }
}

impl Route {
    /// All parameters, those of the page included.
    pub fn all_parameters(&self) -> impl Iterator<Item = Parameter> {
        let page = self.page.map(|PageBounds { usual: _, most }| {
            [
                Parameter::optional("limit", Kind::Integer(1, most), "Most rows of this page."),
                Parameter::optional(
                    "offset",
                    Kind::Integer(0, MAX_OFFSET),
                    "Rows to leave out before the page; the header `Link` leads to the next one.",
                ),
            ]
        });
        self.parameters.iter().copied().chain(page.into_iter().flatten())
    }

    /// Name of the route for people, metrics and the audit: method and path.
    pub fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}
