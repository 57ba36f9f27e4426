//! What the kernel counts for a process, noted while it runs, to hold against samples of it.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const EVERY: Duration = Duration::from_millis(10);

/// CPU time of one process, read again and again by a thread.
pub(crate) struct Recorder {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<(i64, f64)>>,
}

/// Instants (microseconds) and the CPU seconds used until then.
pub(crate) struct Readings(Vec<(i64, f64)>);

impl Recorder {
    pub(crate) fn start(pid: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut readings = Vec::new();
            while let (false, Some(used)) = (stopped.load(Ordering::Relaxed), cpu_seconds(pid)) {
                readings.push((now_micros(), used));
                std::thread::sleep(EVERY);
            }
            readings
        });
        Recorder { stop, thread }
    }

    pub(crate) fn finish(self) -> Readings {
        self.stop.store(true, Ordering::Relaxed);
        Readings(self.thread.join().unwrap())
    }
}

impl Readings {
    /// What was used at an instant between two readings.
    pub(crate) fn at(&self, instant: i64) -> Option<f64> {
        let after = self.0.partition_point(|&(at, _)| at <= instant);
        let (&(t0, v0), &(t1, v1)) = (self.0.get(after.checked_sub(1)?)?, self.0.get(after)?);
        Some(v0 + (v1 - v0) * (instant - t0) as f64 / (t1 - t0) as f64)
    }
}

/// The process that runs with such arguments.
pub(crate) fn pid_of(arguments: &str) -> u32 {
    let wanted = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ").trim_end().ends_with(arguments)
    };
    let entries = fs::read_dir("/proc").unwrap();
    let mut pids = entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.find(wanted).unwrap()
}

pub(crate) fn now_micros() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_micros()).unwrap()
}

/// User and system time of all threads, as proc(5) has them in fields 14 and 15.
fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let ticks = ticks()? + ticks()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}
