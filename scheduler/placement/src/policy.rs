//! What the operator wants of placement, in integers so that a recorded policy replays exactly.

use serde::{Deserialize, Serialize};

/// Whether load is spread over nodes or gathered on few.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The emptier by predicted peak, the better.
    #[default]
    Spread,
    /// The fuller up to `pack_target_percent`, the better; opening an empty node costs its price.
    Pack,
}

/// Every number that placement and planning turn on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Requests may add up to this share of a node's cores.
    pub cpu_overcommit_percent: u32,
    /// Requests may add up to this share of a node's memory.
    pub memory_overcommit_percent: u32,
    /// Spread or pack.
    pub strategy: Strategy,
    /// Predicted peak that packing aims at.
    pub pack_target_percent: u32,
    /// Weight of the overload risk in a score.
    pub risk_weight: u32,
    /// Weight of spreading or packing in a score.
    pub strategy_weight: u32,
    /// Weight of the node's price in a score.
    pub price_weight: u32,
    /// A node whose predicted peak lies above is hot.
    pub high_percent: u32,
    /// A move may fill its destination up to here, and relieves a hot node down to here.
    pub relief_percent: u32,
    /// A node whose predicted peaks all lie below is cold.
    pub low_percent: u32,
    /// Added to every prediction.
    pub margin_percent: u32,
    /// Added besides as data ages from fresh to stale.
    pub stale_margin_percent: u32,
    /// Data this young is taken at its word.
    pub fresh_seconds: u32,
    /// Data this old is no longer believed: requests count.
    pub stale_seconds: u32,
    /// History shorter than this does not stand in for a request.
    pub settle_seconds: u32,
    /// A decision that no sample has covered by then is taken as never carried out.
    pub in_flight_seconds: u32,
    /// Cores, in thousandths, of a workload that requests none.
    pub default_cpu_millis: u64,
    /// Memory of a workload that requests none.
    pub default_memory_bytes: u64,
    /// Scores within this many thousandths of a point are drawn by the seed; 0: the best wins,
    /// and of equals the smaller name.
    pub near_tie_millipoints: u32,
    /// A workload stays at least this long on its node, however good a move looks.
    pub residence_seconds: u32,
    /// Most moves in one plan.
    pub max_moves: u32,
    /// Most nodes explained per workload.
    pub explained_nodes: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            cpu_overcommit_percent: 400,
            memory_overcommit_percent: 100,
            strategy: Strategy::Spread,
            pack_target_percent: 65,
            risk_weight: 60,
            strategy_weight: 30,
            price_weight: 10,
            high_percent: 85,
            relief_percent: 75,
            low_percent: 30,
            margin_percent: 20,
            stale_margin_percent: 40,
            fresh_seconds: 120,
            stale_seconds: 900,
            settle_seconds: 12 * 3_600,
            in_flight_seconds: 600,
            default_cpu_millis: 250,
            default_memory_bytes: 200 << 20,
            near_tie_millipoints: 0,
            residence_seconds: 6 * 3_600,
            max_moves: 20,
            explained_nodes: 8,
        }
    }
}

/// Why a policy contradicts itself.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("policy: {0}")]
pub struct InvalidPolicy(pub &'static str);

impl Policy {
    /// Checks that the numbers make sense together.
    pub fn check(&self) -> Result<(), InvalidPolicy> {
        let overcommit = [self.cpu_overcommit_percent, self.memory_overcommit_percent];
        let ordered = self.low_percent < self.relief_percent
            && self.relief_percent < self.high_percent
            && self.high_percent <= 200;
        let weights = [self.risk_weight, self.strategy_weight, self.price_weight];
        let rules = [
            (ordered, "low_percent < relief_percent < high_percent <= 200"),
            (overcommit.iter().all(|of| (1..=100_000).contains(of)), "overcommit is 1 to 100000 %"),
            (weights.iter().all(|&weight| weight <= 1_000), "weights are at most 1000"),
            (weights.iter().any(|&weight| weight > 0), "a weight is above zero"),
            ((1..=200).contains(&self.pack_target_percent), "pack_target_percent is 1 to 200"),
            (self.margin_percent <= 1_000, "margin_percent is at most 1000"),
            (self.stale_margin_percent <= 1_000, "stale_margin_percent is at most 1000"),
            (self.fresh_seconds < self.stale_seconds, "fresh_seconds < stale_seconds"),
            ((1..=1_000).contains(&self.max_moves), "max_moves is 1 to 1000"),
            ((1..=64).contains(&self.explained_nodes), "explained_nodes is 1 to 64"),
            (self.default_memory_bytes <= 1 << 50, "default_memory_bytes is at most 1 PiB"),
            (self.default_cpu_millis <= 1 << 30, "default_cpu_millis is at most 2^30"),
        ];
        rules.iter().find(|(holds, _)| !holds).map_or(Ok(()), |&(_, rule)| Err(InvalidPolicy(rule)))
    }
}
