//! The intruder: a tenant who asks about another one, on the same nodes, under the same names.
//!
//! Two stores: one holds both tenants, one never held the other. Whatever the tenant asks of the
//! first, it gets the answer of the second, and no name or number of the other one in it.

mod generated;

use nilometer_contract::{
    BatchBuilder, Change, LifecycleEvent, Resource, ResourceKind, Scope, Subject, Timestamp,
    Validity,
};
use nilometer_engine::Limits;
use nilometer_http::{Format, query_problem, render};

use crate::estate::{Estate, Lie, at};

/// What must not be in any answer: projects, ids, names, attributes and readings of the other.
const FORBIDDEN: [&str; 6] = ["crimson", "vm-2", "vm-4", "hidden-flavor", "777.125", "n-other"];

/// Long ids: short texts are kept apart from long ones.
const OURS: &str = "vm-3-on-the-left-bank-of-the-river";
const OTHERS: &str = "vm-4-on-the-right-bank-of-the-river";

/// The tenant that asks.
fn blue() -> Scope {
    Scope::projects([("blue".into(), Validity::ALWAYS)])
}

fn vm(id: &str, project: &str, flavor: &str) -> Resource {
    let mut resource = Resource::new(id, ResourceKind::VM);
    resource.project = project.to_owned();
    // Both tenants call their machines the same.
    resource.name = "web".to_owned();
    resource.node = "n1".to_owned();
    resource.parent = Some("n1".to_owned());
    resource.attributes.insert("vcpus".to_owned(), "2".to_owned());
    resource.attributes.insert("flavor".to_owned(), flavor.to_owned());
    resource
}

fn node() -> Resource {
    let mut node = Resource::new("n1", ResourceKind::NODE);
    node.node = "n1".to_owned();
    node.attributes.insert("vcpus".to_owned(), "8".to_owned());
    node
}

/// Readings of five hours, a row each ten minutes.
fn read(samples: &mut BatchBuilder, resource: &Resource, step: f64) {
    let subject = samples.subject(Subject::from(resource));
    for turn in 0..30_i64 {
        let instant = Timestamp(at("2026-11-02T00:00:00Z").0 + turn * 600_000_000);
        samples.push_named(subject, "cpu.time", instant, turn as f64 * step);
        samples.push_named(subject, "memory.usage", instant, step * 1_024.0);
    }
}

/// The store of the tenant that asks; with the other one, if it is there.
async fn store(with_other: bool, lie: Lie) -> Estate {
    let mut estate = Estate::new(Limits::default()).await;
    let mut ours =
        vec![vm("vm-1", "blue", "small"), vm("vm-3", "blue", "large"), vm(OURS, "blue", "small")];
    let other = [vm("vm-2", "crimson", "hidden-flavor"), vm(OTHERS, "crimson", "hidden-flavor")];
    ours.push(node());
    let all = ours.iter().chain(other.iter().filter(|_| with_other));
    let mut samples = BatchBuilder::new("test");
    for resource in all {
        let (change, instant) = (Change::Created, at("2026-11-02T00:00:00Z"));
        let source = "test".to_owned();
        let resource = resource.clone();
        estate.event(&LifecycleEvent { change, at: instant, resource, source }).await;
    }
    read(&mut samples, &ours[0], 61.5);
    read(&mut samples, &ours[1], 0.0);
    read(&mut samples, &ours[2], 2.5);
    read(&mut samples, &ours[3], 900.0);
    for other in other.iter().filter(|_| with_other) {
        read(&mut samples, other, 777.125);
    }
    // A machine that changed hands: what it was before is the other's.
    if with_other {
        let mut moved = vm("vm-5", "crimson", "hidden-flavor");
        for (change, clock, project, flavor) in [
            (Change::Created, "2026-11-02T01:00:00Z", "crimson", "hidden-flavor"),
            (Change::Changed, "2026-11-02T02:30:00Z", "blue", "small"),
        ] {
            moved.project = project.to_owned();
            moved.attributes.insert("flavor".to_owned(), flavor.to_owned());
            let (resource, source) = (moved.clone(), "test".to_owned());
            estate.event(&LifecycleEvent { change, at: at(clock), resource, source }).await;
        }
    } else {
        let resource = vm("vm-5", "blue", "small");
        let (change, source) = (Change::Changed, "test".to_owned());
        let at = at("2026-11-02T02:30:00Z");
        estate.event(&LifecycleEvent { change, at, resource, source }).await;
    }
    estate.samples(samples).await;
    estate.settle(lie).await;
    estate
}

/// What the tenant gets: rows as CSV, or a problem with its text.
async fn asks(estate: &Estate, scope: &Scope, sql: &str) -> String {
    match estate.engine.query(scope, sql).await {
        Ok(rows) => String::from_utf8(render(&rows, Format::Csv).unwrap()).unwrap(),
        Err(error) => {
            let problem = query_problem(error);
            format!("{} {}: {}", problem.status, problem.title, problem.detail)
        }
    }
}

/// What has to be the same: rows but for their order, which nobody promises without ORDER BY; of an
/// error which one it is, since it tells of the row that came first.
fn comparable(answer: &str) -> Vec<&str> {
    if answer.starts_with("422 ") {
        return vec![answer.split(':').next().unwrap_or_default()];
    }
    let mut lines: Vec<&str> = answer.lines().collect();
    lines.sort_unstable();
    lines
}

fn shows_nothing(sql: &str, answer: &str) {
    // What the question says itself comes back in errors.
    let news = FORBIDDEN.iter().filter(|it| !sql.contains(**it));
    for forbidden in news {
        assert!(!answer.contains(forbidden), "{sql}\n{answer}");
    }
}

/// Without durations and times of day, which differ from run to run, and without what depends on
/// the order in which rows came.
fn without_times(answer: &str) -> String {
    let is_word = |c: char| c.is_alphanumeric() || ".:-".contains(c);
    let mut text = String::new();
    for part in answer.split_inclusive(|c| !is_word(c)) {
        let word = part.trim_end_matches(|c| !is_word(c));
        let number = word.starts_with(|c: char| c.is_ascii_digit());
        let is_time = number && (word.ends_with('s') || word.contains([':', '-']));
        let is_replaced = text.rsplit(',').next().is_some_and(|it| it.contains("row_replacements"));
        text.push_str(match (is_time, is_replaced && number) {
            (false, false) => word,
            _ => "…",
        });
        text.push_str(&part[word.len()..]);
    }
    let text = text.replace("NOT RECORDED", "…");
    let sorted = |line: &str| {
        let mut facts: Vec<&str> = line.split([',', '[', ']']).map(str::trim).collect();
        facts.sort_unstable();
        facts.join(", ")
    };
    text.lines().map(sorted).collect::<Vec<_>>().join("\n")
}

/// Texts in columnar form share buffers with those of other rows; none of these may be sent along.
#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_another_tenant_is_sent() {
    for lie in [Lie::InFiles, Lie::InMemory] {
        let both = store(true, lie).await;
        for table in ["samples", "resources", "events", "usage"] {
            for columns in ["*", "resource", "DISTINCT resource, project", "count(*) AS n"] {
                let sql = format!("SELECT {columns} FROM {table}");
                let rows = both.engine.query(&blue(), &sql).await.unwrap();
                let bytes = render(&rows, Format::Arrow).unwrap();
                for forbidden in FORBIDDEN {
                    let found = bytes.windows(forbidden.len()).any(|it| it == forbidden.as_bytes());
                    assert!(!found, "{lie:?}: {forbidden} is in the answer to {sql}");
                }
            }
        }
    }
}

const TRICKS: &[&str] = &[
    // Every table, as it is and counted.
    "SELECT * FROM samples",
    "SELECT * FROM resources",
    "SELECT * FROM events",
    "SELECT * FROM usage",
    "SELECT * FROM series",
    "SELECT * FROM epochs",
    "SELECT * FROM gaps",
    "SELECT * FROM dead_letters",
    "SELECT * FROM decisions",
    "SELECT * FROM commits",
    "SELECT * FROM audit",
    "SELECT count(*) FROM samples",
    "SELECT count(*), min(at), max(at), sum(value) FROM samples",
    "SELECT count(*) FROM usage",
    "SELECT count(1) FROM events",
    "SELECT 1 FROM samples",
    "SELECT approx_distinct(resource), count(DISTINCT project) FROM samples",
    // Names and ids of the other.
    "SELECT * FROM samples WHERE resource = 'vm-2'",
    "SELECT * FROM resources WHERE project <> 'blue' OR project IS NULL",
    "SELECT * FROM resources WHERE name = 'web'",
    "SELECT * FROM usage WHERE project = 'crimson'",
    "SELECT * FROM events WHERE attributes LIKE '%flavor%'",
    "SELECT * FROM samples WHERE project = 'crimson' OR 1 = 1",
    "SELECT * FROM samples WHERE NOT (project = 'blue')",
    // Unions, subqueries, views, CTEs, windows, joins.
    "SELECT resource FROM samples UNION SELECT resource FROM resources UNION ALL SELECT node FROM events",
    "SELECT (SELECT max(value) FROM samples) AS most",
    "SELECT EXISTS (SELECT 1 FROM samples WHERE value > 20000) AS is_there",
    "SELECT resource FROM resources r WHERE EXISTS (SELECT 1 FROM samples s WHERE s.node = r.node AND s.value > 20000)",
    "WITH all_of_it AS (SELECT * FROM samples) SELECT project, count(*) FROM all_of_it GROUP BY project",
    "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT i, (SELECT count(*) FROM samples) FROM n",
    "SELECT resource, row_number() OVER (ORDER BY resource, at, meter) AS n, rank() OVER (ORDER BY value) AS r FROM samples",
    "SELECT lag(value) OVER (ORDER BY at, resource, meter) AS before, resource FROM samples",
    "SELECT a.resource, b.resource FROM resources a JOIN resources b ON a.node = b.node AND a.name = b.name",
    "SELECT a.resource FROM resources a LEFT ANTI JOIN samples b ON a.resource = b.resource",
    "SELECT a.resource, b.project FROM samples a FULL JOIN resources b ON a.value > b.end",
    "SELECT resource FROM samples INTERSECT SELECT resource FROM resources",
    "SELECT project FROM samples GROUP BY GROUPING SETS ((project), ())",
    "SELECT array_to_string(array_sort(array_agg(DISTINCT resource)), ',') FROM samples",
    "SELECT string_agg(name, ',' ORDER BY resource) FROM resources",
    "SELECT value FROM samples, resources WHERE samples.resource > resources.resource ORDER BY value DESC LIMIT 3",
    // Order and limit.
    "SELECT value FROM samples ORDER BY value DESC LIMIT 1",
    "SELECT resource FROM samples ORDER BY resource DESC LIMIT 1 OFFSET 3",
    "SELECT at FROM samples ORDER BY at LIMIT 5 OFFSET 100",
    "SELECT max(resource), min(resource) FROM samples",
    // Errors as an oracle.
    "SELECT 1 / (value - 777.125) FROM samples",
    "SELECT 1 / CAST(value - 1554.25 AS BIGINT) FROM samples",
    "SELECT 1 / (CASE WHEN project = 'crimson' THEN 0 ELSE 1 END) FROM samples",
    "SELECT * FROM samples WHERE 1 / (CASE WHEN project = 'crimson' THEN 0 ELSE 1 END) > 0",
    "SELECT * FROM usage WHERE 1 / (CASE WHEN project = 'blue' THEN 1 ELSE 0 END) > 0",
    "SELECT * FROM events WHERE CAST(project AS BIGINT) > 0",
    "SELECT count(*) FROM resources WHERE CAST(replace(project, 'blue', '1') AS BIGINT) = 1",
    "SELECT * FROM samples WHERE CAST(replace(project, 'blue', '1') AS BIGINT) = 1",
    "SELECT * FROM samples WHERE CAST(resource AS TIMESTAMP) > at AND project = 'crimson'",
    "SELECT arrow_cast(resource, 'Int64') FROM resources WHERE project = 'crimson'",
    "SELECT repeat('x', CASE WHEN project = 'crimson' THEN 2000000000 ELSE 1 END) FROM samples",
    "SELECT regexp_like(project, '[') FROM samples WHERE project = 'crimson'",
    // What is known of tables.
    "SHOW TABLES",
    "SHOW COLUMNS FROM samples",
    "SHOW COLUMNS FROM decisions",
    "SHOW ALL",
    "DESCRIBE samples",
    "DESCRIBE commits",
    "SELECT table_name, table_type FROM information_schema.tables ORDER BY 1",
    "SELECT table_name, column_name FROM information_schema.columns ORDER BY 1, 2",
    "SELECT * FROM information_schema.views ORDER BY 1, 2, 3",
    "SELECT count(*) FROM information_schema.df_settings",
    "SELECT schema_name FROM information_schema.schemata ORDER BY 1",
    "SELECT * FROM nilometer.public.series",
    "SELECT * FROM datafusion.public.samples",
    "SELECT topic, partition, \"offset\", log FROM events",
    // Plans.
    "EXPLAIN SELECT * FROM samples",
    "EXPLAIN VERBOSE SELECT count(*) FROM samples WHERE resource = 'vm-2'",
    "EXPLAIN FORMAT TREE SELECT * FROM usage WHERE project = 'crimson'",
    "EXPLAIN FORMAT GRAPHVIZ SELECT * FROM events",
    "EXPLAIN FORMAT PGJSON SELECT * FROM resources",
    "EXPLAIN SELECT a.resource FROM samples a JOIN resources b ON a.resource = b.resource JOIN events c ON c.resource = a.resource",
    "EXPLAIN ANALYZE SELECT count(*) FROM samples",
    "EXPLAIN ANALYZE SELECT * FROM samples WHERE resource = 'vm-2'",
    "EXPLAIN ANALYZE VERBOSE SELECT * FROM samples WHERE value > 100 ORDER BY value LIMIT 3",
    "EXPLAIN ANALYZE SELECT project, sum(quantity) FROM usage GROUP BY project",
    "EXPLAIN ANALYZE SELECT * FROM resources r JOIN samples s ON r.resource = s.resource",
    // What would change something, or read something else.
    "CREATE VIEW all_of_it AS SELECT * FROM samples",
    "CREATE EXTERNAL TABLE x STORED AS PARQUET LOCATION '/'",
    "COPY (SELECT * FROM samples) TO '/dev/null'",
    "INSERT INTO samples SELECT * FROM samples",
    "SET datafusion.catalog.information_schema = false",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM parquet_metadata('samples')",
    "SELECT * FROM samples; SELECT * FROM gaps",
    "PREPARE p AS SELECT * FROM samples",
];

#[tokio::test(flavor = "multi_thread")]
async fn no_trick_shows_another_tenant() {
    for lie in [Lie::InFiles, Lie::InMemory] {
        let (both, alone) = (store(true, lie).await, store(false, lie).await);
        let other = asks(&both, &Scope::system(), "SELECT * FROM resources").await;
        assert!(other.contains("crimson") && other.contains("vm-2"), "the other one is there");
        for sql in TRICKS {
            let (found, expected) =
                (asks(&both, &blue(), sql).await, asks(&alone, &blue(), sql).await);
            shows_nothing(sql, &found);
            let (found, expected) = match sql.contains("ANALYZE") {
                true => (without_times(&found), without_times(&expected)),
                false => (found, expected),
            };
            assert_eq!(comparable(&found), comparable(&expected), "{lie:?}: {sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_nobody_is_the_operators() {
    let both = store(true, Lie::InMemory).await;
    for sql in ["SELECT * FROM resources", "SELECT * FROM samples", "SELECT * FROM events"] {
        let found = asks(&both, &blue(), sql).await;
        assert!(!found.contains(",n1,node,") && !found.contains("\nn1,"), "{sql}\n{found}");
        let nobody = Scope::projects([("".into(), Validity::ALWAYS)]);
        for scope in [nobody, Scope::projects([])] {
            assert_eq!(asks(&both, &scope, sql).await.lines().count(), 1, "{sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_is_seen_while_it_is_valid() {
    let both = store(true, Lie::InFiles).await;
    let validity = Validity { start: at("2026-11-02T01:00:00Z"), end: at("2026-11-02T02:00:00Z") };
    let scope = Scope::projects([("blue".into(), validity)]);
    let sql = "SELECT min(at) AS first, max(at) AS last, count(*) AS n FROM samples";
    let found = asks(&both, &scope, sql).await;
    assert_eq!(found, "first,last,n\n2026-11-02T01:00:00Z,2026-11-02T01:50:00Z,36\n");
    let sql = "SELECT DISTINCT start, \"end\" FROM usage WHERE meter = 'cpu.time'";
    let found = asks(&both, &scope, sql).await;
    assert_eq!(found, "start,end\n2026-11-02T01:00:00Z,2026-11-02T02:00:00Z\n");
    let sql = "SELECT resource, start, \"end\", current FROM resources ORDER BY 1";
    let found = asks(&both, &scope, sql).await;
    let hour = "2026-11-02T01:00:00Z,2026-11-02T02:00:00Z,false";
    assert_eq!(
        found,
        format!("resource,start,end,current\nvm-1,{hour}\nvm-3,{hour}\n{OURS},{hour}\n")
    );
    assert_eq!(asks(&both, &scope, "SELECT * FROM events").await.lines().count(), 1);
}
