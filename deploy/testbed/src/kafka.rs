//! A real Apache Kafka on loopback: one node as broker and controller, from Maven artifacts.
//!
//! It listens twice: without credentials ([`Kafka::bootstrap`]) and over TLS with SASL PLAIN
//! ([`Kafka::tls`]). The artifacts are kept in the user's cache, so that only the first start
//! needs a repository.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::cache;
use crate::skip::skip;

/// Version of the artifacts.
const VERSION: &str = "4.1.0";

/// How long a start may take on a busy machine.
const START_MAX: Duration = Duration::from_secs(120);

const USER: &str = "nilometer";
const PASSWORD: &str = "flood-of-the-nile";
const STORE_PASSWORD: &str = "papyrus";

/// A running broker; killed when dropped.
pub struct Kafka {
    dir: PathBuf,
    jars: PathBuf,
    ports: [u16; 3],
    java: Option<Child>,
}

/// How to reach the listener that wants credentials.
#[derive(Clone, Debug)]
pub struct KafkaTls {
    /// Host and port.
    pub bootstrap: String,
    /// Certificate to trust, PEM.
    pub ca_file: PathBuf,
    /// User for SASL PLAIN.
    pub username: String,
    /// Its password.
    pub password: String,
}

impl Kafka {
    /// Starts a broker that keeps its data below `dir`, and waits until it answers. None, with a
    /// line that says why, on a machine without Java, keytool or Maven and its repository.
    ///
    /// # Errors
    ///
    /// If the machine should be able to, and the broker did not start.
    pub fn start(dir: &Path) -> Result<Option<Kafka>> {
        for tool in ["java", "keytool"] {
            if !is_installed(tool) {
                return skip(&format!("Kafka: {tool} is not installed"));
            }
        }
        let jars = match jars() {
            Ok(jars) => jars,
            Err(e) => return skip(&format!("no Kafka artifacts: {e:#}")),
        };
        fs::create_dir_all(dir)?;
        let dir = dir.canonicalize()?;
        let ports = free_ports()?;
        let mut kafka = Kafka { dir, jars, ports, java: None };
        kafka.write_certificates()?;
        kafka.write_settings()?;
        let format = ["format", "-t", "bmlsb21ldGVyLXRlc3Riag", "-c", "server.properties"];
        let formatted = kafka.java("kafka.tools.StorageTool", &format, "format.log")?.wait()?;
        if !formatted.success() {
            bail!("storage not formatted: {}", kafka.log("format.log"));
        }
        kafka.restart()?;
        Ok(Some(kafka))
    }

    /// Host and port of the listener without credentials.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    /// The listener with TLS and SASL PLAIN.
    pub fn tls(&self) -> KafkaTls {
        KafkaTls {
            bootstrap: format!("localhost:{}", self.ports[1]),
            ca_file: self.dir.join("ca.pem"),
            username: USER.into(),
            password: PASSWORD.into(),
        }
    }

    /// Kills the broker at once, with SIGKILL; nothing if it does not run.
    ///
    /// # Errors
    ///
    /// If the system does not let it be killed.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut java) = self.java.take() {
            java.kill().context("kill the broker")?;
            java.wait()?;
        }
        Ok(())
    }

    /// Starts the broker again on the same data and ports, and waits until it answers.
    ///
    /// # Errors
    ///
    /// If it ends or does not answer in time; with the end of what it logged.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        let mut java = self.java("kafka.Kafka", &["server.properties"], "server.log")?;
        let started = Instant::now();
        while !answers(self.ports[0]) {
            if let Some(status) = java.try_wait()? {
                bail!("broker ended with {status}: {}", self.log("server.log"));
            }
            if started.elapsed() > START_MAX {
                java.kill()?;
                java.wait()?;
                bail!("broker does not answer: {}", self.log("server.log"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        self.java = Some(java);
        Ok(())
    }

    fn java(&self, main: &str, arguments: &[&str], log: &str) -> Result<Child> {
        let out = File::options().create(true).append(true).open(self.dir.join(log))?;
        Command::new("java")
            // Tuned to start fast, not to run long.
            .args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"])
            .arg(format!("{}/*", self.jars.display()))
            .arg(main)
            .args(arguments)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .context("start java")
    }

    fn log(&self, name: &str) -> String {
        let text = fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn write_settings(&self) -> Result<()> {
        let [plain, tls, controller] = self.ports;
        let data = self.dir.join("data");
        let store = self.dir.join("broker.p12");
        let text = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             controller.listener.names=CONTROLLER\n\
             listeners=PLAINTEXT://127.0.0.1:{plain},SASL_SSL://localhost:{tls},CONTROLLER://127.0.0.1:{controller}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT\n\
             inter.broker.listener.name=PLAINTEXT\n\
             log.dirs={data}\n\
             auto.create.topics.enable=false\n\
             broker.session.timeout.ms=3000\n\
             broker.heartbeat.interval.ms=500\n\
             num.network.threads=2\n\
             num.io.threads=2\n\
             offsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=1\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\n\
             sasl.enabled.mechanisms=PLAIN\n\
             listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\";\n\
             ssl.keystore.type=PKCS12\n\
             ssl.keystore.location={store}\n\
             ssl.keystore.password={STORE_PASSWORD}\n",
            data = data.display(),
            store = store.display(),
        );
        fs::write(self.dir.join("server.properties"), text).context("write server.properties")
    }

    fn write_certificates(&self) -> Result<()> {
        let make = "-genkeypair -alias broker -keyalg EC -groupname secp256r1 -validity 30 \
                    -dname CN=localhost -ext san=dns:localhost,ip:127.0.0.1 \
                    -storetype PKCS12 -keystore broker.p12";
        let export = "-exportcert -rfc -alias broker -keystore broker.p12 -file ca.pem";
        for arguments in [make, export] {
            let made = Command::new("keytool")
                .args(arguments.split_whitespace())
                .args(["-storepass", STORE_PASSWORD])
                .current_dir(&self.dir)
                .output()?;
            if !made.status.success() {
                bail!("keytool: {}", String::from_utf8_lossy(&made.stdout));
            }
        }
        Ok(())
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        if let Err(e) = self.kill() {
            tracing::warn!(error = format!("{e:#}"), "broker not killed");
        }
    }
}

fn is_installed(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(tool).is_file())
}

/// Ports that were free a moment ago.
fn free_ports() -> Result<[u16; 3]> {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0"));
    let mut ports = [0; 3];
    for (port, listener) in ports.iter_mut().zip(listeners) {
        *port = listener?.local_addr()?.port();
    }
    Ok(ports)
}

/// Whether a broker answers a request for the versions of its interface.
fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<()> {
        let mut to = TcpStream::connect(("127.0.0.1", port))?;
        to.set_read_timeout(Some(Duration::from_secs(5)))?;
        // Length, ApiVersions (18), version 0, correlation 1, no client id.
        to.write_all(&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 0xff, 0xff])?;
        let mut answer = [0; 8];
        to.read_exact(&mut answer)?;
        if answer[4..] == [0, 0, 0, 1] { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
    };
    ask().is_ok()
}

/// The directory of the artifacts; resolved with Maven where it is missing.
fn jars() -> Result<PathBuf> {
    let cache = cache::folder("kafka")?;
    let jars = cache.join(VERSION);
    if jars.is_dir() {
        return Ok(jars);
    }
    fs::create_dir_all(&cache)?;
    let work = tempfile::tempdir_in(&cache)?;
    let dependency = |group: &str, artifact: &str, version: &str| {
        format!(
            "<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId>\
             <version>{version}</version></dependency>"
        )
    };
    let pom = format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\"><modelVersion>4.0.0</modelVersion>\
         <groupId>nilometer</groupId><artifactId>testbed-kafka</artifactId><version>1</version>\
         <packaging>pom</packaging><dependencies>{}{}</dependencies></project>",
        dependency("org.apache.kafka", "kafka_2.13", VERSION),
        dependency("org.apache.logging.log4j", "log4j-slf4j-impl", "2.24.3"),
    );
    fs::write(work.path().join("pom.xml"), pom)?;
    let resolved = Command::new("mvn")
        .args(["-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=jars"])
        .current_dir(work.path())
        .stdin(Stdio::null())
        .output()
        .context("start mvn")?;
    if !resolved.status.success() {
        let said = String::from_utf8_lossy(&resolved.stdout).into_owned();
        bail!("mvn: {}", said.lines().find(|line| line.contains("ERROR")).unwrap_or(&said));
    }
    match fs::rename(work.path().join("jars"), &jars) {
        // Another process was faster.
        Err(_) if jars.is_dir() => Ok(jars),
        renamed => renamed.map(|()| jars).context("keep the artifacts"),
    }
}
