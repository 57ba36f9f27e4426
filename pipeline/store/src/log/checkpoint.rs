//! Checkpoints: the whole state of a version as one Parquet file, as Delta has it.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, AsArray, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::{LineDelimitedWriter, ReaderBuilder};
use bytes::Bytes;
use deltalake_core::kernel::{Add, Remove, Transaction};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::seal::{BLANK, is_intact, seal};
use super::{Found, Log, State, checkpoint_path, hint_path};
use crate::aside::Missing;
use crate::file::{FileError, read_parquet};
use crate::files::DataFile;
use crate::table::{StoreError, off_thread};
use nilometer_contract::TableDef;

/// Actions turned into a batch at once.
const CHUNK: usize = 8 * 1024;

/// A row of a checkpoint: one of them is there.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    #[serde(skip_serializing_if = "Option::is_none")]
    txn: Option<Transaction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    add: Option<Add>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remove: Option<Remove>,
    #[serde(flatten)]
    head: Map<String, Value>,
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let number = |name: &str| Field::new(name, DataType::Int64, true);
    let small = |name: &str| Field::new(name, DataType::Int32, true);
    let flag = |name: &str| Field::new(name, DataType::Boolean, true);
    let map = |name: &str| {
        let key = Field::new("key", DataType::Utf8, false);
        Field::new_map(name, "key_value", key, text("value"), false, true)
    };
    let group = |name: &str, fields: Vec<Field>| Field::new_struct(name, fields, true);
    let file = |more: Vec<Field>| {
        let all = [text("path"), map("partitionValues"), number("size"), flag("dataChange")];
        all.into_iter().chain(more).collect::<Vec<_>>()
    };
    let format = group("format", vec![text("provider"), map("options")]);
    let columns = Field::new_list("partitionColumns", text("element"), true);
    let metadata = vec![
        text("id"),
        text("name"),
        text("description"),
        format,
        text("schemaString"),
        columns,
        number("createdTime"),
        map("configuration"),
    ];
    Arc::new(Schema::new(vec![
        group("txn", vec![text("appId"), number("version"), number("lastUpdated")]),
        group("add", file(vec![number("modificationTime"), text("stats"), map("tags")])),
        group("remove", file(vec![number("deletionTimestamp"), flag("extendedFileMetadata")])),
        group("metaData", metadata),
        group("protocol", vec![small("minReaderVersion"), small("minWriterVersion")]),
    ]))
});

impl Log {
    pub(super) async fn checkpoint(&self, version: i64) -> Result<Found<State>, StoreError> {
        let Some(bytes) = self.read(&checkpoint_path(version)).await? else {
            return Ok(Found::Missing);
        };
        let def = self.def;
        let decoded = off_thread(move || decode(def, bytes)).await;
        Ok(match decoded {
            Ok(state) => Found::Good(State { version, checkpoint: Some(version), ..state }),
            Err(why) => Found::Damaged(why.to_string()),
        })
    }

    /// Writes a state down, so that nobody needs the commits before.
    pub(crate) async fn write_checkpoint(&self, state: &State) -> Result<(), StoreError> {
        let (state, version) = (state.clone(), state.version);
        let encoded = off_thread(move || encode(&state).map_err(|cause| failed(cause.into())));
        let (bytes, size) =
            encoded.await.map_err(|cause| StoreError::File { table: self.def.name, cause })?;
        let put = |path: Path, bytes: Vec<u8>| async move {
            let put = self.store.put(&path, bytes.into()).await;
            put.map(drop).map_err(|cause| self.refused(cause))
        };
        put(checkpoint_path(version), bytes).await?;
        let hint = json!({ "version": version, "size": size });
        put(hint_path(), hint.to_string().into_bytes()).await
    }
}

fn failed(cause: Box<dyn std::error::Error + Send + Sync>) -> FileError {
    FileError::of("read or write a checkpoint", cause)
}

fn encode(state: &State) -> Result<(Vec<u8>, usize), ArrowError> {
    let head = state.head.iter().map(|(kind, value)| Row {
        head: Map::from_iter([(kind.clone(), value.clone())]),
        ..Row::default()
    });
    let positions = state
        .positions
        .iter()
        .map(|(app, version)| Row { txn: Some(Transaction::new(app, *version)), ..Row::default() });
    let adds = state.files.iter().map(|file| Row { add: Some(file.to_add()), ..Row::default() });
    let removes = state.dropped.iter().map(|(path, at)| Row {
        remove: Some(Remove {
            path: path.clone(),
            data_change: false,
            deletion_timestamp: Some(*at),
            ..Remove::default()
        }),
        ..Row::default()
    });
    let mut rows = head.chain(positions).chain(adds).chain(removes).peekable();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).unwrap_or_default()))
        .set_key_value_metadata(Some(vec![KeyValue::new("seal".to_owned(), BLANK.to_owned())]))
        .build();
    let (mut bytes, mut size) = (Vec::new(), 0);
    let mut writer = ArrowWriter::try_new(&mut bytes, SCHEMA.clone(), Some(properties))?;
    let mut decoder = ReaderBuilder::new(SCHEMA.clone()).build_decoder()?;
    while rows.peek().is_some() {
        let chunk: Vec<Row> = rows.by_ref().take(CHUNK).collect();
        size += chunk.len();
        decoder.serialize(&chunk)?;
        if let Some(batch) = decoder.flush()? {
            writer.write(&batch)?;
        }
    }
    writer.close()?;
    Ok((seal(bytes), size))
}

fn decode(def: &'static TableDef, bytes: Bytes) -> Result<State, FileError> {
    if !is_intact(&bytes) {
        return Err(failed("it is not what was written".into()));
    }
    let mut state = State::none();
    let mut files = Vec::new();
    for batch in read_parquet(bytes)? {
        let group = |name: &str| batch.column_by_name(name).and_then(|it| it.as_struct_opt());
        let (Some(positions), Some(adds), Some(removes)) =
            (group("txn"), group("add"), group("remove"))
        else {
            return Err(failed("columns are missing".into()));
        };
        let read = (|| {
            for row in rows_of(positions) {
                let app = text(positions, "appId", row)?;
                state.positions.insert(app, number(positions, "version", row)?);
            }
            for row in rows_of(removes) {
                let at = number(removes, "deletionTimestamp", row).unwrap_or(0);
                state.at = state.at.max(at);
                state.dropped.insert(path(removes, row)?, at);
            }
            for row in rows_of(adds) {
                let file = DataFile::of_add(def, &add(def, adds, row)?);
                state.at = state.at.max(file.modified);
                files.push(file);
            }
            Some(())
        })();
        read.ok_or_else(|| failed("values are missing".into()))?;
        state.head.extend(head(&batch).map_err(|cause| failed(cause.into()))?);
    }
    if state.head.len() < 2 {
        return Err(failed("it tells no protocol or no metadata".into()));
    }
    state.files = files.into_iter().collect();
    state.files.set_missing(Missing::of(def.name, &state.positions));
    Ok(state)
}

fn rows_of(group: &StructArray) -> impl Iterator<Item = usize> + '_ {
    (0..group.len()).filter(|&row| group.is_valid(row))
}

fn text(group: &StructArray, name: &str, row: usize) -> Option<String> {
    let column = group.column_by_name(name)?.as_string_opt::<i32>()?;
    column.is_valid(row).then(|| column.value(row).to_owned())
}

fn number(group: &StructArray, name: &str, row: usize) -> Option<i64> {
    let column = group.column_by_name(name)?.as_primitive_opt::<Int64Type>()?;
    column.is_valid(row).then(|| column.value(row))
}

fn texts(group: &StructArray, name: &str, row: usize) -> Option<HashMap<String, Option<String>>> {
    let column = group.column_by_name(name)?.as_map_opt()?;
    let all = column.is_valid(row).then(|| column.value(row))?;
    let (keys, values) = (all.column(0).as_string_opt::<i32>()?, all.column(1));
    let of = keys.iter().zip(values.as_string_opt::<i32>()?);
    Some(of.filter_map(|(key, value)| Some((key?.to_owned(), value.map(str::to_owned)))).collect())
}

/// Paths are URIs in the log.
fn path(group: &StructArray, row: usize) -> Option<String> {
    let path = Path::from_url_path(text(group, "path", row)?).ok()?;
    Some(path.to_string())
}

fn add(def: &TableDef, adds: &StructArray, row: usize) -> Option<Add> {
    let mut of = texts(adds, "partitionValues", row)?;
    of.retain(|key, _| Some(key.as_str()) == def.partition);
    Some(Add {
        path: path(adds, row)?,
        partition_values: of,
        size: number(adds, "size", row)?,
        modification_time: number(adds, "modificationTime", row)?,
        stats: text(adds, "stats", row),
        tags: texts(adds, "tags", row),
        ..Add::default()
    })
}

/// Protocol and metadata, if they are in the batch.
fn head(batch: &RecordBatch) -> Result<Map<String, Value>, ArrowError> {
    let mut head = Map::new();
    for name in ["protocol", "metaData"] {
        let place = batch.schema().index_of(name)?;
        let column = batch.project(&[place])?;
        let there = rows_of(column.column(0).as_struct()).next();
        let Some(row) = there else { continue };
        let mut line = Vec::new();
        let mut writer = LineDelimitedWriter::new(&mut line);
        writer.write(&column.slice(row, 1))?;
        writer.finish()?;
        drop(writer);
        let line: Map<String, Value> = serde_json::from_slice(&line)
            .map_err(|error| ArrowError::JsonError(error.to_string()))?;
        head.extend(line);
    }
    Ok(head)
}
