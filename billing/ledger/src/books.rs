//! Price books: the one in force, and every one that was in use, so that any past invoice can be
//! computed again with its own.

use nilometer_rating::{Invoice, PriceBook};
use nilometer_store::Storage;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use tracing::info;

use crate::error::LedgerError;
use crate::stored::parse::Entries;

/// The price books of billing.
pub(crate) struct Books {
    storage: Storage,
    in_force: PriceBook,
    entries: Entries,
}

impl Books {
    pub(crate) fn new(storage: &Storage, in_force: PriceBook) -> Self {
        Books { storage: storage.clone(), entries: Entries::of(&in_force), in_force }
    }

    /// The book in force.
    pub(crate) fn in_force(&self) -> &PriceBook {
        &self.in_force
    }

    /// The entries of the book in force.
    pub(crate) fn entries(&self) -> &Entries {
        &self.entries
    }

    /// Keeps the book in force for ever: it is going to be used.
    pub(crate) async fn keep(&self) -> Result<(), LedgerError> {
        let path = self.path(&self.in_force.heading().digest);
        let store = self.storage.object_store();
        match store.head(&path).await {
            Ok(_) => Ok(()),
            Err(object_store::Error::NotFound { .. }) => {
                let text = self.in_force.canonical_text().to_owned();
                store.put(&path, text.into()).await.map_err(LedgerError::Object)?;
                info!(book = self.in_force.version(), "price book is in use from now on");
                Ok(())
            }
            Err(error) => Err(LedgerError::Object(error)),
        }
    }

    /// The book that an invoice was made with.
    pub(crate) async fn of(&self, invoice: &Invoice) -> Result<PriceBook, LedgerError> {
        match invoice.price_book_digest == self.in_force.heading().digest {
            true => Ok(self.in_force.clone()),
            false => self.used(&invoice.price_book_digest).await,
        }
    }

    /// A book that was in use, by its digest.
    async fn used(&self, digest: &str) -> Result<PriceBook, LedgerError> {
        let lost = || LedgerError::Book(digest.to_owned());
        let found = self.storage.object_store().get(&self.path(digest)).await;
        let bytes =
            found.map_err(LedgerError::Object)?.bytes().await.map_err(LedgerError::Object)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| lost())?;
        let book = PriceBook::parse_canonical(text).map_err(|_| lost())?;
        match book.heading().digest == digest {
            true => Ok(book),
            false => Err(lost()),
        }
    }

    fn path(&self, digest: &str) -> Path {
        let root = Path::from_url_path(self.storage.root().path()).unwrap_or_default();
        root.join("price_books").join(format!("{digest}.toml"))
    }
}
