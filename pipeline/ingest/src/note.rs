//! What maintenance finds missing, or makes so, as rows of `gaps`.

use nilometer_contract::{Gap, GapKind, RowSource, Timestamp};
use nilometer_log::LogId;
use nilometer_store::{CommitError, DataFile, Expired, Position, Table, Unread};
use prometheus::IntCounter;
use tracing::warn;

use crate::rows::batch_of;
use crate::stream::Origin;
use crate::tables::GAPS;
use crate::tell::told;

/// Where rows of `gaps` come from that are about files of a table (`of_topic`), instead of a topic.
pub const MAINTENANCE: &str = "maintenance";
/// Application id under which such rows are counted: their offsets grow, so that whoever reads them
/// knows which are new.
const COUNT: &str = "noted";

/// How rows come back that were in a damaged file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// A repair reads them from the log.
    Replay,
    /// They were computed: billing settles their hours anew by itself.
    Compute,
    /// They are nowhere else.
    Backup,
}

impl Remedy {
    pub(crate) fn of(table: &Table) -> Self {
        match table.def().from {
            RowSource::Ingester | RowSource::Topic(_) => Remedy::Replay,
            RowSource::Computed => Remedy::Compute,
            RowSource::Original => Remedy::Backup,
        }
    }

    pub(crate) fn advice(self) -> &'static str {
        match self {
            Remedy::Replay => "try `nilometer repair`",
            Remedy::Compute => "billing settles its hours anew",
            Remedy::Backup => "restore it from a backup, then run `nilometer repair`",
        }
    }
}

/// Says something once: again under the same name and number it changes nothing. Whether it was
/// said now.
async fn note(gaps: &mut Table, app: String, number: i64, gap: Gap) -> Result<bool, CommitError> {
    loop {
        gaps.refresh().await.map_err(CommitError::Store)?;
        let from = gaps.position(&app).await.map_err(CommitError::Store)?;
        if from == Some(number) {
            return Ok(false);
        }
        let counted = gaps.position(COUNT).await.map_err(CommitError::Store)?;
        let count = counted.map_or(0, |count| count + 1);
        let (log, offset) = (LogId::default(), count.unsigned_abs());
        let origin = Origin { topic: MAINTENANCE, partition: 0, log, offset };
        let add = gaps.write(&[batch_of(&GAPS, &[(origin, gap.clone())])], None).await;
        let positions = [
            Position { app: app.clone(), from, next: number },
            Position { app: COUNT.to_owned(), from: counted, next: count },
        ];
        match gaps.append(vec![add.map_err(CommitError::Store)?], &positions).await {
            // Another says something, too: one of the two did.
            Err(CommitError::Conflict(_)) => {}
            done => return done.map(|()| true),
        }
    }
}

fn gap(kind: GapKind, table: &Table, span: (Timestamp, Timestamp), rows: u64) -> Gap {
    Gap {
        kind,
        agent: String::new(),
        node: String::new(),
        sources: Vec::new(),
        topic: table.def().name.to_owned(),
        partition: None,
        start: span.0,
        end: span.1.plus_micros(1),
        records: 0,
        samples: rows,
        reason: String::new(),
    }
}

/// Rows are about to be dropped because they are old.
pub(crate) async fn note_expired(
    gaps: &mut Table,
    table: &Table,
    expired: &Expired,
    days: u64,
) -> Result<(), CommitError> {
    let (rows, name) = (expired.rows, table.def().name);
    let reason = format!("{rows} rows of {name} were older than the {days} days that it keeps");
    let gap = Gap { reason, ..gap(GapKind::Expired, table, expired.span, rows) };
    note(gaps, format!("expired/{name}"), expired.span.1.0, gap).await.map(drop)
}

/// First and last instant of samples, of which rows without a time of their own tell; none where
/// there are no samples.
pub type Extent = Option<(i64, i64)>;

/// Says what of a table cannot be read, goes on without it, and counts the files that are
/// `set_aside`; returns how many these are.
pub async fn own_up(
    gaps: &mut Table,
    table: &mut Table,
    samples: Extent,
    set_aside: &IntCounter,
) -> Result<usize, CommitError> {
    let (name, mut files) = (table.def().name, 0);
    own_up_unread(gaps, table, samples, |unread| {
        warn!(table = name, version = unread.version, "a commit is unreadable");
    })
    .await?;
    own_up_damaged(gaps, table, samples, |file, why| {
        files += 1;
        set_aside.inc();
        warn!(table = name, file = file.path, rows = file.rows, why, "set aside");
    })
    .await?;
    Ok(files)
}

/// Says which commits of a table cannot be read, and goes on without them; `found` gets each that
/// was not said before. What billing computed is in doubt from then on. A commit that can only
/// come from a backup stays unread, so that it is found missing until it is there again.
pub(crate) async fn own_up_unread(
    gaps: &mut Table,
    table: &mut Table,
    samples: Extent,
    mut found: impl FnMut(&Unread),
) -> Result<(), CommitError> {
    if table.unread().is_empty() {
        return Ok(());
    }
    let remedy = Remedy::of(table);
    for unread in table.unread().to_vec() {
        if note_unread(gaps, table, samples, &unread).await? {
            found(&unread);
        }
        if remedy == Remedy::Compute {
            table.doubt(&unread).await?;
        }
    }
    if remedy == Remedy::Backup {
        return Ok(());
    }
    table.go_without().await.map_err(CommitError::Store).map(drop)
}

/// Sets aside the files of a table that were found damaged, and says so; `found` gets each with
/// the reason.
pub(crate) async fn own_up_damaged(
    gaps: &mut Table,
    table: &mut Table,
    samples: Extent,
    mut found: impl FnMut(&DataFile, &str),
) -> Result<(), CommitError> {
    for (file, why) in table.damaged().await.map_err(CommitError::Store)? {
        let why = told(&why);
        note_damaged(gaps, table, samples, (&file, &why)).await?;
        table.set_aside(&file).await?;
        found(&file, &why);
    }
    Ok(())
}

/// A file cannot be read, and is about to be set aside. What has no time of its own, as labels and
/// epochs, may bear on all samples.
async fn note_damaged(
    gaps: &mut Table,
    table: &Table,
    samples: Extent,
    (file, why): (&DataFile, &str),
) -> Result<(), CommitError> {
    let (name, path) = (table.def().name, file.path.as_str());
    let span = file.span().or(samples).unwrap_or_default();
    let span = (Timestamp(span.0), Timestamp(span.1));
    let advice = Remedy::of(table).advice();
    let reason = format!("file {path} of {name} cannot be read: {why}; {advice}");
    let gap = Gap { reason, ..gap(GapKind::Damaged, table, span, file.rows) };
    note(gaps, format!("damaged/{name}/{path}"), 1, gap).await.map(drop)
}

/// Application id, in `gaps`, of the version of a table in which rows came back last.
pub(crate) fn restored_app(table: &str) -> String {
    format!("restored/{table}")
}

/// Rows of files that were set aside are back, or some of them.
pub(crate) async fn note_restored(
    gaps: &mut Table,
    table: &Table,
    paths: &[String],
    span: (i64, i64),
    (restored, lost): (u64, u64),
) -> Result<(), CommitError> {
    let (name, files) = (table.def().name, paths.len());
    let kind = if lost == 0 { GapKind::Late } else { GapKind::Lost };
    let reason =
        format!("of {files} damaged files of {name} {restored} rows are restored, {lost} are lost");
    let span = (Timestamp(span.0), Timestamp(span.1.saturating_sub(1).max(span.0)));
    let gap = Gap { reason, ..gap(kind, table, span, lost) };
    note(gaps, restored_app(name), table.version(), gap).await.map(drop)
}

/// A commit cannot be read; what it changed is not known.
async fn note_unread(
    gaps: &mut Table,
    table: &Table,
    samples: Extent,
    unread: &Unread,
) -> Result<bool, CommitError> {
    let name = table.def().name;
    let micros = |at: i64| at.saturating_mul(1_000);
    let made = (micros(unread.between.0), micros(unread.between.1));
    let samples = samples.filter(|_| table.def().time.is_none()).unwrap_or(made);
    let span = (Timestamp(made.0.min(samples.0)), Timestamp(made.1.max(samples.1)));
    let Unread { version, reason, .. } = unread;
    let advice = match Remedy::of(table) {
        Remedy::Replay => String::new(),
        remedy => format!("; {}", remedy.advice()),
    };
    let reason = format!("commit {version} of table {name} cannot be read: {reason}{advice}");
    let gap = Gap { reason, ..gap(GapKind::Damaged, table, span, 0) };
    note(gaps, format!("unread/{name}/{version}"), 1, gap).await
}
