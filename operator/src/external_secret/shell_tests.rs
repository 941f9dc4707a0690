//! The shell against a scripted API server: which requests go out, in which order, and what a refusal leads to.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::client::Body;
use lockstep_crds::SecretStoreSpec;
use serde_json::{Value, json};
use tokio::time::Instant;
use tower_test::mock::Handle;

use super::plan::Settings;
use super::{Memo, reconcile};
use crate::context::Context;
use crate::controller::Active;
use crate::keys::{ObjectKey, StoreKey};
use crate::limits::Limits;
use crate::queue::{Next, Wake};
use crate::state::{StoreEntry, view};
use crate::turns::Turn;

type Api = Handle<Request<Body>, Response<Body>>;

/// A context with one object on a fake store with `values`.
fn context(values: Value, spec: Value) -> (Arc<Context>, Api, ObjectKey) {
    let (ctx, api) = Context::test();
    let store = StoreKey { namespace: Some("ns".into()), name: "fake".into() };
    let spec_of_store: SecretStoreSpec = serde_json::from_value(json!({"provider": {"fake": {"data": values}}})).unwrap();
    let view = view(store, &store_meta(1), spec_of_store, Limits::default());
    ctx.state.store_applied(StoreEntry {
        view,
        version: 1,
        status: Default::default(),
        uid: "store-uid".into(),
        labels: Default::default(),
    });
    let key = ObjectKey::new("ns", "es");
    apply(&ctx, &key, spec);
    (ctx, api, key)
}

fn store_meta(generation: i64) -> ObjectMeta {
    ObjectMeta { uid: Some("store-uid".into()), generation: Some(generation), ..ObjectMeta::default() }
}

fn apply(ctx: &Context, key: &ObjectKey, more: Value) {
    apply_generation(ctx, key, more, 1);
}

fn apply_generation(ctx: &Context, key: &ObjectKey, more: Value, generation: i64) {
    let mut spec = json!({"secretStoreRef": {"name": "fake"}, "data": [{"secretKey": "k", "remoteRef": {"key": "app"}}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let object = serde_json::from_value(json!({
        "apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret",
        "metadata": {"name": "es", "namespace": "ns", "uid": "es-uid", "generation": generation}, "spec": spec,
    }));
    ctx.state.object_applied(key, &object.unwrap());
}

fn app(value: &str) -> Value {
    json!([{"key": "app", "value": value}])
}

/// Answers one request; gives its method, path and body.
async fn answer(api: &mut Api, code: u16, body: Value) -> (String, String, Value) {
    let (request, send) = api.next_request().await.expect("a request");
    let (parts, sent) = request.into_parts();
    let sent = sent.collect_bytes().await.expect("a body");
    send.send_response(Response::builder().status(code).body(Body::from(serde_json::to_vec(&body).unwrap())).unwrap());
    (parts.method.to_string(), parts.uri.path().to_owned(), serde_json::from_slice(&sent).unwrap_or(Value::Null))
}

fn meta(version: &str) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {"name": "es", "namespace": "ns", "uid": "s", "resourceVersion": version}})
}

fn refusal(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason})
}

/// One reconcile; answers how long until the next.
async fn reconciled(ctx: &Arc<Context>, key: &ObjectKey, wake: Wake) -> Option<Duration> {
    let active = Active::take(&Arc::default()).await;
    reconcile(ctx, key, wake, active).await.map(|next| next.at.saturating_duration_since(Instant::now()))
}

fn start(ctx: &Arc<Context>, key: &ObjectKey) -> tokio::task::JoinHandle<Option<Duration>> {
    let (ctx, key) = (ctx.clone(), key.clone());
    tokio::spawn(async move { reconciled(&ctx, &key, Wake::changed(Instant::now())).await })
}

#[tokio::test]
async fn a_first_sync_is_a_create_and_a_status_patch_and_the_next_look_is_none() {
    let (ctx, mut api, key) = context(app("CANARY"), json!({}));
    let run = start(&ctx, &key);
    let (method, path, sent) = answer(&mut api, 201, meta("5")).await;
    assert_eq!((method.as_str(), path.as_str()), ("POST", "/api/v1/namespaces/ns/secrets"));
    assert_eq!(sent["data"]["k"], "Q0FOQVJZ");
    assert_eq!(sent["metadata"]["ownerReferences"][0]["uid"], "es-uid");
    let (method, path, sent) = answer(&mut api, 200, meta("6")).await;
    assert_eq!(
        (method.as_str(), path.as_str()),
        ("PATCH", "/apis/external-secrets.io/v1/namespaces/ns/externalsecrets/es/status")
    );
    assert_eq!(sent["status"]["binding"]["resourceVersion"], "5");
    assert!(!sent.to_string().contains("CANARY"));
    let next = run.await.unwrap().expect("a next refresh");
    assert!((Duration::from_secs(599)..=Duration::from_secs(3600)).contains(&next), "{next:?}");
    // No request is left, and the next look sends none: it ends without an answer.
    assert!(start(&ctx, &key).await.unwrap().is_some());
}

#[tokio::test]
async fn a_conflict_is_looked_at_again_and_written_over_the_newer_version() {
    let (ctx, mut api, key) = context(app("new"), json!({}));
    let owner = json!([{"apiVersion": "v1", "kind": "ExternalSecret", "name": "es", "uid": "es-uid", "controller": true}]);
    let there = |version: &str| json!({"metadata": {"name": "es", "namespace": "ns", "uid": "s", "resourceVersion": version, "ownerReferences": owner}, "data": {"k": "b2xk"}});
    let run = start(&ctx, &key);
    assert_eq!(answer(&mut api, 409, refusal(409, "AlreadyExists")).await.0, "POST");
    assert_eq!(answer(&mut api, 200, there("7")).await.0, "GET");
    let (method, _, sent) = answer(&mut api, 409, refusal(409, "Conflict")).await;
    assert_eq!((method.as_str(), &sent["metadata"]["resourceVersion"]), ("PUT", &json!("7")));
    assert_eq!(answer(&mut api, 200, there("8")).await.0, "GET");
    let (method, _, sent) = answer(&mut api, 200, meta("9")).await;
    assert_eq!((method.as_str(), &sent["metadata"]["resourceVersion"]), ("PUT", &json!("8")));
    let (_, _, sent) = answer(&mut api, 200, meta("10")).await;
    assert_eq!(sent["status"]["binding"]["resourceVersion"], "9");
    run.await.unwrap();
}

#[tokio::test]
async fn a_status_that_could_not_be_written_is_told_by_the_next_run_without_another_write_to_the_secret() {
    let (ctx, mut api, key) = context(app("v"), json!({}));
    let run = start(&ctx, &key);
    let (_, _, created) = answer(&mut api, 201, meta("5")).await;
    assert_eq!(answer(&mut api, 500, refusal(500, "InternalError")).await.0, "PATCH");
    assert!(run.await.unwrap().expect("a retry") <= Duration::from_secs(2));
    let run = start(&ctx, &key);
    let mut there = created;
    there["metadata"]["uid"] = json!("s");
    there["metadata"]["resourceVersion"] = json!("5");
    assert_eq!(answer(&mut api, 200, there).await.0, "GET");
    let (method, _, sent) = answer(&mut api, 200, meta("6")).await;
    assert_eq!((method.as_str(), &sent["status"]["binding"]["resourceVersion"]), ("PATCH", &json!("5")));
    run.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_failed_before_a_run_that_got_through_does_not_delay_its_report() {
    let (ctx, mut api, key) = context(app("v"), json!({}));
    let (object, _) = ctx.state.object(&key).unwrap();
    ctx.state.remember(&key, &object, Memo { failures: 6, ..Memo::default() });
    let run = start(&ctx, &key);
    let (_, _, mut there) = answer(&mut api, 201, meta("5")).await;
    there["metadata"]["uid"] = json!("s");
    there["metadata"]["resourceVersion"] = json!("5");
    answer(&mut api, 500, refusal(500, "InternalError")).await;
    assert_eq!(run.await.unwrap(), Some(Duration::from_secs(1)));
    assert_eq!(ctx.state.object(&key).unwrap().1.map(|memo| memo.failures), Some(0));
    for seconds in [2, 4] {
        let run = start(&ctx, &key);
        answer(&mut api, 200, there.clone()).await;
        assert_eq!(answer(&mut api, 500, refusal(500, "InternalError")).await.0, "PATCH");
        assert_eq!(run.await.unwrap(), Some(Duration::from_secs(seconds)));
    }
    let run = start(&ctx, &key);
    answer(&mut api, 200, there).await;
    answer(&mut api, 200, meta("6")).await;
    run.await.unwrap();
    assert_eq!(ctx.state.object(&key).unwrap().1.map(|memo| memo.untold), Some(0));
}

#[tokio::test]
async fn the_deletion_policy_deletes_only_the_very_secret_that_was_written() {
    let (ctx, mut api, key) = context(app("v"), json!({"target": {"deletionPolicy": "Delete"}}));
    let run = start(&ctx, &key);
    answer(&mut api, 201, meta("5")).await;
    answer(&mut api, 200, meta("6")).await;
    run.await.unwrap();
    // The store has nothing any more: another generation of it is a new connection.
    let spec: SecretStoreSpec = serde_json::from_value(json!({"provider": {"fake": {"data": []}}})).unwrap();
    let view = view(StoreKey { namespace: Some("ns".into()), name: "fake".into() }, &store_meta(2), spec, Limits::default());
    ctx.state.store_applied(StoreEntry {
        view,
        version: 1,
        status: Default::default(),
        uid: "store-uid".into(),
        labels: Default::default(),
    });
    let store_changed = |ctx: &Arc<Context>| {
        let (ctx, key) = (ctx.clone(), key.clone());
        tokio::spawn(async move { reconciled(&ctx, &key, Wake::store(Instant::now())).await })
    };
    // Somebody replaced it meanwhile: it is not ours to delete.
    let own = ctx.state.target("ns", "es");
    ctx.state.target_written(&key, super::target::Seen::There { uid: "another".into(), version: "8".into() });
    let run = store_changed(&ctx);
    let theirs = json!({"metadata": {"name": "es", "namespace": "ns", "uid": "another", "resourceVersion": "8"}});
    assert_eq!(answer(&mut api, 200, theirs).await.0, "GET");
    let (method, _, sent) = answer(&mut api, 200, meta("9")).await;
    assert_eq!(method, "PATCH");
    assert!(sent["status"]["conditions"][0]["message"].as_str().unwrap().contains("it is not deleted"), "{sent}");
    run.await.unwrap();
    // It is the one that was written: it goes, with its UID and version as conditions.
    ctx.state.target_removed(&key);
    ctx.state.target_written(&key, own);
    let run = store_changed(&ctx);
    let owner = json!([{"apiVersion": "v1", "kind": "ExternalSecret", "name": "es", "uid": "es-uid", "controller": true}]);
    let mine =
        json!({"metadata": {"name": "es", "namespace": "ns", "uid": "s", "resourceVersion": "5", "ownerReferences": owner}});
    assert_eq!(answer(&mut api, 200, mine).await.0, "GET");
    let (method, path, sent) = answer(&mut api, 200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})).await;
    assert_eq!((method.as_str(), path.as_str()), ("DELETE", "/api/v1/namespaces/ns/secrets/es"));
    assert_eq!(sent["preconditions"], json!({"uid": "s", "resourceVersion": "5"}));
    let (_, _, sent) = answer(&mut api, 200, meta("10")).await;
    assert_eq!(sent["status"]["conditions"][0]["reason"], "SecretDeleted");
    run.await.unwrap();
}

#[tokio::test]
async fn a_target_that_goes_before_the_answer_to_its_write_is_read_is_made_again() {
    let (ctx, mut api, key) = context(app("v"), json!({}));
    let run = start(&ctx, &key);
    // The watch is ahead of the answer: it was made, and somebody took it away.
    let made = super::target::Seen::There { uid: "s".into(), version: "5".into() };
    ctx.state.target_seen(&key, made.clone());
    assert_eq!(ctx.state.target_gone(&key, Some("s")), std::slice::from_ref(&key));
    assert_eq!(answer(&mut api, 201, meta("5")).await.0, "POST");
    answer(&mut api, 200, meta("6")).await;
    run.await.unwrap();
    assert_eq!(ctx.state.target("ns", "es"), super::target::Seen::Absent);
    let woken = tokio::spawn({
        let (ctx, key) = (ctx.clone(), key.clone());
        async move { reconciled(&ctx, &key, Wake::target(Instant::now())).await }
    });
    assert_eq!(answer(&mut api, 201, meta("8")).await.0, "POST", "it is made again");
    woken.abort();
    // A list from before it was made had it gone, and the watch shows it after that.
    ctx.state.target_seen(&key, made.clone());
    ctx.state.target_written(&key, made.clone());
    assert_eq!(ctx.state.target("ns", "es"), made);
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_be_as_old_as_a_tenth_of_the_interval_of_whoever_asks_and_no_older_than_a_change() {
    let settings =
        |every: u64| Settings { policy: Default::default(), interval: Some(Duration::from_secs(every)), group: 0, windows: None };
    let well = Memo { ready: Some(true), ..Memo::default() };
    let failed = Memo { ready: Some(false), failures: 1, ..Memo::default() };
    tokio::time::advance(Duration::from_secs(10_000)).await;
    let now = Instant::now();
    let ago = |seconds: u64| now - Duration::from_secs(seconds);
    // An object with a minute and one with an hour on the same remote secret: each with its own bound.
    for (memo, every, wake, oldest) in [
        (&well, 60, Wake::turn(now), 6),
        (&well, 3600, Wake::turn(now), 360),
        // Served half a minute late: what was new when it was due is not any more.
        (&well, 60, Wake::turn(ago(30)), 6),
        (&well, 60, Wake::changed(now), 0),
        (&well, 3600, Wake::store(ago(2)), 2),
        (&failed, 3600, Wake::timer(now), 0),
    ] {
        assert_eq!(now - super::fresh_after(memo, wake, &settings(every)), Duration::from_secs(oldest), "{every} {wake:?}");
    }
}

#[tokio::test]
async fn when_a_provider_comes_back_those_with_a_secret_take_turns_and_those_without_are_tried_at_once() {
    let (ctx, _api, key) = context(app("v"), json!({}));
    let store = StoreKey { namespace: Some("ns".into()), name: "fake".into() };
    let turn = Turn { group: 1, every_ms: 3_600_000 };
    let cut_off = Memo {
        ready: Some(false),
        refreshed: Some("2026-01-01T00:00:00Z".parse().unwrap()),
        category: "unavailable",
        ..Memo::default()
    };
    for (memo, waiting) in
        [(cut_off.clone(), 0), (Memo { refreshed: None, ..cut_off.clone() }, 1), (Memo { category: "denied", ..cut_off }, 1)]
    {
        let (object, _) = ctx.state.object(&key).unwrap();
        ctx.state.remember(&key, &object, memo);
        ctx.objects.wake(key.clone(), Wake::changed(Instant::now()));
        let (next, _) = ctx.objects.next().await;
        ctx.objects.done(next, Some(Next { turn: Some(turn), ..Next::at(Instant::now() + Duration::from_secs(60)) }));
        ctx.wake_failed_users(&store, Instant::now());
        let depth = ctx.objects.depth();
        assert_eq!((depth.waiting, depth.overdue), (waiting, 1 - waiting));
        // For the next round.
        let (next, wake) = tokio::time::timeout(Duration::from_secs(5), ctx.objects.next()).await.expect("it is handed out");
        assert!(wake.store || wake.turn);
        ctx.objects.done(next, None);
    }
}

#[tokio::test]
async fn a_change_that_meets_a_resting_store_comes_again_as_a_change_and_a_refresh_takes_its_turn() {
    let (ctx, mut api, key) = context(app("v"), json!({}));
    let run = start(&ctx, &key);
    answer(&mut api, 201, meta("5")).await;
    answer(&mut api, 200, meta("6")).await;
    run.await.unwrap();
    let store = StoreKey { namespace: Some("ns".into()), name: "fake".into() };
    let view = ctx.state.store(&store).unwrap().view;
    let reader = ctx.connections.get(&view, Some(&"ns".into()), &ctx.refs).await.unwrap();
    reader.rest(Duration::from_secs(30));
    apply_generation(&ctx, &key, json!({"data": [{"secretKey": "other", "remoteRef": {"key": "app"}}]}), 2);
    let look = async |wake: Wake| reconcile(&ctx, &key, wake, Active::take(&Arc::default()).await).await.expect("another look");
    let next = look(Wake::changed(Instant::now())).await;
    assert!(next.turn.is_none() && next.again.is_some_and(|again| again.changed), "{next:?}");
    let wait = next.at.saturating_duration_since(Instant::now()).as_secs();
    assert!((28..=31).contains(&wait), "{wait}");
    // A target that somebody deleted meanwhile is told of, though only the store's rest is in the way.
    ctx.state.target_gone(&key, None);
    let run = tokio::spawn({
        let (ctx, key) = (ctx.clone(), key.clone());
        async move { reconciled(&ctx, &key, Wake::target(Instant::now())).await }
    });
    let (method, _, sent) = answer(&mut api, 200, meta("7")).await;
    assert_eq!((method.as_str(), &sent["status"]["conditions"][0]["status"]), ("PATCH", &json!("False")));
    run.await.unwrap();
}
