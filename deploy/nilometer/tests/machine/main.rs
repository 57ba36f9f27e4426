//! The whole main job on real input: `nilometer up` on this machine with a real containerd and a
//! real libvirt, from the first sample to the bill.
#![allow(clippy::unwrap_used)]

mod kernel;
#[path = "../shared/process.rs"]
mod process;

use std::time::Duration;

use nilometer_contract::{MICROS_PER_HOUR, Timestamp};
use nilometer_rating::Invoice;
use nilometer_testbed::containerd::Containerd;
use nilometer_testbed::libvirt::{Guest, Libvirt, Nova, Work};

use crate::kernel::{Readings, Recorder, now_micros, pid_of};
use crate::process::{Server, Settings};

const VM: &str = "6f0a3c1e-52b7-4d0c-9a51-0d3b8f0e7a01";
const PROJECT: &str = "astronomy";
const BOOK: &str = r#"
name = "test"
currency = "EUR"
[[price]]
meter = "lifetime"
price = "1"
per = "hour"
"#;

/// Everything at its default, but for where to look and what to charge: a poll every 10 s.
fn configuration(containerd: &Containerd, libvirt: &Libvirt, book: &str) -> String {
    format!(
        r#"
[collect]
node = "machine-test"
cri_sockets = ["{}"]
libvirt_sockets = ["{}"]
libvirt_state_dirs = ["{}"]
[bill]
price_book = "{book}"
"#,
        containerd.socket().display(),
        libvirt.socket().display(),
        libvirt.state_dir().display(),
    )
}

/// Asks until the answer's second line is what is wanted; the bound is generous, the machine slow.
async fn until(server: &Server, sql: &str, wanted: impl Fn(&str) -> bool) -> String {
    let mut line = String::new();
    for _ in 0..240 {
        let answer = server.sql(sql).await.unwrap();
        line = answer.lines().nth(1).unwrap_or_default().to_owned();
        if wanted(&line) {
            return line;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    panic!("never came true, last {line:?}: {sql}");
}

#[tokio::test(flavor = "multi_thread")]
async fn real_pods_and_vms_are_metered_and_billed_to_the_instant() {
    let folder = tempfile::tempdir().unwrap();
    let containerd = Containerd::start(&folder.path().join("cri")).await.unwrap();
    let libvirt = Libvirt::start(&folder.path().join("virt")).unwrap();
    let (Some(containerd), Some(libvirt)) = (containerd, libvirt) else { return };
    let book = folder.path().join("book.toml");
    std::fs::write(&book, BOOK).unwrap();
    let text = configuration(&containerd, &libvirt, &book.display().to_string());
    let settings = Settings::write(folder.path(), &text).unwrap();
    let mut server = Server::start(&settings, "up").unwrap();

    // A minute of a VM and of a container that are busy all the time.
    let pod = containerd.run_pod("web", PROJECT, &[]).await.unwrap();
    let long = containerd.run_container(&pod, "long", &["spin", "977"]).await.unwrap();
    let before = now_micros();
    libvirt.start_domain(&vm()).unwrap();
    let started = now_micros();
    let minute = tokio::time::Instant::now() + Duration::from_secs(61);
    let long_cpu = Recorder::start(pid_of("spin 977"));
    let vm_cpu = Recorder::start(libvirt.pid("vm-1").unwrap());

    // Three seconds of a container right after a poll, so over well before the next.
    let polls = "SELECT count(*) FROM samples WHERE kind = 'node' AND meter = 'load.1m'";
    let seen: u64 = server.sql(polls).await.unwrap().lines().nth(1).unwrap().parse().unwrap();
    until(&server, polls, |n| n.parse::<u64>().unwrap() > seen).await;
    let short = containerd.run_container(&pod, "short", &["spin", "3"]).await.unwrap();

    tokio::time::sleep_until(minute).await;
    let ending = now_micros();
    libvirt.destroy("vm-1").unwrap();
    let after = now_micros();
    let (start, end) = lived(&server, VM).await;
    assert!((before..=started).contains(&start), "started {start}, not {before} to {started}");
    assert!((ending..=after).contains(&end), "ended {end}, not {ending} to {after}");
    billed(&server, VM, end - start).await;
    let (start, end) = lived(&server, &short).await;
    assert!((2_900_000..4_000_000).contains(&(end - start)), "lived from {start} to {end}");
    billed(&server, &short, end - start).await;

    for (resource, readings) in [(VM, vm_cpu.finish()), (&long, long_cpu.finish())] {
        seen_within_two_polls(&server, resource).await;
        agrees_with_the_kernel(&server, resource, &readings).await;
    }
    containerd.stop_container(&long).await.unwrap();
    server.stop().unwrap();
}

fn vm() -> Guest<'static> {
    let nova = Nova {
        name: "server-1",
        flavor: "m1.tiny",
        project: (PROJECT, PROJECT),
        user: ("u-1", "ada"),
        image: "i-1",
    };
    Guest { name: "vm-1", uuid: VM, memory_mib: 64, vcpus: 1, work: Work::Spin, nova: Some(nova) }
}

/// Start and end of a resource, once it has ended, through all its states.
async fn lived(server: &Server, resource: &str) -> (i64, i64) {
    let sql = format!(
        "SELECT CAST(min(start) AS BIGINT), CAST(max(\"end\") AS BIGINT) FROM resources \
         WHERE resource = '{resource}' HAVING bool_and(NOT current)"
    );
    let line = until(server, &sql, |line| !line.is_empty()).await;
    let (start, end) = line.split_once(',').unwrap();
    (start.parse().unwrap(), end.parse().unwrap())
}

/// The bill has a line for the life of the resource, to the microsecond.
async fn billed(server: &Server, resource: &str, micros: i64) {
    let sql = format!(
        "SELECT CAST(sum(quantity) * 1000000 AS BIGINT) FROM usage \
         WHERE resource = '{resource}' AND meter = 'lifetime'"
    );
    until(server, &sql, |n| n == micros.to_string()).await;
    let hour = |at: i64| Timestamp(at - at.rem_euclid(MICROS_PER_HOUR));
    let (start, end) = (hour(now_micros() - MICROS_PER_HOUR), hour(now_micros() + MICROS_PER_HOUR));
    let path =
        format!("/v1/invoices?project={PROJECT}&start={start}&end={end}&tz=UTC&detail=resources");
    let bill = server.get(&path, "application/json").await.unwrap();
    let bill: Invoice = serde_json::from_str(&bill).unwrap();
    let line = bill.lines.iter().find(|line| line.resource.as_deref() == Some(resource)).unwrap();
    assert_eq!(line.quantity.0, i128::from(micros) * 1_000_000, "{line:?}");
}

/// The first sample is from the first two intervals of the resource's life.
async fn seen_within_two_polls(server: &Server, resource: &str) {
    let sql = format!(
        "SELECT CAST(min(at) AS BIGINT) - (SELECT CAST(min(start) AS BIGINT) FROM resources \
         WHERE resource = '{resource}') FROM samples WHERE resource = '{resource}'"
    );
    let micros: i64 = until(server, &sql, |n| !n.is_empty()).await.parse().unwrap();
    assert!((0..=20_000_000).contains(&micros), "{resource} was seen after {micros} µs");
}

/// CPU seconds over most of a minute differ by less than 1 % from what the kernel counted between
/// the same two instants.
async fn agrees_with_the_kernel(server: &Server, resource: &str, readings: &Readings) {
    let sql = format!(
        "SELECT CAST(at AS BIGINT) AS micros, value FROM samples \
         WHERE resource = '{resource}' AND meter = 'cpu.time' ORDER BY micros"
    );
    let answer = server.sql(&sql).await.unwrap();
    let both: Vec<(i64, f64, f64)> = answer
        .lines()
        .skip(1)
        .filter_map(|line| {
            let (at, value) = line.split_once(',').unwrap();
            let at = at.parse().unwrap();
            Some((at, value.parse().unwrap(), readings.at(at)?))
        })
        .collect();
    let (first, last) = (both.first().unwrap(), both.last().unwrap());
    assert!(last.0 - first.0 >= 39_000_000, "{resource}: {both:?}");
    let (metered, counted) = (last.1 - first.1, last.2 - first.2);
    assert!((metered - counted).abs() <= 0.01 * counted, "{resource}: {metered} for {counted}");
}
