//! The real binary on loopback: it observes, answers, lets nobody in who has no key, and stops.
#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(50);

/// A running agent; killed when dropped.
struct Agent {
    child: Child,
    url: String,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(folder: &Path, text: &str) -> Command {
    let file = folder.join("nilometer.toml");
    let head = format!("[data]\ndir = \"{}\"\n", folder.join("data").display());
    std::fs::write(&file, head + text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_nilometer-agent"));
    command.arg("--config").arg(file).stdin(Stdio::null());
    command
}

impl Agent {
    fn start(folder: &Path, text: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let child = command(folder, text).args(["--http", &address, "collect"]).spawn().unwrap();
        Agent { child, url: format!("http://{address}") }
    }

    /// Status and text of an answer; none while it does not listen.
    async fn get(&self, path: &str, token: Option<&str>) -> Option<(u16, String)> {
        let request = reqwest::Client::new().get(self.url.clone() + path);
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let answer = request.send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.unwrap()))
    }

    /// Asks until an answer is as wanted.
    async fn becomes(&self, path: &str, token: Option<&str>, good: impl Fn(u16, &str) -> bool) {
        let asking = async {
            loop {
                match self.get(path, token).await {
                    Some((status, text)) if good(status, &text) => return,
                    _ => sleep(STEP).await,
                }
            }
        };
        let done = timeout(PATIENCE, asking).await;
        done.unwrap_or_else(|_| panic!("{path} never was as wanted"));
    }

    async fn ends(&mut self) -> i32 {
        let ending = async {
            loop {
                match self.child.try_wait().unwrap() {
                    Some(status) => return status.code().unwrap_or(-1),
                    None => sleep(STEP).await,
                }
            }
        };
        timeout(PATIENCE, ending).await.expect("it does not end")
    }

    fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }
}

/// The value of a metric that has no labels, or the sum over labels.
fn metric(text: &str, name: &str) -> f64 {
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

const HOST: &str = "[collect]\ninterval = \"200ms\"\nsources = [\"host\"]\n";

#[tokio::test]
async fn it_observes_answers_and_stops() {
    let folder = tempfile::tempdir().unwrap();
    // What is for other processes is let be.
    let text = format!("{HOST}[bill]\nprice_book = \"none.toml\"\n");
    let mut agent = Agent::start(folder.path(), &text);
    agent.becomes("/healthz", None, |status, text| status == 200 && text == "ok\n").await;
    agent.becomes("/readyz", None, |status, text| status == 200 && text == "ready\n").await;
    let samples = |_, text: &str| metric(text, "nilometer_agent_samples_total") > 100.0;
    agent.becomes("/metrics", None, samples).await;
    let (status, list) = agent.get("/v1/openapi.json", None).await.unwrap();
    assert!(status == 200 && list.contains("/readyz"), "{list}");
    let mut second = command(folder.path(), &text);
    let second = second.args(["--http", "127.0.0.1:0", "collect"]).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    let user = format!("is in use by `nilometer-agent collect`, process {} on ", agent.child.id());
    assert!(!second.status.success() && said.contains(&user), "{said}");
    agent.terminate();
    assert_eq!(agent.ends().await, 0);
    let segments = std::fs::read_dir(folder.path().join("data/log")).unwrap().count();
    assert!(segments > 0, "nothing is in the log");
}

#[tokio::test]
async fn with_a_token_only_health_is_for_everyone() {
    let folder = tempfile::tempdir().unwrap();
    let agent = Agent::start(folder.path(), &format!("{HOST}[listen]\ntoken = \"s3cret\"\n"));
    agent.becomes("/healthz", None, |status, _| status == 200).await;
    for wrong in [None, Some("guess"), Some("s3cret2")] {
        assert_eq!(agent.get("/metrics", wrong).await.unwrap().0, 401, "{wrong:?}");
    }
    let (status, text) = agent.get("/metrics", Some("s3cret")).await.unwrap();
    assert!(status == 200 && text.contains("nilometer_agent_"), "{text}");
}

#[test]
fn its_configuration_is_what_it_prints() {
    let folder = tempfile::tempdir().unwrap();
    let printed = command(folder.path(), "").arg("config").output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    let check = |text: &str| {
        let mut command = command(folder.path(), "");
        std::fs::write(folder.path().join("nilometer.toml"), text).unwrap();
        command.args(["config", "--check"]).output().unwrap()
    };
    assert!(check(&printed).status.success(), "{printed}");
    let refused = check("[collect]\nintervall = \"1s\"\n");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("did you mean `interval`?"), "{said}");
}
