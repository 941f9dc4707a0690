//! What a release consists of: told completely, the same each time, and readable by somebody else's tool.

use std::process::Command;

use lockstep_e2e::harness::root;
use lockstep_e2e::python;
use serde_json::Value;

#[tokio::test]
async fn the_sbom_is_valid_names_what_is_linked_and_nothing_else_and_is_the_same_twice() {
    let folder = tempfile::tempdir().unwrap();
    let made = |name: &str| {
        let path = folder.path().join(name);
        let output = Command::new(root().join("release/sbom.py")).arg(&path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::read_to_string(path).unwrap()
    };
    let (first, second) = (made("a.json"), made("b.json"));
    assert_eq!(first, second);
    let sbom: Value = serde_json::from_str(&first).unwrap();
    let components = sbom["components"].as_array().unwrap();
    let has = |name: &str| components.iter().any(|c| c["name"] == name);
    assert!(has("kube") && has("rustls") && has("lockstep-providers") && has("tikv-jemalloc-sys"), "what is linked");
    assert!(!has("serde_derive") && !has("proptest") && !has("ring") && !has("wiremock"), "what only builds or tests is not");
    for component in components {
        let name = component["name"].as_str().unwrap();
        assert!(component["licenses"][0]["expression"].is_string(), "{name} has a licence");
        let ours = name.starts_with("lockstep") || name == "gotemplate";
        assert_eq!(component["hashes"].is_null(), ours, "{name}: what comes from the registry has its checksum");
    }
    assert!(!first.contains(&root().display().to_string()), "no path of this machine is in it");

    const VALIDATE: &str = "\
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
wrong = JsonStrictValidator(SchemaVersion.V1_5).validate_str(open(sys.argv[1]).read())
sys.exit(0 if wrong is None else str(wrong))
";
    let python =
        tokio::task::spawn_blocking(|| python::programs(&|text| eprintln!("{text}"))).await.unwrap().unwrap().join("python");
    let validate = |path: &std::path::Path| Command::new(&python).args(["-c", VALIDATE]).arg(path).output().unwrap();
    let output = validate(&folder.path().join("a.json"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::write(
        folder.path().join("broken.json"),
        first.replace("\"bomFormat\": \"CycloneDX\"", "\"bomFormat\": \"another\""),
    )
    .unwrap();
    assert!(!validate(&folder.path().join("broken.json")).status.success(), "the validator refuses what is none");
}

#[tokio::test]
async fn a_known_advisory_against_a_dependency_is_reported_from_a_local_copy_of_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let add = |crate_name: &str, id: &str| {
        let place = folder.path().join("crates").join(crate_name);
        std::fs::create_dir_all(&place).unwrap();
        let text = format!(
            "```toml\n[advisory]\nid = \"{id}\"\npackage = \"{crate_name}\"\ndate = \"2020-01-01\"\n[versions]\npatched = []\n```\n\n# made up\n\nmade up\n"
        );
        std::fs::write(place.join(format!("{id}.md")), text).unwrap();
    };
    let check = || Command::new(root().join("release/advisories")).arg(folder.path()).output().unwrap();
    add("nobody-depends-on-this", "RUSTSEC-2020-9001");
    // cargo-deny tells the age of a copy by this file of git's.
    std::fs::create_dir_all(folder.path().join(".git")).unwrap();
    std::fs::write(folder.path().join(".git/FETCH_HEAD"), "").unwrap();
    let said = |output: &std::process::Output| {
        let both = [&output.stdout[..], &output.stderr[..]].concat();
        String::from_utf8_lossy(&both).into_owned()
    };
    let output = check();
    assert!(output.status.success(), "{}", said(&output));
    // With colours the words are apart.
    assert!(said(&output).contains("advisories"), "{}", said(&output));
    add("bytes", "RUSTSEC-2020-9002");
    let output = check();
    assert!(!output.status.success() && said(&output).contains("RUSTSEC-2020-9002"), "{}", said(&output));
}
