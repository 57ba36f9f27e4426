//! Calls to one runtime over its unix socket, each with a time-out and a bound on its answer.
//!
//! The connection is made at the first call and made anew when the runtime was restarted.

use std::path::Path;
use std::time::Duration;

use prost::Message;
use tonic::client::Grpc;
use tonic::codec::Streaming;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::api::{self, containerd};

#[cfg(test)]
mod capture;

/// Longest answer accepted: 10,000 pods of a few containers each, with their labels.
pub const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Longest time one call may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// containerd's namespace for everything that Kubernetes runs.
pub const CONTAINERD_NAMESPACE: &str = "k8s.io";

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The socket's path is not one that gRPC can dial.
    #[error("cannot dial {socket}")]
    Socket {
        /// The path.
        socket: String,
        /// The cause.
        #[source]
        cause: tonic::transport::Error,
    },
    /// The runtime refused, or could not be reached.
    #[error("{call} failed")]
    Refused {
        /// The method.
        call: &'static str,
        /// What it said.
        #[source]
        cause: Box<Status>,
    },
    /// No answer within the time-out.
    #[error("{call} gave no answer within {seconds} s")]
    TimedOut {
        /// The method.
        call: &'static str,
        /// The time-out.
        seconds: u64,
    },
}

impl CallError {
    /// Whether this runtime does not have the method at all.
    pub fn is_unimplemented(&self) -> bool {
        self.code() == Some(Code::Unimplemented)
    }

    /// Whether the runtime does not know the pod or container.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(Code::NotFound)
    }

    /// A stream that ended with an error.
    pub(crate) fn broken(call: &'static str, status: Status) -> Self {
        CallError::Refused { call, cause: Box::new(status) }
    }

    fn code(&self) -> Option<Code> {
        match self {
            CallError::Refused { cause, .. } => Some(cause.code()),
            _ => None,
        }
    }
}

/// A runtime at the other end of a unix socket. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// A client of the runtime at `socket`; nothing is dialled yet.
    pub fn new(socket: &Path) -> Result<Self, CallError> {
        let socket = socket.display().to_string();
        let endpoint = Endpoint::from_shared(format!("unix://{socket}"))
            .map_err(|cause| CallError::Socket { socket, cause })?
            .connect_timeout(CALL_TIMEOUT);
        Ok(Client { channel: endpoint.connect_lazy() })
    }

    /// Who answers: name and versions.
    pub async fn version(&self) -> Result<api::VersionResponse, CallError> {
        let request = api::VersionRequest { version: "v1".to_owned() };
        self.call("/runtime.v1.RuntimeService/Version", request).await
    }

    /// All sandboxes, ready or not.
    pub async fn sandboxes(&self) -> Result<Vec<api::PodSandbox>, CallError> {
        let request = api::ListPodSandboxRequest {};
        let answer: api::ListPodSandboxResponse =
            self.call("/runtime.v1.RuntimeService/ListPodSandbox", request).await?;
        Ok(answer.items)
    }

    /// One sandbox; `info` has the process and cgroup where the runtime tells them.
    pub async fn sandbox(&self, id: &str) -> Result<api::PodSandboxStatusResponse, CallError> {
        let request = api::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        self.call("/runtime.v1.RuntimeService/PodSandboxStatus", request).await
    }

    /// All containers in whatever state.
    pub async fn containers(&self) -> Result<Vec<api::Container>, CallError> {
        let request = api::ListContainersRequest {};
        let answer: api::ListContainersResponse =
            self.call("/runtime.v1.RuntimeService/ListContainers", request).await?;
        Ok(answer.containers)
    }

    /// One container with its times; `info` has its sandbox, process and configuration.
    pub async fn container(&self, id: &str) -> Result<api::ContainerStatusResponse, CallError> {
        let request = api::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        self.call("/runtime.v1.RuntimeService/ContainerStatus", request).await
    }

    /// Statistics of all running containers.
    pub async fn container_stats(&self) -> Result<Vec<api::ContainerStats>, CallError> {
        let request = api::ListContainerStatsRequest {};
        let answer: api::ListContainerStatsResponse =
            self.call("/runtime.v1.RuntimeService/ListContainerStats", request).await?;
        Ok(answer.stats)
    }

    /// Statistics of all ready sandboxes.
    pub async fn pods_stats(&self) -> Result<Vec<api::PodSandboxStats>, CallError> {
        let request = api::ListPodSandboxStatsRequest {};
        let answer: api::ListPodSandboxStatsResponse =
            self.call("/runtime.v1.RuntimeService/ListPodSandboxStats", request).await?;
        Ok(answer.stats)
    }

    /// Statistics of one ready sandbox.
    pub async fn pod_stats(&self, id: &str) -> Result<Option<api::PodSandboxStats>, CallError> {
        let request = api::PodSandboxStatsRequest { pod_sandbox_id: id.to_owned() };
        let answer: api::PodSandboxStatsResponse =
            self.call("/runtime.v1.RuntimeService/PodSandboxStats", request).await?;
        Ok(answer.stats)
    }

    /// CRI's own event stream. Resolves at the first event, since runtimes send no header before.
    pub async fn cri_events(&self) -> Result<Streaming<api::ContainerEventResponse>, CallError> {
        let path = "/runtime.v1.RuntimeService/GetContainerEvents";
        self.stream(path, api::GetEventsRequest {}).await
    }

    /// containerd's event stream. Resolves at the first event, as [`cri_events`](Self::cri_events).
    pub async fn containerd_events(
        &self,
        filters: Vec<String>,
    ) -> Result<Streaming<containerd::Envelope>, CallError> {
        let path = "/containerd.services.events.v1.Events/Subscribe";
        self.stream(path, containerd::SubscribeRequest { filters }).await
    }

    /// A container (or sandbox) as containerd itself knows it, in Kubernetes' namespace.
    pub async fn containerd_container(
        &self,
        id: &str,
    ) -> Result<Option<containerd::Container>, CallError> {
        let call = "/containerd.services.containers.v1.Containers/Get";
        let mut request = Request::new(containerd::GetContainerRequest { id: id.to_owned() });
        let namespace = AsciiMetadataValue::from_static(CONTAINERD_NAMESPACE);
        request.metadata_mut().insert("containerd-namespace", namespace);
        let answer: containerd::GetContainerResponse =
            self.send(call, request, CALL_TIMEOUT).await?;
        Ok(answer.container)
    }

    async fn call<Q, A>(&self, call: &'static str, request: Q) -> Result<A, CallError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.send(call, Request::new(request), CALL_TIMEOUT).await
    }

    /// One call by its path, for whoever needs one that metering does not.
    pub async fn send<Q, A>(
        &self,
        call: &'static str,
        request: Request<Q>,
        timeout: Duration,
    ) -> Result<A, CallError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let answer = async {
            let mut grpc = self.ready(call).await?;
            let codec = ProstCodec::<Q, A>::default();
            let answer = grpc.unary(request, PathAndQuery::from_static(call), codec).await;
            answer.map_err(|cause| CallError::Refused { call, cause: Box::new(cause) })
        };
        match tokio::time::timeout(timeout, answer).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(CallError::TimedOut { call, seconds: timeout.as_secs() }),
        }
    }

    async fn stream<Q, A>(&self, call: &'static str, request: Q) -> Result<Streaming<A>, CallError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = self.ready(call).await?;
        let codec = ProstCodec::<Q, A>::default();
        let path = PathAndQuery::from_static(call);
        let answer = grpc.server_streaming(Request::new(request), path, codec).await;
        let answer = answer.map_err(|cause| CallError::Refused { call, cause: Box::new(cause) })?;
        Ok(answer.into_inner())
    }

    async fn ready(&self, call: &'static str) -> Result<Grpc<Channel>, CallError> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES);
        grpc.ready().await.map_err(|cause| CallError::Refused {
            call,
            cause: Box::new(Status::unavailable(cause.to_string())),
        })?;
        Ok(grpc)
    }
}
