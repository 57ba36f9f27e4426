//! What a real process serves over HTTP, as clients meet it.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod authority;
#[path = "../shared/process.rs"]
mod process;
mod secure;

use std::time::Duration;

use nilometer_testbed::schemathesis::Schemathesis;

use crate::process::{Server, Settings};

const PATIENCE: Duration = Duration::from_secs(120);
/// Questions for each operation; the edges of its parameters come beside them.
const EXAMPLES: u32 = 12;

async fn is_ready(server: &Server) {
    let asking = async {
        while server.get("/readyz", "text/plain").await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_as_the_document_has_them() {
    let Some(schemathesis) = Schemathesis::find().unwrap() else { return };
    let folder = tempfile::tempdir().unwrap();
    let text = "[collect]\ninterval = \"500ms\"\nsources = [\"host\"]\n";
    let settings = Settings::write(folder.path(), text).unwrap();
    let mut server = Server::start(&settings, "up").unwrap();
    is_ready(&server).await;
    let (work, document) = (folder.path().to_owned(), server.url("/v1/openapi.json"));
    let asked = move || schemathesis.run(&work, &document, EXAMPLES);
    tokio::task::spawn_blocking(asked).await.unwrap().unwrap();
    server.stop().unwrap();
}
