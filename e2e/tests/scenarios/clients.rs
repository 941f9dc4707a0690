//! The clouds' official Python clients against the servers of our own: what the operator is tested against is what they expect.

use std::process::Command;

use lockstep_e2e::azure::Application;
use lockstep_e2e::harness::{azure, gcp, root};
use lockstep_e2e::python;
use lockstep_e2e::rsa::Rsa;

use crate::azure::TENANT;
use lockstep_e2e::case::Case;

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

#[tokio::test]
async fn microsofts_clients_find_in_our_server_what_they_expect() {
    let case = Case::new("az-client").await;
    let (client, rsa) = (format!("app-{}", case.name), Rsa::new("client"));
    let application = Application {
        secrets: vec!["CANARY-client-secret".into()],
        certificates: vec![rsa.certificate()],
        ..Application::default()
    };
    azure().application(TENANT, &client, application);
    let grants =
        ["secrets/", "secrets/app", "secrets/s", "secrets/n", "keys/", "keys/s", "keys/n", "certificates/s", "certificates/n"];
    let mut grants = grants.map(|grant| format!("{}/{grant}", case.name)).to_vec();
    grants.push(format!("{}-registry", case.name));
    azure().grant(&client, &grants.iter().map(String::as_str).collect::<Vec<_>>());
    let file = |name: &str, text: &str| {
        let path = case.harness.folder.path().join(format!("{}.{name}", case.name));
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let authority = file("authority", &azure().authority);
    let pem = file("pem", &format!("{}{}", rsa.pem(), rsa.certificate()));
    let words = [&azure().port.to_string(), &authority, &case.name, TENANT, &client, "CANARY-client-secret", &pem];
    let said = run("azure_client.py", words.map(str::to_owned).into(), Vec::new()).await;
    assert!(said.contains("agree"), "{said}");
}
