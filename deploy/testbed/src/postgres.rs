//! A real PostgreSQL on loopback, from the distribution's packages, in a folder of its own.
//!
//! It refuses to run as root, so that under root it runs as `nobody`. What is committed outlives
//! its end, but not the machine's: nothing is forced to disk.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::fs::{PermissionsExt, chown},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::skip::skip;

/// How long a start may take on a busy machine.
const START_MAX: Duration = Duration::from_secs(60);

const USER: &str = "nilometer";
const PASSWORD: &str = "flood-of-the-nile";

/// Who runs it under root.
const UNPRIVILEGED: &str = "nobody";

/// Runs the server until its own standard input ends: so the server ends with the process that
/// started it, however that ends. SIGQUIT lets it end at once, with all of its processes.
const GUARD: &str = "\"$@\" & read -r _; kill -QUIT $!; wait $!";

/// A running server; stopped when dropped.
pub struct Postgres {
    dir: PathBuf,
    programs: PathBuf,
    port: u16,
    user: Option<(u32, u32)>,
    guard: Option<Child>,
}

impl Postgres {
    /// Starts a server that keeps its data in the empty folder `dir`, which becomes the server's user's
    /// and must be within folders that others may enter, and waits until it answers. None, with a line that says why, on a machine without PostgreSQL.
    ///
    /// # Errors
    ///
    /// If the machine should be able to, and the server did not start.
    pub fn start(dir: &Path) -> Result<Option<Postgres>> {
        let Some(programs) = programs() else { return skip("PostgreSQL is not installed") };
        fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        let user = match geteuid().is_root() {
            true => Some(ids_of(UNPRIVILEGED)?),
            false => None,
        };
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut server = Postgres { dir, programs, port, user, guard: None };
        server.make_data()?;
        server.restart()?;
        Ok(Some(server))
    }

    /// A URL of a new database of this name, with the password.
    ///
    /// # Errors
    ///
    /// If the database cannot be made.
    pub fn database(&self, name: &str) -> Result<String> {
        self.sql(&format!("CREATE DATABASE {name}"))?;
        Ok(format!("postgres://{USER}:{PASSWORD}@127.0.0.1:{}/{name}", self.port))
    }

    /// Runs a statement as the superuser, and returns what it answers.
    ///
    /// # Errors
    ///
    /// If it fails.
    pub fn sql(&self, statement: &str) -> Result<String> {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["--no-psqlrc", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"]);
        psql.args(["--host=127.0.0.1", &format!("--port={}", self.port), "--username", USER]);
        psql.args(["--dbname=postgres", "--command", statement]).env("PGPASSWORD", PASSWORD);
        let done = psql.stdin(Stdio::null()).output().context("start psql")?;
        match done.status.success() {
            true => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
            false => bail!("{statement}: {}", String::from_utf8_lossy(&done.stderr)),
        }
    }

    /// Ends the server at once; nothing if it does not run.
    ///
    /// # Errors
    ///
    /// If its end cannot be awaited.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            guard.wait().context("wait for the end of the server")?;
        }
        Ok(())
    }

    /// Lets all of the server stand still, connections included, or go on.
    ///
    /// # Errors
    ///
    /// If one of its processes cannot be signalled.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        let text = fs::read_to_string(self.data().join("postmaster.pid"))?;
        let first: i32 = text.lines().next().context("an empty postmaster.pid")?.parse()?;
        let children = fs::read_to_string(format!("/proc/{first}/task/{first}/children"))?;
        let children = children.split_whitespace().map(str::parse::<i32>);
        for process in std::iter::once(Ok(first)).chain(children) {
            let process = Pid::from_raw(process?).context("no process id")?;
            kill_process(process, signal)?;
        }
        Ok(())
    }

    /// Starts the server again on the same data and port, and waits until it answers.
    ///
    /// # Errors
    ///
    /// If it does not answer in time; with the end of what it logged.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        self.guard = Some(self.spawn()?);
        let started = Instant::now();
        while self.sql("SELECT 1").is_err() {
            if started.elapsed() > START_MAX {
                self.kill()?;
                let log = fs::read_to_string(self.dir.join("server.log")).unwrap_or_default();
                bail!("the server does not answer: {log}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn make_data(&self) -> Result<()> {
        let (data, password) = (self.data(), self.dir.join("password"));
        fs::create_dir(&data)?;
        fs::write(&password, PASSWORD)?;
        for path in [&self.dir, &data, &password] {
            if let Some((user, group)) = self.user {
                chown(path, Some(user), Some(group))?;
            }
        }
        fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o700))?;
        let mut initdb = Command::new(self.programs.join("initdb"));
        initdb.arg("--pgdata").arg(&data).arg("--pwfile").arg(&password);
        initdb.args(["--username", USER, "--auth=scram-sha-256"]);
        initdb.args(["--encoding=UTF8", "--locale=C", "--no-sync"]);
        let done = self.unprivileged(&mut initdb).output().context("start initdb")?;
        match done.status.success() {
            true => Ok(()),
            false => bail!("initdb: {}", String::from_utf8_lossy(&done.stderr)),
        }
    }

    fn spawn(&self) -> Result<Child> {
        let log = File::options().create(true).append(true).open(self.dir.join("server.log"))?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", GUARD, "guard"]).arg(self.programs.join("postgres"));
        command.arg("-D").arg(self.data()).arg("-k").arg(&self.dir);
        for setting in [
            "listen_addresses=127.0.0.1",
            &format!("port={}", self.port),
            "fsync=off",
            "full_page_writes=off",
            "shared_buffers=16MB",
            "max_connections=200",
        ] {
            command.args(["-c", setting]);
        }
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        self.unprivileged(&mut command).spawn().context("start the server")
    }

    fn unprivileged<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command.current_dir(&self.dir)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Err(e) = self.kill() {
            tracing::warn!(error = format!("{e:#}"), "server not stopped");
        }
    }
}

/// The folder of the newest version's programs: Debian keeps them out of the path.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let with_number = versions.filter_map(|entry| {
        let number: u32 = entry.file_name().to_str()?.parse().ok()?;
        Some((number, entry.path().join("bin")))
    });
    let usable = with_number.filter(|(_, bin)| {
        ["initdb", "postgres", "psql"].iter().all(|program| bin.join(program).is_file())
    });
    usable.max().map(|(_, bin)| bin)
}

/// User and group of a name.
fn ids_of(name: &str) -> Result<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
    let line = users.lines().find(|line| line.split(':').next() == Some(name));
    let line = line.with_context(|| format!("there is no user {name}"))?;
    let mut ids = line.split(':').skip(2).map(str::parse::<u32>);
    match (ids.next(), ids.next()) {
        (Some(Ok(user)), Some(Ok(group))) => Ok((user, group)),
        _ => bail!("{name} has no ids in /etc/passwd"),
    }
}
