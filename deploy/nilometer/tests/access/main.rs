//! Accounts and keys from the command line, and who is let in with them, with the real binary.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nilometer_testbed::postgres::Postgres;
use serde_json::Value;

const NILOMETER: &str = env!("CARGO_BIN_EXE_nilometer");
const PATIENCE: Duration = Duration::from_secs(120);

/// A configuration, and its commands.
struct Shell {
    config: PathBuf,
}

impl Shell {
    fn new(folder: &Path, settings: &str) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let config = folder.join("nilometer.toml");
        let data = folder.join("data");
        std::fs::write(&config, format!("data.dir = \"{}\"\n{settings}", data.display())).unwrap();
        Shell { config }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(NILOMETER);
        command.arg("--config").arg(&self.config).stdin(Stdio::null());
        command
    }

    /// Runs a command line that succeeds, and returns what it answers.
    fn run(&self, line: &str) -> String {
        let output = self.command().args(line.split(' ')).output().unwrap();
        assert!(output.status.success(), "{line}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.run(&format!("{line} --format json"))).unwrap()
    }

    /// Runs a command line that fails, and returns what it says.
    fn fails(&self, line: &str) -> String {
        let output = self.command().args(line.split(' ')).output().unwrap();
        assert!(!output.status.success(), "{line}: {}", said(&output));
        assert!(output.stdout.is_empty(), "{line}");
        said(&output)
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A running process; killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until there is something.
fn wait<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        match found() {
            Some(found) => return found,
            None => assert!(started.elapsed() < PATIENCE, "{what} never came"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn accounts_users_and_keys_are_managed() {
    let folder = tempfile::tempdir().unwrap();
    let shell = Shell::new(folder.path(), "");
    assert_eq!(shell.json("key list"), Value::Array(Vec::new()));
    shell.run("account add acme --title Acme");
    shell.run("account add other");
    shell.run("user add alice --role viewer --account acme --issuer corp --subject 42");
    let owned = shell.run("account assign acme blue --from 2026-11-01 --until 2026-12-01");
    assert!(owned.contains("blue     acme     2026-11-01T00:00:00Z  2026-12-01"), "{owned}");
    let taken = shell.fails("account assign other blue --from 2026-11-30");
    assert!(taken.contains("belongs to account \"acme\" from 2026-11-01T00:00:00Z"), "{taken}");
    shell.run("account assign other blue --from 2026-11-30 --transfer");
    shell.run("account release blue --at 2027-01-01");
    let owned = shell.json("account projects");
    let end = |n: usize| owned[n]["end"].as_str().unwrap().to_owned();
    assert_eq!((end(0), end(1)), ("2026-11-30T00:00:00Z".into(), "2027-01-01T00:00:00Z".into()));

    let created = shell.json("key create --user alice --expires 90days --label laptop");
    let token = created["key"].as_str().unwrap();
    let id = created["id"].as_str().unwrap();
    assert!(token.starts_with(&format!("nlm_{id}_")), "{created}");
    assert_eq!((&created["role"], &created["account"]), (&"viewer".into(), &"acme".into()));
    // It is not shown again.
    let (table, json) = (shell.run("key list"), shell.run("key list --format json"));
    assert!(table.contains("laptop") && json.contains(id), "{table}{json}");
    assert!(!table.contains(&token[21..]) && !json.contains(&token[21..]), "{table}{json}");
    shell.run(&format!("key revoke {id}"));
    assert!(shell.json("key list")[0]["revoked_at"].is_string());
    // Of the table form, the answer is the key alone; with --out, it is in a file alone.
    let printed = shell.run("key create --role operator --expires never");
    assert_eq!((printed.len(), printed.trim().len()), (86, 85));
    let out = folder.path().join("key");
    let line = format!("key create --role agent --expires never --out {}", out.display());
    assert_eq!(shell.run(&line), "");
    assert_eq!(std::fs::read_to_string(&out).unwrap().len(), 86);
    assert_eq!(out.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    // A file that is there is left alone, and the key that nobody got is not valid.
    assert!(shell.fails(&line).contains("it must be a new file"));
    assert!(shell.json("key list")[3]["revoked_at"].is_string());
    shell.run("user disable alice");
    shell.run("account disable acme");
    assert!(shell.run("account list --format csv").starts_with("account,title,created,disabled\n"));
}

#[test]
fn mistakes_are_explained() {
    let folder = tempfile::tempdir().unwrap();
    let shell = Shell::new(folder.path(), "");
    for (line, why) in [
        ("account add Acme", "a-z, 0-9"),
        ("account assign acme blue", "there is no account \"acme\"; `nilometer account list`"),
        ("account assign acme blue --from yesterday", "a day like 2026-11-01"),
        ("user add alice --role emperor", "the roles are operator, account_administrator"),
        ("user add alice --role viewer", "is one within an account"),
        ("user add alice --role operator --issuer corp", "--subject"),
        ("key create --role operator", "--expires"),
        ("key create --role operator --expires soon", "90days"),
        ("key create --expires never", "--role"),
        ("key create --user alice --expires never", "there is no such user"),
        ("key revoke 0123", "there is no key \"0123\"; `nilometer key list`"),
        ("account restore /nonexistent", "cannot read /nonexistent"),
    ] {
        let said = shell.fails(line);
        assert!(said.contains(why), "{line}: {said}");
    }
    let shell = Shell::new(folder.path(), "accounts.database = \"mysql://root:hunter2@db/x\"\n");
    let said = shell.fails("key list");
    assert!(said.contains("accounts.database is refused") && !said.contains("hunter2"), "{said}");
}

#[test]
fn accounts_move_from_sqlite_to_postgres_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let data = tempfile::tempdir().unwrap();
    let Some(server) = Postgres::start(data.path()).unwrap() else { return };
    let url = server.database("nilometer").unwrap();
    let sqlite = Shell::new(&folder.path().join("a"), "");
    let setting = format!("accounts.database = \"{url}\"\n");
    let postgres = Shell::new(&folder.path().join("b"), &setting);
    sqlite.run("account add acme");
    sqlite.run("account assign acme blue");
    sqlite.run("key create --role viewer --account acme --expires 1year");
    let file = folder.path().join("backup.json");
    sqlite.run(&format!("account backup {}", file.display()));
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(sqlite.fails(&format!("account backup {}", file.display())).contains("a new file"));
    postgres.run(&format!("account restore {}", file.display()));
    for line in ["account list", "account projects", "user list", "key list"] {
        assert_eq!(postgres.json(line), sqlite.json(line), "{line}");
    }
    assert!(!folder.path().join("b/data/accounts.sqlite").exists());
    let refused = postgres.fails(&format!("account restore {}", file.display()));
    assert!(refused.contains("is not empty; give --replace"), "{refused}");
    assert!(refused.contains("postgres://127.0.0.1/nilometer"), "{refused}");
    postgres.run("account add later");
    let backup = postgres.run("account backup -");
    sqlite.fails(&format!("account restore {}", file.display()));
    let mut restore = sqlite.command();
    let restore = restore.args(["account", "restore", "-", "--replace"]).stdin(Stdio::piped());
    let mut restore = restore.stderr(Stdio::null()).spawn().unwrap();
    restore.stdin.take().unwrap().write_all(backup.as_bytes()).unwrap();
    assert!(restore.wait().unwrap().success());
    assert_eq!(sqlite.json("account list"), postgres.json("account list"));
}

#[test]
fn keys_let_in_where_keys_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let settings = format!(
        "listen.http = \"127.0.0.1:{port}\"\nlisten.token = \"from-the-configuration\"\n\
         accounts.cache_life = \"0s\"\n"
    );
    let shell = Shell::new(folder.path(), &settings);
    shell.run("account add acme");
    let operator = shell.run("key create --role operator --expires never").trim().to_owned();
    let viewer = shell.run("key create --role viewer --account acme --expires never");
    let log = folder.path().join("query.log");
    let server = shell.command().args(["-vv", "query"]).stderr(File::create(&log).unwrap()).spawn();
    let server = Process(server.unwrap());
    // The key comes from a file, the environment or the configuration, never from an argument.
    let file = folder.path().join("token");
    let ask = |token: Option<&str>, variable: &str| {
        let mut sql = shell.command();
        if let Some(token) = token {
            std::fs::write(&file, token).unwrap();
            sql.arg("--token-file").arg(&file);
        }
        if !variable.is_empty() {
            sql.env("NILOMETER_TOKEN", variable);
        }
        sql.args(["sql", "SELECT 1 AS one", "--format", "csv"]).output().unwrap()
    };
    wait("an answer", || ask(None, "").status.success().then_some(()));
    for good in [ask(Some(&operator), ""), ask(None, &operator), ask(Some(&operator), "wrong")] {
        assert_eq!(said(&good), "one\n1\n");
    }
    let wrong = format!("{}0", &operator[..84]);
    let wrong = if wrong == operator { format!("{}1", &operator[..84]) } else { wrong };
    for token in [wrong.as_str(), "from-the-configuratio", "nlm_"] {
        let refused = said(&ask(Some(token), ""));
        assert!(refused.contains("unauthorized") && !refused.contains(token), "{refused}");
    }
    assert_eq!(said(&ask(Some(viewer.trim()), "")), "one\n1\n", "of no account's rows");
    let id = &operator[4..20];
    shell.run(&format!("key revoke {id}"));
    assert!(said(&ask(Some(&operator), "")).contains("unauthorized"));
    drop(server);
    // Neither the log at its most detailed nor the data folder has a key.
    let log = std::fs::read(&log).unwrap();
    assert!(holds(&log, id.as_bytes()), "the log does not say why");
    let stored = std::fs::read(folder.path().join("data/accounts.sqlite")).unwrap();
    for secret in [&operator[21..], &viewer[21..85], "from-the-configuration"] {
        assert!(!holds(&log, secret.as_bytes()) && !holds(&stored, secret.as_bytes()));
    }
}

#[test]
fn the_first_start_that_others_can_reach_prints_one_key() {
    let unshared = Command::new("unshare").args(["--net", "true"]).status();
    if !unshared.is_ok_and(|status| status.success()) {
        writeln!(std::io::stderr(), "SKIPPED: no network namespaces").unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let shell = Shell::new(folder.path(), "listen.http = \"0.0.0.0:8600\"\n");
    let starts = ["first", "second"].map(|name| {
        let log = folder.path().join(name);
        // In a namespace of its own there is nobody who could reach it.
        let mut command = Command::new("unshare");
        command.arg("--net").arg(NILOMETER).arg("--config").arg(&shell.config).arg("schedule");
        command.stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        let _process = Process(command.spawn().unwrap());
        wait("the start", || {
            let text = std::fs::read_to_string(&log).unwrap();
            text.contains("listening").then_some(text)
        })
    });
    let token = |text: &str| {
        let found = text.split_whitespace().find(|word| word.starts_with("nlm_"));
        found.map(str::to_owned)
    };
    let first = token(&starts[0]).unwrap();
    assert!(starts[0].contains("it is shown this once"), "{}", starts[0]);
    assert_eq!(token(&starts[1]), None);
    let keys = shell.json("key list");
    assert_eq!((keys.as_array().unwrap().len(), &keys[0]["role"]), (1, &"operator".into()));
    assert_eq!(keys[0]["id"], first[4..20]);
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
