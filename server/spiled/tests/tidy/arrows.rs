//! Who may import whom, read from the manifests.

use super::SourceFile;

/// A crate, what it may import of ours, and what its tests may import beside that.
struct Rule {
    name: &'static str,
    may: &'static [&'static str],
    tests_may: &'static [&'static str],
}

const ALL: &[&str] = &[
    "spile-protocol",
    "spile-log",
    "spile-edge",
    "spile-worker",
    "spile-client",
    "spile-cli",
    "spiled",
    "spile-sim",
    "spile-benches",
    "spile-examples",
];

const fn rule(
    name: &'static str,
    may: &'static [&'static str],
    tests_may: &'static [&'static str],
) -> Rule {
    Rule { name, may, tests_may }
}

const RULES: &[Rule] = &[
    rule("spile-protocol", &[], &[]),
    rule("spile-log", &[], &[]),
    rule("spile-worker", &["spile-protocol", "spile-log"], &[]),
    rule("spile-edge", &["spile-protocol", "spile-log"], &[]),
    rule(
        "spiled",
        &["spile-edge", "spile-worker", "spile-log", "spile-protocol"],
        &["spile-client", "spile-cli"],
    ),
    rule("spile-client", &["spile-protocol"], &[]),
    rule("spile-cli", &["spile-client", "spile-protocol"], &[]),
    rule("spile-sim", ALL, ALL),
    rule("spile-benches", ALL, ALL),
    rule("spile-fuzz", ALL, ALL),
    rule("spile-examples", &["spile-client", "spile-protocol"], &[]),
    rule("spile-firmware", &["spile-client", "spile-protocol"], &[]),
];

pub(crate) fn complaints(manifests: &[SourceFile]) -> Vec<String> {
    manifests.iter().flat_map(|file| of_manifest(&file.path, &file.text)).collect()
}

pub(crate) fn without_lints(manifests: &[SourceFile]) -> Vec<String> {
    let keeps = |manifest: &toml::Table| {
        let lints = manifest.get("lints").and_then(|lints| lints.get("workspace"));
        lints.and_then(toml::Value::as_bool) == Some(true)
    };
    manifests
        .iter()
        .filter_map(|file| Some((file, file.text.parse::<toml::Table>().ok()?)))
        // fuzz and firmware are workspaces of their own.
        .filter(|(_, manifest)| manifest.contains_key("package") && !own_workspace(manifest))
        .filter(|(_, manifest)| !keeps(manifest))
        .map(|(file, _)| format!("{}: no `[lints] workspace = true`; add it", file.path))
        .collect()
}

fn own_workspace(manifest: &toml::Table) -> bool {
    manifest.contains_key("workspace")
}

fn of_manifest(path: &str, text: &str) -> Vec<String> {
    let Ok(manifest) = text.parse::<toml::Table>() else {
        return vec![format!("{path}: not TOML; mend it")];
    };
    let Some(name) = manifest.get("package").and_then(|package| package.get("name")?.as_str())
    else {
        return Vec::new();
    };
    let Some(rule) = RULES.iter().find(|rule| rule.name == name) else {
        return vec![format!("{path}: {name} has no rule; draw its arrows in the design and here")];
    };
    let mut complaints = Vec::new();
    for (import, for_tests) in imports(&manifest) {
        let may = rule.may.contains(&import.as_str());
        // A crate's tests may take it once more with other features.
        let tests_may = for_tests && (rule.tests_may.contains(&import.as_str()) || import == name);
        if !may && !tests_may {
            complaints.push(format!(
                "{path}: {name} may not import {import}; move down the type that is wanted"
            ));
        }
    }
    complaints
}

/// Our crates that a manifest imports, and whether for its tests only.
fn imports(manifest: &toml::Table) -> Vec<(String, bool)> {
    let mut tables = vec![manifest];
    if let Some(targets) = manifest.get("target").and_then(toml::Value::as_table) {
        tables.extend(targets.values().filter_map(toml::Value::as_table));
    }
    let mut found = Vec::new();
    for table in tables {
        for (section, for_tests) in
            [("dependencies", false), ("build-dependencies", false), ("dev-dependencies", true)]
        {
            let entries = table.get(section).and_then(toml::Value::as_table);
            for (key, value) in entries.into_iter().flatten() {
                // A crate may be imported under another name.
                let package = value.get("package").and_then(toml::Value::as_str).unwrap_or(key);
                if ALL.contains(&package) {
                    found.push((package.to_owned(), for_tests));
                }
            }
        }
    }
    found
}

#[test]
fn an_arrow_the_wrong_way_is_found() {
    for (crate_name, section, import, fails) in [
        ("spile-edge", "dependencies", "spile-worker", true),
        ("spile-worker", "dependencies", "spile-edge", true),
        ("spile-edge", "dev-dependencies", "spile-worker", true),
        ("spile-edge", "target.'cfg(unix)'.dependencies", "spile-worker", true),
        ("spile-protocol", "dependencies", "spile-log", true),
        ("spile-protocol", "dev-dependencies", "spile-client", true),
        ("spile-log", "build-dependencies", "spile-protocol", true),
        ("spile-client", "dependencies", "spile-edge", true),
        ("spile-cli", "dependencies", "spiled", true),
        ("spiled", "dependencies", "spile-client", true),
        ("spiled", "dev-dependencies", "spile-client", false),
        ("spile-log", "dev-dependencies", "spile-log", false),
        ("spiled", "dependencies", "spile-edge", false),
        ("spile-edge", "dependencies", "spile-log", false),
        ("spile-benches", "dependencies", "spile-worker", false),
        ("spile-new", "dependencies", "serde", true),
    ] {
        let text = format!("[package]\nname = \"{crate_name}\"\n[{section}]\n{import} = \"1\"\n");
        let sample = [SourceFile::sample("x/Cargo.toml", &text)];
        assert_eq!(!complaints(&sample).is_empty(), fails, "{text}");
    }
    let renamed = "[package]\nname = \"spile-edge\"\n[dependencies]\n\
                   store = { package = \"spile-worker\", path = \"../worker\" }\n";
    assert_eq!(complaints(&[SourceFile::sample("x/Cargo.toml", renamed)]).len(), 1);
}

#[test]
fn a_crate_without_lints_is_found() {
    for (text, fails) in [
        ("[package]\nname = \"a\"\n", true),
        ("[package]\nname = \"a\"\n[lints]\nworkspace = false\n", true),
        ("[package]\nname = \"a\"\n[lints.rust]\nunsafe_code = \"warn\"\n", true),
        ("[package]\nname = \"a\"\n[lints]\nworkspace = true\n", false),
        ("[workspace]\n[package]\nname = \"spile-fuzz\"\n", false),
    ] {
        let sample = [SourceFile::sample("x/Cargo.toml", text)];
        assert_eq!(!without_lints(&sample).is_empty(), fails, "{text}");
    }
}
