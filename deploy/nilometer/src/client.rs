//! The commands that ask a running server.

use std::io::Write;

use anyhow::{Context, bail};
use nilometer_accounts::{ExposeSecret, SecretString};
use nilometer_http::MISSING_ROWS;
use reqwest::{Certificate, Client, ClientBuilder, RequestBuilder};
use serde_json::{Value, json};

use crate::cli::{Bill, Explain, Form, Sql};
use crate::config::Config;

/// A server to ask.
pub(crate) struct Server {
    config: Config,
    token: SecretString,
}

impl Server {
    /// The server that the configuration names, asked with a key.
    pub(crate) fn of(config: &Config, token: SecretString) -> Self {
        Server { config: config.clone(), token }
    }

    fn client(&self) -> anyhow::Result<Client> {
        let mut client = Client::builder();
        if let Some(pem) = self.config.client.ca()? {
            let roots =
                Certificate::from_pem_bundle(&pem).context("client.ca is no certificate")?;
            client = roots.into_iter().fold(client, ClientBuilder::add_root_certificate);
        }
        client.build().context("the HTTP client cannot be made")
    }

    pub(crate) async fn sql(&self, ask: &Sql) -> anyhow::Result<()> {
        let request = self.client()?.post(self.url("/v1/sql")).json(&json!({ "query": ask.query }));
        self.print(request, ask.format).await
    }

    pub(crate) async fn bill(&self, ask: &Bill) -> anyhow::Result<()> {
        let (Some(project), Some(start), Some(end)) = (&ask.project, &ask.start, &ask.end) else {
            bail!("a bill needs --project, --start and --end");
        };
        let period = [
            ("project", project.as_str()),
            ("start", start),
            ("end", end),
            ("tz", &ask.tz),
            ("detail", ask.detail.as_str()),
        ];
        let url = self.url("/v1/invoices");
        let request = match ask.issue {
            true => {
                let body: serde_json::Map<String, Value> =
                    period.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
                self.client()?.post(url).json(&body)
            }
            false => self.client()?.get(url).query(&period),
        };
        self.print(request, ask.format).await
    }

    pub(crate) async fn explain(&self, ask: &Explain) -> anyhow::Result<()> {
        let tz = ask.start.as_ref().map(|_| ask.tz.clone());
        let bill =
            [("project", &ask.project), ("start", &ask.start), ("end", &ask.end), ("tz", &tz)];
        let bill: Vec<_> =
            bill.into_iter().filter_map(|(key, value)| value.as_ref().map(|v| (key, v))).collect();
        let url = self.url(&format!("/v1/explain/{}", ask.line));
        self.print(self.client()?.get(url).query(&bill), ask.format).await
    }

    pub(crate) async fn plan(&self) -> anyhow::Result<()> {
        self.print(self.client()?.get(self.url("/v1/plan")), Form::Table).await
    }

    fn url(&self, path: &str) -> String {
        match self.config.client.url.trim_end_matches('/') {
            "" => self.config.listen.url(self.config.listen.http) + path,
            url => format!("{url}{path}"),
        }
    }

    async fn print(&self, request: RequestBuilder, form: Form) -> anyhow::Result<()> {
        let mut request = request.header(reqwest::header::ACCEPT, form.accept());
        if !self.token.expose_secret().is_empty() {
            request = request.bearer_auth(self.token.expose_secret());
        }
        let answer = request.send().await.with_context(|| {
            format!("no server answers at {}; start one with `nilometer up`", self.url(""))
        })?;
        let good = answer.status().is_success();
        let missing = answer.headers().get(MISSING_ROWS).and_then(|value| value.to_str().ok());
        if let Some(missing) = missing {
            let mut err = std::io::stderr().lock();
            writeln!(err, "the answer lacks {missing}: files are damaged, try `nilometer repair`")?;
        }
        let body = answer.bytes().await.context("the answer broke off")?;
        if !good {
            bail!("{}", problem(&body));
        }
        let mut out = std::io::stdout().lock();
        out.write_all(&body)?;
        if !body.ends_with(b"\n") {
            out.write_all(b"\n")?;
        }
        Ok(())
    }
}

/// A problem in a line or two, with its place.
fn problem(body: &[u8]) -> String {
    let Ok(problem) = serde_json::from_slice::<Value>(body) else {
        return String::from_utf8_lossy(body).into_owned();
    };
    let text = |key: &str| problem.get(key).and_then(Value::as_str).unwrap_or_default();
    let place = match (problem.get("line"), problem.get("column")) {
        (Some(line), Some(column)) => format!(" (line {line}, column {column})"),
        _ => String::new(),
    };
    format!("{}{place}: {}", text("title"), text("detail"))
}
