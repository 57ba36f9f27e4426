//! TLS, keys and the audit of a real process.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use nilometer_clock::SystemClock;
use nilometer_http::gate::{AUDIT, AuditRecord};
use nilometer_log::{EmbeddedConfig, EmbeddedLog, Log, TopicPartition};
use reqwest::StatusCode;

use crate::PATIENCE;
use crate::authority::{Authority, client};
use crate::process::{Server, Settings};

const TOKEN: &str = "t0ken-of-the-operator";
/// The name of who has it.
const OPERATOR: &str = "key:listen.token";

fn settings(folder: &Path, authority: &Authority, schedulers: &Authority) -> Settings {
    let pair = authority.sign(folder, "server");
    let ca = authority.write(folder, "clients.pem");
    let text = format!(
        "[listen]\ntoken = \"{TOKEN}\"\n[listen.tls]\ncert = \"{}\"\nkey = \"{}\"\n\
         client_ca = \"{}\"\nscheduler_ca = \"{}\"\n[collect]\ninterval = \"500ms\"\nsources = [\"host\"]\n",
        pair.cert.display(),
        pair.key.display(),
        ca.display(),
        schedulers.write(folder, "schedulers.pem").display()
    );
    Settings::write(folder, &text).unwrap()
}

async fn status(client: &reqwest::Client, url: &str, key: Option<&str>) -> Option<StatusCode> {
    let request = client.get(url);
    let request = key.into_iter().fold(request, |request, key| request.bearer_auth(key));
    request.send().await.ok().map(|answer| answer.status())
}

async fn until(what: &str, mut has_come: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !has_come().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// A command with its key in the environment, if it has one.
fn command(folder: &Path, arguments: &[&str], key: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nilometer"));
    command.args(arguments).current_dir(folder).env_remove("NILOMETER_TOKEN");
    if let Some(key) = key {
        command.env("NILOMETER_TOKEN", key);
    }
    command.output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn https_is_spoken_and_certificates_are_reloaded() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let (other, schedulers) = (Authority::new(), Authority::new());
    let settings = settings(folder.path(), &authority, &schedulers);
    let mut server = Server::start(&settings, "up").unwrap();
    let url = server.url("/v1/tables").replace("http:", "https:");
    let document = server.url("/v1/openapi.json").replace("http:", "https:");
    let trusting = client(&authority, None);
    until("it answers", async || status(&trusting, &url, Some(TOKEN)).await.is_some()).await;
    assert_eq!(status(&trusting, &url, Some(TOKEN)).await, Some(StatusCode::OK));
    assert_eq!(status(&trusting, &url, Some("guess")).await, Some(StatusCode::UNAUTHORIZED));
    assert_eq!(status(&trusting, &url, None).await, Some(StatusCode::UNAUTHORIZED));
    assert_eq!(status(&client(&other, None), &url, Some(TOKEN)).await, None);
    // A certificate in place of a key: an agent, which reads nothing.
    let agent = client(&authority, Some(&authority.sign(folder.path(), "agent")));
    assert_eq!(status(&agent, &document, None).await, Some(StatusCode::OK));
    assert_eq!(status(&agent, &url, None).await, Some(StatusCode::FORBIDDEN));
    // One of the schedulers' authority: it asks for placements, and reads no tables.
    let pair = schedulers.sign(folder.path(), "scheduler");
    let scheduler = client(&authority, Some(&pair));
    let nodes = url.replace("/v1/tables", "/v1/nodes");
    assert_eq!(status(&scheduler, &nodes, None).await, Some(StatusCode::OK));
    assert_eq!(status(&scheduler, &url, None).await, Some(StatusCode::FORBIDDEN));
    assert_eq!(status(&agent, &nodes, None).await, Some(StatusCode::FORBIDDEN));
    let stranger = client(&authority, Some(&other.sign(folder.path(), "stranger")));
    assert_eq!(status(&stranger, &document, None).await, None);
    // Another authority signs the server from now on. A file in between that is none changes
    // nothing.
    std::fs::write(folder.path().join("server.pem"), "no certificate").unwrap();
    let said = || std::fs::read_to_string(folder.path().join("up.log")).unwrap();
    until("it is logged", async || said().contains("the old ones stay in force")).await;
    assert_eq!(status(&client(&authority, None), &url, Some(TOKEN)).await, Some(StatusCode::OK));
    other.sign(folder.path(), "server");
    until("the new one is in force", async || {
        status(&client(&other, None), &url, Some(TOKEN)).await == Some(StatusCode::OK)
    })
    .await;
    assert_eq!(status(&client(&authority, None), &url, Some(TOKEN)).await, None);
    server.stop().unwrap();
    assert!(!said().contains(TOKEN));
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_speak_https_with_a_key_that_no_list_of_processes_shows() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let settings = settings(folder.path(), &authority, &authority);
    let mut server = Server::start(&settings, "up").unwrap();
    let url = server.url("").replace("http:", "https:");
    let tables = format!("{url}/v1/tables");
    let trusting = client(&authority, None);
    until("it answers", async || status(&trusting, &tables, Some(TOKEN)).await.is_some()).await;
    authority.write(folder.path(), "ca.pem");
    std::fs::write(folder.path().join("key"), format!("{TOKEN}\n")).unwrap();
    let ask =
        ["--url", &url, "--ca", "ca.pem", "sql", "SELECT 41 + 1 AS answer", "--format", "csv"];
    let with_file = [&["--token-file", "key"], &ask[..]].concat();
    for (arguments, key, answer) in [
        (&with_file[..], None, Ok("answer\n42\n")),
        (&ask, Some(TOKEN), Ok("answer\n42\n")),
        (&ask, Some("guess"), Err("unauthorized")),
        (&ask, None, Err("unauthorized")),
        (&["--url", &url, "sql", "SELECT 1"], Some(TOKEN), Err("no server answers")),
    ] {
        let output = command(folder.path(), arguments, key);
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        match answer {
            Ok(answer) => assert_eq!((&*out, &*err), (answer, "")),
            Err(hint) => assert!(!output.status.success() && err.contains(hint), "{err}"),
        }
        assert!(!err.contains(TOKEN) && !err.contains("guess"), "{err}");
    }
    // Who asked is a table of the operator's.
    let sql = "SELECT principal, status, rows FROM audit WHERE route = 'POST /v1/sql' \
               AND query NOT LIKE '%FROM audit%' ORDER BY at";
    let body = serde_json::json!({ "query": sql });
    let expected =
        format!("principal,status,rows\n{0}{0}{1}{1}", format!("{OPERATOR},200,1\n"), ",401,0\n");
    until("the audit has all of them", async || {
        let request = trusting.post(format!("{url}/v1/sql")).bearer_auth(TOKEN);
        let request = request.header("accept", "text/csv").json(&body);
        request.send().await.unwrap().text().await.unwrap() == expected
    })
    .await;
    server.stop().unwrap();
    // It is in the log, and nobody's secret.
    let config = EmbeddedConfig::new(settings.data().join("log"));
    let log = EmbeddedLog::open(config, Arc::new(SystemClock)).unwrap();
    let from = TopicPartition { topic: AUDIT.to_owned(), partition: 0 };
    let incarnation = log.incarnation(&from).await.unwrap();
    let found = log.fetch(&from, incarnation, 0, 1 << 20, Duration::ZERO).await.unwrap();
    let records: Vec<AuditRecord> =
        found.iter().map(|record| AuditRecord::decode(&record.payload).unwrap()).collect();
    let sql: Vec<(&str, &str, u16, u64)> = records
        .iter()
        .filter(|record| record.route == "POST /v1/sql" && !record.query.contains("FROM audit"))
        .map(|record| (&*record.principal, &*record.query, record.status, record.rows))
        .collect();
    let asked = (OPERATOR, "SELECT 41 + 1 AS answer", 200, 1);
    assert_eq!(sql, [asked, asked, ("", "", 401, 0), ("", "", 401, 0)]);
    assert!(records.iter().all(|record| record.from.starts_with("127.0.0.1:")));
    let all = format!("{records:?}");
    assert!(!all.contains(TOKEN) && !all.contains("guess"), "{all}");
}
