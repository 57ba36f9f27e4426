//! Recorded answers give the resources expected; whatever a runtime says stays within bounds.

use proptest::prelude::*;

use super::*;
use crate::fixtures::fixture;

fn attributes(resource: &Resource) -> String {
    let said = resource.attributes.iter().filter(|(key, _)| *key != "sandbox");
    said.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

fn recorded(status: api::ContainerStatusResponse) -> ContainerFacts {
    let pods: api::ListPodSandboxResponse = fixture("sandboxes");
    let pod = pod("node-1", &pods.items[0]);
    container("node-1", &status.status.unwrap(), &Info::read(&status.info), Some(&pod.resource))
}

#[test]
fn recorded_version_is_containerds() {
    let version: api::VersionResponse = fixture("version");
    assert_eq!(version.runtime_name, "containerd");
    assert!(version.runtime_version.starts_with("1.6."));
}

#[test]
fn recorded_sandbox_is_a_pod() {
    let pods: api::ListPodSandboxResponse = fixture("sandboxes");
    let [sandbox] = &pods.items[..] else { panic!("one sandbox was recorded") };
    let facts = pod("node-1", sandbox);
    assert_eq!(Some(&facts.resource.id), sandbox.labels.get(POD_UID));
    assert_eq!(facts.resource.name, "shop/web");
    assert_eq!(facts.resource.project, "shop");
    assert_eq!(facts.resource.parent.as_deref(), Some("node-1"));
    let expected = "label.app=web namespace=shop pod=web restart_count=0";
    assert_eq!(attributes(&facts.resource), expected);
    assert_eq!(facts.created.0, sandbox.created_at / 1_000);
    assert!(facts.ready);

    let status: api::PodSandboxStatusResponse = fixture("sandbox");
    assert!(Info::read(&status.info).pid > 0);
    let asked = pod("node-1", &api::PodSandbox::from(&status.status.unwrap()));
    assert_eq!(asked, facts, "listed or asked about, it is the same");
}

#[test]
fn recorded_container_is_the_same_running_and_exited() {
    let running = recorded(fixture("container-running"));
    let exited = recorded(fixture("container-exited"));
    let expected = "container=main image=nilometer.test/tool:1 label.app=web namespace=shop \
                    pod=web restart_count=0";
    assert_eq!(attributes(&running.resource), expected);
    assert_eq!(running.resource, exited.resource);
    assert_eq!(running.current, exited.current);
    let resized = running.current;
    assert!(!same_sizes(&resized, &running.resource));
    assert_eq!(resized.attributes["vcpus"], "1.5");
    assert_eq!(resized.attributes["memory_bytes"], "67108864");
    assert_eq!(resized.attributes["cpu_shares"], "512");

    assert_eq!(running.started, exited.started);
    assert_eq!(running.finished, None);
    assert!(running.pid > 0);
    let lived = exited.finished.unwrap().0 - exited.started.unwrap().0;
    assert!((lived - 2_000_000).abs() < 50_000, "{lived} µs");
    assert_eq!(exited.exit_code, 0);
    let containers: api::ListContainersResponse = fixture("containers");
    assert_eq!(containers.containers[0].id, exited.resource.id);
    assert_eq!(containers.containers[0].pod_sandbox_id, exited.sandbox);
}

#[test]
fn pods_without_kubernetes_labels_go_by_their_sandbox() {
    let sandbox = api::PodSandbox {
        id: "abc".to_owned(),
        metadata: Some(api::PodSandboxMetadata {
            name: "p".to_owned(),
            namespace: "n".to_owned(),
            uid: "not unique".to_owned(),
            attempt: 0,
        }),
        ..api::PodSandbox::default()
    };
    let facts = pod("", &sandbox);
    assert_eq!((facts.resource.id.as_str(), facts.resource.name.as_str()), ("abc", "n/p"));
    assert_eq!(facts.resource.parent, None);
}

#[test]
fn sizes_are_decimal_numbers() {
    for (millis, text) in [(1, "0.001"), (500, "0.5"), (1_000, "1"), (2_250, "2.25")] {
        assert_eq!(decimal(millis), text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_is_said_stays_within_the_contract(
        id in ".{1,600}",
        name in ".{0,600}",
        labels in prop::collection::btree_map(".{0,600}", ".{0,600}", 0..80),
        info in ".{0,100}",
        sizes in any::<(i64, i64, i64, i64)>(),
        times in any::<(i64, i64)>(),
    ) {
        let sandbox = api::PodSandbox {
            id: id.clone(),
            labels: labels.clone(),
            created_at: times.0,
            ..api::PodSandbox::default()
        };
        let pod = pod("node-1", &sandbox);
        prop_assert_eq!(pod.resource.check(), Ok(()));
        let linux = LinuxContainerResources {
            cpu_period: sizes.0,
            cpu_quota: sizes.1,
            cpu_shares: sizes.2,
            memory_limit_in_bytes: sizes.3,
        };
        let status = api::ContainerStatus {
            id,
            metadata: Some(api::ContainerMetadata { name, attempt: 1 }),
            labels,
            started_at: times.0,
            finished_at: times.1,
            resources: Some(api::ContainerResources { linux: Some(linux) }),
            ..api::ContainerStatus::default()
        };
        let info = Info::read(&Labels::from([("info".to_owned(), info)]));
        let facts = container("node-1", &status, &info, Some(&pod.resource));
        prop_assert_eq!(ended(&facts.resource, -1).check(), Ok(()));
        prop_assert_eq!(interface(&pod.resource, &status.id).check(), Ok(()));
    }
}
