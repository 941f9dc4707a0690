//! Every condition type, reason and event that Lockstep writes, as enums: what people's alerts and scripts match on.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

pub(crate) fn date_time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}

/// One condition of a status. Types that Lockstep does not know belong to others and are kept.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Name of the condition.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word that scripts match on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A sentence for people: what, where, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When `status` last changed (RFC 3339, kept as text: no other writer's clock can make the object unreadable).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "date_time")]
    pub last_transition_time: Option<String>,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }
        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant),+];
            /// The word as it is written.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => stringify!($variant)),+ }
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// Condition types.
    ConditionType {
        /// The object does what its spec says.
        Ready,
        /// Written by older operators when a target was deleted; read, never written.
        Deleted,
    }
}

words! {
    /// Reasons of an ExternalSecret's `Ready`.
    SecretReason {
        /// The target holds what the provider gave last.
        SecretSynced,
        /// The last sync failed; the message says where, and the target was left as it was.
        SecretSyncedError,
        /// `creationPolicy: Merge`, and the Secret to merge into does not exist.
        SecretMissing,
        /// The provider has nothing any more, and `deletionPolicy: Delete` removed the target.
        SecretDeleted,
        /// As SecretSynced, of a target of another kind.
        ResourceSynced,
        /// As SecretSyncedError, of a target of another kind.
        ResourceSyncedError,
        /// As SecretMissing, of a target of another kind.
        ResourceMissing,
        /// As SecretDeleted, of a target of another kind.
        ResourceDeleted,
    }
}

impl SecretReason {
    /// The same of a target of another kind.
    pub const fn of_resource(self) -> Self {
        match self {
            Self::SecretSynced | Self::ResourceSynced => Self::ResourceSynced,
            Self::SecretSyncedError | Self::ResourceSyncedError => Self::ResourceSyncedError,
            Self::SecretMissing | Self::ResourceMissing => Self::ResourceMissing,
            Self::SecretDeleted | Self::ResourceDeleted => Self::ResourceDeleted,
        }
    }
}

words! {
    /// Reasons of a store's `Ready`.
    StoreReason {
        /// The provider was reached with the store's identity.
        Valid,
        /// The spec, an auth object or the provider's answer is wrong; the message says which.
        InvalidProviderConfig,
        /// Whether it works depends on each user's namespace, or the provider has no cheap way to tell.
        ValidationUnknown,
    }
}

words! {
    /// Reasons of a ClusterExternalSecret's or ClusterPushSecret's `Ready`.
    FanOutReason {
        /// Every namespace that is selected has its object.
        Ready,
        /// Some have not; the message and `status.failedNamespaces` say why.
        NotReady,
    }
}

words! {
    /// Reasons of a PushSecret's `Ready`.
    PushReason {
        /// All is where it should be.
        Synced,
        /// Something is not; the message says what and where.
        Errored,
    }
}

words! {
    /// Reasons of a GeneratorState's `Ready`.
    LeaseReason {
        /// It is kept alive again.
        LeaseHeld,
        /// It could not be prolonged; it holds until its time is over.
        RenewalFailed,
        /// It could not be given back; that is tried again until its time is over.
        RevocationFailed,
    }
}

words! {
    /// Reasons of events.
    EventReason {
        /// The target was made.
        Created,
        /// The target's data changed.
        Updated,
        /// The target was deleted by the deletion policy.
        Deleted,
        /// A sync failed.
        UpdateFailed,
        /// The provider has no such secret.
        MissingProviderSecret,
        /// A store became valid.
        Valid,
        /// A store is not valid.
        InvalidProviderConfig,
        /// A store can't be validated alone.
        ValidationUnknown,
        /// Values were pushed.
        Synced,
        /// A push failed.
        Errored,
    }
}

impl EventReason {
    /// Whether `kubectl` should show the event as a warning.
    pub const fn is_warning(self) -> bool {
        match self {
            Self::Created | Self::Updated | Self::Deleted | Self::Valid | Self::Synced => false,
            Self::Errored
            | Self::UpdateFailed
            | Self::MissingProviderSecret
            | Self::InvalidProviderConfig
            | Self::ValidationUnknown => true,
        }
    }
}
