//! Rows over HTTP: queries and usage, and what every surface that answers with rows needs.
//!
//! What has to do with HTTP alone is in `query/surface`, and is passed on from here: others
//! (`billing`, `scheduler`) declare their routes with it and answer with the rows of this one.

mod describe;
mod encode;
mod failed;
mod missing;
mod query;
mod stream;
mod table;

pub use encode::render;
pub use failed::query_problem;
pub use missing::{MISSING_ROWS, say_missing};
pub use nilometer_surface::{
    Access, Answer, Body, Call, Format, Gate, Handler, Kind, Note, Page, PageBounds, Parameter,
    Place, Problem, Route, Surface, check, document, gate, tls,
};
pub use query::{TOTAL_ROWS, surface};
pub use stream::{send_rows, stream_rows};
