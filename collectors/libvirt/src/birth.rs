//! When a domain's process was started, from what libvirt leaves on disk.
//!
//! libvirt writes `<state dir>/<name>.pid` once, as it starts the process, and removes it when
//! the process is gone; so the file's modification time is the start by the wall clock of that
//! moment, within the milliseconds that starting takes. It is the same at every later look,
//! after restarts of the agent and of libvirt and after steps of the clock, which no figure
//! computed from `/proc` is: the kernel shows its boot time in whole seconds and moves it with
//! the clock. Both the first observation and the `started` event read this file, so they agree
//! to the microsecond and never make two lifetimes out of one.
//!
//! Without the file, the start of the process named in libvirt's status file counts, to the
//! second; without that, whoever asked falls back to when the domain was first seen.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use nilometer_contract::{MICROS_PER_SECOND, Timestamp};

/// The kernel reports process times in hundredths of a second on every architecture.
const TICKS_PER_SECOND: u64 = 100;
/// Longest status file that is read, from its start: the process id stands near it.
const MAX_STATUS_BYTES: u64 = 64 * 1024;

/// Finds the start of domains.
#[derive(Clone, Debug)]
pub(crate) struct Births {
    /// Folders in which libvirt's drivers keep the state of running domains.
    pub(crate) state_dirs: Vec<PathBuf>,
}

impl Births {
    /// Start of the process of the running domain `name`, where it can be found out.
    pub(crate) fn of(&self, name: &str) -> Option<Timestamp> {
        // libvirt refuses such names; a path must not leave its folder all the same.
        if name.is_empty() || name.contains(['/', '\0']) {
            return None;
        }
        let found = self.state_dirs.iter().find_map(|dir| {
            pid_file_time(&dir.join(format!("{name}.pid")))
                .or_else(|| process_start(&dir.join(format!("{name}.xml"))))
        });
        found.filter(|at| at.is_plausible())
    }
}

fn pid_file_time(path: &Path) -> Option<Timestamp> {
    let modified = fs::metadata(path).ok()?.modified().ok()?;
    let micros = modified.duration_since(UNIX_EPOCH).ok()?.as_micros();
    i64::try_from(micros).ok().map(Timestamp)
}

fn process_start(status: &Path) -> Option<Timestamp> {
    let mut bytes = Vec::new();
    fs::File::open(status).ok()?.take(MAX_STATUS_BYTES).read_to_end(&mut bytes).ok()?;
    let pid = pid_in_status(&String::from_utf8_lossy(&bytes))?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let machine = fs::read_to_string("/proc/stat").ok()?;
    start_from_proc(&stat, &machine)
}

/// The process id in `<domstatus state='running' … pid='123'>`.
fn pid_in_status(text: &str) -> Option<u32> {
    let (_, element) = text.split_once("<domstatus")?;
    let (attributes, _) = element.split_once('>')?;
    let (_, value) = attributes.split_once(" pid=")?;
    let value = value.trim_start_matches(['\'', '"']);
    value.split(['\'', '"']).next()?.parse().ok()
}

/// Boot time plus the start of the process; field 22 counts from after the name in brackets,
/// which may itself hold brackets and spaces.
fn start_from_proc(stat: &str, machine: &str) -> Option<Timestamp> {
    let boot = machine.lines().find_map(|line| line.strip_prefix("btime "))?;
    let boot: i64 = boot.trim().parse().ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: u64 = fields.split_ascii_whitespace().nth(19)?.parse().ok()?;
    let micros = ticks.checked_mul(MICROS_PER_SECOND as u64 / TICKS_PER_SECOND)?;
    let boot = boot.checked_mul(MICROS_PER_SECOND)?;
    boot.checked_add(i64::try_from(micros).ok()?).map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_time_of_the_pid_file_is_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm.pid");
        let file = fs::File::create(&path).unwrap();
        let start = UNIX_EPOCH + Duration::from_micros(1_795_405_662_561_738);
        file.set_modified(start).unwrap();
        let births = Births { state_dirs: vec!["/nonexistent".into(), dir.path().into()] };
        assert_eq!(births.of("vm"), Some(Timestamp(1_795_405_662_561_738)));
        assert_eq!(births.of("other"), None);
        assert_eq!(births.of("../vm"), None);
    }

    #[test]
    fn the_process_in_the_status_file_is_the_fallback() {
        let dir = tempfile::tempdir().unwrap();
        let status = format!(
            "<!-- -->\n<domstatus state='running' reason='booted' pid='{}'>\n<vcpu pid='1'/>",
            std::process::id()
        );
        fs::write(dir.path().join("vm.xml"), status).unwrap();
        let births = Births { state_dirs: vec![dir.path().into()] };
        let start = births.of("vm").unwrap();
        assert_eq!(births.of("vm"), Some(start));
        let now = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let age = now.as_secs() as i64 - start.0 / MICROS_PER_SECOND;
        assert!((0..3_600).contains(&age), "this process started {age} s ago");
    }

    #[test]
    fn odd_process_names_do_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4 5 0 20 0 9 80 0 0 20 0 6 0 231916 44 9";
        let machine = "cpu 1 2\nbtime 1795403343\nprocesses 1\n";
        let start = start_from_proc(stat, machine);
        assert_eq!(start, Some(Timestamp(1_795_405_662_160_000)));
        assert_eq!(start_from_proc("7 (a) S 1", machine), None);
        assert_eq!(start_from_proc(stat, "btime x"), None);
    }
}
