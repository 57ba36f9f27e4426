//! What runs on every node stays light: it reaches none of what only tables and databases need.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The package that nodes get.
const AGENT: &str = "nilometer-agent";
/// What it must not be built with: each costs more than all of the agent.
const TOO_HEAVY: [&str; 7] =
    ["datafusion", "deltalake-core", "object_store", "parquet", "reqwest", "sqlx", "sqlx-core"];

/// One line for each package that the agent must not reach.
pub(super) fn check(metadata: &Value) -> Vec<String> {
    let nodes = metadata["resolve"]["nodes"].as_array().into_iter().flatten();
    let needs: BTreeMap<&str, Vec<&str>> = nodes.filter_map(needed).collect();
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let names: BTreeMap<&str, &str> = packages
        .filter_map(|package| Some((package["id"].as_str()?, package["name"].as_str()?)))
        .collect();
    let Some(agent) = names.iter().find(|(_, name)| **name == AGENT).map(|(id, _)| *id) else {
        return vec![format!("{AGENT} is not a package of the workspace")];
    };
    let mut reached = BTreeSet::from([agent]);
    let mut open = vec![agent];
    while let Some(id) = open.pop() {
        for need in needs.get(id).into_iter().flatten() {
            if reached.insert(need) {
                open.push(need);
            }
        }
    }
    let names = reached.iter().filter_map(|id| names.get(id));
    let heavy = names.filter(|name| TOO_HEAVY.contains(name));
    heavy
        .map(|name| {
            format!(
                "{AGENT} reaches {name}, which no node should have; find the way with \
                 `cargo tree -p {AGENT} -e normal -i {name}`"
            )
        })
        .collect()
}

/// A package's id and those of what it is built with; what only tests or build scripts need is not
/// part of the program.
fn needed(node: &Value) -> Option<(&str, Vec<&str>)> {
    let deps = node["deps"].as_array().into_iter().flatten();
    let in_program = deps.filter(|dep| {
        dep["dep_kinds"].as_array().into_iter().flatten().any(|kind| kind["kind"].is_null())
    });
    Some((node["id"].as_str()?, in_program.filter_map(|dep| dep["pkg"].as_str()).collect()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metadata(kind: Option<&str>) -> Value {
        let package = |name: &str| json!({"id": format!("{name} 1"), "name": name});
        let dep = |name: &str, kind: Option<&str>| json!({"pkg": format!("{name} 1"), "dep_kinds": [{"kind": kind}]});
        json!({
            "packages": [package(AGENT), package("middle"), package("sqlx")],
            "resolve": {"nodes": [
                {"id": format!("{AGENT} 1"), "deps": [dep("middle", None)]},
                {"id": "middle 1", "deps": [dep("sqlx", kind)]},
                {"id": "sqlx 1", "deps": []},
            ]},
        })
    }

    #[test]
    fn what_is_reached_by_way_of_others_shows_and_what_is_for_tests_does_not() {
        assert_eq!(check(&metadata(None)).len(), 1);
        assert!(check(&metadata(Some("dev"))).is_empty());
        assert!(check(&metadata(Some("build"))).is_empty());
        assert_eq!(check(&json!({})).len(), 1);
    }
}
