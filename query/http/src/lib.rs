//! Queries and usage over HTTP: routes, problems, and the forms of an answer.
//!
//! What others serve beside it (`billing`, `scheduler`) uses the same problems and forms.

mod missing;
mod output;
mod problem;
mod query;

pub use missing::{MISSING_ROWS, say_missing};
pub use output::{Format, render};
pub use problem::Problem;
pub use query::router;
