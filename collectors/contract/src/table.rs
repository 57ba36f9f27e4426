//! What a table is, as data: columns, types, units, order, retention, whose its rows are, and where
//! they come from. Who produces the rows of a table declares it; nothing else knows it by name.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::time::Timestamp;

/// Type of a stored column; each has one Delta type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// UTF-8 text.
    Text,
    /// 64-bit signed integer.
    Int,
    /// 64-bit float.
    Float,
    /// Instant in microseconds, UTC.
    Instant,
    /// Calendar day, UTC.
    Day,
    /// Exact decimal with 12 fraction digits.
    Decimal,
    /// Raw bytes.
    Bytes,
}

/// One column.
#[derive(Clone, Copy, Debug)]
pub struct ColumnDef {
    /// Name.
    pub name: &'static str,
    /// Type.
    pub kind: ColumnType,
    /// Unit, or empty.
    pub unit: &'static str,
    /// One sentence.
    pub doc: &'static str,
}

/// One table.
#[derive(Clone, Copy, Debug)]
pub struct TableDef {
    /// Name, also its folder.
    pub name: &'static str,
    /// One sentence.
    pub doc: &'static str,
    /// Columns in order.
    pub columns: &'static [ColumnDef],
    /// Partition column, if any; its values are in the log, not in the files.
    pub partition: Option<&'static str>,
    /// Columns that files are sorted by.
    pub order: &'static [&'static str],
    /// The instant that retention goes by.
    pub time: Option<&'static str>,
    /// Days kept by default; 0 is for ever.
    pub retention_days: u32,
    /// Whose its rows are.
    pub rule: RowRule,
    /// Where its rows come from.
    pub from: RowSource,
}

/// Which rows of a table belong to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowRule {
    /// All rows are the operator's. A scope of projects does not see that there is such a table.
    Operator,
    /// A row belongs to the project named in one column, at the instant in another.
    Project {
        /// Column with the project.
        project: &'static str,
        /// Column with the instant.
        at: &'static str,
        /// Column with the first instant past the row, if it tells of a whole period: then the
        /// project has to be in the scope for all of it.
        until: Option<&'static str>,
    },
    /// The provider was made for the scope and has no other rows.
    Scoped,
}

/// Where the rows of a table come from, and so how they come back where they are lost.
#[derive(Clone, Copy, Debug)]
pub enum RowSource {
    /// The ingester makes them of what it reads; they come back from the log.
    Ingester,
    /// A row is a record of a topic that has one partition; they come back from the log.
    Topic(Feed),
    /// They are computed from other tables, and computed again.
    Computed,
    /// They are nowhere else; a backup has them.
    Original,
}

/// A topic that feeds a table, one record a row. Beside those that [`decode`](Self::decode) gives,
/// the table has the columns [`ORIGIN`].
#[derive(Clone, Copy, Debug)]
pub struct Feed {
    /// The topic.
    pub topic: &'static str,
    /// The cells of a record, or why it is none: it goes to the dead letters.
    pub decode: fn(&[u8]) -> Result<Cells, String>,
}

/// One row, by names of columns.
pub type Cells = Vec<(&'static str, Cell)>;

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Of a column of text.
    Text(String),
    /// Of a column of integers.
    Int(i64),
    /// Of a column of instants.
    Instant(Timestamp),
}

/// A column.
pub const fn column(
    name: &'static str,
    kind: ColumnType,
    unit: &'static str,
    doc: &'static str,
) -> ColumnDef {
    ColumnDef { name, kind, unit, doc }
}

/// Columns that several tables have.
pub mod columns {
    use super::ColumnType::{Instant, Int, Text};
    use super::{ColumnDef, column};

    /// Resource id.
    pub const RESOURCE: ColumnDef = column("resource", Text, "", "Resource id.");
    /// Kind of the resource.
    pub const KIND: ColumnDef = column("kind", Text, "", "Kind of the resource.");
    /// Project that pays.
    pub const PROJECT: ColumnDef = column("project", Text, "", "Project that pays.");
    /// Node of the resource.
    pub const NODE: ColumnDef = column("node", Text, "", "Node it ran on.");
    /// Meter.
    pub const METER: ColumnDef = column("meter", Text, "", "Meter.");
    /// Source that saw it.
    pub const SOURCE: ColumnDef = column("source", Text, "", "Source that saw it.");
    /// Further labels, as text.
    pub const LABELS: ColumnDef = column("labels", Text, "JSON", "Further labels; empty for none.");
    /// First instant of a period.
    pub const START: ColumnDef = column("start", Instant, "", "First instant.");
    /// First instant past a period.
    pub const END: ColumnDef = column("end", Instant, "", "First instant past the period.");
    /// Topic of the log.
    pub const TOPIC: ColumnDef = column("topic", Text, "", "Topic of the log.");
    /// Partition of the topic.
    pub const PARTITION: ColumnDef = column("partition", Int, "", "Partition of the topic.");
    /// Which log.
    pub const LOG: ColumnDef = column(
        "log",
        Text,
        "",
        "Which log the offset counts in: another one once it was replaced.",
    );
    /// Offset in the partition.
    pub const OFFSET: ColumnDef =
        column("offset", Int, "", "Offset in the partition; -1 before the first.");
}

/// Columns that say where in the log a row was read.
pub const ORIGIN: [&str; 4] =
    [columns::TOPIC.name, columns::PARTITION.name, columns::LOG.name, columns::OFFSET.name];

impl ColumnType {
    /// The Arrow type.
    pub fn arrow(self) -> DataType {
        use ColumnType::{Bytes, Day, Decimal, Float, Instant, Int, Text};
        match self {
            Text => DataType::Utf8,
            Int => DataType::Int64,
            Float => DataType::Float64,
            Instant => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            Day => DataType::Date32,
            Decimal => DataType::Decimal128(38, 12),
            Bytes => DataType::Binary,
        }
    }

    /// Name for people.
    pub fn as_str(self) -> &'static str {
        use ColumnType::{Bytes, Day, Decimal, Float, Instant, Int, Text};
        match self {
            Text => "text",
            Int => "int64",
            Float => "float64",
            Instant => "timestamp(us, UTC)",
            Day => "date",
            Decimal => "decimal(38,12)",
            Bytes => "bytes",
        }
    }
}

impl TableDef {
    /// Arrow schema of the whole table.
    pub fn schema(&self) -> SchemaRef {
        self.schema_of(|_| true)
    }

    /// Arrow schema of a data file: without the partition column.
    pub fn file_schema(&self) -> SchemaRef {
        self.schema_of(|column| Some(column.name) != self.partition)
    }

    fn schema_of(&self, keep: impl Fn(&ColumnDef) -> bool) -> SchemaRef {
        let columns = self.columns.iter().filter(|column| keep(column));
        let fields = columns.map(|column| Field::new(column.name, column.kind.arrow(), true));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// The topic that feeds it, if one does.
    pub fn feed(&self) -> Option<&Feed> {
        match &self.from {
            RowSource::Topic(feed) => Some(feed),
            RowSource::Ingester | RowSource::Computed | RowSource::Original => None,
        }
    }

    /// What is declared of a column.
    pub fn column(&self, name: &str) -> Option<&ColumnDef> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Rows of a data file, from its columns in any order.
    ///
    /// # Panics
    ///
    /// If a column is missing, is not of the table, stands twice, has another type, or another
    /// length: whoever builds rows of a table has its declaration.
    pub fn batch(&self, columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        let schema = self.file_schema();
        assert!(columns.len() == schema.fields().len(), "{} has other columns", self.name);
        self.project(schema, &columns)
    }

    /// Rows of some columns of the table, in the order of a schema.
    ///
    /// # Panics
    ///
    /// If a column of the schema is missing, has another type, or another length.
    pub fn project(&self, schema: SchemaRef, columns: &[(&str, ArrayRef)]) -> RecordBatch {
        let table = self.name;
        let array = |name: &str| match columns.iter().find(|(column, _)| *column == name) {
            Some((_, values)) => values.clone(),
            None => panic!("rows of {table} have no column {name}"),
        };
        let arrays = schema.fields().iter().map(|field| array(field.name())).collect();
        match RecordBatch::try_new(schema, arrays) {
            Ok(batch) => batch,
            Err(error) => panic!("rows of {table} do not fit it: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray, Int64Array, StringArray};
    use arrow::datatypes::Int64Type;

    use super::*;

    const TABLE: TableDef = TableDef {
        name: "t",
        doc: "",
        columns: &[
            column("day", ColumnType::Day, "", ""),
            column("a", ColumnType::Text, "", "An a."),
            column("b", ColumnType::Int, "", ""),
        ],
        partition: Some("day"),
        order: &["a"],
        time: None,
        retention_days: 0,
        rule: RowRule::Operator,
        from: RowSource::Original,
    };

    fn texts() -> ArrayRef {
        Arc::new(StringArray::from(vec!["x"]))
    }

    fn integers() -> ArrayRef {
        Arc::new(Int64Array::from(vec![7]))
    }

    #[test]
    fn rows_are_built_by_names_of_columns() {
        let batch = TABLE.batch(vec![("b", integers()), ("a", texts())]);
        assert_eq!(batch.schema(), TABLE.file_schema());
        assert_eq!(batch["a"].as_string::<i32>().value(0), "x");
        assert_eq!(batch["b"].as_primitive::<Int64Type>().value(0), 7);
        assert_eq!(batch["b"].len(), 1);
        assert_eq!(TABLE.column("a").map(|column| column.doc), Some("An a."));
        assert!(TABLE.column("c").is_none());
    }

    #[test]
    #[should_panic(expected = "have no column b")]
    fn a_missing_column_is_no_row() {
        TABLE.batch(vec![("a", texts()), ("c", integers())]);
    }

    #[test]
    #[should_panic(expected = "has other columns")]
    fn a_further_column_is_no_row() {
        TABLE.batch(vec![("a", texts()), ("b", integers()), ("c", integers())]);
    }

    #[test]
    #[should_panic(expected = "do not fit")]
    fn another_type_is_no_row() {
        TABLE.batch(vec![("a", integers()), ("b", integers())]);
    }
}
