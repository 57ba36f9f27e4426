//! What filters leave unread. A file that is gone tells whether a query wanted it.

use crate::estate::{Lie, small};

#[tokio::test(flavor = "multi_thread")]
async fn files_outside_the_time_asked_for_are_not_opened() {
    let estate = small(Lie::InFiles).await;
    let gone = estate.folder.path().join("tables/samples/day=2026-11-02");
    std::fs::remove_dir_all(gone).unwrap();
    for filter in [
        "at >= '2026-11-02T23:00:00Z'",
        "at > TIMESTAMP '2026-11-02T23:00:00'",
        "'2026-11-02T23:00:00Z' < at AND value > 0",
        "at BETWEEN '2026-11-03' AND '2026-11-04'",
        "at = '2026-11-03T00:00:00Z'",
        "at >= to_timestamp('2026-11-02T23:00:00.000000001Z')",
        "at >= TIMESTAMP '2026-11-04T00:00:00Z' - INTERVAL '1 day'",
        "meter = 'cpu.time' AND project = 'blue' AND at >= '2026-11-02T23:00:00Z'",
    ] {
        let sql = format!("SELECT value FROM samples WHERE {filter}");
        let told = estate.ask(&sql).await;
        assert!(told.as_ref().is_ok_and(|told| told.contains("1000.0")), "{filter}: {told:?}");
    }
    for filter in ["true", "at >= '2026-11-02T00:20:00Z'", "value > 0"] {
        let sql = format!("SELECT value FROM samples WHERE {filter}");
        assert!(estate.ask(&sql).await.is_err(), "{filter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_answered_before_files_are_opened() {
    let estate = small(Lie::InFiles).await;
    let explain = async |sql: &str| estate.ask(&format!("EXPLAIN {sql}")).await.unwrap();
    let plan =
        explain("SELECT value FROM samples WHERE resource = 'vm-b' AND meter LIKE 'mem%'").await;
    assert!(plan.contains("series=1") && !plan.contains("FilterExec"), "{plan}");
    let plan = explain("SELECT date_trunc('hour', at), count(*) FROM samples GROUP BY 1").await;
    assert!(plan.contains("date_bin("), "{plan}");
    std::fs::remove_dir_all(estate.folder.path().join("tables/samples")).unwrap();
    let told = estate.ask("SELECT count(*) FROM samples WHERE resource = 'nobody'").await.unwrap();
    assert!(told.contains("| 0 "), "{told}");
}

/// How many samples there are, and when the first and the last was, is known without reading any.
#[tokio::test(flavor = "multi_thread")]
async fn counts_and_extents_of_samples_are_read_from_no_file() {
    for lie in [Lie::InFiles, Lie::InMemory] {
        let estate = small(lie).await;
        let asked =
            "SELECT count(*) AS n, count(meter) AS m, min(at) AS a, max(at) AS b FROM samples";
        let plan = estate.ask(&format!("EXPLAIN {asked}")).await.unwrap();
        assert!(plan.contains("PlaceholderRowExec") && !plan.contains("LabelExec"), "{plan}");
        let read = estate.ask(&format!("{asked} WHERE value = value")).await.unwrap();
        assert_eq!(estate.ask(asked).await.unwrap(), read);
    }
}

/// What asks for labels alone gets them from one row a series.
#[tokio::test(flavor = "multi_thread")]
async fn questions_about_labels_read_each_series_once() {
    for lie in [Lie::InFiles, Lie::InMemory] {
        let estate = small(lie).await;
        for asked in [
            "SELECT DISTINCT resource, meter FROM samples ORDER BY 1, 2",
            "SELECT count(DISTINCT resource) FROM samples",
            "SELECT kind, project FROM samples GROUP BY kind, project ORDER BY 1, 2",
            "SELECT DISTINCT upper(project) AS p FROM samples WHERE kind = 'vm' ORDER BY 1",
        ] {
            let plan = estate.ask(&format!("EXPLAIN {asked}")).await.unwrap();
            assert!(plan.contains("once per series"), "{asked}: {plan}");
            // The same with a filter that every row passes, which has to read all of them.
            let read = match asked.contains("WHERE") {
                true => asked.replace("WHERE", "WHERE value = value AND"),
                false => asked.replace("FROM samples", "FROM samples WHERE value = value"),
            };
            let plan = estate.ask(&format!("EXPLAIN {read}")).await.unwrap();
            assert!(!plan.contains("once per series"), "{read}: {plan}");
            assert_eq!(estate.ask(asked).await.unwrap(), estate.ask(&read).await.unwrap());
        }
        for asked in [
            "SELECT kind, count(*) FROM samples GROUP BY kind",
            "SELECT DISTINCT kind, value FROM samples",
            "SELECT kind FROM samples",
            "SELECT DISTINCT random() < 2 AS r, kind FROM samples",
        ] {
            let plan = estate.ask(&format!("EXPLAIN {asked}")).await.unwrap();
            assert!(!plan.contains("once per series"), "{asked}: {plan}");
        }
    }
}

/// A state is looked up by what a filter demands, and only columns that are asked for are made.
#[tokio::test(flavor = "multi_thread")]
async fn states_are_looked_up_by_their_filters() {
    let estate = small(Lie::InFiles).await;
    for (asked, all) in [
        ("resource = 'vm-a'", "concat(resource, '') = 'vm-a'"),
        ("project = 'red' AND kind = 'vm'", "concat(project, kind) = 'redvm'"),
        ("node = 'n1' AND current", "concat(node, '') = 'n1' AND current"),
        ("resource = 'nobody'", "concat(resource, '') = 'nobody'"),
        ("resource = 'vm-a' AND project = 'red'", "concat(resource, project) = 'vm-ared'"),
    ] {
        let rows = |filter| format!("SELECT * FROM resources WHERE {filter} ORDER BY 1, start");
        assert_eq!(estate.ask(&rows(asked)).await.unwrap(), estate.ask(&rows(all)).await.unwrap());
        let count = |filter| format!("SELECT count(*) FROM resources WHERE {filter}");
        let (few, many) = (estate.ask(&count(asked)).await, estate.ask(&count(all)).await);
        assert_eq!(few.unwrap(), many.unwrap(), "{asked}");
    }
}
