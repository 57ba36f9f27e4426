//! Every answer as a record: what it rested on, what it foresaw, what it chose.
//!
//! Written as JSON to the topic [`DECISIONS`], keyed by id. The id is a digest of inputs and
//! choice, so an answer given twice is one decision. The outcome is measured later.

use nilometer_contract::ColumnType::{Instant, Text};
use nilometer_contract::{
    Cell, Cells, Feed, RowRule, RowSource, TableDef, Timestamp, column, columns,
};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::place::{Decision, EligibleNode, EligibleNodes, place};
use crate::plan::{Move, Plan};
use crate::policy::Policy;
use crate::request::Request;
use crate::snapshot::Snapshot;

/// Topic of decision records (JSON).
pub const DECISIONS: &str = "nilometer.decisions";
/// What the scheduler and controller chose.
pub const DECISION_TABLE: TableDef = TableDef {
    name: "decisions",
    doc: "Placements, plans and scheduler answers, with what they rested on.",
    columns: &[
        column("at", Instant, "", "When it was made."),
        column("id", Text, "", "Digest of the decision."),
        column("kind", Text, "", "placement, filter, prioritize or plan."),
        column("decision", Text, "JSON", "Inputs, forecast, choice and reasons."),
        columns::TOPIC,
        columns::PARTITION,
        columns::LOG,
        columns::OFFSET,
    ],
    partition: None,
    order: &["at"],
    time: Some("at"),
    retention_days: 400,
    rule: RowRule::Operator,
    from: RowSource::Topic(Feed { topic: DECISIONS, decode: cells }),
};

/// Version of the JSON form.
pub const DECISION_VERSION: u32 = 1;
/// Longest record; longer ones are not written, and counted.
pub const MAX_DECISION_BYTES: usize = 1_000_000;
/// Most nodes kept of an answer that is not a placement.
const MAX_KEPT: usize = 64;

/// What kind of answer it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecisionKind {
    /// Where workloads should go.
    Placement,
    /// Which nodes kube-scheduler may use.
    Filter,
    /// How kube-scheduler should rank nodes.
    Prioritize,
    /// Which moves the controller proposes.
    Plan,
}

/// One answer, with all it takes to give it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// Digest of instant, kind, inputs and choice.
    pub id: String,
    /// Version of this form.
    pub version: u32,
    /// When it was given.
    pub at: Timestamp,
    /// What was asked.
    pub kind: DecisionKind,
    /// What it rested on.
    pub inputs: Inputs,
    /// What it foresaw.
    pub forecast: Vec<Forecast>,
    /// What it chose.
    pub chosen: Vec<Choice>,
    /// Why, for people.
    pub reasons: Vec<String>,
    /// What came of it; `null` until measured.
    pub outcome: Option<serde_json::Value>,
}

/// What a decision rested on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Inputs {
    /// What was asked for; empty for a plan.
    pub requests: Vec<Request>,
    /// Rules in force.
    pub policy: Policy,
    /// Seed of the draw among near-ties.
    pub seed: u64,
    /// States of the nodes that the answer lists; enough to replay a placement.
    pub nodes: Vec<EligibleNode>,
    /// How many nodes were looked at in all.
    pub considered: u64,
    /// Digest over the states of all nodes of the snapshot.
    pub state_digest: String,
    /// Median price of a core and hour, in millionths.
    pub price_reference_micros: u64,
    /// How far the log had been read.
    pub watermark: Watermark,
}

/// How far the log had been read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermark {
    /// Newest sample folded in.
    pub newest_sample: Option<Timestamp>,
    /// Next offset per partition.
    pub partitions: Vec<Position>,
}

/// Next offset to be read of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: u32,
    /// Every offset below had been read.
    pub next: u64,
}

/// What was foreseen for one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    /// Id of the node.
    pub node: String,
    /// Workload whose arrival or departure it is about.
    pub workload: String,
    /// Predicted peak of the next hour after, cores in thousandths; `None` where not forecast.
    pub cpu_after_millis: Option<u64>,
    /// Predicted peak of the next hour after.
    pub memory_after_bytes: Option<u64>,
    /// Risk of overload before, in thousandths.
    pub risk_before_permille: u32,
    /// Risk of overload after, in thousandths.
    pub risk_after_permille: u32,
    /// Price saved per hour, a decimal number.
    pub price_saved_per_hour: Option<String>,
}

/// What was chosen for one workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// Name of the workload; of a move its id.
    pub workload: String,
    /// Node it leaves, in a plan.
    pub from: Option<String>,
    /// Node it goes to; `None` if it fits nowhere.
    pub node: Option<String>,
    /// Score of the node: thousandths of a point, or 0 to 10 in a prioritize answer.
    pub score: Option<u32>,
}

impl DecisionRecord {
    /// A record with its id.
    pub fn new(
        at: Timestamp,
        kind: DecisionKind,
        inputs: Inputs,
        forecast: Vec<Forecast>,
        chosen: Vec<Choice>,
        reasons: Vec<String>,
    ) -> Self {
        let text = serde_json::to_vec(&(at, kind, &inputs, &chosen)).unwrap_or_default();
        let id = format!("{:032x}", xxh3_128(&text));
        let version = DECISION_VERSION;
        DecisionRecord { id, version, at, kind, inputs, forecast, chosen, reasons, outcome: None }
    }

    /// The record of a placement.
    pub fn of_placement(at: Timestamp, inputs: Inputs, decision: &Decision) -> Self {
        let mut forecast = Vec::new();
        let mut chosen = Vec::new();
        let mut reasons = Vec::new();
        for placed in &decision.placements {
            chosen.push(Choice {
                workload: placed.workload.clone(),
                from: None,
                node: placed.node.clone(),
                score: placed.score.map(|score| score.0),
            });
            match placed.candidates.first().filter(|best| best.fits) {
                Some(best) => {
                    reasons.push(format!(
                        "{} to {}: {}",
                        placed.workload,
                        best.node,
                        best.reasons.join("; ")
                    ));
                    forecast.push(Forecast {
                        node: best.node.clone(),
                        workload: placed.workload.clone(),
                        cpu_after_millis: Some(best.cpu_after_millis),
                        memory_after_bytes: Some(best.memory_after_bytes),
                        risk_before_permille: best.risk_before_permille,
                        risk_after_permille: best.risk_after_permille,
                        price_saved_per_hour: None,
                    });
                }
                None => reasons.push(format!("{}: its requests fit on no node", placed.workload)),
            }
        }
        Self::new(at, DecisionKind::Placement, inputs, forecast, chosen, reasons)
    }

    /// The record of a plan; keeps the states of the nodes it touches.
    pub fn of_plan(
        snapshot: &Snapshot,
        plan: &Plan,
        policy: &Policy,
        watermark: Watermark,
    ) -> Self {
        let touched: std::collections::BTreeSet<&str> =
            plan.moves.iter().flat_map(|step| [step.from.as_str(), step.to.as_str()]).collect();
        let nodes = snapshot.nodes.iter().filter(|node| touched.contains(node.id.as_str()));
        let kept = nodes.take(MAX_KEPT).map(|node| EligibleNode {
            node: node.clone(),
            for_vms: true,
            for_pods: true,
        });
        let inputs = Inputs {
            policy: policy.clone(),
            nodes: kept.collect(),
            considered: snapshot.nodes.len() as u64,
            state_digest: snapshot.digest(),
            price_reference_micros: snapshot.price_reference_micros,
            watermark,
            ..Inputs::default()
        };
        let chosen = plan.moves.iter().map(|step| Choice {
            workload: step.workload.clone(),
            from: Some(step.from.clone()),
            node: Some(step.to.clone()),
            score: Some(step.score.0),
        });
        let forecast = plan.moves.iter().flat_map(Move::forecast).collect();
        let reasons = plan.moves.iter().map(ToString::to_string).chain(plan.notes.clone());
        let (chosen, reasons) = (chosen.collect(), reasons.collect());
        Self::new(plan.at, DecisionKind::Plan, inputs, forecast, chosen, reasons)
    }
}

/// Gives a recorded placement again from nothing but its record (invariant 17).
pub fn replay(record: &DecisionRecord) -> Decision {
    let inputs = &record.inputs;
    let eligible = EligibleNodes::from_record(&inputs.nodes, inputs.price_reference_micros);
    place(&eligible, &inputs.requests, &inputs.policy, inputs.seed)
}

/// The columns of a record, and all of it as JSON.
fn cells(bytes: &[u8]) -> Result<Cells, String> {
    #[derive(Deserialize)]
    struct Head {
        at: Timestamp,
        id: String,
        kind: String,
    }
    let head: Head = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let json = String::from_utf8(bytes.to_vec()).map_err(|error| error.to_string())?;
    Ok(vec![
        ("at", Cell::Instant(head.at)),
        ("id", Cell::Text(head.id)),
        ("kind", Cell::Text(head.kind)),
        ("decision", Cell::Text(json)),
    ])
}
