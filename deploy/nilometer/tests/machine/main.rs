//! The whole main job on real input: `nilometer up` on this machine with a real containerd and a
//! real libvirt, from the first sample to the bill.
#![allow(clippy::unwrap_used)]

#[path = "../process.rs"]
mod process;

use std::time::Duration;

use nilometer_testbed::containerd::Containerd;
use nilometer_testbed::libvirt::{Guest, Libvirt, Work};

use crate::process::{Server, Settings};

const UUID: &str = "6f0a3c1e-52b7-4d0c-9a51-0d3b8f0e7a01";

fn configuration(containerd: &Containerd, libvirt: &Libvirt) -> String {
    format!(
        r#"
[collect]
interval = "2s"
node = "machine-test"
cri_sockets = ["{}"]
libvirt_sockets = ["{}"]
libvirt_state_dirs = ["{}"]
[ingest]
commit_interval = "2s"
"#,
        containerd.socket().display(),
        libvirt.socket().display(),
        libvirt.state_dir().display(),
    )
}

/// Asks until the answer's second line is what is wanted; the bound is generous, the machine slow.
async fn until(server: &Server, sql: &str, wanted: impl Fn(&str) -> bool) -> String {
    for _ in 0..240 {
        let answer = server.sql(sql).await.unwrap();
        let line = answer.lines().nth(1).unwrap_or_default().to_owned();
        if wanted(&line) {
            return line;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    panic!("never came true: {sql}");
}

#[tokio::test(flavor = "multi_thread")]
async fn real_pods_and_vms_are_metered_and_billed_to_the_instant() {
    let folder = tempfile::tempdir().unwrap();
    let containerd = Containerd::start(&folder.path().join("cri")).await.unwrap();
    let libvirt = Libvirt::start(&folder.path().join("virt")).unwrap();
    let (Some(containerd), Some(libvirt)) = (containerd, libvirt) else { return };
    let settings = Settings::write(folder.path(), &configuration(&containerd, &libvirt)).unwrap();
    let mut server = Server::start(&settings, "up").unwrap();
    until(&server, "SELECT count(*) FROM samples WHERE kind = 'node'", |n| n > "0").await;

    let pod = containerd.run_pod("web", "astronomy", &[]).await.unwrap();
    let long = containerd.run_container(&pod, "spin", &["spin", "60"]).await.unwrap();
    let short = containerd.run_container(&pod, "short", &["spin", "3"]).await.unwrap();
    let guest =
        Guest { name: "vm-1", uuid: UUID, memory_mib: 64, vcpus: 1, work: Work::Spin, nova: None };
    libvirt.start_domain(&guest).unwrap();

    // Both appear with what they use.
    for resource in [long.as_str(), UUID] {
        let sql = format!(
            "SELECT count(*) FROM samples WHERE resource = '{resource}' AND meter = 'cpu.time' AND value > 0"
        );
        until(&server, &sql, |n| n.parse::<u64>().is_ok_and(|n| n >= 2)).await;
    }

    // The container that ran for 3 s is over, and is billed from its start to its end.
    let lived = format!(
        "SELECT CAST(\"end\" AS BIGINT) - CAST(start AS BIGINT) FROM resources WHERE resource = '{short}' AND NOT current"
    );
    let micros: i64 = until(&server, &lived, |n| !n.is_empty()).await.parse().unwrap();
    assert!((2_900_000..4_500_000).contains(&micros), "lived {micros} µs");
    billed(&server, &short, micros).await;

    // So is the VM, to the microsecond of its edges.
    libvirt.destroy("vm-1").unwrap();
    let lived = lived.replace(&short, UUID);
    let micros: i64 = until(&server, &lived, |n| !n.is_empty()).await.parse().unwrap();
    billed(&server, UUID, micros).await;

    containerd.stop_container(&long).await.unwrap();
    server.stop().unwrap();
}

/// Usage of `lifetime` is the life, to the microsecond.
async fn billed(server: &Server, resource: &str, micros: i64) {
    let sql = format!(
        "SELECT CAST(sum(quantity) * 1000000 AS BIGINT) FROM usage WHERE resource = '{resource}' AND meter = 'lifetime'"
    );
    until(server, &sql, |n| n == micros.to_string()).await;
}
