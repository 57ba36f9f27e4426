//! The body of an answer, which writes the audit record when it ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::gate::{AuditRecord, Gate};
use crate::note::Note;

/// The same answer; its record is written when the body ended or was dropped.
pub(crate) fn audited(
    response: Response,
    gate: Arc<Gate>,
    record: AuditRecord,
    note: Note,
    start: Duration,
) -> Response {
    let (head, body) = response.into_parts();
    let is_complete = body.is_end_stream();
    let audited = Audited { body, gate, record: Some(record), note, start, is_complete };
    Response::from_parts(head, Body::new(audited))
}

struct Audited {
    body: Body,
    gate: Arc<Gate>,
    record: Option<AuditRecord>,
    note: Note,
    start: Duration,
    is_complete: bool,
}

impl HttpBody for Audited {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.is_complete = true;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Audited {
    fn drop(&mut self) {
        let Some(mut record) = self.record.take() else { return };
        let took = self.gate.clock.steady().saturating_sub(self.start);
        record.micros = i64::try_from(took.as_micros()).unwrap_or(i64::MAX) as u64;
        record.rows = self.note.rows();
        record.query = self.note.query();
        record.failure = match (self.note.failure(), self.is_complete) {
            (Some(failure), _) => failure,
            (None, true) => String::new(),
            (None, false) => "the client went away".to_owned(),
        };
        self.gate.audit.record(record);
    }
}
