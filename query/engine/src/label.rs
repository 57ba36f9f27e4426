//! Adds labels to rows of `(series, at, value)`, and leaves out series that filters refused or
//! whose labels are lost.

use std::fmt;
use std::sync::{Arc, RwLock};

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::common::Statistics;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
    StatisticsArgs,
};
use futures::StreamExt;
use nilometer_ingest::SeriesIndex;
use nilometer_store::SeriesColumn;

use crate::samples::{LabelValues, texts};

/// The slot of no series.
const UNKNOWN: u32 = u32::MAX;

/// One column of what comes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Out {
    /// A column of the rows that are read, by its place.
    Read(usize),
    /// Of what describes the series.
    Label(SeriesColumn),
}

/// What is added to each batch.
#[derive(Clone)]
struct Labeler {
    schema: SchemaRef,
    columns: Vec<Out>,
    index: Arc<RwLock<SeriesIndex>>,
    selected: Option<Arc<[bool]>>,
    values: LabelValues,
}

/// Adds labels.
pub(crate) struct LabelExec {
    input: Arc<dyn ExecutionPlan>,
    labeler: Labeler,
    /// What is known of its rows without reading them.
    statistics: Arc<Statistics>,
    /// Whether only the first row of a series comes out of each partition.
    once: bool,
    properties: Arc<PlanProperties>,
}

impl LabelExec {
    /// The first column of `input` is the series; `selected` says which slots pass.
    pub(crate) fn new(
        input: Arc<dyn ExecutionPlan>,
        schema: SchemaRef,
        columns: Vec<Out>,
        index: Arc<RwLock<SeriesIndex>>,
        selected: Option<Vec<bool>>,
        values: LabelValues,
        statistics: Statistics,
    ) -> Self {
        let selected = selected.map(Arc::from);
        let labeler = Labeler { schema, columns, index, selected, values };
        Self::over(input, labeler, Arc::new(statistics), false)
    }

    /// The same plan with the first row of each series only, per partition; none where there is
    /// more in a row than what describes its series.
    pub(crate) fn once_per_series(&self) -> Option<Self> {
        let is_label = |column: &Out| matches!(column, Out::Label(_));
        let labels = self.labeler.columns.iter().all(is_label);
        let unknown = Arc::new(Statistics::new_unknown(&self.labeler.schema));
        let once = Self::over(self.input.clone(), self.labeler.clone(), unknown, true);
        (labels && !self.once).then_some(once)
    }

    fn over(
        input: Arc<dyn ExecutionPlan>,
        labeler: Labeler,
        statistics: Arc<Statistics>,
        once: bool,
    ) -> Self {
        let of_input = input.properties();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(labeler.schema.clone()),
            of_input.output_partitioning().clone(),
            of_input.emission_type,
            of_input.boundedness,
        );
        LabelExec { input, labeler, statistics, once, properties: Arc::new(properties) }
    }
}

impl Labeler {
    /// `seen` has a bit for each slot that is not wanted again.
    fn label(&self, batch: &RecordBatch, seen: Option<&mut Vec<bool>>) -> Result<RecordBatch> {
        let mut slots = self.slots(batch);
        let is_selected = |slot: u32| match &self.selected {
            None => slot != UNKNOWN,
            Some(selected) => selected.get(slot as usize).copied().unwrap_or(false),
        };
        let mask: Vec<bool> = match seen {
            None => slots.iter().map(|&slot| is_selected(slot)).collect(),
            Some(seen) => {
                slots.iter().map(|&slot| is_selected(slot) && first(seen, slot)).collect()
            }
        };
        let filtered;
        let batch = match mask.iter().all(|kept| *kept) {
            true => batch,
            false => {
                let mut kept = mask.iter();
                slots.retain(|_| kept.next() == Some(&true));
                filtered = filter_record_batch(batch, &BooleanArray::from(mask))?;
                &filtered
            }
        };
        let columns = self.columns.iter().map(|&column| -> Result<ArrayRef> {
            match column {
                Out::Read(place) => Ok(batch.column(place).clone()),
                Out::Label(label) => self.column(label, &slots),
            }
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?)
    }

    fn column(&self, label: SeriesColumn, slots: &[u32]) -> Result<ArrayRef> {
        let keys: UInt32Array = {
            let index = self.index.read().unwrap_or_else(|poisoned| poisoned.into_inner());
            let keys = index.keys(label);
            UInt32Array::from_iter_values(slots.iter().map(|&slot| keys[slot as usize]))
        };
        texts(keys, &self.values[label as usize])
    }

    /// Slot of each row; rows of one series follow each other in files, so look-ups are few. A
    /// series whose labels are lost, as long as they are not repaired, has none, and is left out.
    fn slots(&self, batch: &RecordBatch) -> Vec<u32> {
        let index = self.index.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut last: Option<(i64, u32)> = None;
        let series = batch.column(0).as_primitive::<Int64Type>().values();
        let slot = |&series: &i64| match last {
            Some((known, slot)) if known == series => slot,
            _ => {
                let slot = index.slot(series).unwrap_or(UNKNOWN);
                last = Some((series, slot));
                slot
            }
        };
        series.iter().map(slot).collect()
    }
}

/// Whether a slot comes for the first time.
fn first(seen: &mut Vec<bool>, slot: u32) -> bool {
    let slot = slot as usize;
    if seen.len() <= slot {
        seen.resize(slot + 1, false);
    }
    !std::mem::replace(&mut seen[slot], true)
}

impl fmt::Debug for LabelExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LabelExec")
    }
}

impl DisplayAs for LabelExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LabelExec: columns={:?}", self.labeler.schema.fields().len())?;
        if self.once {
            f.write_str(", once per series")?;
        }
        match &self.labeler.selected {
            Some(selected) => write!(f, ", series={}", selected.iter().filter(|s| **s).count()),
            None => Ok(()),
        }
    }
}

impl ExecutionPlan for LabelExec {
    fn name(&self) -> &str {
        "LabelExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn statistics_from_inputs(
        &self,
        _: &[Arc<Statistics>],
        args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        Ok(match args.partition() {
            None => self.statistics.clone(),
            Some(_) => Arc::new(Statistics::new_unknown(&self.labeler.schema)),
        })
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(LabelExec::over(
            children.swap_remove(0),
            self.labeler.clone(),
            self.statistics.clone(),
            self.once,
        )))
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(LabelExec::over(
            children.swap_remove(0),
            self.labeler.clone(),
            self.statistics.clone(),
            self.once,
        )))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let labeler = self.labeler.clone();
        let rows = self.input.execute(partition, context)?;
        let mut seen = self.once.then(Vec::new);
        let labelled = rows.map(move |batch| labeler.label(&batch?, seen.as_mut()));
        let schema = self.labeler.schema.clone();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, labelled)))
    }
}
