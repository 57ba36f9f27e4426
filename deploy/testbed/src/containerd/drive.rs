//! Makes and ends pods and containers, as a kubelet does.

use std::time::Duration;

use nilometer_cri::api::LinuxContainerResources;
use nilometer_cri::client::{CallError, Client};
use tonic::Request;

use super::messages::{
    ContainerConfig, ContainerRequest, CreateContainerRequest, CreateContainerResponse, Done,
    PodSandboxConfig, RunPodSandboxRequest, RunPodSandboxResponse, SandboxRequest,
    StopContainerRequest, UpdateContainerResourcesRequest,
};

/// Longest time a call that makes or ends something may take.
const DRIVE_TIMEOUT: Duration = Duration::from_secs(60);

/// Calls of a runtime that change something.
#[derive(Clone, Debug)]
pub(super) struct Driver(pub(super) Client);

impl Driver {
    /// Makes and starts a sandbox; returns its id.
    pub(super) async fn run_sandbox(&self, config: PodSandboxConfig) -> Result<String, CallError> {
        let request = Request::new(RunPodSandboxRequest { config: Some(config) });
        let call = "/runtime.v1.RuntimeService/RunPodSandbox";
        let answer: RunPodSandboxResponse = self.0.send(call, request, DRIVE_TIMEOUT).await?;
        Ok(answer.pod_sandbox_id)
    }

    /// Stops a sandbox and all in it.
    pub(super) async fn stop_sandbox(&self, id: &str) -> Result<(), CallError> {
        let request = SandboxRequest { pod_sandbox_id: id.to_owned() };
        self.drive("/runtime.v1.RuntimeService/StopPodSandbox", request).await
    }

    /// Removes a sandbox and all in it.
    pub(super) async fn remove_sandbox(&self, id: &str) -> Result<(), CallError> {
        let request = SandboxRequest { pod_sandbox_id: id.to_owned() };
        self.drive("/runtime.v1.RuntimeService/RemovePodSandbox", request).await
    }

    /// Makes a container without starting it; returns its id.
    pub(super) async fn create_container(
        &self,
        sandbox: &str,
        config: ContainerConfig,
        sandbox_config: PodSandboxConfig,
    ) -> Result<String, CallError> {
        let request = Request::new(CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        });
        let call = "/runtime.v1.RuntimeService/CreateContainer";
        let answer: CreateContainerResponse = self.0.send(call, request, DRIVE_TIMEOUT).await?;
        Ok(answer.container_id)
    }

    /// Starts a container.
    pub(super) async fn start_container(&self, id: &str) -> Result<(), CallError> {
        let request = ContainerRequest { container_id: id.to_owned() };
        self.drive("/runtime.v1.RuntimeService/StartContainer", request).await
    }

    /// Stops a container: at once when `grace_seconds` is 0.
    pub(super) async fn stop_container(
        &self,
        id: &str,
        grace_seconds: i64,
    ) -> Result<(), CallError> {
        let request = StopContainerRequest { container_id: id.to_owned(), timeout: grace_seconds };
        self.drive("/runtime.v1.RuntimeService/StopContainer", request).await
    }

    /// Removes a container, running or not.
    pub(super) async fn remove_container(&self, id: &str) -> Result<(), CallError> {
        let request = ContainerRequest { container_id: id.to_owned() };
        self.drive("/runtime.v1.RuntimeService/RemoveContainer", request).await
    }

    /// Resizes a container.
    pub(super) async fn resize_container(
        &self,
        id: &str,
        linux: LinuxContainerResources,
    ) -> Result<(), CallError> {
        let request =
            UpdateContainerResourcesRequest { container_id: id.to_owned(), linux: Some(linux) };
        self.drive("/runtime.v1.RuntimeService/UpdateContainerResources", request).await
    }

    async fn drive<Q: prost::Message + 'static>(
        &self,
        call: &'static str,
        request: Q,
    ) -> Result<(), CallError> {
        let _: Done = self.0.send(call, Request::new(request), DRIVE_TIMEOUT).await?;
        Ok(())
    }
}
