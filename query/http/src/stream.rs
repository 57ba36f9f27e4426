//! Rows as an answer that is sent while it is computed.
//!
//! ```text
//!  engine ──batch──▶ encoder ──bytes──▶ channel of 4 ──▶ connection
//! ```
//!
//! What fits in the first [`HELD_BYTES`] is complete before anything is sent, so a short answer has
//! a length, and an error of it is a problem with its own status. Once the first byte is sent, an
//! error ends the connection before the last chunk (HTTP/1.1: the chunk of length zero never
//! comes), which every HTTP client reports as an incomplete answer; a JSON array then has no end
//! and an Arrow stream no end mark either. The reason is logged, and is in the audit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use nilometer_engine::{Answer, QueryError, Rows};
use nilometer_surface::{Call, Format, Note, Problem};
use tokio::sync::mpsc;
use tracing::warn;

use crate::encode::{Encoder, render};
use crate::failed::query_problem;
use crate::missing::say_missing;

/// Bytes that are complete before the first is sent, and bytes of one part afterwards.
const HELD_BYTES: usize = 64 << 10;
/// Parts that wait for the connection.
const PARTS: usize = 4;

/// The answer to a query, in the format that the client gets.
pub async fn stream_rows(call: &Call, answer: Answer) -> Result<Response, Problem> {
    fits(call.format, &answer.schema)?;
    let kind = [(header::CONTENT_TYPE, call.format.content_type())];
    let missing = answer.missing.clone();
    let encoder = Encoder::new(call.format, &answer.schema);
    let encoder = encoder.map_err(|error| Problem::internal(&error))?;
    let mut rows = Sender { answer, encoder, note: call.note.clone(), is_done: false };
    let first = rows.part().await.map_err(query_problem)?.unwrap_or_default();
    let mut response = match rows.is_done {
        true => (kind, first).into_response(),
        false => (kind, rows.send_on(first)).into_response(),
    };
    say_missing(response.headers_mut(), &missing, call.scope());
    Ok(response)
}

/// CSV has no lists and structs.
fn fits(format: Format, schema: &SchemaRef) -> Result<(), Problem> {
    let nested = schema.fields().iter().find(|field| field.data_type().is_nested());
    match nested {
        Some(field) if format == Format::Csv => {
            let (name, kind) = (field.name(), field.data_type());
            let detail = format!("{name} is a {kind}, which CSV does not have; ask for JSON");
            Err(Problem::new(StatusCode::NOT_ACCEPTABLE, "no such format", detail))
        }
        _ => Ok(()),
    }
}

/// Rows that are all there, such as a page, in the format that the client gets.
pub fn send_rows(call: &Call, rows: &Rows) -> Result<Response, Problem> {
    let bytes = render(rows, call.format).map_err(|error| Problem::internal(&error))?;
    call.note.add_rows(rows.batches.iter().map(RecordBatch::num_rows).sum());
    let kind = [(header::CONTENT_TYPE, call.format.content_type())];
    let mut response = (kind, bytes).into_response();
    say_missing(response.headers_mut(), &rows.missing, call.scope());
    Ok(response)
}

/// Computes, encodes and sends.
struct Sender {
    answer: Answer,
    encoder: Encoder,
    note: Note,
    is_done: bool,
}

impl Sender {
    /// The next part; none at the end.
    async fn part(&mut self) -> Result<Option<Bytes>, QueryError> {
        let (mut bytes, mut parts) = (0, Vec::new());
        while bytes < HELD_BYTES && !self.is_done {
            let failed = |error: arrow::error::ArrowError| QueryError::Failed(error.into());
            match self.answer.next().await? {
                Some(batch) => {
                    self.note.add_rows(batch.num_rows());
                    self.encoder.write(&batch).map_err(failed)?;
                }
                None => {
                    self.encoder.finish().map_err(failed)?;
                    self.is_done = true;
                }
            }
            let part = self.encoder.take();
            bytes += part.len();
            parts.push(part);
        }
        Ok(match parts.len() {
            0 => None,
            1 => parts.pop(),
            _ => Some(parts.concat().into()),
        })
    }

    /// A body that begins with what is there. Dropping it ends the work; so does a client that
    /// takes nothing for as long as a query may run. Whatever ends the work before its end, also a
    /// panic, the body ends with an error.
    fn send_on(mut self, first: Bytes) -> Body {
        let (parts, sent) = mpsc::channel::<Bytes>(PARTS);
        let is_whole = Arc::new(AtomicBool::new(false));
        let at_end = is_whole.clone();
        tokio::spawn(async move {
            let note = self.note.clone();
            match self.send_all(first, &parts).await {
                Ok(()) => at_end.store(true, Ordering::Release),
                Err(reason) => {
                    warn!(reason, "an answer broke off");
                    note.set_failure(&reason);
                }
            }
        });
        Body::from_stream(stream::unfold(sent, move |mut sent| {
            let is_whole = is_whole.clone();
            async move {
                match sent.recv().await {
                    Some(part) => Some((Ok(part), sent)),
                    None if is_whole.swap(true, Ordering::AcqRel) => None,
                    None => Some((Err(Broken), sent)),
                }
            }
        }))
    }

    /// Sends all parts; else says why not.
    async fn send_all(&mut self, first: Bytes, parts: &mpsc::Sender<Bytes>) -> Result<(), String> {
        let (patience, mut next) = (self.answer.limits().time, Some(first));
        while let Some(part) = next {
            match tokio::time::timeout(patience, parts.send(part)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err("the client went away".to_owned()),
                Err(_) => return Err("the client takes nothing any more".to_owned()),
            }
            let part = tokio::select! {
                part = self.part() => part,
                () = parts.closed() => return Err("the client went away".to_owned()),
            };
            next = part.map_err(|error| query_problem(error).detail)?;
        }
        Ok(())
    }
}

/// The answer ends before its end.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the answer broke off")]
struct Broken;
