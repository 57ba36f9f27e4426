//! Who holds what one process at a time may have: named to those who wait, and known to be gone.
//!
//! A process of this machine that is no more is recognised at once, so that what it held need not
//! be waited for; of a process elsewhere, or one that hangs, nothing is known but what it writes.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Mutex;

use nilometer_contract::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Claims of this process that are alive, so that one that was dropped is known to be gone.
static ALIVE: Mutex<BTreeSet<Uuid>> = Mutex::new(BTreeSet::new());

/// A process, and which of its claims.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// What it runs as, such as `ingest`.
    pub role: String,
    /// Its machine's name.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// Since when it holds or asks, by its own clock; to be read, never compared.
    pub since: Timestamp,
    /// Boot and namespace in which the process id means this process; empty when unknown.
    machine: String,
    /// When the process started, in the kernel's count.
    started: u64,
    instance: Uuid,
}

/// Keeps a claim of this process alive.
#[derive(Debug)]
pub(crate) struct Alive(Uuid);

impl Drop for Alive {
    fn drop(&mut self) {
        let mut alive = ALIVE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        alive.remove(&self.0);
    }
}

impl Holder {
    /// This process.
    pub fn here(role: &str, since: Timestamp) -> Self {
        let pid = std::process::id();
        Holder {
            role: role.to_owned(),
            host: read("/proc/sys/kernel/hostname"),
            pid,
            since,
            machine: machine(),
            started: started(pid).unwrap_or(0),
            instance: Uuid::new_v4(),
        }
    }

    /// One whose name cannot be read.
    pub(crate) fn unknown() -> Self {
        let (role, host) = ("?".to_owned(), "?".to_owned());
        let since = Timestamp::default();
        let (machine, instance) = (String::new(), Uuid::nil());
        Holder { role, host, pid: 0, since, machine, started: 0, instance }
    }

    /// Says that this claim lives until the guard is dropped.
    pub(crate) fn live(&self) -> Alive {
        let mut alive = ALIVE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        alive.insert(self.instance);
        Alive(self.instance)
    }

    /// Whether it is the same claim, whatever else may be equal.
    pub(crate) fn is(&self, other: &Holder) -> bool {
        self.instance == other.instance
    }

    /// Whether it is known to be no more. A process that hangs or is elsewhere is not.
    pub fn is_gone(&self) -> bool {
        if self.machine.is_empty() || self.machine != machine() {
            return false;
        }
        if self.pid == std::process::id() && Some(self.started) == started(self.pid) {
            let alive = ALIVE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            return !alive.contains(&self.instance);
        }
        started(self.pid) != Some(self.started)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Holder { role, pid, host, since, .. } = self;
        write!(f, "`nilometer {role}`, process {pid} on {host}, since {since}")
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn machine() -> String {
    let boot = read("/proc/sys/kernel/random/boot_id");
    match std::fs::read_link("/proc/self/ns/pid") {
        Ok(namespace) if !boot.is_empty() => format!("{boot} {}", namespace.display()),
        _ => String::new(),
    }
}

/// When a process started; none if there is none, or only its exit code is left of it.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything; what follows its closing bracket does not.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_lives_as_long_as_its_guard_and_a_process_as_long_as_it_runs() {
        let here = Holder::here("ingest", Timestamp(0));
        assert!(here.is_gone());
        let guard = here.live();
        assert!(!here.is_gone());
        drop(guard);
        assert!(here.is_gone());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id();
        let other = Holder { pid, started: started(pid).unwrap(), ..here.clone() };
        assert!(!other.is_gone());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(other.is_gone());
        let elsewhere = Holder { machine: "another".to_owned(), ..other };
        assert!(!elsewhere.is_gone());
    }
}
