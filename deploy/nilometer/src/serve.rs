//! The HTTP server of a process: its gate, its certificates, its audit.

use std::sync::Arc;

use nilometer_http::Gate;
use nilometer_http::gate::Authenticator;
use nilometer_http::tls::Tls;
use nilometer_log::Log;
use tokio::net::TcpListener;

use crate::audit::audit_log;
use crate::http::Site;
use crate::roles::Process;

impl Process {
    /// Starts to answer.
    pub(crate) fn serve_http(
        &mut self,
        listener: TcpListener,
        log: Arc<dyn Log>,
        authenticators: Vec<Arc<dyn Authenticator>>,
    ) -> anyhow::Result<()> {
        let (audit, writer) = audit_log(log, self.config.log.retention, &self.registry)?;
        let tls = self.config.listen.tls_files().map(Tls::open).transpose()?;
        let site = Site {
            surface: std::mem::take(&mut self.surface),
            registries: self.registries.clone(),
            readiness: self.readiness.clone(),
            metrics: self.config.listen.metrics,
            gate: Gate::new(
                authenticators,
                self.config.listen.rate(),
                Arc::new(audit),
                self.clock.clone(),
            ),
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
