//! An object store that does not quite do what it should, or that counts what it is asked.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What it does wrong when an object is to be created.
#[derive(Clone, Debug)]
pub(crate) enum Quirk {
    /// Overwrites one that exists.
    Overwrites,
    /// Creates it, but the answer is lost; asked again, it tells that the name is taken. So many
    /// times, and then no more.
    LosesAnswers(Arc<AtomicUsize>),
    /// Denies it.
    Denies,
    /// Nothing; it counts what it is asked.
    Counts(Arc<Requests>),
}

/// What a store was asked.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    puts: AtomicUsize,
    gets: AtomicUsize,
    lists: AtomicUsize,
}

impl Requests {
    /// Puts, gets and lists since the last time.
    pub(crate) fn take(&self) -> [usize; 3] {
        [&self.puts, &self.gets, &self.lists].map(|count| count.swap(0, Ordering::SeqCst))
    }
}

impl Quirky {
    fn count(&self, pick: fn(&Requests) -> &AtomicUsize) {
        if let Quirk::Counts(requests) = &self.quirk {
            pick(requests).fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[derive(Debug)]
pub(crate) struct Quirky {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) quirk: Quirk,
}

impl fmt::Display for Quirky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "quirky {}", self.store)
    }
}

#[async_trait]
impl ObjectStore for Quirky {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        self.count(|requests| &requests.puts);
        if options.mode != PutMode::Create {
            return self.store.put_opts(location, payload, options).await;
        }
        let path = location.to_string();
        match &self.quirk {
            Quirk::Counts(_) => {}
            Quirk::Overwrites => options.mode = PutMode::Overwrite,
            Quirk::Denies => {
                return Err(Error::PermissionDenied { path, source: "read only".into() });
            }
            Quirk::LosesAnswers(left) => {
                let less = |left: usize| left.checked_sub(1);
                if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok() {
                    self.store.put_opts(location, payload, options).await?;
                    return Err(Error::AlreadyExists { path, source: "asked again".into() });
                }
            }
        }
        self.store.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.count(|requests| &requests.gets);
        self.store.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.count(|requests| &requests.lists);
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}
