//! Reads what billing has stored.

use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, TimeUnit, TimestampMicrosecondType};
use datafusion::common::ScalarValue;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{ColumnarValue, Expr, Volatility, col, create_udf, lit};
use futures::StreamExt;
use nilometer_engine::{Engine, Selection};
use nilometer_ingest::TableView;
use nilometer_store::Table;
use nilometer_usage::Window;

use crate::error::LedgerError;
use crate::stored::parse::{instants, integers, text};
use crate::stored::statements::{AsOf, Choice, Statement, Statements};

/// The files of a table as they are now.
pub(crate) fn view_of(table: &Table) -> TableView {
    TableView {
        def: table.def(),
        version: table.version(),
        files: table.files(),
        memory: Vec::new(),
    }
}

/// Learns from a table what was stated about each hour.
pub(crate) async fn statements(
    engine: &Engine,
    table: &Table,
    book: &str,
) -> Result<Statements, LedgerError> {
    let view = view_of(table);
    let context = engine.context()?;
    context.register_table("stated", engine.provide(view.clone()))?;
    let rated = table.def().columns.iter().any(|column| column.name == "price_book");
    let book_column = if rated { "price_book" } else { "''" };
    let frame = context
        .sql(&format!(
            "SELECT date_bin(INTERVAL '1 hour', \"start\") AS hour, known, \
             max({book_column}) AS book, \
             max(CAST(\"end\" < \"start\" AS BIGINT)) AS withdrawn FROM stated GROUP BY 1, 2"
        ))
        .await?;
    let mut said = Statements { view, hours: Arc::default(), aside: table.aside() };
    for batch in frame.collect().await? {
        let (hours, known) = (instants(&batch, "hour")?, integers(&batch, "known")?);
        let (books, withdrawn) = (text(&batch, "book")?, integers(&batch, "withdrawn")?);
        for row in 0..batch.num_rows() {
            let ours = !rated || books.value(row) == book;
            let (known, is_withdrawn) = (known[row], withdrawn[row] != 0);
            said.note(hours[row], Statement { known, ours, is_withdrawn });
        }
    }
    Ok(said)
}

/// Reads the statements wanted, batch by batch.
pub(crate) async fn read(
    engine: &Engine,
    statements: &Statements,
    window: Window,
    known: AsOf,
    selection: &Selection,
    mut take: impl FnMut(RecordBatch) -> Result<(), DataFusionError>,
) -> Result<(), LedgerError> {
    if statements.view.files.is_empty() || window.start >= window.end {
        return Ok(());
    }
    let context = engine.context()?;
    let wanted = live(statements.choice(window, known), window).and(selected(selection));
    let frame = context.read_table(engine.provide(statements.view.clone()))?.filter(wanted)?;
    let mut rows = frame.execute_stream().await?;
    while let Some(batch) = rows.next().await {
        take(batch?)?;
    }
    Ok(())
}

/// Rows of a window that count: of the statements chosen, and not void.
pub(crate) fn live(choice: Choice, window: Window) -> Expr {
    let time =
        col("start").gt_eq(instant(window.start.0)).and(col("start").lt(instant(window.end.0)));
    let real = time.and(col("end").gt(col("start")));
    match choice.0.is_empty() {
        true => real,
        false => real.and(counts(choice)),
    }
}

/// Rows of what a selection names.
fn selected(selection: &Selection) -> Expr {
    let Selection { project, resource, meter, kind } = selection;
    let kind = kind.as_ref().map(|kind| kind.as_str().to_owned());
    let named = [("project", project), ("resource", resource), ("meter", meter), ("kind", &kind)];
    let asked = named.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    asked.fold(lit(true), |all, (name, value)| all.and(col(name).eq(lit(value.as_str()))))
}

/// A microsecond of the epoch as a literal instant.
pub(crate) fn instant(micros: i64) -> Expr {
    lit(ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into())))
}

/// Whether the statement that a row belongs to is the one chosen for its hour; one function
/// instead of a condition per hour, since there is no bound on how many hours were stated anew.
fn counts(choice: Choice) -> Expr {
    let types =
        vec![DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), DataType::Int64];
    let takes = move |arguments: &[ColumnarValue]| {
        let columns = ColumnarValue::values_to_arrays(arguments)?;
        let [start, known] = columns.as_slice() else {
            return Err(DataFusionError::Internal("two columns are asked about".to_owned()));
        };
        let start = start.as_primitive::<TimestampMicrosecondType>();
        let known = known.as_primitive::<Int64Type>();
        let taken = (0..start.len()).map(|row| choice.takes(start.value(row), known.value(row)));
        Ok(ColumnarValue::Array(Arc::new(BooleanArray::from(taken.collect::<Vec<bool>>()))))
    };
    let name = "is_statement_in_force";
    create_udf(name, types, DataType::Boolean, Volatility::Immutable, Arc::new(takes))
        .call(vec![col("start"), col("known")])
}

/// Texts of a column, all batches together.
pub(crate) async fn documents(
    engine: &Engine,
    invoices: &TableView,
    wanted: Expr,
) -> Result<Vec<String>, LedgerError> {
    if invoices.files.is_empty() {
        return Ok(Vec::new());
    }
    let context = engine.context()?;
    let frame = context.read_table(engine.provide(invoices.clone()))?;
    let frame = frame.filter(wanted)?.select_columns(&["document"])?;
    let mut found = Vec::new();
    for batch in frame.collect().await? {
        let documents = text(&batch, "document")?;
        found.extend(documents.iter().flatten().map(str::to_owned));
    }
    Ok(found)
}
