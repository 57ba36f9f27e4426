//! What tables note of logs beside positions, and which rows they have by that.

use std::collections::BTreeMap;

use nilometer_contract::GAPS;
use nilometer_log::LogId;
use nilometer_store::{CommitError, Position, Row, StoreError, Table};

use crate::beginning::start_of;
use crate::cut::Cut;
use crate::rows::commits_batch;
use crate::sink::{Sink, owned_by};
use crate::stream::{Origin, Stream};

/// The log that each partition is read as.
type Reading = BTreeMap<(&'static str, u32), LogId>;

/// Notes which log each partition is read as, where none is noted: a log that is gone before
/// anything of it was stored is missed, too.
pub(crate) async fn note_logs(sink: &mut Sink, reading: &Reading) -> Result<(), CommitError> {
    let mut notes: BTreeMap<&str, Vec<Position>> = BTreeMap::new();
    for (&(topic, partition), &log) in reading {
        let app = Stream { topic, partition, log }.log_app();
        let found = sink.home(topic).position(&app).await.map_err(CommitError::Store)?;
        if found.is_none() {
            notes.entry(topic).or_default().push(Position { app, from: None, next: log.number() });
        }
    }
    for (topic, mut notes) in notes {
        notes.extend(owned_by(sink.generation));
        sink.home(topic).append(Vec::new(), &notes).await?;
    }
    Ok(())
}

/// What a home table notes beside positions of a topic that move, from what it has there.
pub(crate) async fn notes(
    table: &mut Table,
    cut: &Cut,
    topic: &str,
) -> Result<Vec<Position>, StoreError> {
    let mut notes = start_of(table, cut).await?;
    let moved = cut.positions(topic);
    let lag = moved.first().map(|(stream, _)| (stream.lag_app(), cut.lag(topic)));
    for (app, next) in moved.iter().flat_map(|(stream, _)| cut.notes(stream)).chain(lag) {
        let from = table.position(&app).await?;
        if from != Some(next) {
            notes.push(Position { app, from, next });
        }
    }
    // Two logs of one partition have one note of which is read.
    notes.sort_by(|a, b| a.app.cmp(&b.app));
    notes.dedup_by(|a, b| a.app == b.app);
    Ok(notes)
}

/// Whether a gap moves the position of its own topic: all that came in it, but for what is said
/// of the log itself.
pub(crate) fn is_own(origin: &Origin) -> bool {
    origin.topic == GAPS && !origin.is_beginning()
}

/// Whether a table that several topics feed has a row, by its own position in the row's log.
pub(crate) async fn has(table: &mut Table, origin: &Origin) -> Result<bool, StoreError> {
    let stream = origin.stream();
    if origin.is_beginning() {
        return Ok(table.position(&stream.told_app()).await? == Some(stream.log.number()));
    }
    let next = table.position(&stream.app()).await?;
    Ok(next.is_some_and(|next| (origin.offset as i64) < next))
}

/// Tells which offsets these samples came with. Ahead of the samples after a crash, the table
/// notes only the offsets past its own position.
pub(crate) async fn note_commit(
    table: &mut Table,
    rows: &[Row],
    (positions, owner): (&[(Stream, Position)], Option<i64>),
    cut: &Cut,
) -> Result<(), CommitError> {
    let instants = || rows.iter().map(|row| row.at);
    let Some((first, last)) = instants().min().zip(instants().max()) else { return Ok(()) };
    let mut noted = Vec::new();
    for (stream, position) in positions {
        let from = table.position(&position.app).await.map_err(CommitError::Store)?;
        if from.is_none_or(|from| from < position.next) {
            noted.push((*stream, Position { from, ..position.clone() }));
        }
    }
    if noted.is_empty() {
        return Ok(());
    }
    let batch = commits_batch(&noted, (first, last), cut.at);
    let add = table.write(&[batch], None).await.map_err(CommitError::Store)?;
    let noted = noted.into_iter().map(|(_, position)| position);
    let start = start_of(table, cut).await.map_err(CommitError::Store)?;
    let noted: Vec<Position> = noted.chain(start).chain(owned_by(owner)).collect();
    table.append(vec![add], &noted).await
}
