//! Generated questions: whatever a tenant asks, the other one changes nothing of the answer.

use nilometer_contract::Scope;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{asks, blue, comparable, shows_nothing, store};
use crate::estate::Lie;

const QUESTIONS: usize = 240;

struct Table {
    name: &'static str,
    texts: &'static [&'static str],
    numbers: &'static [&'static str],
    instants: &'static [&'static str],
}

const TABLES: [Table; 4] = [
    Table {
        name: "samples",
        texts: &["meter", "resource", "kind", "project", "node", "source"],
        numbers: &["value"],
        instants: &["at"],
    },
    Table {
        name: "resources",
        texts: &["resource", "kind", "project", "name", "node", "parent", "attributes"],
        numbers: &["length(name)"],
        instants: &["start", "\"end\""],
    },
    Table {
        name: "events",
        texts: &["change", "resource", "kind", "project", "name", "node", "attributes"],
        numbers: &["length(resource)"],
        instants: &["at"],
    },
    Table {
        name: "usage",
        texts: &["resource", "kind", "meter", "project", "unit"],
        numbers: &["quantity", "coverage"],
        instants: &["start", "\"end\""],
    },
];
const TEXTS: [&str; 8] =
    ["'vm-1'", "'vm-2'", "'vm-3'", "'crimson'", "'blue'", "'web'", "'cpu.time'", "'n1'"];
const NUMBERS: [&str; 7] = ["0", "1", "61.5", "777.125", "1554.25", "10000", "3600"];
const INSTANTS: [&str; 3] = [
    "TIMESTAMP '2026-11-02T01:00:00Z'",
    "TIMESTAMP '2026-11-02T02:30:00Z'",
    "TIMESTAMP '2026-11-02T04:40:00Z'",
];
const COMPARED: [&str; 6] = ["=", "<>", "<", "<=", ">", ">="];

struct Author(ChaCha8Rng);

impl Author {
    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of.choose(&mut self.0).copied().unwrap_or_default()
    }

    fn table(&mut self) -> &'static Table {
        &TABLES[self.0.random_range(0..TABLES.len())]
    }

    fn columns(&mut self, table: &Table, prefix: &str) -> String {
        let count = self.0.random_range(1..=3);
        let mut names: Vec<&str> =
            table.texts.choose_multiple(&mut self.0, count).copied().collect();
        if self.0.random() {
            names.push(self.one(table.instants));
        }
        names.iter().map(|name| format!("{prefix}{name}")).collect::<Vec<_>>().join(", ")
    }

    /// A comparison that cannot fail, or one that fails on some rows.
    fn condition(&mut self, table: &Table, depth: usize) -> String {
        match self.0.random_range(0..12) {
            0 | 1 if depth > 0 => {
                let (left, right) =
                    (self.condition(table, depth - 1), self.condition(table, depth - 1));
                format!("({left} {} {right})", self.one(&["AND", "OR"]))
            }
            2 if depth > 0 => format!("NOT ({})", self.condition(table, depth - 1)),
            3 => {
                format!("{} LIKE {}", self.one(table.texts), self.one(&["'%e%'", "'vm-_'", "'c%'"]))
            }
            4 => {
                let (a, b) = (self.one(&TEXTS), self.one(&TEXTS));
                format!("{} IN ({a}, {b})", self.one(table.texts))
            }
            5 => {
                let (number, value) = (self.one(table.numbers), self.one(&NUMBERS));
                format!("1 / CAST({number} - {value} AS BIGINT) > -2")
            }
            6 => format!("CAST({} AS BIGINT) > 1", self.one(table.texts)),
            7 => {
                let (column, text) = (self.one(table.texts), self.one(&TEXTS));
                format!("1 / (CASE WHEN {column} = {text} THEN 0 ELSE 1 END) > 0")
            }
            8 => {
                let (number, compared) = (self.one(table.numbers), self.one(&COMPARED));
                format!("{number} {compared} {}", self.one(&NUMBERS))
            }
            9 => {
                let (instant, compared) = (self.one(table.instants), self.one(&COMPARED));
                format!("{instant} {compared} {}", self.one(&INSTANTS))
            }
            _ => {
                let (text, compared) = (self.one(table.texts), self.one(&COMPARED));
                format!("{text} {compared} {}", self.one(&TEXTS))
            }
        }
    }

    fn question(&mut self) -> String {
        let (table, other) = (self.table(), self.table());
        let (name, condition) = (table.name, self.condition(table, 2));
        let columns = self.columns(table, "");
        match self.0.random_range(0..8) {
            0 => format!(
                "SELECT DISTINCT {columns} FROM {name} WHERE {condition} ORDER BY {columns} LIMIT {}",
                self.0.random_range(1..9)
            ),
            1 => {
                let (text, number) = (self.one(table.texts), self.one(table.numbers));
                format!(
                    "SELECT {text}, count(*) AS n, max({number}) AS most FROM {name} \
                     WHERE {condition} GROUP BY {text} HAVING count(*) > 0"
                )
            }
            2 => {
                let key = self.one(&["resource", "project", "kind"]);
                format!(
                    "SELECT a.{key}, count(*) AS n FROM (SELECT * FROM {name} WHERE {condition}) a \
                     {} JOIN {} b ON a.{key} = b.{key} GROUP BY 1",
                    self.one(&["", "LEFT", "RIGHT", "FULL"]),
                    other.name
                )
            }
            3 => {
                let text = self.one(table.texts);
                let second = self.one(other.texts);
                let union = self.one(&["UNION", "UNION ALL", "INTERSECT", "EXCEPT"]);
                format!(
                    "SELECT {text} AS t FROM {name} WHERE {condition} {union} \
                     SELECT {second} FROM {}",
                    other.name
                )
            }
            4 => format!(
                "SELECT {columns}, (SELECT count(*) FROM {}) AS others FROM {name} WHERE {condition}",
                other.name
            ),
            5 => format!(
                "SELECT {columns}, dense_rank() OVER (ORDER BY {columns}) AS place FROM {name} \
                 WHERE {condition}"
            ),
            6 => format!(
                "WITH them AS (SELECT * FROM {name} WHERE {condition}) SELECT count(*) AS n, \
                 min(resource) AS first, max(resource) AS last FROM them \
                 WHERE EXISTS (SELECT 1 FROM {} o WHERE o.resource = them.resource)",
                other.name
            ),
            _ => format!("SELECT {columns} FROM {name} WHERE {condition}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_tenant_changes_no_answer() {
    let lie = Lie::InFiles;
    let (both, alone) = (store(true, lie).await, store(false, lie).await);
    let mut author = Author(ChaCha8Rng::seed_from_u64(6));
    let (mut rows, mut failed, mut differs) = (0, 0, 0);
    for _ in 0..QUESTIONS {
        let sql = author.question();
        let (found, expected) =
            (asks(&both, &blue(), &sql).await, asks(&alone, &blue(), &sql).await);
        shows_nothing(&sql, &found);
        assert_eq!(comparable(&found), comparable(&expected), "{sql}");
        rows += usize::from(found.lines().count() > 1);
        failed += usize::from(found.starts_with("422 "));
        let all = asks(&both, &Scope::system(), &sql).await;
        differs += usize::from(comparable(&all) != comparable(&found));
    }
    // The questions are worth asking: many have rows, some fail, and most see the other's rows
    // where these may be seen.
    assert!(rows > QUESTIONS / 4, "{rows} have rows");
    assert!(failed > QUESTIONS / 20, "{failed} fail");
    assert!(differs > QUESTIONS / 3, "{differs} are answered otherwise to an operator");
}
