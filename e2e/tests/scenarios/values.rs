//! What becomes of what a provider gives: order, properties, metadata, decoding, names.

use serde_json::{Value, json};

use lockstep_e2e::case::Case;

/// A case with a store of values that stand in its spec.
async fn case(topic: &str, values: &[(&str, &str)]) -> Case {
    let case = Case::new(topic).await;
    let data: Vec<Value> = values.iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
    case.apply_store("fake", json!({"fake": {"data": data}})).await;
    case
}

fn spec(more: Value) -> Value {
    let mut all = json!({"secretStoreRef": {"name": "fake"}});
    all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    all
}

fn entry(secret_key: &str, remote: Value) -> Value {
    json!({"secretKey": secret_key, "remoteRef": remote})
}

#[tokio::test]
async fn data_from_comes_first_in_order_then_data_and_the_later_wins() {
    let one = r#"{"x": "1", "y": "1", "z": "1"}"#;
    let case = case("order", &[("one", one), ("two", r#"{"x": "2", "y": "2"}"#), ("y", "found"), ("single", "3")]).await;
    let extract = |key: &str| json!({"extract": {"key": key}});
    let data = json!([entry("x", json!({"key": "single"}))]);
    case.external_secret("app", spec(json!({"data": data, "dataFrom": [extract("one"), extract("two")]}))).await;
    case.secret_is("app", &[("x", "3"), ("y", "2"), ("z", "1")]).await;
    case.external_secret("app", spec(json!({"data": data, "dataFrom": [extract("two"), extract("one")]}))).await;
    case.secret_is("app", &[("x", "3"), ("y", "1"), ("z", "1")]).await;
    let find = json!({"find": {"name": {"regexp": "^y$"}}});
    case.external_secret("app", spec(json!({"dataFrom": [find, extract("two")]}))).await;
    case.secret_is("app", &[("x", "2"), ("y", "2")]).await;
    case.external_secret("app", spec(json!({"dataFrom": [extract("two"), find]}))).await;
    case.secret_is("app", &[("x", "2"), ("y", "found")]).await;
    let twice = json!([entry("x", json!({"key": "single"})), entry("x", json!({"key": "y"}))]);
    case.external_secret("app", spec(json!({"data": twice}))).await;
    case.secret_is("app", &[("x", "found")]).await;
}

#[tokio::test]
async fn a_property_is_a_path_unless_a_key_has_that_very_name() {
    let value = r#"{"a": {"b": "path", "c": [{"d": "deep"}]}, "a.b": "literal", "p.q": {"r": "dotted"},
        "l": [{"n": "x", "z": "of x"}, {"n": "y", "z": "of y"}], "o": {"k": [1, 2]}, "t": true, "none": null, "n": 1.50}"#;
    let case = case("property", &[("app", value)]).await;
    let wanted = [
        ("literal", "a.b", "literal"),
        ("index", "a.c.0.d", "deep"),
        ("escaped", r"p\.q.r", "dotted"),
        ("count", "l.#", "2"),
        ("query", r#"l.#(n=="y").z"#, "of y"),
        ("all", "l.#.n", r#"["x","y"]"#),
        ("modifier", "l|@reverse|0.n", "y"),
        ("keys", "o|@keys", r#"["k"]"#),
        ("object", "o", r#"{"k": [1, 2]}"#),
        ("list", "o.k", "[1, 2]"),
        ("bool", "t", "true"),
        // As the library that paths are from has it: null is no text.
        ("null", "none", ""),
    ];
    let data: Vec<Value> = wanted.iter().map(|(key, path, _)| entry(key, json!({"key": "app", "property": path}))).collect();
    case.external_secret("app", spec(json!({"data": data}))).await;
    let expected: Vec<(&str, &str)> = wanted.iter().map(|(key, _, value)| (*key, *value)).collect();
    case.secret_is("app", &expected).await;
    // So are the values that extract gives.
    case.external_secret("extracted", spec(json!({"dataFrom": [{"extract": {"key": "app", "property": "o"}}]}))).await;
    case.secret_is("extracted", &[("k", "[1, 2]")]).await;
}

#[tokio::test]
async fn values_are_decoded_as_asked_and_a_null_byte_is_an_error_where_that_is_asked() {
    // "Pz8_" is "???" in the alphabet for URLs alone, "Pz8/" in the other; "AAE=" begins with a NUL byte.
    let values = [
        ("plain", "not base64!"),
        ("base64", "Q0FOQVJZ"),
        ("url", "Pz8_"),
        ("slash", "Pz8/"),
        ("nul", "CANARY\u{0}"),
        ("coded", "AAE="),
        ("object", r#"{"b": "Q0FOQVJZ", "n": "x\u0000"}"#),
    ];
    let case = case("decoding", &values).await;
    let coded =
        |key: &str, how: &str| entry(&format!("{key}-{}", how.to_lowercase()), json!({"key": key, "decodingStrategy": how}));
    let data = [
        coded("plain", "None"),
        coded("plain", "Auto"),
        coded("base64", "None"),
        coded("base64", "Base64"),
        coded("base64", "Auto"),
        coded("slash", "Base64"),
        coded("slash", "Auto"),
        coded("url", "Base64URL"),
        coded("url", "Auto"),
    ];
    case.external_secret("app", spec(json!({"data": data}))).await;
    let expected = [
        ("plain-none", "not base64!"),
        ("plain-auto", "not base64!"),
        ("base64-none", "Q0FOQVJZ"),
        ("base64-base64", "CANARY"),
        ("base64-auto", "CANARY"),
        ("slash-base64", "???"),
        ("slash-auto", "???"),
        ("url-base64url", "???"),
        ("url-auto", "???"),
    ];
    case.secret_is("app", &expected).await;
    let extract = |more: Value| {
        let mut extract = json!({"key": "object", "decodingStrategy": "Auto"});
        extract.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec(json!({"dataFrom": [{"extract": extract, "rewrite": [{"regexp": {"source": "^", "target": "k"}}]}]}))
    };
    case.external_secret("extract", extract(json!({}))).await;
    case.secret_is("extract", &[("kb", "CANARY"), ("kn", "x\0")]).await;
    let find = |more: Value| {
        let mut find = json!({"name": {"regexp": "^(base64|url|nul)$"}, "decodingStrategy": "Auto"});
        find.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec(json!({"dataFrom": [{"find": find}]}))
    };
    case.external_secret("find", find(json!({"nullBytePolicy": "Ignore"}))).await;
    case.secret_is("find", &[("base64", "CANARY"), ("nul", "CANARY\0"), ("url", "???")]).await;

    let fail = json!({"nullBytePolicy": "Fail"});
    let one = |key: &str, how: &str| {
        spec(json!({"data": [entry("k", json!({"key": key, "decodingStrategy": how, "nullBytePolicy": "Fail"}))]}))
    };
    case.external_secret("ignored", spec(json!({"data": [entry("k", json!({"key": "nul", "nullBytePolicy": "Ignore"}))]}))).await;
    case.secret_is("ignored", &[("k", "CANARY\0")]).await;
    for (name, refused) in [
        ("ignored", one("nul", "None")),
        ("decoded", one("coded", "Base64")),
        ("extract", extract(fail.clone())),
        ("find", find(fail)),
    ] {
        case.external_secret(name, refused).await;
        let message = case.failed(name, "holds a NUL byte, and nullBytePolicy is Fail").await;
        assert!(!message.contains("CANARY"), "{message}");
    }
    // What was there stays.
    case.secret_is("ignored", &[("k", "CANARY\0")]).await;
    case.external_secret("wrong", spec(json!({"data": [coded("plain", "Base64")]}))).await;
    case.failed("wrong", "is not Base64").await;
    // Each alphabet is its own.
    for (key, how) in [("url", "Base64"), ("slash", "Base64URL")] {
        case.external_secret("wrong", spec(json!({"data": [coded(key, how)]}))).await;
        let message = case.failed("wrong", &format!("is not {how}")).await;
        assert!(!message.contains("Pz8"), "{message}");
    }
}

#[tokio::test]
async fn names_are_converted_as_asked_and_no_strategy_is_written_into_the_object() {
    let case = case("names", &[("app", r#"{"a/b c": "1", "d.e": "2"}"#), ("x/y", "3")]).await;
    let extract = |more: Value| {
        let mut extract = json!({"key": "app"});
        extract.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec(json!({"dataFrom": [{"extract": extract}]}))
    };
    for (strategy, expected) in [
        (json!({}), [("a_b_c", "1"), ("d.e", "2")]),
        (json!({"conversionStrategy": "Default"}), [("a_b_c", "1"), ("d.e", "2")]),
        (json!({"conversionStrategy": "Unicode"}), [("a_U002f_b_U0020_c", "1"), ("d.e", "2")]),
    ] {
        case.external_secret("app", extract(strategy)).await;
        case.secret_is("app", &expected).await;
    }
    let find = json!({"find": {"name": {"regexp": "/"}, "conversionStrategy": "Unicode"}});
    case.external_secret("find", spec(json!({"dataFrom": [find]}))).await;
    case.secret_is("find", &[("x_U002f_y", "3")]).await;
    // On an entry of data it says nothing: its key stands there.
    case.external_secret("data", spec(json!({"data": [entry("key", json!({"key": "x/y", "conversionStrategy": "Unicode"}))]})))
        .await;
    case.secret_is("data", &[("key", "3")]).await;

    // What a person left out is left out: who compares the object with Git sees no difference.
    let bare = spec(
        json!({"data": [entry("k", json!({"key": "x/y"}))], "dataFrom": [{"extract": {"key": "app"}}, {"find": {"name": {"regexp": "x"}}}]}),
    );
    case.external_secret("bare", bare).await;
    let identity = json!({"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret"});
    let object = lockstep_e2e::harness::api_of(&case.client, Some(&case.name), &identity).get("bare").await.unwrap();
    let entries = &object.data["spec"];
    for place in [&entries["data"][0]["remoteRef"], &entries["dataFrom"][0]["extract"], &entries["dataFrom"][1]["find"]] {
        assert_eq!(place.as_object().map(serde_json::Map::len), Some(1), "{place}");
    }
}

#[tokio::test]
async fn rewrites_have_the_syntax_of_re2_and_a_merge_may_pass_over_what_is_not_there() {
    let case = case("rewrites", &[("app", r#"{"db-USER": "{\"u\": \"ada\"}", "größe": "{\"u\": \"bob\"}"}"#)]).await;
    let rewritten = |steps: Value| spec(json!({"dataFrom": [{"extract": {"key": "app"}, "rewrite": steps}]}));
    let named = json!([
        {"regexp": {"source": "(?i)^DB-(?P<what>[a-z]+)$", "target": "${what}_$1"}},
        {"regexp": {"source": r"^gr(\pL)+e$", "target": "size"}},
    ]);
    case.external_secret("app", rewritten(named)).await;
    case.secret_is("app", &[("USER_USER", r#"{"u": "ada"}"#), ("size", r#"{"u": "bob"}"#)]).await;
    for source in ["(?=a)", r"(a)\1", "a++"] {
        case.external_secret("bad", rewritten(json!([{"regexp": {"source": source, "target": ""}}]))).await;
        case.failed("bad", "rewrite[0].regexp.source: ").await;
    }
    let merge = |policy: &str| json!([{"merge": {"priority": ["nobody", "db-USER"], "priorityPolicy": policy, "conflictPolicy": "Ignore"}}]);
    case.external_secret("merged", rewritten(merge("IgnoreNotFound"))).await;
    case.secret_is("merged", &[("u", "ada")]).await;
    case.external_secret("strict", rewritten(merge("Strict"))).await;
    case.failed("strict", r#"rewrite[0].merge.priority: there is no key "nobody""#).await;
}

#[tokio::test]
async fn metadata_is_read_whole_instead_of_the_value() {
    let case = Case::new("metadata").await;
    case.vault_store().await;
    case.put("app", json!({"p": "CANARY-p"})).await;
    case.put("app", json!({"p": "CANARY-q"})).await;
    let path = format!("secret/metadata/{}", case.key("app"));
    case.harness.vault.write(&path, json!({"custom_metadata": {"owner": "team-a"}})).await;
    let fetch = |secret_key: &str, property: Option<&str>| {
        let mut entry = entry(secret_key, json!({"key": case.key("app"), "metadataPolicy": "Fetch"}));
        if let Some(property) = property {
            entry["remoteRef"]["property"] = json!(property);
        }
        entry
    };
    let data = json!([fetch("whole", None), fetch("made", Some("created_time")), fetch("version", Some("current_version"))]);
    case.external_secret("app", json!({"data": data})).await;
    case.synced("app").await;
    let there = case.harness.vault.read(&path).await["data"].clone();
    let secret = case.secret("app").await.unwrap();
    let whole: Value = serde_json::from_str(&secret["whole"]).unwrap();
    assert_eq!((whole["owner"].as_str(), &whole["updated_time"]), (Some("team-a"), &there["updated_time"]));
    assert_eq!((secret["made"].as_str(), secret["version"].as_str()), (there["created_time"].as_str().unwrap(), "2"));
    assert!(!secret["whole"].contains("CANARY"));
    // Of a whole secret each tag is a key.
    let all = json!({"dataFrom": [{"extract": {"key": case.key("app"), "metadataPolicy": "Fetch"}}]});
    case.external_secret("all", all).await;
    case.synced("all").await;
    assert_eq!(case.secret("all").await.unwrap()["owner"], "team-a");
    // A store that has none says so.
    case.apply_store("fake", json!({"fake": {"data": [{"key": "app", "value": "x"}]}})).await;
    case.external_secret("none", spec(json!({"data": [entry("k", json!({"key": "app", "metadataPolicy": "Fetch"}))]}))).await;
    case.failed("none", "metadata").await;
}
