//! The HTTP server of a process: its gate, its certificates, its audit.

use std::sync::Arc;
use std::time::Duration;

use nilometer_log::Log;
use nilometer_surface::Gate;
use nilometer_surface::gate::Authenticator;
use nilometer_surface::tls::Tls;
use tokio::net::TcpListener;

use crate::audit::audit_log;
use crate::http::Site;
use crate::listen::Listen;
use crate::process::Process;

impl Process {
    /// Starts to answer; what is asked is recorded in the log for as long as `retention`.
    ///
    /// # Errors
    ///
    /// If the certificates cannot be used.
    pub fn serve_http(
        &mut self,
        listen: &Listen,
        listener: TcpListener,
        (log, retention): (Arc<dyn Log>, Duration),
        authenticators: Vec<Arc<dyn Authenticator>>,
    ) -> anyhow::Result<()> {
        let (audit, writer) = audit_log(log, retention, &self.registry)?;
        let tls = listen.tls_files().map(Tls::open).transpose()?;
        let site = Site {
            surface: std::mem::take(&mut self.surface),
            registries: self.registries.clone(),
            readiness: self.readiness.clone(),
            metrics: listen.metrics,
            gate: Gate::new(authenticators, listen.rate(), Arc::new(audit), self.clock.clone()),
            tls: tls.clone(),
        };
        let cancel = &self.servers.cancel;
        let (serving, writing, watching) = (cancel.clone(), cancel.clone(), cancel.clone());
        self.servers.spawn("http", site.serve(listener, serving));
        self.servers.spawn("audit", writer.run(writing));
        if let Some(tls) = tls {
            self.servers.spawn("certificates", async move {
                tls.watch(watching).await;
                Ok(())
            });
        }
        Ok(())
    }
}
