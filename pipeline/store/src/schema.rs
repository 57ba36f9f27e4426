//! What a table is, as data: columns, types, units, order, retention.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

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
}

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
}
