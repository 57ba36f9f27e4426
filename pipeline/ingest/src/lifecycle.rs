//! Lifecycle events on their way in.

use nilometer_contract::{Applied, LifecycleEvent, Timestamp};
use nilometer_log::Record;

use crate::rows::TableRow;
use crate::state::State;
use crate::stream::{Origin, Stream};

impl State {
    /// Applies records of lifecycle events, all at once: of many about one resource each would
    /// else be folded with all that follow it.
    pub(crate) fn apply_events(&mut self, stream: Stream, records: &[Record]) {
        let buried = self.pending.dead_letters.len();
        let (mut events, mut theirs) = (Vec::new(), Vec::new());
        for record in records {
            let origin = Origin::at(stream, record.offset);
            if !self.advance(&origin, record.appended_at_micros) {
                continue;
            }
            match self.event_of(record) {
                Ok(event) => {
                    self.note_lag(stream, record.appended_at_micros, event.at.0);
                    events.push(event);
                    theirs.push((origin, record));
                }
                Err(reason) => self.bury_record(origin, record, reason),
            }
        }
        let history = self.shared.history.clone();
        let mut history = history.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let applied = history.apply_all(events.clone());
        for ((came, event), (origin, record)) in applied.into_iter().zip(events).zip(theirs) {
            if let Some(beyond) = self.bounds.event(came) {
                let reason = beyond.refused(&self.metrics);
                self.bury_record(origin, record, reason);
            } else if came == Applied::New {
                self.metrics.events.inc();
                self.changes += 1;
                self.pending.bytes += event.weight();
                self.pending.events.push((origin, event));
            }
        }
        self.warn_of_letters(buried);
    }

    fn event_of(&self, record: &Record) -> Result<LifecycleEvent, String> {
        let event = LifecycleEvent::decode(&record.payload).map_err(|error| error.to_string())?;
        self.plausible.check_ahead(event.at.0, record.appended_at_micros, self.now.0)?;
        Ok(event)
    }

    fn bury_record(&mut self, origin: Origin, record: &Record, reason: String) {
        let at = Timestamp(record.appended_at_micros);
        self.bury(origin, at, -1, reason, record.payload.clone());
    }
}
