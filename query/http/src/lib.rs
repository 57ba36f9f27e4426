//! What every HTTP surface has in common, and the one of queries and usage.
//!
//! ```text
//!  Route (data) ─┬─▶ router: method, format, parameters, body ─▶ Call ─▶ handler ─▶ Response
//!                ├─▶ OpenAPI document
//!                └─▶ Gate: principal, role, rate, audit
//! ```
//!
//! Others (`billing`, `scheduler`) declare their routes and handlers as a [`Surface`] too; the
//! binary merges them behind one [`Gate`].

mod audited;
mod call;
mod describe;
mod encode;
mod format;
pub mod gate;
mod missing;
mod note;
mod openapi;
mod problem;
mod query;
mod route;
mod stream;
mod surface;
mod table;
pub mod tls;

pub use call::{Call, Page, check};
pub use encode::render;
pub use format::Format;
pub use gate::Gate;
pub use missing::{MISSING_ROWS, say_missing};
pub use note::Note;
pub use openapi::document;
pub use problem::Problem;
pub use query::{TOTAL_ROWS, surface};
pub use route::{Access, Answer, Body, Kind, PageBounds, Parameter, Place, Route};
pub use stream::{send_rows, stream_rows};
pub use surface::{Handler, Surface};
