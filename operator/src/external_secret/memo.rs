//! What is remembered of one object between two looks at it.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use lockstep_crds::ExternalSecret;
use lockstep_crds::conditions::{ConditionType, SecretReason};
use lockstep_crds::external_secret::Binding;

use super::plan;
use super::status::Retry;

/// What the condition says when all is well.
pub(super) const SYNCED: &str = "secret synced";

/// What is known of an object beside its spec: what the status says, and what only this process needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memo {
    /// `status.syncedResourceVersion`.
    pub synced: Option<Box<str>>,
    /// Version of the object whose status says what is remembered here.
    pub told_version: u64,
    /// When the providers last gave everything; ahead of `status.refreshTime` by up to a heartbeat.
    pub refreshed: Option<Timestamp>,
    /// `status.refreshTime`.
    pub told: Option<Timestamp>,
    /// `status.binding`.
    pub binding: Option<Binding>,
    /// Status of the condition Ready.
    pub ready: Option<bool>,
    /// Its reason.
    pub reason: Option<SecretReason>,
    /// Its message.
    pub message: Option<Cow<'static, str>>,
    /// Its last transition.
    pub since: Option<Timestamp>,
    /// The deletion policy took the target away, and the provider still has nothing.
    pub deleted_by_policy: bool,
    /// Failures in a row.
    pub failures: u32,
    /// Reports in a row that could not be written.
    pub untold: u32,
    /// Rule of the next try after a failure.
    pub retry: Option<Retry>,
    /// Category of the last failure; empty after a success.
    pub category: &'static str,
    /// A refresh was put off by a throttling provider.
    pub owed: bool,
    /// Versions last read, in the order of the entries.
    pub versions: Box<[Option<Arc<str>>]>,
    /// Syncs tried since the start.
    pub sync_calls: u64,
    /// Syncs failed since the start.
    pub sync_errors: u64,
}

impl Memo {
    /// What a fresh process knows: the object's own status.
    pub fn of(object: &ExternalSecret) -> Self {
        let Some(status) = &object.status else { return Self::default() };
        let time = |text: &Option<String>| text.as_deref().and_then(|t| t.parse::<Timestamp>().ok());
        let ready = status.conditions.iter().find(|c| c.type_ == ConditionType::Ready.as_str());
        let word = ready.and_then(|c| c.reason.as_deref());
        let reason = SecretReason::ALL.iter().copied().find(|r| Some(r.as_str()) == word);
        Self {
            told_version: version_of_object(object),
            synced: status.synced_resource_version.as_deref().map(Into::into),
            refreshed: time(&status.refresh_time),
            told: time(&status.refresh_time),
            binding: status.binding.clone(),
            ready: ready.map(|c| c.status == "True"),
            reason,
            message: ready.and_then(|c| c.message.clone()).map(|m| if m == SYNCED { SYNCED.into() } else { m.into() }),
            since: ready.and_then(|c| time(&c.last_transition_time)),
            deleted_by_policy: matches!(reason, Some(SecretReason::SecretDeleted | SecretReason::ResourceDeleted)),
            ..Self::default()
        }
    }

    /// Takes over what the status says if somebody else has written it since: another replica before it handed the object on,
    /// or a person. It is put right by the next report, which only tells what differs.
    pub(super) fn corrected(self, object: &ExternalSecret) -> Self {
        if version_of_object(object) <= self.told_version {
            return self;
        }
        let Self { told_version, synced, told, mut binding, ready, reason, message, since, .. } = Self::of(object);
        let same = |a: &Binding, b: &Binding| (&a.name, &a.uid, &a.resource_version) == (&b.name, &b.uid, &b.resource_version);
        if let (Some(there), Some(known)) = (&mut binding, &self.binding)
            && same(there, known)
        {
            there.data_hash.clone_from(&known.data_hash);
        }
        Self { told_version, synced, told, binding, ready, reason, message, since, ..self }
    }

    pub(super) fn succeeded(&mut self, object: &ExternalSecret, now: Timestamp) {
        self.synced = Some(plan::synced_version(object).into());
        self.refreshed = Some(now);
        self.deleted_by_policy = false;
        self.owed = false;
        self.well();
    }

    /// Nothing is wrong any more.
    pub(super) fn well(&mut self) {
        self.failures = 0;
        self.retry = None;
        self.category = "";
    }

    /// What a success says: what the last one said, if nothing failed since.
    pub(super) fn good_message(&self) -> Cow<'static, str> {
        let last = self.message.clone().filter(|_| self.ready == Some(true));
        last.unwrap_or(SYNCED.into())
    }
}

/// Resource versions of one kind grow (KEP-5504).
fn version_of_object(object: &ExternalSecret) -> u64 {
    object.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}
