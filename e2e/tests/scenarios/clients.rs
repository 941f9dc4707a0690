//! The clouds' official Python clients against the servers of our own: what the operator is tested against is what they expect.

use std::process::Command;

use lockstep_e2e::harness::{gcp, root};
use lockstep_e2e::python;

use crate::case::Case;

/// Runs a script of `e2e/python`; answers what it says.
async fn run(script: &str, arguments: Vec<String>, environment: Vec<(String, String)>) -> String {
    let script = root().join("e2e/python").join(script);
    let ran = tokio::task::spawn_blocking(move || {
        let programs = python::programs(&|text| eprintln!("{text}")).unwrap();
        Command::new(programs.join("python")).arg(script).args(arguments).envs(environment).output().unwrap()
    });
    let output = ran.await.unwrap();
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{wrong}");
    said.into_owned()
}

#[tokio::test]
async fn googles_client_finds_in_our_server_what_it_expects() {
    let case = Case::new("gcp-client").await;
    let email = format!("client@{}.iam.gserviceaccount.com", case.name);
    let project = format!("projects/{}", case.name);
    gcp().grant(&email, &[&format!("{project}/"), &format!("{project}/secrets/s"), &format!("{project}/secrets/no")]);
    let file = case.harness.folder.path().join(format!("{}.json", case.name));
    std::fs::write(&file, gcp().account(&email).to_string()).unwrap();
    let arguments = vec![gcp().url.clone(), file.display().to_string(), case.name.clone()];
    let said = run("google_client.py", arguments, Vec::new()).await;
    assert!(said.contains("agree"), "{said}");
}
