//! What the operator may do beyond what it needs. Pure: rules that are granted against those of `config/rbac`.

use std::collections::BTreeSet;

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde::Deserialize;

use super::gather::Seen;
use super::{Check, Finding, Level};

const RBAC: [&str; 3] = [
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../config/rbac/rbac.yaml")),
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../config/rbac/push/push.yaml")),
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../config/rbac/tokens/tokens.yaml")),
];

/// What could be seen.
#[derive(Clone, Debug, Default)]
pub struct Permissions {
    /// Who the operator is, such as `ServiceAccount lockstep-system/lockstep`.
    pub who: String,
    /// The rules that bind it, each with the role that it is of; none: they may not be read.
    pub granted: Option<Vec<(String, PolicyRule)>>,
}

/// One right: group, resource (with subresource) and verb; `*` is all.
type Right = (String, String, String);

fn rights(rule: &PolicyRule) -> Vec<Right> {
    let all = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let mut rights = Vec::new();
    for group in all(&rule.api_groups) {
        for resource in all(&rule.resources) {
            rights.extend(rule.verbs.iter().map(|verb| (group.clone(), resource.clone(), verb.clone())));
        }
    }
    for url in all(&rule.non_resource_urls) {
        rights.extend(rule.verbs.iter().map(|verb| ("URL".to_owned(), url.clone(), verb.clone())));
    }
    rights
}

/// Every right that `config/rbac` gives.
pub fn needed() -> BTreeSet<Right> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        rules: Vec<PolicyRule>,
    }
    let documents = RBAC
        .iter()
        .flat_map(|file| file.split("\n---"))
        .filter_map(|text| serde_saphyr::from_str::<Document>(text.trim_start_matches("---")).ok());
    documents.flat_map(|document| document.rules).flat_map(|rule| rights(&rule)).collect()
}

/// Groups that everybody is in give these to everybody: they are nobody's business here.
const EVERYBODY: [&str; 3] = ["authorization.k8s.io", "authentication.k8s.io", "URL"];

/// What that means.
pub fn judge(seen: &Permissions, all: &Seen) -> Vec<Finding> {
    let Some(granted) = &seen.granted else {
        let message = format!("the roles of {} may not be read", seen.who);
        return vec![Finding::about_all(
            Check::BroadPermissions,
            Level::Unknown,
            message,
            "ask with rights to read roles and their bindings",
        )];
    };
    if granted.is_empty() {
        let message =
            format!("nothing is bound to {}: it is not the operator's account, or the operator can do nothing", seen.who);
        return vec![Finding::about_all(
            Check::BroadPermissions,
            Level::Unknown,
            message,
            "name it with --service-account NAMESPACE/NAME",
        )];
    }
    let needed = needed();
    let mut found = Vec::new();
    for (role, rule) in granted {
        let beyond = rights(rule).into_iter().filter(|right| !EVERYBODY.contains(&&*right.0) && !needed.contains(right));
        let told: Vec<String> = beyond
            .map(|(group, resource, verb)| match group.as_str() {
                "" => format!("{verb} {resource}"),
                _ => format!("{verb} {resource}.{group}"),
            })
            .collect();
        if !told.is_empty() {
            let message = format!("gives {} more than Lockstep needs: {}", seen.who, told.join(", "));
            found.push(Finding::warning(
                Check::BroadPermissions,
                role.clone(),
                message,
                "take it away, or say in a comment what for",
            ));
        }
    }
    found.extend(unused(granted, all).into_iter().map(|message| Finding {
        level: Level::Hint,
        ..Finding::about_all(Check::BroadPermissions, Level::Hint, message, "see the variants in docs/permissions.md")
    }));
    found
}

/// Rights of features that nobody here uses.
fn unused(granted: &[(String, PolicyRule)], all: &Seen) -> Vec<&'static str> {
    let has = |resource: &str, verb: &str| {
        granted.iter().flat_map(|(_, rule)| rights(rule)).any(|(_, r, v)| (r == resource || r == "*") && (v == verb || v == "*"))
    };
    let mut found = Vec::new();
    if has("serviceaccounts/token", "create") && !all.stores.iter().any(|s| s.as_service_account) {
        found.push("may make tokens of every service account, and no store names one");
    }
    if has("pushsecrets", "create") && all.cluster_push_secrets.is_empty() {
        found.push("may write PushSecrets everywhere, and there is no ClusterPushSecret");
    }
    if has("externalsecrets", "create") && all.cluster_external_secrets.is_empty() {
        found.push("may write ExternalSecrets everywhere, and there is no ClusterExternalSecret");
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> (String, PolicyRule) {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let rule = PolicyRule {
            api_groups: Some(own(groups)),
            resources: Some(own(resources)),
            verbs: own(verbs),
            ..PolicyRule::default()
        };
        ("ClusterRole r".into(), rule)
    }

    fn found(granted: Vec<(String, PolicyRule)>) -> Vec<(Level, String)> {
        let seen = Permissions { who: "ServiceAccount a/b".into(), granted: Some(granted) };
        judge(&seen, &Seen::default()).into_iter().map(|f| (f.level, f.message)).collect()
    }

    #[test]
    fn what_config_rbac_gives_is_needed_and_everything_else_is_told() {
        assert!(needed().contains(&("".into(), "secrets".into(), "get".into())));
        assert!(found(vec![rule(&[""], &["secrets"], &["get", "list"])]).is_empty());
        let more = found(vec![rule(&[""], &["secrets", "pods"], &["get"]), rule(&["*"], &["*"], &["*"])]);
        let warnings: Vec<&String> = more.iter().filter(|(level, _)| *level == Level::Warning).map(|(_, m)| m).collect();
        assert_eq!(warnings.len(), 2, "{more:?}");
        assert!(warnings[0].ends_with("get pods") && warnings[1].ends_with("* *.*"), "{warnings:?}");
        assert_eq!(found(vec![])[0].0, Level::Unknown);
    }

    #[test]
    fn rights_of_features_that_nobody_uses_are_hints() {
        let hints = found(vec![rule(&[""], &["serviceaccounts/token"], &["create"])]);
        assert_eq!(hints, [(Level::Hint, "may make tokens of every service account, and no store names one".to_owned())]);
    }
}
