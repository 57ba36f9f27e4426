//! Merging sorted files into few, as streams: in memory that does not depend on their size.
//!
//! ```text
//! file ─ a batch at a time ─┐
//! file ─ a batch at a time ─┼─ smallest row first ─▶ batches ─▶ files of at most `most_bytes`
//! file ─ a batch at a time ─┘
//! ```
//!
//! In memory are one row group of each input as it lies on disk, a batch of about
//! [`BATCH_BYTES`] of each, and one encoded output.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use arrow::compute::interleave_record_batch;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};
use bytes::Bytes;
use deltalake_core::kernel::Add;
use futures::StreamExt;
use object_store::PutPayload;
use parquet::arrow::ArrowWriter;
use parquet::arrow::async_reader::{ParquetRecordBatchStream, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;

use crate::file::{FileError, Stats, properties};
use crate::files::DataFile;
use crate::find::Source;
use crate::table::{StoreError, Table};
use nilometer_contract::TableDef;

/// Decoded bytes of one batch, about; rows of any length are taken at least one at a time.
const BATCH_BYTES: usize = 1 << 20;
/// Rows of one batch at most.
const BATCH_ROWS: usize = 8 * 1024;
/// Decoded bytes in one batch of the output, about.
const OUTPUT_BYTES: usize = 4 << 20;

/// Why files could not be merged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MergeError {
    /// One of them cannot be read.
    #[error("file {} cannot be read", file.path)]
    Input { file: Arc<DataFile>, cause: StoreError },
    /// The result cannot be written.
    #[error("the merged file cannot be written")]
    Output(#[source] StoreError),
}

/// One file being read.
struct Input {
    file: Arc<DataFile>,
    batches: ParquetRecordBatchStream<Source>,
    batch: RecordBatch,
    keys: Rows,
    row: usize,
    /// Decoded bytes of a row of the batch, about.
    row_bytes: usize,
}

/// One file being written.
struct Output {
    writer: ArrowWriter<Chunks>,
    bytes: Chunks,
    stats: Stats,
}

/// Encoded bytes in pieces, so that no large buffer grows and moves.
#[derive(Clone, Default)]
struct Chunks(Arc<Mutex<Vec<Bytes>>>);

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut chunks = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        chunks.push(Bytes::copy_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Merges files of one partition; the results are in the table's order and not committed.
pub(crate) async fn merge(
    table: &Table,
    files: &[Arc<DataFile>],
    most_bytes: u64,
) -> Result<Vec<Add>, MergeError> {
    let keys = converter(table.def());
    let keys = keys.map_err(|cause| MergeError::Output(wrong(table, cause)))?;
    let reading = Reading { table, keys };
    let merging = Merging {
        table,
        most_bytes,
        partition: files.first().and_then(|file| file.partition.clone()),
        output: None,
        done: Vec::new(),
    };
    merging.run(&reading, files).await
}

/// How the inputs are read.
struct Reading<'t> {
    table: &'t Table,
    keys: RowConverter,
}

/// What was merged so far.
struct Merging<'t> {
    table: &'t Table,
    most_bytes: u64,
    partition: Option<String>,
    output: Option<Output>,
    done: Vec<Add>,
}

fn converter(def: &TableDef) -> Result<RowConverter, ArrowError> {
    let schema = def.file_schema();
    let fields = def.order.iter().map(|name| {
        let field = schema.field_with_name(name)?;
        Ok(SortField::new(field.data_type().clone()))
    });
    RowConverter::new(fields.collect::<Result<Vec<_>, ArrowError>>()?)
}

fn wrong(table: &Table, cause: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    let cause = FileError::of("merge files", Box::new(cause));
    StoreError::File { table: table.def().name, cause }
}

impl Merging<'_> {
    async fn run(
        mut self,
        reading: &Reading<'_>,
        files: &[Arc<DataFile>],
    ) -> Result<Vec<Add>, MergeError> {
        let mut inputs = Vec::new();
        for file in files {
            inputs.extend(reading.open(file).await?);
        }
        let mut heap = Heap::of(&inputs);
        let mut picked: Vec<(usize, usize)> = Vec::new();
        let mut bytes = 0;
        while let Some(first) = heap.first() {
            let input = &mut inputs[first];
            picked.push((first, input.row));
            bytes += input.row_bytes;
            input.row += 1;
            let read = input.row == input.batch.num_rows();
            if read || picked.len() >= BATCH_ROWS || bytes >= OUTPUT_BYTES {
                if self.write(&inputs, &picked)? {
                    self.close().await?;
                }
                tokio::task::yield_now().await;
                picked.clear();
                bytes = 0;
            }
            if read && !reading.next(&mut inputs[first]).await? {
                heap.drop_first(&inputs);
            } else {
                heap.sink(&inputs);
            }
        }
        self.close().await?;
        Ok(self.done)
    }

    /// Adds rows to the output; says whether it is full.
    fn write(&mut self, inputs: &[Input], picked: &[(usize, usize)]) -> Result<bool, MergeError> {
        let table = self.table;
        let failed = |cause: ParquetError| MergeError::Output(wrong(table, cause));
        let batches: Vec<&RecordBatch> = inputs.iter().map(|input| &input.batch).collect();
        let batch =
            interleave_record_batch(&batches, picked).map_err(|cause| failed(cause.into()))?;
        let output = match &mut self.output {
            Some(output) => output,
            none => none.insert(Output::new(table.def()).map_err(failed)?),
        };
        output.writer.write(&batch).map_err(failed)?;
        output.stats.add(&batch);
        let size = output.writer.bytes_written() + output.writer.in_progress_size();
        Ok(size as u64 >= self.most_bytes)
    }

    async fn close(&mut self) -> Result<(), MergeError> {
        let Some(Output { writer, bytes, stats }) = self.output.take() else { return Ok(()) };
        writer.close().map_err(|cause| MergeError::Output(wrong(self.table, cause)))?;
        let chunks = std::mem::take(&mut *bytes.0.lock().unwrap_or_else(|e| e.into_inner()));
        let payload = PutPayload::from_iter(chunks);
        let add = self.table.put(payload, stats.text(), self.partition.as_deref()).await;
        self.done.push(add.map_err(MergeError::Output)?);
        Ok(())
    }
}

impl Reading<'_> {
    /// Opens a file at its first row; none if it is empty.
    async fn open(&self, file: &Arc<DataFile>) -> Result<Option<Input>, MergeError> {
        let failed = |cause| self.unreadable(file, cause);
        let source = Source::new(self.table.checked(file)).map_err(failed)?;
        let builder = ParquetRecordBatchStreamBuilder::new(source).await.map_err(failed)?;
        let rows = batch_rows(builder.metadata());
        let batches = builder.with_batch_size(rows).build().map_err(failed)?;
        let mut input = Input {
            file: file.clone(),
            batches,
            batch: RecordBatch::new_empty(self.table.def().file_schema()),
            keys: self.keys.empty_rows(0, 0),
            row: 0,
            row_bytes: 0,
        };
        Ok(self.next(&mut input).await?.then_some(input))
    }

    /// Goes on to the next batch of a file; false at its end.
    async fn next(&self, input: &mut Input) -> Result<bool, MergeError> {
        while let Some(batch) = input.batches.next().await {
            let batch = batch.map_err(|cause| self.unreadable(&input.file, cause))?;
            if batch.num_rows() == 0 {
                continue;
            }
            let order = self.table.def().order.iter();
            let columns = order.filter_map(|name| batch.column_by_name(name).cloned());
            let keys = self.keys.convert_columns(&columns.collect::<Vec<_>>());
            input.keys = keys.map_err(|cause| self.unreadable(&input.file, cause.into()))?;
            input.row_bytes = batch.get_array_memory_size() / batch.num_rows();
            (input.batch, input.row) = (batch, 0);
            return Ok(true);
        }
        Ok(false)
    }

    fn unreadable(&self, file: &Arc<DataFile>, cause: ParquetError) -> MergeError {
        MergeError::Input { file: file.clone(), cause: wrong(self.table, cause) }
    }
}

impl Output {
    fn new(def: &TableDef) -> Result<Self, ParquetError> {
        let bytes = Chunks::default();
        let writer = ArrowWriter::try_new(bytes.clone(), def.file_schema(), Some(properties(def)))?;
        Ok(Output { writer, bytes, stats: Stats::default() })
    }
}

/// How many rows of a file make a batch.
fn batch_rows(metadata: &ParquetMetaData) -> usize {
    let per_row = metadata.row_groups().iter().map(|group| {
        let bytes = usize::try_from(group.total_byte_size()).unwrap_or(0);
        bytes / usize::try_from(group.num_rows()).unwrap_or(1).max(1)
    });
    (BATCH_BYTES / per_row.max().unwrap_or(1).max(1)).clamp(1, BATCH_ROWS)
}

/// Inputs, the one with the smallest row first.
struct Heap(Vec<usize>);

impl Heap {
    fn of(inputs: &[Input]) -> Self {
        let mut heap = Heap((0..inputs.len()).collect());
        heap.0.sort_by(|&a, &b| key(inputs, a).cmp(&key(inputs, b)));
        heap
    }

    fn first(&self) -> Option<usize> {
        self.0.first().copied()
    }

    fn drop_first(&mut self, inputs: &[Input]) {
        self.0.swap_remove(0);
        self.sink(inputs);
    }

    /// Puts the first where it belongs.
    fn sink(&mut self, inputs: &[Input]) {
        let mut at = 0;
        loop {
            let children = (2 * at + 1)..(2 * at + 3).min(self.0.len());
            let least =
                children.min_by(|&a, &b| key(inputs, self.0[a]).cmp(&key(inputs, self.0[b])));
            match least {
                Some(child) if key(inputs, self.0[child]) < key(inputs, self.0[at]) => {
                    self.0.swap(at, child);
                    at = child;
                }
                _ => return,
            }
        }
    }
}

fn key(inputs: &[Input], input: usize) -> arrow::row::Row<'_> {
    let input = &inputs[input];
    input.keys.row(input.row)
}
