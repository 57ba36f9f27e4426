//! What every HTTP surface has in common.
//!
//! ```text
//!  Route (data) ─┬─▶ router: method, format, parameters, body ─▶ Call ─▶ handler ─▶ Response
//!                ├─▶ OpenAPI document
//!                └─▶ Gate: principal, role, rate, audit
//! ```
//!
//! Each part of the program declares its routes and handlers as a [`Surface`]; the binary merges
//! them behind one [`Gate`]. It knows no tables and no queries, so that a process without them, such
//! as an agent, answers in the same way.

mod audited;
mod call;
mod format;
pub mod gate;
mod note;
mod openapi;
mod problem;
mod route;
mod surface;
pub mod tls;

pub use call::{Call, Page, check};
pub use format::Format;
pub use gate::Gate;
pub use note::Note;
pub use openapi::document;
pub use problem::Problem;
pub use route::{Access, Answer, Body, Kind, PageBounds, Parameter, Place, Route};
pub use surface::{Handler, Surface};
