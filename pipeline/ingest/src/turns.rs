//! Two that put rows into `samples`: the ingester those that are new, a repair those that were
//! lost.
//!
//! Each has compared its rows with those of the table as it was, and an agent may repeat what a
//! repair restores. So both kinds of commits state one position, which a repair moves: of two from
//! the same version the second conflicts, and compares again with what the first one stored.

use nilometer_store::{Position, StoreError, Table};

/// Application id, in `samples`, of how often rows were put back.
const TURN: &str = "ingest/restored";

/// How often rows of `samples` were put back, as one version of the table has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Turn(Option<i64>);

impl Turn {
    pub(crate) async fn of(samples: &mut Table) -> Result<Turn, StoreError> {
        Ok(Turn(samples.position(TURN).await?))
    }

    pub(crate) fn number(self) -> i64 {
        self.0.unwrap_or(0)
    }

    /// Nothing was put back since.
    pub(crate) fn kept(self) -> Position {
        Position { app: TURN.to_owned(), from: self.0, next: self.number() }
    }

    /// Rows are put back.
    pub(crate) fn taken(self) -> Position {
        Position { next: self.number() + 1, ..self.kept() }
    }
}

/// What an ingester knows of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Turns {
    /// As of which rows in memory were compared with the table.
    pub(crate) compared: i64,
    /// As of which those are that come.
    pub(crate) known: i64,
}

impl Turns {
    pub(crate) fn at(turn: Turn) -> Self {
        Turns { compared: turn.number(), known: turn.number() }
    }

    /// Whether rows in memory may have been put back since they came.
    pub(crate) fn is_behind(self) -> bool {
        self.compared != self.known
    }

    /// For a cut of all that is in memory: as of which its rows were compared.
    pub(crate) fn cut(&mut self) -> i64 {
        std::mem::replace(&mut self.compared, self.known)
    }
}
