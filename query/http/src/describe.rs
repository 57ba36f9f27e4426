//! The tables and their columns, as documentation.

use nilometer_contract::Scope;
use nilometer_engine::{
    Engine, is_position, kinds_schema, meters_schema, resources_schema, samples_schema,
};
use nilometer_store::STORED;
use serde_json::{Value, json};

use crate::problem::Problem;

/// What `GET /v1/tables` answers: the tables that a scope sees. How many rows a table has says
/// something about all of them, so it is for who sees all.
pub(crate) fn tables(engine: &Engine, scope: &Scope) -> Result<Value, Problem> {
    let (view, seen) = (engine.tables().now(), engine.names(scope)?);
    let is_seen = |name: &str| scope.is_system() || seen.iter().any(|table| table == name);
    let stored = STORED
        .iter()
        .filter(|def| !["samples", "series"].contains(&def.name) && is_seen(def.name))
        .map(|def| {
            let columns = def
                .columns
                .iter()
                .filter(|column| scope.is_system() || !is_position(column.name))
                .map(|column| {
                    json!({
                        "name": column.name, "type": column.kind.as_str(),
                        "unit": column.unit, "description": column.doc,
                    })
                });
            let rows = view.tables.get(def.name).filter(|_| scope.is_system()).map(|table| {
                let files = table.files.rows();
                files + table.memory.iter().map(|batch| batch.num_rows() as u64).sum::<u64>()
            });
            json!({
                "name": def.name, "description": def.doc, "rows": rows,
                "retention_days": def.retention_days, "columns": columns.collect::<Vec<_>>(),
            })
        });
    let logical = [
        described(
            "samples",
            "Observations: what a meter read on a resource at an instant.",
            &samples_schema(),
            &SAMPLES_COLUMNS,
        ),
        described(
            "resources",
            "Each state of each resource over [start, end), from the lifecycle events.",
            &resources_schema(),
            &RESOURCES_COLUMNS,
        ),
        described(
            "meters",
            "What can be measured: declared by the catalogue, or learnt from samples.",
            &meters_schema(),
            &METERS_COLUMNS,
        ),
        described(
            "kinds",
            "Kinds of resources: declared by the catalogue, or of a resource that is known.",
            &kinds_schema(),
            &KINDS_COLUMNS,
        ),
    ];
    let tables: Vec<Value> = logical.into_iter().chain(stored).collect();
    Ok(json!({ "tables": tables }))
}

const SAMPLES_COLUMNS: [(&str, &str); 10] = [
    ("", "Instant of observation."),
    ("", "Meter; the catalogue has its unit and kind."),
    ("", "Resource id."),
    ("", "Kind of the resource."),
    ("", "Project that the resource belonged to."),
    ("", "Node that it ran on."),
    ("", "Source that saw it."),
    ("JSON", "Further labels of the series; empty for none."),
    ("meter's unit", "What was observed."),
    ("", "Epoch in which it was read, see the table `epochs`; 0 is none."),
];

const METERS_COLUMNS: [(&str, &str); 11] = [
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

fn described(
    name: &str,
    description: &str,
    schema: &arrow::datatypes::Schema,
    columns: &[(&str, &str)],
) -> Value {
    let columns: Vec<Value> = schema
        .fields()
        .iter()
        .zip(columns)
        .map(|(field, (unit, doc))| {
            let kind = field.data_type().to_string();
            json!({ "name": field.name(), "type": kind, "unit": unit, "description": doc })
        })
        .collect();
    json!({ "name": name, "description": description, "columns": columns })
}
