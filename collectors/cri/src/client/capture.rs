//! Records what a real containerd answers, byte for byte, as fixtures for the parse tests.
//!
//! `cargo test -p nilometer-cri -- --ignored capture` writes them anew.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nilometer_testbed::containerd::{Containerd, LinuxContainerResources};
use prost::Message;
use prost::bytes::{Buf, BufMut, Bytes};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Status};

use super::Client;
use crate::api::{self, containerd};

#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

async fn record(client: &Client, method: &str, request: impl Message, name: &str) {
    let path: PathAndQuery = format!("/runtime.v1.RuntimeService/{method}").parse().unwrap();
    let mut grpc = client.ready("").await.unwrap();
    let answer = grpc.unary(Request::new(request.encode_to_vec()), path, Raw).await.unwrap();
    write(name, &answer.into_inner());
}

fn write(name: &str, bytes: &[u8]) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/containerd-1.6");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join(format!("{name}.bin")), bytes).unwrap();
}

#[tokio::test]
#[ignore = "rewrites the fixtures"]
async fn capture() {
    let dir = tempfile::tempdir().unwrap();
    let Some(bed) = Containerd::start(dir.path()).await.unwrap() else { return };
    let client = Client::new(&bed.socket()).unwrap();
    let events = client.clone();
    let events = tokio::spawn(async move {
        let path = PathAndQuery::from_static("/containerd.services.events.v1.Events/Subscribe");
        let request = containerd::SubscribeRequest::default().encode_to_vec();
        let mut grpc = events.ready("").await.unwrap();
        let stream = grpc.server_streaming(Request::new(request), path, Raw).await.unwrap();
        let mut stream = stream.into_inner();
        while let Some(bytes) = stream.message().await.unwrap() {
            let envelope = containerd::Envelope::decode(bytes.clone()).unwrap();
            if ["/tasks/start", "/tasks/exit"].contains(&envelope.topic.as_str()) {
                write(&format!("event{}", envelope.topic.replace('/', "-")), &bytes);
            }
            if envelope.topic == "/tasks/exit" {
                return;
            }
        }
    });
    let pod = bed.run_pod("web", "shop", &[("app", "web")]).await.unwrap();
    let limits = LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 150_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 << 20,
    };
    let id = bed.run_container(&pod, "main", &["spin", "2"]).await.unwrap();
    bed.resize_container(&id, limits).await.unwrap();
    let status = api::ContainerStatusRequest { container_id: id.clone(), verbose: true };
    record(&client, "ContainerStatus", status.clone(), "container-running").await;
    record(&client, "Version", api::VersionRequest::default(), "version").await;
    record(&client, "ListPodSandbox", api::ListPodSandboxRequest {}, "sandboxes").await;
    let sandbox = api::PodSandboxStatusRequest { pod_sandbox_id: pod, verbose: true };
    record(&client, "PodSandboxStatus", sandbox, "sandbox").await;
    record(&client, "ListContainers", api::ListContainersRequest {}, "containers").await;
    let stats = api::ListContainerStatsRequest {};
    record(&client, "ListContainerStats", stats, "container-stats").await;
    let stats = api::ListPodSandboxStatsRequest {};
    record(&client, "ListPodSandboxStats", stats, "pod-stats").await;
    tokio::time::timeout(Duration::from_secs(20), events).await.unwrap().unwrap();
    while client.container(&id).await.unwrap().status.unwrap().finished_at == 0 {
        tokio::task::yield_now().await;
    }
    record(&client, "ContainerStatus", status, "container-exited").await;
}
