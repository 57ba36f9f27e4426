//! Opening a table that may not be there yet: it is created once, whoever comes first.

use deltalake_core::kernel::StructType;
use deltalake_core::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake_core::kernel::transaction::CommitProperties;
use deltalake_core::logstore::LogStoreRef;
use deltalake_core::operations::create::CreateBuilder;
use deltalake_core::protocol::SaveMode;
use deltalake_core::{DeltaTable, DeltaTableError};

use crate::schema::TableDef;
use crate::table::StoreError;

/// Loads the newest version of a table.
pub(crate) async fn open_or_create(
    def: &TableDef,
    log_store: LogStoreRef,
) -> Result<DeltaTable, StoreError> {
    let refused = |cause| StoreError::delta(def, "open", cause);
    let mut delta = DeltaTable::new(log_store.clone());
    let mut created = Ok(());
    if !delta.verify_deltatable_existence().await.map_err(refused)? {
        // Another may create it at the same time: then it is there all the same.
        created = create(def, log_store).await;
    }
    match (delta.load().await, created) {
        (Ok(()), _) => Ok(delta),
        (Err(_), Err(cause)) => Err(cause),
        (Err(cause), Ok(())) => Err(refused(cause)),
    }
}

async fn create(def: &TableDef, log_store: LogStoreRef) -> Result<(), StoreError> {
    let refused = |cause| StoreError::delta(def, "create", cause);
    let schema: StructType = def
        .schema()
        .as_ref()
        .try_into_kernel()
        .map_err(|error| refused(DeltaTableError::generic(error.to_string())))?;
    CreateBuilder::new()
        .with_log_store(log_store)
        .with_table_name(def.name)
        .with_comment(def.doc)
        .with_columns(schema.fields().cloned())
        .with_partition_columns(def.partition)
        .with_save_mode(SaveMode::Ignore)
        // A second creation is no retry: it would rename the table under those who write to it.
        .with_commit_properties(CommitProperties::default().with_max_retries(0))
        .await
        .map(drop)
        .map_err(refused)
}
