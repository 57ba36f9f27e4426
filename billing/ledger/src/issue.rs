//! Issuing: the one way in which a draft becomes an invoice that never changes (invariant 15).
//!
//! Issued once per project and period: the commit carries the application id
//! `invoice/<project>/<start>/<end>`, so of two issuers one fails, and after a crash the table
//! tells whether it happened. Issuing again gives the invoice that was issued.

use nilometer_contract::Timestamp;
use nilometer_engine::Selection;
use nilometer_rating::{Detail, InvoiceError, IssuedInvoice, Period};
use nilometer_store::Position;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::archive::view_of;
use crate::error::LedgerError;
use crate::invoices::window_of;
use crate::ledger::{Desk, Ledger};
use crate::rows::invoice_batch;
use crate::state::Known;
use crate::tenancy::owned_by;

impl Ledger {
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
        let mut desk = self.inner.desk.lock().await;
        self.refresh(&mut desk).await?;
        for issued in self.issued_at(&mut desk, project).await? {
            if (issued.start, issued.end) == (period.start(), period.end()) {
                return Ok(issued);
            }
            if issued.start < period.end() && period.start() < issued.end {
                let (id, start, end) = (issued.id.clone(), issued.start, issued.end);
                return Err(LedgerError::Overlaps { id, start, end });
            }
        }
        self.may_write()?;
        desk.need_all_invoices()?;
        if now < period.end() {
            let id = format!("of {project}");
            return Err(InvoiceError::PeriodOpen { id, end: period.end() }.into());
        }
        self.make_final(&mut desk, period).await?;
        let archive = self.archive();
        let of = Selection { project: Some(project.to_owned()), ..Selection::default() };
        let (window, book) = (window_of(period), &self.inner.book);
        let charges = self.stored_charges(&archive, window, Known::Newest, &of, book).await?;
        let draft = self.drawn(&archive, project, period, detail, &charges).await?;
        let issued = draft.as_known(desk.last_known)?.issue(now)?;
        self.store_invoice(&mut desk, &issued).await?;
        Ok(issued)
    }

    /// Settles all hours of a period, or says why that cannot be.
    async fn make_final(&self, desk: &mut Desk, period: &Period) -> Result<(), LedgerError> {
        let not_final = || LedgerError::NotFinal {
            end: period.end(),
            newest: self.inner.engine.meter().newest(),
            grace_seconds: self.inner.config.grace.as_secs(),
        };
        if period.end() > self.final_before() {
            return Err(not_final());
        }
        self.settle_before(desk, period.end(), false, &CancellationToken::new()).await?;
        // Hours that cannot be computed any more stand as they were stated.
        let (archive, mut window) = (self.archive(), self.metered(window_of(period)));
        let before = self.inner.engine.meter().start();
        let stated = archive.usage.hours.range(window.start.0..before.0.max(window.start.0));
        let mut stated = stated.filter(|(hour, _)| **hour < window.end.0);
        if stated.any(|(hour, _)| !archive.charges.has(*hour, Known::Newest)) {
            return Err(LedgerError::OtherBook { before });
        }
        window.start = window.start.max(before);
        window.end = window.end.max(window.start);
        let open = [&archive.usage, &archive.charges];
        let open = open.iter().any(|said| !said.open(window, Known::Newest).is_empty());
        match open {
            true => Err(not_final()),
            false => Ok(()),
        }
    }

    async fn store_invoice(
        &self,
        desk: &mut Desk,
        issued: &IssuedInvoice,
    ) -> Result<(), LedgerError> {
        let add = desk.invoices.write(&[invoice_batch(issued)], None).await;
        let add = add.map_err(LedgerError::Store)?;
        let app = format!("invoice/{}/{}/{}", issued.project, issued.start.0, issued.end.0);
        let position = Position { app, from: None, next: 1 };
        let positions: Vec<Position> =
            std::iter::once(position).chain(owned_by(desk.owner)).collect();
        let committed = desk.invoices.append(vec![add], &positions).await;
        committed.map_err(LedgerError::Commit)?;
        let mut archive = (*self.archive()).clone();
        archive.invoices = view_of(&desk.invoices);
        self.publish(archive);
        self.inner.metrics.invoices.inc();
        let (invoice, project) = (&issued.id, &issued.project);
        info!(invoice, project, total = %issued.total, currency = %issued.currency, "issued");
        Ok(())
    }
}
