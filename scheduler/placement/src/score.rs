//! Fitness of a node for a workload.
//!
//! With `u` a predicted peak (margin and in-flight included) as a share of capacity, after the
//! workload is added:
//!
//! ```text
//! ramp(u)  = 0 below high − m, 1 above high + m, smooth between; m the node's margin (≥ 5 %)
//! risk     = 1 − (1 − ramp(u cpu)) × (1 − ramp(u memory))
//! U        = max(u cpu, u memory)
//! strategy = spread: 1 / (1 + U)      pack: U / target up to the target, target / U above
//! price    = median / (median + price of a core and hour); packing gives 1 to a node in use
//! score    = 100 × (w_risk × (1 − risk) + w_strategy × strategy + w_price × price) / Σ w
//! ```
//!
//! Each node is scored for itself, so leaving nodes out never changes the order of the rest.
//! Only `+ − × ÷` on integers read as floats: the same on any machine. Doubt (stale data) widens
//! the ramp and the margin; it never blocks. What does exclude a node is that the requests do not
//! fit, and nothing else.

use serde::{Deserialize, Serialize};

use crate::policy::{Policy, Strategy};
use crate::snapshot::{Dimension, NodeState};

/// Thousandths of a point: 0 (worst) to 100 000 (best).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Score(pub u32);

/// What is added to a node before it is scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requested cores, in thousandths.
    pub cpu_request: u64,
    /// Requested memory.
    pub memory_request: u64,
    /// Expected peak, cores in thousandths.
    pub cpu_peak: u64,
    /// Expected peak, bytes.
    pub memory_peak: u64,
}

/// How a node would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evaluation {
    /// Why the requests do not fit, if so.
    pub misfit: Option<Misfit>,
    /// Predicted peak cores, in thousandths, before and after.
    pub cpu: (u64, u64),
    /// Predicted peak memory before and after.
    pub memory: (u64, u64),
    /// Risk of overload in thousandths, before and after.
    pub risk_permille: (u32, u32),
    /// Fitness.
    pub score: Score,
}

/// Which requests do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// Cores.
    Cpu,
    /// Memory.
    Memory,
}

impl Score {
    /// The neutral score of a node of which nothing is known.
    pub const NEUTRAL: Score = Score(50_000);

    /// In points, 0 to 100.
    pub fn points(self) -> f64 {
        f64::from(self.0) / 1_000.0
    }
}

impl Load {
    /// This and another.
    pub fn plus(self, other: Load) -> Load {
        Load {
            cpu_request: self.cpu_request.saturating_add(other.cpu_request),
            memory_request: self.memory_request.saturating_add(other.memory_request),
            cpu_peak: self.cpu_peak.saturating_add(other.cpu_peak),
            memory_peak: self.memory_peak.saturating_add(other.memory_peak),
        }
    }
}

/// Rates a node on which `already` was put besides what its state says, for `load` more.
pub fn evaluate(
    node: &NodeState,
    already: Load,
    load: Load,
    policy: &Policy,
    median: u64,
) -> Evaluation {
    let after = already.plus(load);
    let cpu_before = node.cpu.predicted().saturating_add(already.cpu_peak);
    let memory_before = node.memory.predicted().saturating_add(already.memory_peak);
    let cpu = (cpu_before, cpu_before.saturating_add(load.cpu_peak));
    let memory = (memory_before, memory_before.saturating_add(load.memory_peak));
    let risk_before = risk(node, cpu.0, memory.0, policy);
    let risk_after = risk(node, cpu.1, memory.1, policy);
    Evaluation {
        misfit: misfit(node, after, policy),
        cpu,
        memory,
        risk_permille: ((risk_before * 1_000.0) as u32, (risk_after * 1_000.0) as u32),
        score: score(node, already, risk_after, (cpu.1, memory.1), policy, median),
    }
}

fn score(
    node: &NodeState,
    already: Load,
    risk: f64,
    (cpu, memory): (u64, u64),
    policy: &Policy,
    median: u64,
) -> Score {
    if node.cpu.capacity == 0 && node.memory.capacity == 0 {
        return Score::NEUTRAL;
    }
    let full = node.cpu.share(cpu).max(node.memory.share(memory));
    let target = f64::from(policy.pack_target_percent) / 100.0;
    let strategy = match policy.strategy {
        Strategy::Spread => 1.0 / (1.0 + full),
        Strategy::Pack if full <= target => full / target,
        Strategy::Pack => target / full,
    };
    let in_use = !node.is_empty() || already != Load::default();
    let weights = [policy.risk_weight, policy.strategy_weight, policy.price_weight].map(f64::from);
    let value = weights[0] * (1.0 - risk)
        + weights[1] * strategy
        + weights[2] * cheapness(node, in_use, policy, median);
    let total = weights[0] + weights[1] + weights[2];
    Score((value / total * 100_000.0 + 0.5) as u32)
}

fn cheapness(node: &NodeState, in_use: bool, policy: &Policy, median: u64) -> f64 {
    if policy.strategy == Strategy::Pack && in_use {
        return 1.0;
    }
    match (node.price_micros, median, node.cpu.capacity) {
        (None, _, _) | (_, 0, _) | (_, _, 0) => 0.5,
        (Some(price), median, cpu) => {
            let per_core = price as f64 * 1_000.0 / cpu as f64;
            median as f64 / (median as f64 + per_core)
        }
    }
}

/// Risk that the node's load passes what it should bear in the next hour, 0 to 1.
fn risk(node: &NodeState, cpu: u64, memory: u64, policy: &Policy) -> f64 {
    let of = |dimension: &Dimension, peak| ramp(dimension, dimension.share(peak), policy);
    1.0 - (1.0 - of(&node.cpu, cpu)) * (1.0 - of(&node.memory, memory))
}

fn ramp(dimension: &Dimension, share: f64, policy: &Policy) -> f64 {
    let high = f64::from(policy.high_percent) / 100.0;
    let margin = f64::from(dimension.margin_permille.max(50)) / 1_000.0;
    let x = ((share - high + margin) / (2.0 * margin)).clamp(0.0, 1.0);
    x * x * (3.0 - 2.0 * x)
}

fn misfit(node: &NodeState, load: Load, policy: &Policy) -> Option<Misfit> {
    let over = |dimension: &Dimension, more: u64, percent: u32| {
        let most = u128::from(dimension.capacity) * u128::from(percent) / 100;
        let sum = u128::from(dimension.allocated) + u128::from(more);
        dimension.capacity > 0 && more > 0 && sum > most
    };
    if over(&node.cpu, load.cpu_request, policy.cpu_overcommit_percent) {
        Some(Misfit::Cpu)
    } else if over(&node.memory, load.memory_request, policy.memory_overcommit_percent) {
        Some(Misfit::Memory)
    } else {
        None
    }
}
