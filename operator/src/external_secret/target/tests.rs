//! Tables for what a Secret should be, and whose it is.

use super::*;

fn object(policy: &str) -> ExternalSecret {
    serde_json::from_value(json!({
        "apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret",
        "metadata": {"name": "es", "namespace": "ns", "uid": "uid-1", "labels": {"team": "a"},
            "annotations": {"force-sync": "1", "kubectl.kubernetes.io/last-applied-configuration": "{}", "note": "n"}},
        "spec": {"target": {"creationPolicy": policy, "name": "t"}},
    }))
    .unwrap()
}

fn data(pairs: &[(&str, &str)]) -> BTreeMap<String, SecretBytes> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), SecretBytes::from(*v))).collect()
}

fn desired(policy: &str, pairs: &[(&str, &str)]) -> Desired {
    Desired::new(&object(policy), Content::of_data(data(pairs))).unwrap()
}

fn secret(manifest: &Manifest<'_>) -> Secret {
    serde_json::from_value(serde_json::to_value(manifest).unwrap()).unwrap()
}

fn foreign_secret(meta: Value) -> Secret {
    let mut all = json!({"name": "t", "namespace": "ns", "uid": "s"});
    all.as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
    serde_json::from_value(json!({"metadata": all, "data": {"k": STANDARD.encode("old")}})).unwrap()
}

#[test]
fn what_was_written_is_kept_and_every_difference_is_seen() {
    for policy in ["Owner", "Orphan"] {
        let d = desired(policy, &[("k", "v")]);
        let written = secret(&d.manifest(None));
        assert_eq!(judge(&written, &d, false), Verdict::Keep, "{policy}");
        for change in [
            |s: &mut Secret| drop(s.data.as_mut().unwrap().remove("k")),
            |s: &mut Secret| drop(s.data.as_mut().unwrap().insert("more".into(), k8s_openapi::ByteString(vec![]))),
            |s: &mut Secret| s.data.as_mut().unwrap().get_mut("k").unwrap().0 = b"x".to_vec(),
            |s: &mut Secret| drop(s.metadata.labels.as_mut().unwrap().remove("team")),
            |s: &mut Secret| drop(s.metadata.annotations.as_mut().unwrap().remove("note")),
        ] {
            let mut touched = written.clone();
            change(&mut touched);
            assert_eq!(judge(&touched, &d, true), Verdict::Write, "{policy}");
        }
    }
    let d = desired("Owner", &[("k", "v")]);
    assert_ne!(d.hash, desired("Owner", &[("k", "w")]).hash);
    assert_ne!(d.hash, desired("Orphan", &[("k", "v")]).hash);
    assert!(!d.annotations.contains_key("force-sync") && d.annotations.contains_key("note"));
}

#[test]
fn somebody_elses_secret_is_refused_with_both_names_and_a_way_out() {
    let owner = |kind: &str, name: &str, uid: &str| json!({"ownerReferences": [{"apiVersion": "v1", "kind": kind, "name": name, "uid": uid, "controller": true}]});
    let by = |manager: &str| {
        json!({"labels": {LABEL_MANAGED: "true"}, "managedFields": [{"manager": manager, "operation": "Apply",
        "fieldsV1": {"f:metadata": {"f:labels": {format!("f:{LABEL_MANAGED}"): {}}}}}]})
    };
    for (meta, bound, needle) in [
        (json!({}), false, Some("was not made by ExternalSecret ns/es")),
        (json!({}), true, None),
        (json!({"labels": {LABEL_MANAGED: "true"}}), false, None),
        (by("kubectl"), false, None),
        (by("lockstep-0123"), false, Some("was not made by ExternalSecret ns/es")),
        (
            json!({"labels": {LABEL_MANAGED: "true", LABEL_CREATED_BY: "other"}}),
            true,
            Some("was made by another ExternalSecret than ns/es"),
        ),
        (owner("ExternalSecret", "es", "uid-1"), false, None),
        (owner("ExternalSecret", "es", "uid-0"), true, Some("still belongs to a deleted ExternalSecret ns/es")),
        (owner("ExternalSecret", "other", "uid-2"), true, Some("belongs to ExternalSecret ns/other, not to ns/es")),
        (owner("Certificate", "cert", "uid-3"), true, Some("belongs to Certificate cert")),
    ] {
        let verdict = judge(&foreign_secret(meta.clone()), &desired("Owner", &[("k", "v")]), bound);
        match (needle, &verdict) {
            (None, Verdict::Write) => {}
            (Some(needle), Verdict::Refuse(why)) if why.contains(needle) => {}
            _ => panic!("{meta} {bound}: {verdict:?}"),
        }
    }
    // The Merge policies write only their own keys, so whose Secret it is does not matter.
    assert_eq!(judge(&foreign_secret(json!({})), &desired("Merge", &[("k", "v")]), false), Verdict::Write);
    for type_ in CLUSTER_CREDENTIALS {
        let token = Secret { type_: Some(type_.into()), ..foreign_secret(json!({})) };
        let Verdict::Refuse(why) = judge(&token, &desired("Merge", &[("k", "v")]), false) else { panic!("{type_} is written") };
        assert!(why.contains(type_), "{why}");
    }
}

#[test]
fn a_policy_that_no_longer_owns_takes_its_owner_reference_off() {
    let written = secret(&desired("Owner", &[("k", "v")]).manifest(None));
    let orphan = desired("Orphan", &[("k", "v")]);
    assert_eq!(judge(&written, &orphan, true), Verdict::Write);
    assert!(secret(&orphan.replacement(&written)).metadata.owner_references.is_none_or(|o| o.is_empty()));
}

#[test]
fn an_immutable_or_differently_typed_secret_is_an_error_and_no_write() {
    let d = desired("Owner", &[("k", "v")]);
    let mut written = secret(&d.manifest(None));
    written.immutable = Some(true);
    assert_eq!(judge(&written, &d, true), Verdict::Keep);
    let changed = desired("Owner", &[("k", "w")]);
    assert!(matches!(judge(&written, &changed, true), Verdict::Fixed(why) if why.contains("immutable")));
    let mut typed = object("Owner");
    typed.spec.target.template = Some(serde_json::from_value(json!({"type": "kubernetes.io/basic-auth"})).unwrap());
    let typed = Desired::new(&typed, Content::of_data(data(&[("password", "p")]))).unwrap();
    let plain = secret(&desired("Owner", &[("password", "p")]).manifest(None));
    assert!(matches!(judge(&plain, &typed, true), Verdict::Fixed(why) if why.contains("type Opaque")));
}

#[test]
fn a_replacement_keeps_what_others_added_and_drops_what_was_ours() {
    let d = desired("Owner", &[("k", "v")]);
    let mut existing = foreign_secret(json!({
        "labels": {"theirs": "x", "ours-before": "y", "team": "old"}, "finalizers": ["keep.example/it"],
        "managedFields": [
            {"manager": "lockstep", "operation": "Update", "fieldsV1": {"f:metadata": {"f:labels": {"f:ours-before": {}, "f:team": {}}}}},
            {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:metadata": {"f:labels": {"f:theirs": {}}}}},
        ],
    }));
    existing.metadata.resource_version = Some("9".into());
    let replacement = secret(&d.replacement(&existing));
    let labels = replacement.metadata.labels.unwrap();
    assert_eq!(labels.get("theirs").map(String::as_str), Some("x"));
    assert_eq!(labels.get("team").map(String::as_str), Some("a"));
    assert!(!labels.contains_key("ours-before"));
    assert_eq!(replacement.metadata.finalizers.unwrap(), ["keep.example/it"]);
    assert_eq!(replacement.metadata.resource_version.as_deref(), Some("9"));
    assert_eq!(replacement.data.unwrap().len(), 1);
}

#[test]
fn sizes_and_shapes_are_checked_before_the_write() {
    let big = "x".repeat(MAX_SECRET_BYTES + 1);
    let error = Desired::new(&object("Owner"), Content::of_data(data(&[("big", &big)]))).err().unwrap();
    assert!(error.contains("1048577 bytes") && error.contains("largest key is big"), "{error}");
    for (type_, pairs, needle) in [
        ("kubernetes.io/tls", vec![("tls.crt", "c")], "needs the key tls.key"),
        ("kubernetes.io/dockerconfigjson", vec![(".dockerconfigjson", "canary")], "needs JSON"),
        ("kubernetes.io/ssh-auth", vec![("k", "v")], "ssh-privatekey"),
        ("kubernetes.io/basic-auth", vec![("k", "v")], "username or the key password"),
    ] {
        let error = check_shape(type_, &data(&pairs)).unwrap_err();
        assert!(error.contains(needle) && !error.contains("canary"), "{error}");
    }
    assert!(CLUSTER_CREDENTIALS.iter().all(|t| check_type(t).is_err()) && check_type("my/type").is_ok());
}

#[test]
fn what_chance_gave_stays_while_its_inputs_do_and_nobody_touches_it() {
    for policy in ["Owner", "Merge"] {
        let rendered =
            |value: &str| Desired::new(&object(policy), Content::of_data(data(&[("id", value), ("user", "ada")]))).unwrap();
        let mut first = rendered("chance-1");
        first.keep(None, "inputs");
        let there = secret(&first.manifest(None));
        let again = |inputs: &str, there: &Secret| {
            let mut desired = rendered("chance-2");
            desired.keep(Some(there), inputs);
            (desired.data["id"].as_text().unwrap().to_owned(), desired.hash.clone())
        };
        assert_eq!(again("inputs", &there), ("chance-1".into(), first.hash.clone()), "{policy}");
        assert_eq!(again("other", &there).0, "chance-2", "{policy}: the inputs changed");
        let mut edited = there.clone();
        edited.data.as_mut().unwrap().insert("user".into(), k8s_openapi::ByteString(b"eve".to_vec()));
        assert_eq!(again("inputs", &edited).0, "chance-2", "{policy}: somebody touched it");
        let mut bare = there.clone();
        bare.metadata.annotations = None;
        assert_eq!(again("inputs", &bare).0, "chance-2", "{policy}: nothing says what it was rendered from");
    }
}
