//! The tables and their columns, as documentation.

use nilometer_contract::{Scope, TableDef};
use nilometer_engine::{Described, Engine};
use serde_json::{Value, json};

/// What `GET /v1/tables` answers: the tables that a scope sees. How many rows a table has says
/// something about all of them, so it is for who sees all.
pub(crate) fn tables(engine: &Engine, scope: &Scope) -> Value {
    let view = engine.tables().now();
    let tables = engine.described(scope).into_iter().map(|table| match table.def {
        None => logical(&table),
        Some(def) => {
            let rows = view.tables.get(table.name.as_str()).filter(|_| scope.is_system());
            let rows = rows.map(|table| {
                let files = table.files.rows();
                files + table.memory.iter().map(|batch| batch.num_rows() as u64).sum::<u64>()
            });
            declared(&table, def, rows)
        }
    });
    json!({ "tables": tables.collect::<Vec<_>>() })
}

/// A table that somebody declares.
fn declared(table: &Described, def: &TableDef, rows: Option<u64>) -> Value {
    let columns = table.schema.fields().iter().map(|field| {
        let known = def.column(field.name());
        json!({
            "name": field.name(),
            "type": known.map(|column| column.kind.as_str()),
            "unit": known.map(|column| column.unit),
            "description": known.map(|column| column.doc),
        })
    });
    json!({
        "name": table.name, "description": def.doc, "rows": rows,
        "retention_days": def.retention_days, "columns": columns.collect::<Vec<_>>(),
    })
}

/// A table that the engine makes of others.
fn logical(table: &Described) -> Value {
    let (description, columns): (&str, &[(&str, &str)]) = match table.name.as_str() {
        "samples" => {
            ("Observations: what a meter read on a resource at an instant.", &SAMPLES_COLUMNS)
        }
        "resources" => (
            "Each state of each resource over [start, end), from the lifecycle events.",
            &RESOURCES_COLUMNS,
        ),
        "meters" => (
            "What can be measured: declared by the catalogue, or learnt from samples.",
            &METERS_COLUMNS,
        ),
        "kinds" => (
            "Kinds of resources: declared by the catalogue, or of a resource that is known.",
            &KINDS_COLUMNS,
        ),
        _ => ("", &[]),
    };
    let fields = table.schema.fields().iter().enumerate();
    let columns = fields.map(|(place, field)| {
        let kind = field.data_type().to_string();
        let (unit, doc) = columns.get(place).copied().unwrap_or_default();
        json!({ "name": field.name(), "type": kind, "unit": unit, "description": doc })
    });
    let columns: Vec<Value> = columns.collect();
    json!({ "name": table.name, "description": description, "columns": columns })
}

const SAMPLES_COLUMNS: [(&str, &str); 10] = [
    ("", "Instant of observation."),
    ("", "Meter; the catalogue has its unit and kind."),
    ("", "Resource id."),
    ("", "Kind of the resource."),
    ("", "Project that the resource belonged to."),
    ("", "Node that it ran on."),
    ("", "Source that saw it; where several did, source_hours says whose samples count."),
    ("JSON", "Further labels of the series; empty for none."),
    ("meter's unit", "What was observed."),
    ("", "Epoch in which it was read, see the table `epochs`; 0 is none."),
];

const METERS_COLUMNS: [(&str, &str); 12] = [
    ("", "Meter."),
    ("", "counter, gauge, delta or allocation."),
    ("", "Base unit of its samples."),
    ("", "Unit of its usage."),
    ("seconds", "Longest time that one sample speaks for."),
    ("", "Attribute that an allocation is the size of."),
    ("", "Attribute of a resource that runs others that bounds its usage."),
    ("", "Kinds of resource that have it, by commas; empty for any."),
    ("", "What it measures."),
    ("", "built-in, the catalogue file that declares it, or learnt."),
    ("", "Source whose samples named it first, of one that was learnt."),
    ("", "Sources in the order in which their samples count, by commas; others follow by name."),
];

const KINDS_COLUMNS: [(&str, &str); 7] = [
    ("", "Kind of resource."),
    ("", "Whether the catalogue declares it."),
    ("", "Whether it uses CPU and memory of its parent."),
    ("", "Whether it runs other resources."),
    ("", "Whether it costs money while it is idle."),
    ("", "Kind that it is usually part of."),
    ("", "What it is."),
];

const RESOURCES_COLUMNS: [(&str, &str); 10] = [
    ("", "Resource id."),
    ("", "Kind."),
    ("", "Project that pays."),
    ("", "What people call it."),
    ("", "Node that it runs on."),
    ("", "Resource that it is part of."),
    ("JSON", "Labels, flavor, sizes."),
    ("", "First instant of the state."),
    ("", "First instant past the state; null while it lasts."),
    ("", "Whether the state lasts."),
];
