//! The rows of a query while it runs, within its limits.

use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use nilometer_store::Missing;
use tokio::time::Instant;

use crate::engine::{Limits, QueryError, Rows};

/// Rows that come batch by batch. Dropping it ends the work.
pub struct Answer {
    /// Names and types, also of an empty answer.
    pub schema: SchemaRef,
    /// Rows that the answer lacks because their files are damaged; planning has found them.
    pub missing: Vec<Missing>,
    /// None after the end or an error.
    batches: Option<SendableRecordBatchStream>,
    limits: Limits,
    rows: usize,
    /// Time that is left for computing; waiting for whoever takes the rows does not count.
    left: Duration,
}

impl Answer {
    pub(crate) fn new(
        batches: SendableRecordBatchStream,
        missing: Vec<Missing>,
        limits: Limits,
        left: Duration,
    ) -> Self {
        let schema = batches.schema();
        Answer { schema, missing, batches: Some(batches), limits, rows: 0, left }
    }

    /// The bounds that it keeps to.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// The next rows; none at the end. After an error there is nothing more.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>, QueryError> {
        let Some(batches) = &mut self.batches else { return Ok(None) };
        let start = Instant::now();
        let next = tokio::time::timeout(self.left, batches.next()).await;
        self.left = self.left.saturating_sub(start.elapsed());
        let batch = match next {
            Err(_) => Err(QueryError::TooSlow(self.limits.time)),
            Ok(None) => Ok(None),
            Ok(Some(Err(error))) => Err(QueryError::of(error, false, self.limits)),
            Ok(Some(Ok(batch))) => self.within(batch).map(Some),
        };
        if !matches!(batch, Ok(Some(_))) {
            self.batches = None;
        }
        batch
    }

    fn within(&mut self, batch: RecordBatch) -> Result<RecordBatch, QueryError> {
        self.rows += batch.num_rows();
        if self.rows > self.limits.rows {
            return Err(QueryError::TooMany(self.limits.rows));
        }
        match batch.get_array_memory_size() > self.limits.memory_bytes {
            true => Err(QueryError::TooLarge(self.limits.memory_bytes)),
            false => Ok(batch),
        }
    }

    /// All rows at once, within the memory of a query.
    pub async fn collect(mut self) -> Result<Rows, QueryError> {
        let (mut batches, mut bytes) = (Vec::new(), 0);
        while let Some(batch) = self.next().await? {
            bytes += batch.get_array_memory_size();
            if bytes > self.limits.memory_bytes {
                return Err(QueryError::TooLarge(self.limits.memory_bytes));
            }
            batches.push(batch);
        }
        Ok(Rows { schema: self.schema, batches, missing: self.missing })
    }
}
