//! A real containerd, metered.

use std::time::Duration;

use nilometer_cri::client::Client;
use nilometer_testbed::containerd::Containerd;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probe() {
    let dir = tempfile::tempdir().unwrap();
    let Some(containerd) = Containerd::start(dir.path()).await.unwrap() else { return };
    let client: Client = containerd.client().clone();
    println!("{:?}", client.version().await.unwrap());
    let events = client.clone();
    let task = tokio::spawn(async move {
        let mut stream = events.containerd_events(vec!["namespace==k8s.io".into()]).await.unwrap();
        while let Ok(Some(e)) = stream.message().await {
            println!("EVENT {:?} {} {:?}", e.timestamp, e.topic, e.event.map(|a| a.type_url));
            if e.topic == "/tasks/exit" {
                println!(
                    "cgroups at exit {:?}",
                    std::process::Command::new("find")
                        .arg("/sys/fs/cgroup/cpuacct")
                        .args([
                            "-name",
                            "cpuacct.usage",
                            "-path",
                            "*nilometer*",
                            "-exec",
                            "grep",
                            "-H",
                            ".",
                            "{}",
                            ";"
                        ])
                        .output()
                );
            }
        }
    });
    println!(
        "cri events {:?}",
        tokio::time::timeout(Duration::from_secs(1), client.cri_events()).await
    );
    let pod = containerd.run_pod("web", "shop", &[("app", "web")]).await.unwrap();
    let id = containerd.run_container(&pod, "main", &["spin", "2"]).await.unwrap();
    println!("{:#?}", client.sandbox(&pod).await.unwrap());
    println!("{:#?}", client.container(&id).await.unwrap());
    tokio::time::sleep(Duration::from_secs(1)).await;
    println!("{:#?}", client.container_stats().await.unwrap());
    println!("{:#?}", client.pods_stats().await);
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("{:#?}", client.container(&id).await.unwrap().status);
    println!("{:#?}", client.containerd_container(&id).await.unwrap());
    containerd.remove_pod(&pod).await.unwrap();
    task.abort();
    println!(
        "{}",
        std::fs::read_to_string(dir.path().join("containerd.log"))
            .unwrap()
            .lines()
            .rev()
            .take(10)
            .collect::<Vec<_>>()
            .join("\n")
    );
    drop(containerd);
    println!(
        "{:?}",
        std::process::Command::new("sh")
            .args([
                "-c",
                "ps aux | grep containerd; find /sys/fs/cgroup -name 'nilometer*'; mount | grep tmp"
            ])
            .output()
    );
}
