//! What goes wrong in a run, and when: a function of the seed.

use crate::world::World;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The agent of a node is killed, and starts again later.
    AgentKilled,
    /// The ingester is killed, and starts again later.
    IngesterKilled,
    /// A host cannot reach the log.
    LogAway,
    /// No host can reach the log.
    BrokerAway,
    /// Each request of a host to the log takes seconds.
    LogSlow,
    /// Requests of a host to the log are lost, or their answers are.
    LogLossy,
    /// An ingester cannot reach the store.
    StoreAway,
    /// The store of an ingester is full: it can be read, and not written.
    StoreFull,
    /// Each request of an ingester to the store takes seconds.
    StoreSlow,
    /// Requests of an ingester to the store fail, some after they took effect.
    StoreLossy,
    /// A host stands still, and then goes on as if nothing had been.
    Frozen,
    /// Another ingester of the same tables starts.
    SecondOwner,
    /// Records arrive a second time, long after the first.
    Repeated,
    /// Records arrive that nobody should send.
    Hostile,
    /// An agent that was cut off from the log is killed, and what it had not synced to its disk is gone or torn.
    PowerLost,
    /// An agent that was cut off from the log is killed, and a bit of its spool flips.
    SpoolFlipped,
    /// The folders of an agent's spool are gone for a while.
    SpoolAway,
    /// A host's clock is stepped, and back at the end.
    ClockStepped,
    /// The log drops its oldest records before the ingester, which was cut off, has read them.
    LogTruncated,
    /// The log is replaced by an empty one while the ingester is cut off.
    LogReplaced,
    /// A bit flips in a data file of a table.
    DataFlipped,
    /// A sample arrives that is dated in another century.
    FarFuture,
    /// A machine sleeps: all on it stands still, its steady time too, and its wall clock goes on.
    Slept,
}

/// Kinds that run unless others are asked for; new ones come last, so that seeds which found
/// something can be run with the kinds of their time.
pub const KINDS: &[Kind] = &[
    Kind::AgentKilled,
    Kind::IngesterKilled,
    Kind::LogAway,
    Kind::BrokerAway,
    Kind::LogSlow,
    Kind::LogLossy,
    Kind::StoreAway,
    Kind::StoreFull,
    Kind::StoreSlow,
    Kind::StoreLossy,
    Kind::Frozen,
    Kind::SecondOwner,
    Kind::Repeated,
    Kind::Hostile,
    Kind::PowerLost,
    Kind::SpoolAway,
    Kind::LogTruncated,
    Kind::LogReplaced,
    Kind::SpoolFlipped,
    Kind::ClockStepped,
    Kind::FarFuture,
    Kind::DataFlipped,
    Kind::Slept,
];

/// Kinds that the product does not stand yet, and what it does.
pub const NOT_YET: &[(Kind, &str)] = &[];

/// Faults begin and end within so many seconds; then everything is mended.
pub(crate) const FAULTY_SECONDS: u64 = 960;
/// Least and most seconds that a fault lasts, and most of one in four.
const LASTS: (u64, u64, u64) = (3, 150, 400);
/// Most faults of one run.
const MOST: u64 = 9;

/// One fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fault {
    /// Seconds since the start.
    pub(crate) begin: u64,
    pub(crate) end: u64,
    pub(crate) kind: Kind,
    /// Which of the hosts that it can strike, modulo how many there are.
    pub(crate) target: u64,
}

/// The faults of a run in order of time, of some kinds only.
pub(crate) fn plan(world: &World, kinds: &[Kind]) -> Vec<Fault> {
    if kinds.is_empty() {
        return Vec::new();
    }
    let count = world.pick("faults", MOST + 1);
    let mut faults: Vec<Fault> = (0..count)
        .map(|n| {
            let pick = |what: &str, below: u64| world.pick(&format!("fault {n} {what}"), below);
            let kind = kinds[pick("kind", kinds.len() as u64) as usize];
            let begin = 5 + pick("begin", FAULTY_SECONDS - LASTS.1 - 5);
            let longest = if pick("is long", 4) == 0 { LASTS.2 } else { LASTS.1 };
            let end = begin + LASTS.0 + pick("lasts", longest - LASTS.0);
            Fault { begin, end: end.min(FAULTY_SECONDS), kind, target: pick("target", 64) }
        })
        .collect();
    faults.sort_unstable();
    faults
}
