//! An object store that fails when it is told to, or dies at a chosen write.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::watch;

/// When a dying store dies: before the write happens, or before it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    Before,
    After,
}

#[derive(Debug, Default)]
struct Plan {
    puts: usize,
    death: Option<(usize, Death)>,
    dead: bool,
    no_puts: bool,
    no_gets: bool,
}

/// What fails; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults(Arc<Mutex<Plan>>, watch::Sender<bool>);

impl Faults {
    /// Dies at a write, counted from zero: from then on everything fails.
    pub(crate) fn dying_at(put: usize, how: Death) -> Self {
        let faults = Faults::default();
        faults.0.lock().unwrap().death = Some((put, how));
        faults
    }

    /// Dies after so many writes from now on.
    pub(crate) fn die_after(&self, puts: usize) {
        let mut plan = self.0.lock().unwrap();
        plan.death = Some((plan.puts + puts, Death::Before));
    }

    pub(crate) fn over(&self, store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(Faulty { store, faults: self.clone() })
    }

    /// As when the process is frozen: nothing is answered until it goes on.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.1.send_replace(frozen);
    }

    async fn thawed(&self) {
        drop(self.1.subscribe().wait_for(|frozen| !frozen).await);
    }

    /// As when the disk is full: reading goes on.
    pub(crate) fn refuse_puts(&self, refuse: bool) {
        self.0.lock().unwrap().no_puts = refuse;
    }

    pub(crate) fn refuse_gets(&self, refuse: bool) {
        self.0.lock().unwrap().no_gets = refuse;
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.0.lock().unwrap().dead
    }

    fn get(&self) -> Result<()> {
        let plan = self.0.lock().unwrap();
        if plan.dead || plan.no_gets { Err(refused()) } else { Ok(()) }
    }

    /// Whether the write happens but is not acknowledged.
    fn put(&self) -> Result<bool> {
        let mut plan = self.0.lock().unwrap();
        if plan.dead || plan.no_puts {
            return Err(refused());
        }
        let place = plan.puts;
        plan.puts += 1;
        match plan.death {
            Some((at, how)) if at == place => {
                plan.dead = how == Death::Before;
                if how == Death::After { Ok(true) } else { Err(refused()) }
            }
            _ => Ok(false),
        }
    }
}

fn refused() -> Error {
    Error::Generic { store: "faulty", source: "no space left on device".into() }
}

#[derive(Debug)]
struct Faulty {
    store: Arc<dyn ObjectStore>,
    faults: Faults,
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty {}", self.store)
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.faults.thawed().await;
        let unacknowledged = self.faults.put()?;
        let done = self.store.put_opts(location, payload, options).await;
        if unacknowledged {
            // Only now, so that the write is over when somebody sees that it died.
            self.faults.0.lock().unwrap().dead = true;
            return Err(refused());
        }
        done
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.faults.put()?;
        self.store.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.faults.thawed().await;
        self.faults.get()?;
        self.store.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.faults.get()?;
        self.store.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, faults, prefix) = (self.store.clone(), self.faults.clone(), prefix.cloned());
        let thawed = futures::stream::once(async move {
            faults.thawed().await;
            faults.get()
        });
        let listed = thawed.flat_map(move |alive| match alive {
            Ok(()) => store.list(prefix.as_ref()),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        });
        listed.boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.faults.get()?;
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.faults.put()?;
        self.store.copy_opts(from, to, options).await
    }
}
