//! Looks a few samples up in a file of many, reading only the pages that may hold them.
//!
//! Files are sorted by series, so the page index tells which pages hold a series.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use deltalake_core::logstore::ObjectStoreRef;
use futures::TryStreamExt;
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowPredicateFn, ArrowReaderOptions, RowFilter, RowSelection, RowSelector,
};
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::page_index::column_index::ColumnIndexMetaData;

use crate::aside::Suspects;
use crate::checked::Checked;
use crate::file::FileError;
use crate::files::DataFile;
use crate::samples::{Row, rows_of};
use crate::series::SeriesId;
use crate::table::{StoreError, Table};
use crate::tables::SAMPLES;

/// Read at once from the end: the footer and the page index of all but the largest files.
const FOOTER_BYTES: usize = 64 * 1024;

/// Finds samples in files of `samples`, whoever holds the table.
#[derive(Clone, Debug)]
pub struct Finder {
    store: ObjectStoreRef,
    suspects: Suspects,
}

/// One file as Parquet reads it.
pub(crate) struct Source {
    file: Checked,
    path: Path,
}

/// What to find: series, and inclusive bounds of their instants.
#[derive(Clone, Debug, Default)]
struct Wanted {
    series: Vec<SeriesId>,
    low: i64,
    high: i64,
}

impl Table {
    /// For finding samples beside the table; of use on `samples` only.
    pub fn finder(&self) -> Finder {
        Finder { store: self.object_store(), suspects: self.suspects.clone() }
    }
}

impl Finder {
    /// Samples of some series within `low..=high`, in the order of the file.
    pub async fn find(
        &self,
        file: &Arc<DataFile>,
        mut series: Vec<SeriesId>,
        (low, high): (i64, i64),
    ) -> Result<Vec<Row>, StoreError> {
        series.sort_unstable();
        let wanted = Wanted { series, low, high };
        let (Some(&first), Some(&last)) = (wanted.series.first(), wanted.series.last()) else {
            return Ok(Vec::new());
        };
        if !file.may_hold("at", low, high) || !file.may_hold("series", first, last) {
            return Ok(Vec::new());
        }
        let found = self.read(file, wanted).await;
        found.map_err(|error| {
            let cause = FileError::of("find samples", Box::new(error));
            let error = StoreError::File { table: SAMPLES.name, cause };
            self.suspects.note(SAMPLES.name, &file.path, &error);
            error
        })
    }

    async fn read(&self, file: &Arc<DataFile>, wanted: Wanted) -> Result<Vec<Row>, ParquetError> {
        let (store, suspects) = (self.store.clone(), self.suspects.clone());
        let reader = Source::new(Checked { store, suspects, file: file.clone() })?;
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Optional);
        let builder = ParquetRecordBatchStreamBuilder::new_with_options(reader, options).await?;
        let selection = pages(builder.metadata(), &wanted.series);
        let columns = ProjectionMask::leaves(builder.parquet_schema(), [0, 1]);
        let matches = ArrowPredicateFn::new(columns, move |batch| Ok(wanted.matches(&batch)));
        let rows = builder
            .with_row_selection(selection)
            .with_row_filter(RowFilter::new(vec![Box::new(matches)]))
            .build()?;
        let batches: Vec<_> = rows.try_collect().await?;
        Ok(batches.iter().flat_map(rows_of).collect())
    }
}

impl Source {
    pub(crate) fn new(file: Checked) -> Result<Self, ParquetError> {
        let path = Path::parse(&file.file.path).map_err(object_store::Error::from)?;
        Ok(Source { file, path })
    }
}

impl AsyncFileReader for Source {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        Box::pin(async move { Ok(self.file.get_range(&self.path, range).await?) })
    }

    fn get_byte_ranges(
        &mut self,
        ranges: Vec<Range<u64>>,
    ) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        Box::pin(async move { Ok(self.file.get_ranges(&self.path, &ranges).await?) })
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        Box::pin(async move {
            let reader = ParquetMetaDataReader::new()
                .with_page_index_policy(PageIndexPolicy::Optional)
                .with_prefetch_hint(Some(FOOTER_BYTES));
            let size = self.file.file.size;
            Ok(Arc::new(reader.load_and_finish(self, size).await?))
        })
    }
}

impl Wanted {
    fn matches(&self, batch: &RecordBatch) -> BooleanArray {
        let series = batch.column(0).as_primitive::<Int64Type>().values();
        let at = batch.column(1).as_primitive::<TimestampMicrosecondType>().values();
        let rows = series.iter().zip(at);
        let hits = rows.map(|(series, at)| {
            let hit = (self.low..=self.high).contains(at);
            Some(hit && self.series.binary_search(series).is_ok())
        });
        hits.collect()
    }
}

/// The rows of pages that may hold one of the series; all rows of a file without an index.
fn pages(metadata: &ParquetMetaData, series: &[SeriesId]) -> RowSelection {
    let mut wanted: Vec<Range<usize>> = Vec::new();
    let mut start = 0;
    for (n, group) in metadata.row_groups().iter().enumerate() {
        let rows = usize::try_from(group.num_rows()).unwrap_or(0);
        let index = metadata.column_index().and_then(|index| index.get(n)?.first());
        let places = metadata.offset_index().and_then(|index| index.get(n)?.first());
        if let (Some(ColumnIndexMetaData::INT64(index)), Some(places)) = (index, places) {
            let places = places.page_locations();
            let first_row =
                |page: usize| places.get(page).map_or(rows, |place| place.first_row_index as usize);
            for (page, (low, high)) in index.min_values().iter().zip(index.max_values()).enumerate()
            {
                let next = series.partition_point(|id| id < low);
                if series.get(next).is_some_and(|id| id <= high) {
                    wanted.push(start + first_row(page)..start + first_row(page + 1));
                }
            }
        } else {
            wanted.push(start..start + rows);
        }
        start += rows;
    }
    selection(wanted, start)
}

fn selection(wanted: Vec<Range<usize>>, rows: usize) -> RowSelection {
    let mut selectors = Vec::new();
    let mut at = 0;
    for range in wanted {
        selectors.push(RowSelector::skip(range.start - at));
        selectors.push(RowSelector::select(range.end - range.start));
        at = range.end;
    }
    selectors.push(RowSelector::skip(rows - at));
    selectors.into()
}
