//! The statistics of one domain, out of libvirt's names and values.
//!
//! What libvirt leaves out (an old version, a domain that another operation holds, a guest
//! without balloon driver) stays absent; nothing is ever filled in.

use std::collections::BTreeMap;

use crate::protocol::Value;

/// Most devices of one kind and most virtual CPUs that are read; libvirt has far fewer.
const MAX_INDEX: u32 = 8_192;
const KIB: u64 = 1_024;

/// One reading of a domain's statistics. CPU times are nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DomainStats {
    pub(crate) state: Option<State>,
    pub(crate) cpu_time: Option<u64>,
    pub(crate) cpu_user: Option<u64>,
    pub(crate) cpu_system: Option<u64>,
    pub(crate) vcpus: Option<u64>,
    pub(crate) balloon: Balloon,
    /// By index; absent when libvirt said nothing of block devices.
    pub(crate) disks: Option<BTreeMap<u32, DiskStats>>,
    /// By index; absent when libvirt said nothing of interfaces.
    pub(crate) interfaces: Option<BTreeMap<u32, InterfaceStats>>,
    waits: BTreeMap<u32, Wait>,
}

/// State of a domain that has a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Running,
    Paused,
    ShuttingDown,
    Crashed,
    /// Put to sleep by the guest itself.
    Suspended,
    /// It has no process.
    Off,
}

/// Memory in bytes, except for the instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Balloon {
    pub(crate) current: Option<u64>,
    pub(crate) maximum: Option<u64>,
    pub(crate) available: Option<u64>,
    pub(crate) unused: Option<u64>,
    pub(crate) usable: Option<u64>,
    pub(crate) resident: Option<u64>,
    pub(crate) swap_in: Option<u64>,
    pub(crate) swap_out: Option<u64>,
    /// When the guest last reported, in seconds since the epoch; absent when it never did.
    pub(crate) reported: Option<u64>,
}

/// One block device; times are nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DiskStats {
    pub(crate) name: String,
    pub(crate) read: Requests,
    pub(crate) write: Requests,
    pub(crate) capacity: Option<u64>,
    pub(crate) allocation: Option<u64>,
    pub(crate) physical: Option<u64>,
}

/// Requests in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Requests {
    pub(crate) count: Option<u64>,
    pub(crate) bytes: Option<u64>,
    pub(crate) nanos: Option<u64>,
}

/// One interface, seen from the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct InterfaceStats {
    pub(crate) name: String,
    pub(crate) received: Traffic,
    pub(crate) sent: Traffic,
}

/// Traffic in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) bytes: Option<u64>,
    pub(crate) packets: Option<u64>,
    pub(crate) errors: Option<u64>,
    pub(crate) drops: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wait {
    /// Time in the run queue; the kernel always keeps it.
    delay: Option<u64>,
    /// The same from scheduler statistics, which most kernels have switched off and show as 0.
    wait: Option<u64>,
}

/// The last values read of the counters of one process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted {
    counters: [u64; 3],
    /// By virtual CPU.
    waits: BTreeMap<u32, u64>,
}

impl Counted {
    /// Keeps what was read; what was not stays.
    pub(crate) fn keep(&mut self, stats: &mut DomainStats) {
        for (kept, now) in self.counters.iter_mut().zip(stats.process_counters()) {
            *kept = now.unwrap_or(*kept);
        }
        let waits = stats.waits.iter().filter_map(|(index, wait)| Some((*index, wait.time()?)));
        self.waits.extend(waits);
    }
}

impl Wait {
    fn time(&self) -> Option<u64> {
        self.delay.or(self.wait)
    }
}

impl State {
    fn from_number(number: u64) -> State {
        match number {
            3 => State::Paused,
            4 => State::ShuttingDown,
            5 => State::Off,
            6 => State::Crashed,
            7 => State::Suspended,
            _ => State::Running,
        }
    }

    /// The value of the attribute `state`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Paused => "paused",
            State::ShuttingDown => "shutting_down",
            State::Crashed => "crashed",
            State::Suspended => "suspended",
            State::Off => "off",
        }
    }
}

impl DomainStats {
    /// Reads libvirt's parameters; names that are not known are skipped.
    pub(crate) fn from_values(values: &[(&str, Value<'_>)]) -> Self {
        let mut stats = DomainStats::default();
        for &(name, value) in values {
            let Some((group, rest)) = name.split_once('.') else { continue };
            match group {
                "state" | "cpu" => stats.set_scalar(name, value),
                "balloon" => stats.balloon.set(rest, value),
                "vcpu" => stats.set_vcpu(rest, value),
                "net" => {
                    let list = stats.interfaces.get_or_insert_default();
                    if let Some((interface, rest)) = entry(list, rest) {
                        interface.set(rest, value);
                    }
                }
                "block" => {
                    let list = stats.disks.get_or_insert_default();
                    if let Some((disk, rest)) = entry(list, rest) {
                        disk.set(rest, value);
                    }
                }
                _ => {}
            }
        }
        stats
    }

    /// Leaves out what libvirt made up of a process that was gone: it reads `/proc/<pid>`, and where
    /// there is none it says 0, as if that were read (`qemuGetProcessInfo`, `qemuGetSchedstatDelay`).
    /// So a counter of the process that stood above 0 earlier in its life and is 0 now was not
    /// read, and neither was memory of which nothing is resident.
    pub(crate) fn leave_out_unread(&mut self, before: &Counted) {
        for (now, before) in self.process_counters().into_iter().zip(before.counters) {
            if *now == Some(0) && before > 0 {
                *now = None;
            }
        }
        self.balloon.resident = self.balloon.resident.filter(|&bytes| bytes > 0);
        // The sum would fall if any of them were left out.
        let fell = |(index, wait): (&u32, &Wait)| {
            let before = before.waits.get(index).copied().unwrap_or(0);
            wait.time() == Some(0) && before > 0
        };
        if self.waits.iter().any(fell) {
            self.waits.clear();
        }
    }

    fn process_counters(&mut self) -> [&mut Option<u64>; 3] {
        [&mut self.cpu_time, &mut self.cpu_user, &mut self.cpu_system]
    }

    /// Nanoseconds in which virtual CPUs were ready but had no core, all of them together.
    pub(crate) fn wait(&self) -> Option<u64> {
        self.waits.values().filter_map(Wait::time).reduce(u64::saturating_add)
    }

    fn set_scalar(&mut self, name: &str, value: Value<'_>) {
        match name {
            "state.state" => self.state = value.count().map(State::from_number),
            "cpu.time" => self.cpu_time = value.count(),
            "cpu.user" => self.cpu_user = value.count(),
            "cpu.system" => self.cpu_system = value.count(),
            _ => {}
        }
    }

    fn set_vcpu(&mut self, rest: &str, value: Value<'_>) {
        if rest == "current" {
            self.vcpus = value.count();
            return;
        }
        match indexed(rest) {
            Some((index, "delay")) => self.waits.entry(index).or_default().delay = value.count(),
            Some((index, "wait")) => self.waits.entry(index).or_default().wait = value.count(),
            _ => {}
        }
    }
}

impl Balloon {
    fn set(&mut self, name: &str, value: Value<'_>) {
        let bytes = value.count().map(|kib| kib.saturating_mul(KIB));
        match name {
            "current" => self.current = bytes,
            "maximum" => self.maximum = bytes,
            "available" => self.available = bytes,
            "unused" => self.unused = bytes,
            "usable" => self.usable = bytes,
            "rss" => self.resident = bytes,
            "swap_in" => self.swap_in = bytes,
            "swap_out" => self.swap_out = bytes,
            "last-update" => self.reported = value.count().filter(|&seconds| seconds > 0),
            _ => {}
        }
    }
}

impl DiskStats {
    fn set(&mut self, name: &str, value: Value<'_>) {
        let field = match name {
            "name" => return set_text(&mut self.name, value),
            "rd.reqs" => &mut self.read.count,
            "rd.bytes" => &mut self.read.bytes,
            "rd.times" => &mut self.read.nanos,
            "wr.reqs" => &mut self.write.count,
            "wr.bytes" => &mut self.write.bytes,
            "wr.times" => &mut self.write.nanos,
            "capacity" => &mut self.capacity,
            "allocation" => &mut self.allocation,
            "physical" => &mut self.physical,
            _ => return,
        };
        *field = value.count();
    }
}

impl InterfaceStats {
    fn set(&mut self, name: &str, value: Value<'_>) {
        let field = match name {
            "name" => return set_text(&mut self.name, value),
            "rx.bytes" => &mut self.received.bytes,
            "rx.pkts" => &mut self.received.packets,
            "rx.errs" => &mut self.received.errors,
            "rx.drop" => &mut self.received.drops,
            "tx.bytes" => &mut self.sent.bytes,
            "tx.pkts" => &mut self.sent.packets,
            "tx.errs" => &mut self.sent.errors,
            "tx.drop" => &mut self.sent.drops,
            _ => return,
        };
        *field = value.count();
    }
}

fn set_text(field: &mut String, value: Value<'_>) {
    if let Value::Text(text) = value {
        text.clone_into(field);
    }
}

/// `3.rd.bytes` → 3 and `rd.bytes`.
fn indexed(rest: &str) -> Option<(u32, &str)> {
    let (index, rest) = rest.split_once('.')?;
    let index = index.parse().ok().filter(|&index| index < MAX_INDEX)?;
    Some((index, rest))
}

fn entry<'a, 'b, T: Default>(
    list: &'a mut BTreeMap<u32, T>,
    rest: &'b str,
) -> Option<(&'a mut T, &'b str)> {
    let (index, rest) = indexed(rest)?;
    Some((list.entry(index).or_default(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_domain_is_read() {
        let count = Value::Unsigned;
        let stats = DomainStats::from_values(&[
            ("state.state", Value::Signed(1)),
            ("cpu.time", count(2_350_000_000)),
            ("cpu.user", count(60_000_000)),
            ("balloon.current", count(65_536)),
            ("balloon.last-update", count(0)),
            ("balloon.rss", count(39_872)),
            ("vcpu.current", count(2)),
            ("vcpu.0.wait", count(0)),
            ("vcpu.0.delay", count(7)),
            ("vcpu.1.delay", count(5)),
            ("net.count", count(1)),
            ("net.0.name", Value::Text("vnet0")),
            ("net.0.tx.pkts", count(3)),
            ("block.count", count(1)),
            ("block.0.name", Value::Text("vda")),
            ("block.0.rd.times", count(9)),
            ("block.99999999.rd.times", count(9)),
            ("block.0.capacity", count(1 << 20)),
            ("dirtyrate.calc_status", Value::Signed(0)),
            ("nonsense", Value::Double(1.0)),
        ]);
        assert_eq!(stats.state, Some(State::Running));
        assert_eq!(stats.cpu_time, Some(2_350_000_000));
        assert_eq!(stats.cpu_system, None);
        assert_eq!(stats.balloon.current, Some(64 << 20));
        assert_eq!(stats.balloon.reported, None);
        assert_eq!(stats.vcpus, Some(2));
        assert_eq!(stats.wait(), Some(12));
        let disks = stats.disks.unwrap();
        assert_eq!(disks.len(), 1);
        assert_eq!(disks[&0].name, "vda");
        assert_eq!(disks[&0].capacity, Some(1 << 20));
        assert_eq!(stats.interfaces.unwrap()[&0].sent.packets, Some(3));
    }

    #[test]
    fn what_is_left_out_stays_absent() {
        let stats = DomainStats::from_values(&[("block.count", Value::Unsigned(0))]);
        assert_eq!(stats.disks, Some(BTreeMap::new()));
        assert_eq!(stats.interfaces, None);
        assert_eq!(stats.wait(), None);
    }
}
