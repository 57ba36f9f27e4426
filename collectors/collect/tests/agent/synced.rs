//! What an agent keeps outlives a loss of power: its calls to the kernel are traced and replayed.
//!
//! A child process runs an agent under `strace`. A file or a name counts as lasting only once the
//! file, and then its folder, was synced; at the end no file that is left may be one that does not.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::bed::{Bed, Fleet};

const CHILD: &str = "NILOMETER_AGENT_TRACED";
const CALLS: &str = "openat,write,fsync,fdatasync,rename,renameat,renameat2,unlink,mkdir";

/// An agent with a spool, gaps, known resources and a dead letter. Only run by the test below.
#[tokio::test(start_paused = true)]
async fn traced_child() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let mut bed = Bed::new();
    bed.keep_in(Path::new(&dir));
    bed.spool_max_bytes = 64 * 1024;
    bed.log.refuse("vm-13");
    let run = bed.start(Fleet::numbered(40).with_births());
    run.until(15).await;
    bed.log.set_away(true);
    run.until(300).await;
    run.stop().await;
}

/// Files and names as a disk has them that forgets what was not synced.
#[derive(Default)]
struct Disk {
    /// Files written to since they were synced.
    unsynced: BTreeSet<PathBuf>,
    /// Folders with names made since they were synced, and the names.
    unnamed: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
}

impl Disk {
    /// Applies one line of the trace; says whether it is a call that matters.
    fn apply(&mut self, line: &str) {
        let path = |text: &str| PathBuf::from(text);
        let quoted: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
        // As in `write(9</tmp/x/events/0.seg>, …`.
        let opened = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
        let opened = opened.map(|(name, _)| path(name));
        let name = |disk: &mut Disk, name: &str| {
            let parent = Path::new(name).parent().unwrap().to_owned();
            disk.unnamed.entry(parent).or_default().insert(path(name));
        };
        let call = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
        let call = call.split('(').next().unwrap();
        match (call, opened) {
            ("openat", _) if line.contains("O_CREAT") => name(self, quoted[0]),
            ("mkdir", _) => name(self, quoted[0]),
            ("write", Some(file)) => {
                self.unsynced.insert(file);
            }
            ("fsync" | "fdatasync", Some(file)) => {
                self.unsynced.remove(&file);
                self.unnamed.remove(&file);
            }
            ("rename" | "renameat" | "renameat2", _) => {
                let [from, to] = [quoted[0], quoted[1]];
                assert!(!self.unsynced.contains(Path::new(from)), "{from} is renamed unsynced");
                self.forget(Path::new(from));
                name(self, to);
            }
            ("unlink", _) => self.forget(Path::new(quoted[0])),
            _ => {}
        }
    }

    fn forget(&mut self, file: &Path) {
        self.unsynced.remove(file);
        self.unnamed.values_mut().for_each(|names| names.retain(|name| name != file));
    }
}

#[test]
fn every_file_that_is_kept_is_synced_with_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (kept, trace) = (dir.path().join("agent/of/a/node"), dir.path().join("trace"));
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-qq", "-s", "0", "-e", "signal=none", "-e"]);
    command.arg(format!("trace={CALLS}")).arg("-o").arg(&trace);
    command.arg(std::env::current_exe().unwrap()).args(["--exact", "synced::traced_child"]);
    let status = match command.env(CHILD, &kept).status() {
        Ok(status) => status,
        Err(error) => return skip(&format!("strace: {error}")),
    };
    let text = std::fs::read_to_string(&trace).unwrap_or_default();
    if text.is_empty() {
        return skip("strace may not trace");
    }
    assert!(status.success());
    let mut disk = Disk::default();
    let within =
        |line: &&str| line.contains(dir.path().to_str().unwrap()) && !line.contains("ENOENT");
    let lines: Vec<&str> = text.lines().filter(within).collect();
    lines.iter().for_each(|line| disk.apply(line));
    for what in [".seg", "/gaps\"", "/known\"", "/epoch.json\"", ".letter\""] {
        assert!(lines.iter().any(|line| line.contains(what)), "{what} was never made");
    }
    assert_eq!(disk.unsynced, BTreeSet::new());
    let mut unnamed: BTreeSet<PathBuf> = disk.unnamed.into_values().flatten().collect();
    unnamed.remove(&kept.join("lock"));
    assert_eq!(unnamed, BTreeSet::new());
}

fn skip(why: &str) {
    let required = std::env::var_os("NILOMETER_TESTBED").is_some_and(|value| value == "required");
    assert!(!required, "NILOMETER_TESTBED=required, but {why}");
    eprintln!("SKIPPED: {why}");
}
