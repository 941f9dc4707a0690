//! Generators: objects that an ExternalSecret or a PushSecret calls for values that nobody stored anywhere.
//!
//! One file a kind, [`GENERATORS`] in the order of the API's own list. A generator is kept as JSON by those who read it, so that a
//! malformed one becomes a condition of its users.

pub mod acr;
pub mod aws;
pub mod cluster;
pub mod fake;
pub mod gcr;
pub mod others;
pub mod password;
pub mod ssh_key;
pub mod state;
pub mod uuid;
pub mod vault;
pub mod webhook;

pub use cluster::{ClusterGenerator, ClusterGeneratorSpec};
pub use state::{GeneratorState, GeneratorStateSpec, GeneratorStateStatus};

/// API group of the generators.
pub const GROUP: &str = "generators.external-secrets.io";
/// Version of the generators.
pub const VERSION: &str = "v1alpha1";

/// A kind of generator: one line each, with its plural and its field under a ClusterGenerator's `spec.generator`.
macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident: $kind:literal, $plural:literal, $field:literal),+ $(,)?) => {
        /// Kinds of generator that Lockstep serves.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum GeneratorKind { $($(#[$doc])* $variant),+ }

        impl GeneratorKind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The kind as manifests write it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $kind),+ }
            }

            /// The plural of its resource.
            pub const fn plural(self) -> &'static str {
                match self { $(Self::$variant => $plural),+ }
            }

            /// Its field under a ClusterGenerator's `spec.generator`.
            pub const fn field(self) -> &'static str {
                match self { $(Self::$variant => $field),+ }
            }
        }
    };
}

kinds! {
    /// A token for an Azure Container Registry.
    Acr: "ACRAccessToken", "acraccesstokens", "acrAccessTokenSpec",
    /// A token for an Elastic Container Registry of AWS.
    Ecr: "ECRAuthorizationToken", "ecrauthorizationtokens", "ecrAuthorizationTokenSpec",
    /// What stands in its spec.
    Fake: "Fake", "fakes", "fakeSpec",
    /// A token of Google Cloud, for its registries among others.
    Gcr: "GCRAccessToken", "gcraccesstokens", "gcrAccessTokenSpec",
    /// A password.
    Password: "Password", "passwords", "passwordSpec",
    /// A pair of SSH keys.
    SshKey: "SSHKey", "sshkeys", "sshKeySpec",
    /// A session of AWS.
    Sts: "STSSessionToken", "stssessiontokens", "stsSessionTokenSpec",
    /// A UUID.
    Uuid: "UUID", "uuids", "uuidSpec",
    /// What a path of Vault issues, with its lease.
    Vault: "VaultDynamicSecret", "vaultdynamicsecrets", "vaultDynamicSecretSpec",
    /// What an HTTP API answers.
    Webhook: "Webhook", "webhooks", "webhookSpec",
}

impl GeneratorKind {
    /// Whether its spec names the class of the operator that serves it.
    pub fn has_class(self) -> bool {
        matches!(self, Self::Fake | Self::Vault)
    }

    /// Whether what it makes lasts until it is given back, and is kept for that.
    pub fn is_leased(self) -> bool {
        self == Self::Vault
    }

    /// By the word of a manifest.
    pub fn of(kind: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|k| k.as_str() == kind)
    }
}

impl std::fmt::Display for GeneratorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
