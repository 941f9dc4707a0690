//! `lockstep doctor`: what is wrong, left over or wider open than it need be in a cluster, as far as it can be seen.
//!
//! What is there is gathered once ([`gather`]); what that means is decided without IO ([`checks`], [`permissions`], [`encryption`]).
//! Nothing is changed, and of Secrets only metadata is read.

pub mod checks;
pub mod encryption;
pub mod gather;
pub mod live;
pub mod permissions;
pub mod report;

use serde::Serialize;

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// Whether the API server encrypts Secrets before it writes them down.
    EncryptionAtRest,
    /// ExternalSecrets that have never synced.
    NeverSynced,
    /// Stores that nobody reads from or pushes to.
    UnusedStore,
    /// Secrets that an operator of this kind made, and that no object wants any more.
    UnmanagedSecret,
    /// What the operator may do beyond what it needs.
    BroadPermissions,
}

impl Check {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 5] =
        [Self::EncryptionAtRest, Self::NeverSynced, Self::UnusedStore, Self::UnmanagedSecret, Self::BroadPermissions];

    /// Its name in reports and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EncryptionAtRest => "encryption-at-rest",
            Self::NeverSynced => "never-synced",
            Self::UnusedStore => "unused-store",
            Self::UnmanagedSecret => "unmanaged-secret",
            Self::BroadPermissions => "broad-permissions",
        }
    }
}

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing is wrong.
    Ok,
    /// It could be better.
    Hint,
    /// It can't be seen from here.
    Unknown,
    /// Somebody should look.
    Warning,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: Check,
    /// How it stands.
    pub level: Level,
    /// The object, such as `ExternalSecret team/app`; none: the whole cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// What was found.
    pub message: String,
    /// What to do.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub action: &'static str,
}

impl Finding {
    /// About the whole cluster.
    pub fn about_all(check: Check, level: Level, message: impl Into<String>, action: &'static str) -> Self {
        Self { check, level, object: None, message: message.into(), action }
    }

    /// A warning about an object.
    pub fn warning(check: Check, object: String, message: impl Into<String>, action: &'static str) -> Self {
        Self { check, level: Level::Warning, object: Some(object), message: message.into(), action }
    }
}

/// Everything that there is to say: each check at least once.
pub fn examine(seen: &gather::Seen) -> Vec<Finding> {
    let mut all = vec![encryption::judge(&seen.encryption)];
    for (check, found, well) in [
        (Check::NeverSynced, checks::never_synced(seen), "every ExternalSecret has synced"),
        (Check::UnusedStore, checks::unused_stores(seen), "every store has a user"),
        (Check::UnmanagedSecret, checks::unmanaged(seen), "every managed Secret has its object"),
        (Check::BroadPermissions, permissions::judge(&seen.permissions, seen), "the operator may do what it needs, and no more"),
    ] {
        match found.is_empty() {
            true => all.push(Finding::about_all(check, Level::Ok, well, "")),
            false => all.extend(found),
        }
    }
    all.extend(
        seen.problems.iter().map(|(check, why)| Finding::about_all(*check, Level::Unknown, why.clone(), "ask with more rights")),
    );
    // What could not be looked at is not well.
    all.retain(|f| f.level != Level::Ok || !seen.problems.iter().any(|(check, _)| *check == f.check));
    all.sort_by_key(|f| f.check);
    all
}
