//! The controller's proposal: moves that relieve hot nodes and empty cold ones. Pure, and only a
//! proposal: nothing here moves anything.
//!
//! ```text
//!   0 ───── low ─────────── relief ──── high ───── 100 %   predicted peak, cpu or memory
//!     cold: empty it whole     │          │ hot: move until at most relief
//!                              └ no destination is filled beyond
//! ```
//!
//! A node is hot or cold only by its own long and fresh history, never by requests alone.
//!
//! Why it does not swing: the band between relief and high; a cold node is emptied whole or not
//! at all, and only onto nodes in use; a node that receives in a plan is not emptied by it; a
//! workload stays its minimum residence. With steady input a carried-out plan leaves nothing to
//! propose. A VM whose pods are moved is not moved itself, and the reverse.

use std::fmt;

use nilometer_contract::Timestamp;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::policy::Policy;
use crate::record::Forecast;
use crate::score::Score;
use crate::snapshot::Snapshot;

mod draft;

/// Why a workload is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveReason {
    /// Its node is hot.
    Relieve,
    /// Its node is cold and can be emptied.
    Empty,
}

/// One proposed move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Id of the workload.
    pub workload: String,
    /// Its name.
    pub name: String,
    /// Its project.
    pub project: String,
    /// Id of the node it leaves.
    pub from: String,
    /// Id of the node it goes to.
    pub to: String,
    /// Why.
    pub reason: MoveReason,
    /// Score of the destination, in thousandths of a point.
    pub score: Score,
    /// Risk of overload of the node it leaves, in thousandths, before and after.
    pub from_risk_permille: (u32, u32),
    /// Risk of overload of the node it goes to, in thousandths, before and after.
    pub to_risk_permille: (u32, u32),
    /// Predicted peak of the destination after, cores in thousandths.
    pub to_cpu_millis: u64,
    /// Predicted peak of the destination after.
    pub to_memory_bytes: u64,
    /// Price saved per hour once this move is done; of an emptied node with its last move.
    pub price_saved_per_hour: Decimal,
}

/// What the controller proposes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// When it was drawn up.
    pub at: Timestamp,
    /// The moves, in order.
    pub moves: Vec<Move>,
    /// Ids of the hot nodes found.
    pub hot: Vec<String>,
    /// Ids of the cold nodes found.
    pub cold: Vec<String>,
    /// Ids of the nodes that the moves leave empty.
    pub emptied: Vec<String>,
    /// Price saved per hour by all moves.
    pub price_saved_per_hour: Decimal,
    /// What could not be done, and why.
    pub notes: Vec<String>,
}

/// Draws up a plan for the snapshot's instant.
pub fn plan(snapshot: &Snapshot, policy: &Policy) -> Plan {
    draft::draft_plan(snapshot, policy)
}

impl Move {
    /// What the move promises for the node it leaves and the one it goes to.
    pub fn forecast(&self) -> [Forecast; 2] {
        let saved = self.price_saved_per_hour;
        let leaves = Forecast {
            node: self.from.clone(),
            workload: self.workload.clone(),
            cpu_after_millis: None,
            memory_after_bytes: None,
            risk_before_permille: self.from_risk_permille.0,
            risk_after_permille: self.from_risk_permille.1,
            price_saved_per_hour: (!saved.is_zero()).then(|| saved.to_string()),
        };
        let joins = Forecast {
            node: self.to.clone(),
            workload: self.workload.clone(),
            cpu_after_millis: Some(self.to_cpu_millis),
            memory_after_bytes: Some(self.to_memory_bytes),
            risk_before_permille: self.to_risk_permille.0,
            risk_after_permille: self.to_risk_permille.1,
            price_saved_per_hour: None,
        };
        [leaves, joins]
    }
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.reason {
            MoveReason::Relieve => "relieves",
            MoveReason::Empty => "empties",
        };
        let (from, to) = (self.from_risk_permille, self.to_risk_permille);
        write!(
            f,
            "move {} ({}) from {} to {}: {why} {}; risk there {} → {} ‰, here {} → {} ‰; \
             saves {} per hour",
            self.workload,
            self.name,
            self.from,
            self.to,
            self.from,
            from.0,
            from.1,
            to.0,
            to.1,
            self.price_saved_per_hour
        )
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "plan of {} (dry run): {} moves, {} hot nodes, {} cold, {} emptied, saves {} per hour",
            self.at,
            self.moves.len(),
            self.hot.len(),
            self.cold.len(),
            self.emptied.len(),
            self.price_saved_per_hour
        )?;
        for (index, step) in self.moves.iter().enumerate() {
            writeln!(f, "{:>4}. {step}", index + 1)?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "      {note}"))
    }
}
