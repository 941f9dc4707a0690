//! Whether the API server encrypts Secrets before it writes them to etcd. Pure.
//!
//! Nothing in the API says so. Two things tell: the flag `--encryption-provider-config` of an API server that runs as a pod, and the
//! API server's own metric `apiserver_storage_transformation_operations_total`, which counts what it wrote by the transformer's prefix
//! (`k8s:enc:aescbc:v1:…`). Managed control planes show neither, and often encrypt all the same.

use super::{Check, Finding, Level};

/// What could be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encryption {
    /// The text of `/metrics`, if it may be read.
    pub metrics: Option<String>,
    /// The commands of the API servers' containers, if there are such pods.
    pub commands: Vec<Vec<String>>,
}

const SERIES: &str = "apiserver_storage_transformation_operations_total{";

/// What that means.
pub fn judge(seen: &Encryption) -> Finding {
    let say = |level, message: String, action| Finding::about_all(Check::EncryptionAtRest, level, message, action);
    let turn_on = "set --encryption-provider-config of the API server, best with a KMS, then write all Secrets anew";
    let prefixes = seen.metrics.as_deref().map(written_with).unwrap_or_default();
    let encrypted: Vec<&String> = prefixes.iter().filter(|prefix| prefix.starts_with("k8s:enc:")).collect();
    // Within a provider its keys are counted too, by their names: those are neither.
    let plain: Vec<&String> = prefixes.iter().filter(|prefix| matches!(prefix.as_str(), "" | "identity")).collect();
    match (&encrypted[..], &plain[..]) {
        ([first, ..], []) => return say(Level::Ok, format!("the API server writes Secrets with {}", provider(first)), ""),
        ([_, ..], [_, ..]) => {
            let message =
                "the API server writes some Secrets encrypted and some as they are: not all resources or servers are configured";
            return say(Level::Warning, message.into(), turn_on);
        }
        ([], _) => {}
    }
    let configured = |command: &Vec<String>| command.iter().any(|arg| arg.starts_with("--encryption-provider-config="));
    match seen.commands.iter().filter(|c| configured(c)).count() {
        0 if !seen.commands.is_empty() => say(
            Level::Warning,
            "the API server has no --encryption-provider-config: Secrets are in etcd as they are".into(),
            turn_on,
        ),
        count if count > 0 && count == seen.commands.len() => {
            say(Level::Ok, "the API server has an --encryption-provider-config; that it covers Secrets can't be seen".into(), "")
        }
        0 if !plain.is_empty() || seen.metrics.as_deref().is_some_and(has_written_secrets) => say(
            Level::Warning,
            "the API server writes Secrets to etcd as they are: it counts no transformation of one".into(),
            turn_on,
        ),
        0 => {
            let message = match seen.metrics {
                Some(_) => "neither the API server's metrics nor its command line tell",
                None => "the API server's metrics may not be read, and it does not run as a pod here",
            };
            say(Level::Unknown, message.into(), "ask whoever runs the control plane; managed ones often encrypt by default")
        }
        count => {
            let message = format!("{count} of {} API servers have an --encryption-provider-config", seen.commands.len());
            say(Level::Warning, message, turn_on)
        }
    }
}

/// Whether this API server has written a Secret since it was started.
fn has_written_secrets(metrics: &str) -> bool {
    let written = metrics.lines().filter(|line| line.starts_with("etcd_request_duration_seconds_count{"));
    let of_secrets = written.filter(|line| {
        let operation = ["create", "update", "txn"].iter().any(|name| label(line, "operation").as_deref() == Some(name));
        // Newer servers name group and resource, older ones the type.
        let resource = label(line, "resource").or_else(|| label(line, "type"));
        operation && resource.is_some_and(|r| r == "secrets" || r.ends_with("/secrets") || r.ends_with(".Secret"))
    });
    of_secrets.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).any(|count| count > 0.0)
}

fn label(line: &str, name: &str) -> Option<String> {
    let begin = line.find(&format!("{name}=\""))? + name.len() + 2;
    Some(line[begin..].split('"').next().unwrap_or_default().to_owned())
}

/// The prefixes with which Secrets were written, or everything where the series do not name a resource.
fn written_with(metrics: &str) -> Vec<String> {
    let series = metrics.lines().filter(|line| line.starts_with(SERIES));
    let counts = series.filter(|line| line.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok()).is_some_and(|n| n > 0.0));
    let written = counts.filter(|line| label(line, "transformation_type").as_deref() == Some("to_storage"));
    let of_secrets = written.filter(|line| label(line, "resource").is_none_or(|r| r == "secrets"));
    let mut prefixes: Vec<String> = of_secrets.filter_map(|line| label(line, "transformer_prefix")).collect();
    prefixes.sort();
    prefixes.dedup();
    prefixes
}

/// `k8s:enc:aescbc:v1:key1:` is told as `aescbc`.
fn provider(prefix: &str) -> &str {
    prefix.trim_start_matches("k8s:enc:").split(':').next().unwrap_or(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(rows: &[(&str, &str, &str, u32)]) -> Option<String> {
        let row = |(resource, kind, prefix, count): &(&str, &str, &str, u32)| {
            format!(
                "{SERIES}resource=\"{resource}\",status=\"OK\",transformation_type=\"{kind}\",transformer_prefix=\"{prefix}\"}} {count}\n"
            )
        };
        Some(rows.iter().map(row).collect())
    }

    fn level(metrics: Option<String>, commands: &[&[&str]]) -> Level {
        let commands = commands.iter().map(|c| c.iter().map(|a| (*a).to_owned()).collect()).collect();
        judge(&Encryption { metrics, commands }).level
    }

    #[test]
    fn what_was_written_counts_more_than_what_is_configured() {
        let aescbc = "k8s:enc:aescbc:v1:key1:";
        let configured: &[&str] = &["kube-apiserver", "--encryption-provider-config=/e.yaml"];
        assert_eq!(level(metrics(&[("secrets", "to_storage", aescbc, 3)]), &[]), Level::Ok);
        assert_eq!(
            level(metrics(&[("secrets", "to_storage", aescbc, 3), ("secrets", "to_storage", "identity", 1)]), &[]),
            Level::Warning
        );
        assert_eq!(level(metrics(&[("secrets", "to_storage", "identity", 1)]), &[]), Level::Warning);
        let with_key = [("secrets", "to_storage", "k8s:enc:secretbox:v1:", 1), ("secrets", "to_storage", "a:", 1)];
        assert_eq!(level(metrics(&with_key), &[]), Level::Ok, "as a real API server counts");
        // What was read, or never counted, or is of another resource, says nothing.
        let others = [
            ("secrets", "from_storage", aescbc, 3),
            ("secrets", "to_storage", aescbc, 0),
            ("configmaps", "to_storage", aescbc, 9),
        ];
        assert_eq!(level(metrics(&others), &[]), Level::Unknown);
        let row =
            |n: u32| format!("etcd_request_duration_seconds_count{{group=\"\",operation=\"create\",resource=\"secrets\"}} {n}\n");
        assert_eq!(level(Some(row(3)), &[]), Level::Warning, "it has written some, and transformed none");
        assert_eq!(level(Some(row(0)), &[]), Level::Unknown);
        assert_eq!(level(None, &[configured]), Level::Ok);
        assert_eq!(level(None, &[configured, &["kube-apiserver"]]), Level::Warning);
        assert_eq!(level(None, &[&["kube-apiserver", "--v=2"]]), Level::Warning);
        assert_eq!(level(None, &[]), Level::Unknown);
    }

    #[test]
    fn the_provider_is_named_without_its_key() {
        let told =
            judge(&Encryption { metrics: metrics(&[("secrets", "to_storage", "k8s:enc:kms:v2:vault:", 1)]), commands: vec![] });
        assert_eq!(told.message, "the API server writes Secrets with kms");
    }
}
