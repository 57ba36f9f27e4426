//! Bounds of a query, and that work stops when nobody waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use futures::StreamExt;
use nilometer_contract::Scope;
use nilometer_engine::{Limits, QueryError};
use nilometer_http::gate::AUDIT_TABLE;

use crate::estate::Estate;

/// Numbers without end, and how many batches of them were taken.
#[derive(Debug)]
struct Endless {
    schema: SchemaRef,
    taken: Arc<AtomicU64>,
}

impl PartitionStream for Endless {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (schema, taken) = (self.schema.clone(), self.taken.clone());
        let batches = futures::stream::repeat(()).then(move |()| {
            let (schema, taken) = (schema.clone(), taken.clone());
            async move {
                let first = taken.fetch_add(1, Ordering::Relaxed) as i64 * 100;
                tokio::task::yield_now().await;
                let numbers = Arc::new(Int64Array::from_iter_values(first..first + 100));
                Ok(RecordBatch::try_new(schema, vec![numbers])?)
            }
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), batches))
    }
}

pub(crate) async fn with(limits: Limits) -> (Estate, Arc<AtomicU64>) {
    let estate = Estate::new(limits).await;
    let schema = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
    let taken = Arc::<AtomicU64>::default();
    let endless = Endless { schema: schema.clone(), taken: taken.clone() };
    let table = StreamingTable::try_new(schema, vec![Arc::new(endless)]).unwrap();
    estate.engine.register("endless", &AUDIT_TABLE, Arc::new(table));
    (estate, taken)
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_rows_are_an_error_and_not_a_cut() {
    let (estate, _) = with(Limits { rows: 150, ..Limits::default() }).await;
    assert!(estate.ask("SELECT * FROM endless LIMIT 150").await.is_ok());
    let many = estate.ask("SELECT * FROM endless").await;
    assert!(matches!(many, Err(QueryError::TooMany(150))), "{many:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_without_end_is_stopped() {
    let time = Duration::from_millis(200);
    let (estate, taken) = with(Limits { time, ..Limits::default() }).await;
    let slow = estate.ask("SELECT sum(n) FROM endless").await;
    assert!(matches!(slow, Err(QueryError::TooSlow(limit)) if limit == time), "{slow:?}");
    stops(&taken).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_has_a_bound() {
    let limits = Limits { memory_bytes: 4 << 20, ..Limits::default() };
    let (estate, taken) = with(limits).await;
    for sql in [
        "SELECT n, count(*) FROM endless GROUP BY n",
        "SELECT n FROM endless ORDER BY n",
        "SELECT * FROM endless",
        "SELECT repeat('x', 1000) FROM endless",
    ] {
        let large = estate.ask(sql).await;
        assert!(matches!(large, Err(QueryError::TooLarge(_))), "{sql}: {large:?}");
    }
    stops(&taken).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_nobody_waits_for_stops() {
    let (estate, taken) = with(Limits::default()).await;
    let engine = estate.engine.clone();
    for sql in ["SELECT sum(n) FROM endless", "SELECT n % 7, count(*) FROM endless GROUP BY 1"] {
        let before = taken.load(Ordering::Relaxed);
        let asking = engine.clone();
        let asked = tokio::spawn(async move { asking.query(&Scope::system(), sql).await });
        while taken.load(Ordering::Relaxed) < before + 10 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        asked.abort();
        stops(&taken).await;
    }
}

/// Nothing is taken any more, soon.
pub(crate) async fn stops(taken: &AtomicU64) {
    for _ in 0..200 {
        let before = taken.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
        if taken.load(Ordering::Relaxed) == before {
            return;
        }
    }
    panic!("the work goes on");
}
