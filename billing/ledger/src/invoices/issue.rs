//! Issuing: the one way in which a draft becomes an invoice that never changes (invariant 15).
//!
//! Issued once per project and period: the commit carries the application id
//! `invoice/<project>/<start>/<end>`, so of two issuers one fails, and after a crash the table
//! tells whether it happened. Issuing again gives the invoice that was issued.

use nilometer_contract::{Scope, Timestamp};
use nilometer_engine::Selection;
use nilometer_rating::{Detail, InvoiceError, IssuedInvoice, Period};
use nilometer_store::Position;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::error::LedgerError;
use crate::invoices::{Invoices, window_of};
use crate::settlement::owned_by;
use crate::settlement::writer::Writer;
use crate::stored::read::view_of;
use crate::stored::rows::{INVOICES, invoice_batch};
use crate::stored::statements::{AsOf, Stored};

impl Invoices {
    /// Issues the invoice of a project for a period that is over and whose usage is final.
    ///
    /// It rests on settled charges as known now, and says so: the statements it was drawn up from
    /// can be queried for ever. A period that was issued before gives the same invoice again,
    /// whatever is known since; one that overlaps an issued one is refused, and so are all while
    /// issued ones are missing because their file is damaged.
    pub async fn issue(
        &self,
        project: &str,
        period: &Period,
        detail: Detail,
        now: Timestamp,
    ) -> Result<IssuedInvoice, LedgerError> {
        let mut writer = self.settlement.writer.lock().await;
        self.settlement.refresh(&mut writer).await?;
        for issued in self.issued_at(&mut writer, project).await? {
            if (issued.start, issued.end) == (period.start(), period.end()) {
                return Ok(issued);
            }
            if issued.start < period.end() && period.start() < issued.end {
                let (id, start, end) = (issued.id.clone(), issued.start, issued.end);
                return Err(LedgerError::Overlaps { id, start, end });
            }
        }
        self.settlement.may_write()?;
        writer.need_all_invoices()?;
        if now < period.end() {
            let id = format!("of {project}");
            return Err(InvoiceError::PeriodOpen { id, end: period.end() }.into());
        }
        self.make_final(&mut writer, period).await?;
        let stored = self.core.stored();
        let of = Selection { project: Some(project.to_owned()), ..Selection::default() };
        let (window, book) = (window_of(period), self.core.books.in_force());
        let charges = self.rating.stored_charges(&stored, window, AsOf::Newest, &of, book).await?;
        let draft = self.drawn(&stored, project, period, detail, &charges).await?;
        let issued = draft.as_known(writer.last_known)?.issue(now)?;
        self.store_invoice(&mut writer, &issued).await?;
        Ok(issued)
    }

    /// Issued invoices of a project, as far as they can be read now.
    pub(crate) async fn issued_at(
        &self,
        writer: &mut Writer,
        project: &str,
    ) -> Result<Vec<IssuedInvoice>, LedgerError> {
        if !writer.invoices.unread().is_empty() {
            // The commit may have been restored.
            let again = self.core.storage.table(&INVOICES).await;
            writer.invoices = again.map_err(LedgerError::Store)?;
            let invoices = view_of(&writer.invoices);
            self.core.publish(Stored { invoices, ..(*self.core.stored()).clone() });
        }
        loop {
            let read = self.issued(&Scope::system(), Some(project)).await;
            if read.is_ok() || writer.mender.own_up(&mut writer.invoices).await? == 0 {
                return read;
            }
            self.settlement.refresh(writer).await?;
        }
    }

    /// Settles all hours of a period, or says why that cannot be.
    async fn make_final(&self, writer: &mut Writer, period: &Period) -> Result<(), LedgerError> {
        let not_final = || LedgerError::NotFinal {
            end: period.end(),
            newest: self.core.engine.meter().newest(),
            grace_seconds: self.core.config.grace.as_secs(),
        };
        if period.end() > self.settlement.final_before() {
            return Err(not_final());
        }
        self.settlement
            .settle_before(writer, period.end(), false, &CancellationToken::new())
            .await?;
        // Hours that cannot be computed any more stand as they were stated.
        let (stored, mut window) = (self.core.stored(), self.rating.metered(window_of(period)));
        let before = self.core.engine.meter().start();
        let stated = stored.usage.hours.range(window.start.0..before.0.max(window.start.0));
        let mut stated = stated.filter(|(hour, _)| **hour < window.end.0);
        if stated.any(|(hour, _)| !stored.charges.has(*hour, AsOf::Newest)) {
            return Err(LedgerError::OtherBook { before });
        }
        window.start = window.start.max(before);
        window.end = window.end.max(window.start);
        let open = [&stored.usage, &stored.charges];
        let open = open.iter().any(|said| !said.open(window, AsOf::Newest).is_empty());
        match open {
            true => Err(not_final()),
            false => Ok(()),
        }
    }

    async fn store_invoice(
        &self,
        writer: &mut Writer,
        issued: &IssuedInvoice,
    ) -> Result<(), LedgerError> {
        let add = writer.invoices.write(&[invoice_batch(issued)], None).await;
        let add = add.map_err(LedgerError::Store)?;
        let app = format!("invoice/{}/{}/{}", issued.project, issued.start.0, issued.end.0);
        let position = Position { app, from: None, next: 1 };
        let positions: Vec<Position> =
            std::iter::once(position).chain(owned_by(writer.owner)).collect();
        let committed = writer.invoices.append(vec![add], &positions).await;
        committed.map_err(LedgerError::Commit)?;
        let mut stored = (*self.core.stored()).clone();
        stored.invoices = view_of(&writer.invoices);
        self.core.publish(stored);
        self.core.metrics.invoices.inc();
        let (invoice, project) = (&issued.id, &issued.project);
        info!(invoice, project, total = %issued.total, currency = %issued.currency, "issued");
        Ok(())
    }
}
