//! One data file as an object store that gives nothing away that was not written.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use deltalake_core::logstore::ObjectStoreRef;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result,
};

use crate::aside::Suspects;
use crate::files::DataFile;
use crate::sums::{BLOCK, Damaged};

/// Reads a file, or parts of it, in whole blocks, each compared with its checksum: what is read
/// is what was written, or an error that the file is damaged. Then it is also suspect.
#[derive(Debug)]
pub struct Checked {
    pub(crate) store: ObjectStoreRef,
    pub(crate) suspects: Suspects,
    pub(crate) file: Arc<DataFile>,
}

impl Checked {
    async fn read(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let read = match self.file.sums.is_unknown() {
            true => self.store.get_ranges(path, ranges).await,
            false => self.read_blocks(path, ranges).await,
        };
        let read = match read {
            Err(error) if is_damage(&error) => Err(error),
            // Of one that was cut off a part cannot be had, as if the store were away.
            Err(error) => match self.store.head(path).await {
                Ok(found) if found.size != self.file.size => {
                    Err(self.damaged(format!("it has {} bytes", found.size)))
                }
                Err(gone @ Error::NotFound { .. }) => Err(gone),
                _ => Err(error),
            },
            read => read,
        };
        if read.as_ref().is_err_and(is_damage) {
            self.suspects.add(self.file.table(), &self.file.path);
        }
        read
    }

    async fn read_blocks(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let spans = spans(ranges, self.file.size);
        let read = self.store.get_ranges(path, &spans).await?;
        for (span, bytes) in spans.iter().zip(&read) {
            let checked = match bytes.len() as u64 == span.end - span.start {
                true => self.file.sums.check(span.start, bytes),
                false => Err("it ends early".to_owned()),
            };
            checked.map_err(|what| self.damaged(what))?;
        }
        let cut = ranges.iter().map(|range| {
            let of = spans.partition_point(|span| span.end < range.end);
            let within = spans.get(of).filter(|span| span.start <= range.start);
            let Some((span, bytes)) = within.zip(read.get(of)) else {
                return Err(self.damaged(format!("it has no bytes {range:?}")));
            };
            let place = |at: u64| (at - span.start) as usize;
            Ok(bytes.slice(place(range.start)..place(range.end)))
        });
        cut.collect()
    }

    fn damaged(&self, what: String) -> Error {
        let (table, path) = (self.file.table(), self.file.path.clone());
        Error::Generic { store: "tables", source: Box::new(Damaged { table, path, what }) }
    }
}

/// Whether it is not the store that is out of reach.
pub(crate) fn is_damage(error: &Error) -> bool {
    match error {
        Error::NotFound { .. } => true,
        Error::Generic { source, .. } => source.is::<Damaged>(),
        _ => false,
    }
}

/// The blocks that ranges lie in, in order, those that touch as one.
fn spans(ranges: &[Range<u64>], size: u64) -> Vec<Range<u64>> {
    let block = BLOCK as u64;
    let whole = |range: &Range<u64>| {
        let end = range.end.div_ceil(block).saturating_mul(block).min(size);
        range.start / block * block..end
    };
    let mut blocks: Vec<Range<u64>> = ranges.iter().map(whole).collect();
    blocks.sort_unstable_by_key(|span| (span.start, span.end));
    let mut spans: Vec<Range<u64>> = Vec::new();
    for span in blocks {
        match spans.last_mut() {
            Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
            _ => spans.push(span),
        }
    }
    spans
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file {} of {}", self.file.path, self.store)
    }
}

fn refused(operation: &str) -> Error {
    Error::NotImplemented { operation: operation.to_owned(), implementer: "Checked".to_owned() }
}

#[async_trait]
impl ObjectStore for Checked {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let size = self.file.size;
        let range = match &options.range {
            Some(range) => range
                .as_range(size)
                .map_err(|error| Error::Generic { store: "tables", source: Box::new(error) })?,
            None => 0..size,
        };
        let read = self.read(location, std::slice::from_ref(&range)).await?;
        let meta = ObjectMeta {
            location: location.clone(),
            last_modified: chrono::DateTime::from_timestamp_millis(self.file.modified)
                .unwrap_or_default(),
            size,
            e_tag: None,
            version: None,
        };
        let payload = GetResultPayload::Stream(stream::iter(read.into_iter().map(Ok)).boxed());
        Ok(GetResult { payload, meta, range, attributes: Default::default() })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.read(location, ranges).await
    }

    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        Err(refused("put"))
    }

    async fn put_multipart_opts(
        &self,
        _: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Err(refused("put"))
    }

    fn delete_stream(
        &self,
        _: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        stream::once(async { Err(refused("delete")) }).boxed()
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        stream::once(async { Err(refused("list")) }).boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(refused("list"))
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(refused("copy"))
    }
}
