//! Creating a table that is not there: once, whoever comes first.

use deltalake_core::kernel::StructType;
use deltalake_core::kernel::engine::arrow_conversion::TryIntoKernel;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::log::{Commit, RETENTION};
use nilometer_contract::TableDef;

/// The first commit of a table, at an instant in milliseconds.
pub(crate) fn creation(def: &TableDef, at: i64) -> Commit {
    let schema: Result<StructType, _> = def.schema().as_ref().try_into_kernel();
    let schema = match schema {
        Ok(schema) => json!(schema).to_string(),
        Err(error) => panic!("the columns of {} have Delta types: {error}", def.name),
    };
    let metadata = json!({
        "id": Uuid::new_v4(),
        "name": def.name,
        "description": def.doc,
        "format": { "provider": "parquet", "options": {} },
        "schemaString": schema,
        "partitionColumns": def.partition.into_iter().collect::<Vec<_>>(),
        "createdTime": at,
        // Clean-up is maintenance's, and after the same time whoever does it.
        "configuration": {
            "delta.logRetentionDuration": RETENTION,
            "delta.deletedFileRetentionDuration": RETENTION,
            "delta.enableExpiredLogCleanup": "false",
        },
    });
    let protocol = json!({ "minReaderVersion": 1, "minWriterVersion": 2 });
    let head: [(String, Value); 2] =
        [("protocol".to_owned(), protocol), ("metaData".to_owned(), metadata)];
    Commit {
        id: Uuid::new_v4().to_string(),
        at,
        operation: "CREATE TABLE",
        head: Map::from_iter(head),
        ..Commit::default()
    }
}
