//! Dependencies: they point to the left, the heavy ones come once and not on nodes, and their
//! licences fit ours.

mod licences;
mod light;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::phases::read;

/// The folders in data order; a folder may depend on those before it.
const FOLDERS: [&str; 6] = ["collectors", "pipeline", "query", "billing", "scheduler", "deploy"];

/// Starts real services; packages, daemons and all. Tests and chores may use it, products not.
const TEST_BED: &str = "nilometer-testbed";

/// A second version of one of these costs minutes of build, or types that do not fit together.
const HEAVY: [&str; 10] = [
    "arrow",
    "axum",
    "datafusion",
    "deltalake-core",
    "object_store",
    "parquet",
    "prost",
    "rdkafka",
    "tokio",
    "tonic",
];

/// Fails with every fault, one per line.
pub(crate) fn run(root: &Path) -> Result<()> {
    let metadata = metadata(root)?;
    let packages = packages(&metadata, root)?;
    let mut faults = directions(&packages);
    faults.extend(versions(&packages));
    faults.extend(licences::check(&packages));
    faults.extend(light::check(&metadata));
    for fault in &faults {
        println!("{fault}");
    }
    if !faults.is_empty() {
        bail!("{} faults in the dependencies", faults.len());
    }
    println!(
        "dependencies: {} packages, direction, versions and licences are well",
        packages.len()
    );
    Ok(())
}

/// One package of the tree, ours or not.
struct Package {
    name: String,
    version: String,
    licence: Option<String>,
    /// Where it lies in our tree; none if it is not ours.
    folder: Option<String>,
    needs: Vec<Dependency>,
}

struct Dependency {
    name: String,
    for_tests: bool,
}

fn metadata(root: &Path) -> Result<Value> {
    // What other systems would need is neither fetched nor built, so neither judged.
    let host = read(Command::new("rustc").args(["--print", "host-tuple"]))?;
    let host = String::from_utf8(host)?;
    let mut command = Command::new("cargo");
    command.args(["metadata", "--format-version", "1", "--filter-platform", host.trim()]);
    if crate::ci::is_ci() {
        command.arg("--locked");
    }
    let output = read(command.current_dir(root))?;
    serde_json::from_slice(&output).context("cargo metadata gave no JSON")
}

fn packages(metadata: &Value, root: &Path) -> Result<Vec<Package>> {
    let root = root.canonicalize()?;
    let listed = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    listed
        .iter()
        .map(|package| {
            let manifest = text(&package["manifest_path"]).context("a package has no manifest")?;
            let ours = package["source"].is_null();
            let folder = Path::new(&manifest).strip_prefix(&root).ok().filter(|_| ours);
            let first = folder.and_then(|path| path.components().next());
            let needs = package["dependencies"].as_array().into_iter().flatten();
            Ok(Package {
                name: text(&package["name"]).context("a package has no name")?,
                version: text(&package["version"]).context("a package has no version")?,
                licence: text(&package["license"]),
                folder: first.map(|part| part.as_os_str().to_string_lossy().into_owned()),
                needs: needs
                    .filter_map(|need| {
                        let for_tests = need["kind"] == "dev";
                        Some(Dependency { name: text(&need["name"])?, for_tests })
                    })
                    .collect(),
            })
        })
        .collect()
}

fn directions(packages: &[Package]) -> Vec<String> {
    let ours: BTreeMap<&str, &str> = packages
        .iter()
        .filter_map(|package| Some((package.name.as_str(), package.folder.as_deref()?)))
        .collect();
    let rank = |folder: &str| FOLDERS.iter().position(|&known| known == folder);
    let mut faults = Vec::new();
    for package in packages {
        let Some(from) = &package.folder else { continue };
        let Some(place) = rank(from) else {
            faults.push(format!("{}: {from}/ is not one of {}", package.name, FOLDERS.join(", ")));
            continue;
        };
        for need in &package.needs {
            let Some(to) = ours.get(need.name.as_str()) else { continue };
            let aid = need.name == TEST_BED;
            let to_the_right = rank(to).is_some_and(|needed| needed > place);
            if aid && !need.for_tests && package.name != "xtask" {
                faults.push(format!(
                    "{}: {TEST_BED} is for tests; make it a dev-dependency",
                    package.name
                ));
            } else if to_the_right && !aid {
                faults.push(format!(
                    "{} in {from}/ depends on {} in {to}/, which lies to the right of it: \
                     let the left own what both need",
                    package.name, need.name
                ));
            }
        }
    }
    faults
}

fn versions(packages: &[Package]) -> Vec<String> {
    let found = |name: &str| -> BTreeSet<&str> {
        packages.iter().filter(|p| p.name == name).map(|p| p.version.as_str()).collect()
    };
    HEAVY
        .iter()
        .map(|&name| (name, found(name)))
        .filter(|(_, versions)| versions.len() > 1)
        .map(|(name, versions)| {
            let versions = Vec::from_iter(versions).join(" and ");
            format!("{name} comes in versions {versions}; find who asks with `cargo tree -d`")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, folder: Option<&str>, needs: &[(&str, bool)]) -> Package {
        Package {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            licence: Some("MIT".to_owned()),
            folder: folder.map(str::to_owned),
            needs: needs
                .iter()
                .map(|&(name, for_tests)| Dependency { name: name.to_owned(), for_tests })
                .collect(),
        }
    }

    fn faults(needs: &[(&str, bool)]) -> Vec<String> {
        directions(&[
            package("sql", Some("query"), needs),
            package("contract", Some("collectors"), &[]),
            package("usage", Some("query"), &[]),
            package("rating", Some("billing"), &[]),
            package(TEST_BED, Some("deploy"), &[("contract", false)]),
            package("tokio", None, &[]),
        ])
    }

    #[test]
    fn to_the_left_and_beside_is_right() {
        assert!(faults(&[("contract", false), ("usage", false), ("tokio", false)]).is_empty());
    }

    #[test]
    fn to_the_right_is_wrong_even_for_tests() {
        assert_eq!(faults(&[("rating", false)]).len(), 1);
        assert_eq!(faults(&[("rating", true)]).len(), 1);
    }

    #[test]
    fn the_test_bed_is_for_tests() {
        assert!(faults(&[(TEST_BED, true)]).is_empty());
        assert_eq!(faults(&[(TEST_BED, false)]).len(), 1);
    }

    #[test]
    fn a_second_version_shows() {
        let older = Package { version: "0.9.0".to_owned(), ..package("tonic", None, &[]) };
        let both = [package("tonic", None, &[]), older, package("rand", None, &[])];
        assert_eq!(versions(&both).len(), 1);
        assert!(versions(&both[..1]).is_empty());
    }
}
