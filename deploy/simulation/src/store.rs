//! The object store's side of the network: objects in memory, and each host's link to them.
//!
//! Requests are named by what they do and, for a commit, by its table and version; the names of
//! data files are random, so for those the number of the request counts.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::host::{Fate, Host};

/// The objects as one host sees them.
pub(crate) struct RemoteStore {
    objects: Arc<dyn ObjectStore>,
    host: Arc<Host>,
    /// Which part of the host's process.
    part: u64,
    puts: AtomicU64,
    reads: AtomicU64,
}

impl RemoteStore {
    pub(crate) fn new(objects: &Arc<dyn ObjectStore>, host: &Arc<Host>, part: u64) -> Self {
        let (puts, reads) = (AtomicU64::new(0), AtomicU64::new(0));
        RemoteStore { objects: objects.clone(), host: host.clone(), part, puts, reads }
    }

    /// Whether a read gets through; it takes no time, unless the link is slow.
    async fn read(&self, what: &str) -> Result<()> {
        let link = *self.host.store();
        if self.host.world.is_simulated_thread() && (!link.slow.is_zero() || self.host.is_frozen())
        {
            self.host.wait(5 + self.part, link.slow).await;
        }
        if link == Default::default() {
            return Ok(());
        }
        let number = self.reads.fetch_add(1, Ordering::Relaxed);
        let request = format!("{}.{} {what} {number}", self.host.name, self.part);
        match link.fate(&self.host.world, &request) {
            Fate::Done => Ok(()),
            _ => Err(failed()),
        }
    }
}

fn failed() -> Error {
    Error::Generic { store: "simulated", source: "no answer".into() }
}

/// Table and what is put, without random names.
fn named(path: &Path) -> String {
    let parts: Vec<_> = path.parts().map(|part| part.as_ref().to_owned()).collect();
    match parts.as_slice() {
        [.., table, log, file] if log == "_delta_log" => format!("{table} {file}"),
        [.., table, file] if file.ends_with(".parquet") && !table.contains('=') => {
            format!("{table} data")
        }
        [.., table, _, file] if file.ends_with(".parquet") => format!("{table} data"),
        parts => parts.last().cloned().unwrap_or_default(),
    }
}

impl fmt::Debug for RemoteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RemoteStore")
    }
}

impl fmt::Display for RemoteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "objects seen by {}", self.host.name)
    }
}

#[async_trait]
impl ObjectStore for RemoteStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let link = *self.host.store();
        if self.host.world.is_simulated_thread() {
            self.host.wait(5 + self.part, link.slow).await;
        }
        let (name, number) = (named(location), self.puts.fetch_add(1, Ordering::Relaxed));
        let request = format!("{}.{} put {number} {name}", self.host.name, self.part);
        let fate = if link.full { Fate::Lost } else { link.fate(&self.host.world, &request) };
        let done = match fate {
            Fate::Lost => Err(failed()),
            _ => self.objects.put_opts(location, payload, options).await,
        };
        let outcome = if done.is_ok() { "done" } else { "refused" };
        self.host.world.note(format!("{request} {fate:?} {outcome}"));
        if fate == Fate::AnswerLost { Err(failed()) } else { done }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.read("multipart").await?;
        self.objects.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.read("get").await?;
        self.objects.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.read("get").await?;
        self.objects.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        match self.host.store().away {
            true => futures::stream::once(async { Err(failed()) }).boxed(),
            false => self.objects.delete_stream(locations),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.host.store().away {
            true => futures::stream::once(async { Err(failed()) }).boxed(),
            false => self.objects.list(prefix),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.read("list").await?;
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.read("copy").await?;
        self.objects.copy_opts(from, to, options).await
    }
}
