//! The local file system as an object store whose writes survive a loss of power.
//!
//! `object_store`'s own makes a file visible before it is on disk, so a power loss could leave an
//! empty commit in a table's log. Here a file gets its name only once its bytes are synced, and
//! the name is synced before the write is acknowledged.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result,
};
use uuid::Uuid;

/// Extension of a write that only says that its writer lives: a file that is there is not written
/// anew but marked as modified, which costs no write of its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SignOfLife;

/// Files below the root of the file system.
#[derive(Debug, Default)]
pub(crate) struct DurableLocal(LocalFileSystem);

impl fmt::Display for DurableLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "durable {}", self.0)
    }
}

fn failed(path: &FilePath, error: io::Error) -> Error {
    let path = path.display().to_string();
    match error.kind() {
        io::ErrorKind::AlreadyExists => Error::AlreadyExists { path, source: Box::new(error) },
        _ => Error::Generic { store: "local", source: Box::new(error) },
    }
}

fn write(path: &FilePath, payload: &PutPayload, create: bool) -> io::Result<()> {
    let parent = path.parent().ok_or_else(|| io::Error::other("a file lies in a folder"))?;
    make_folder(parent)?;
    // Listings leave out names that end in `#` and digits.
    let mut staged = path.as_os_str().to_owned();
    staged.push(format!("#{}", Uuid::new_v4().as_u128()));
    let staged = PathBuf::from(staged);
    let written = (|| {
        let mut file = File::create_new(&staged)?;
        payload.iter().try_for_each(|bytes| file.write_all(bytes))?;
        file.sync_all()?;
        match create {
            true => std::fs::hard_link(&staged, path),
            false => std::fs::rename(&staged, path),
        }
    })();
    if create || written.is_err() {
        // Best effort: what stays behind has no name that anybody looks for.
        drop(std::fs::remove_file(&staged));
    }
    written.and_then(|()| File::open(parent)?.sync_all())
}

/// Gives a file the next time of modification, so that who looks sees that it was touched.
fn touch(path: &FilePath) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    file.set_modified(file.metadata()?.modified()? + Duration::from_millis(1))
}

/// Makes a folder and its parents, each durable in the one above.
fn make_folder(folder: &FilePath) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let Some(parent) = folder.parent() else { return Ok(()) };
    make_folder(parent)?;
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(parent)?.sync_all()
}

#[async_trait]
impl ObjectStore for DurableLocal {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let create = match options.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => return self.0.put_opts(location, payload, options).await,
        };
        let path = self.0.path_to_filesystem(location)?;
        let alive = options.extensions.get::<SignOfLife>().is_some();
        let written = tokio::task::spawn_blocking(move || match alive && touch(&path).is_ok() {
            true => Ok(()),
            false => write(&path, &payload, create).map_err(|error| failed(&path, error)),
        });
        written.await.map_err(|source| Error::JoinError { source })??;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(location, options).await
    }

    async fn get_ranges(
        &self,
        location: &Path,
        ranges: &[std::ops::Range<u64>],
    ) -> Result<Vec<bytes::Bytes>> {
        self.0.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.0.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;

    use super::*;

    #[tokio::test]
    async fn a_name_is_taken_once_and_nothing_half_written_is_listed() {
        let folder = tempfile::tempdir().unwrap();
        let root = Path::from_absolute_path(folder.path()).unwrap();
        let store = DurableLocal::default();
        let path = root.clone().join("a").join("b");
        let create = PutOptions::from(PutMode::Create);
        store.put_opts(&path, "1".into(), create.clone()).await.unwrap();
        let again = store.put_opts(&path, "2".into(), create).await;
        assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "1");
        store.put(&path, "3".into()).await.unwrap();
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "3");
        let names: Vec<_> = std::fs::read_dir(folder.path().join("a")).unwrap().collect();
        assert_eq!(names.len(), 1);
    }
}
