//! Questions and answers as text, in `golden/`: a query, `----`, its answer, an empty line.
//!
//! `NILOMETER_GOLDEN=write` writes the answers of now into the files.

use std::path::Path;

use crate::estate::{Estate, Lie, small};

async fn answers(estate: &Estate, text: &str) -> String {
    let mut told = Vec::new();
    for case in text.trim_end().split("\n\n") {
        let sql = case.split("\n----\n").next().unwrap_or(case);
        let answer = match estate.ask(sql).await {
            Ok(answer) => answer.trim_end().to_owned(),
            Err(error) => {
                let problem = nilometer_http::query_problem(error);
                let place = problem.line.zip(problem.column);
                let place = place.map(|(line, column)| format!(" at {line}:{column}"));
                format!("{}{}: {}", problem.title, place.unwrap_or_default(), problem.detail)
            }
        };
        told.push(format!("{sql}\n----\n{answer}\n"));
    }
    told.join("\n")
}

async fn check(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sql/golden").join(name);
    let expected = std::fs::read_to_string(&path).unwrap();
    if std::env::var_os("NILOMETER_GOLDEN").is_some_and(|wish| wish == "write") {
        let told = answers(&small(Lie::InFiles).await, &expected).await;
        std::fs::write(&path, told).unwrap();
        return;
    }
    for lie in [Lie::InFiles, Lie::InMemory] {
        let told = answers(&small(lie).await, &expected).await;
        assert!(told == expected, "{name}, rows {lie:?}; now it is\n{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn samples() {
    check("samples.txt").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables() {
    check("tables.txt").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage() {
    check("usage.txt").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals() {
    check("refusals.txt").await;
}
