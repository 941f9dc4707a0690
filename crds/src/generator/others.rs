//! Specs of the kinds that the API knows and Lockstep does not serve: their schema, so that a ClusterGenerator of such a kind can be
//! applied and another operator can serve it.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::conditions::date_time;
use crate::meta::{CaProvider, SecretKeySelector, ServiceAccountSelector, bytes, key, name};
use crate::store::RetrySettings;

/// Any JSON.
pub(crate) fn anything(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"x-kubernetes-preserve-unknown-fields": true})
}

/// Schemas alone: nobody reads these specs.
macro_rules! schemas {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty),+ $(,)? })+) => {
        $(
            #[derive(JsonSchema)]
            #[serde(rename_all = "camelCase")]
            $(#[$meta])*
            #[expect(dead_code, reason = "the schema is all that is wanted of it")]
            pub struct $name { $($(#[$field_meta])* $field: $type),+ }
        )+
    };
}

schemas! {
    /// Dynamic credentials of BeyondTrust.
    BeyondtrustSpec {
        /// Class of the operator that serves it.
        controller: Option<String>,
        /// Where it is, and as whom it is asked.
        provider: BeyondtrustProvider,
        /// How failed requests are tried again.
        retry_settings: Option<RetrySettings>,
    }
    /// Where BeyondTrust is.
    BeyondtrustProvider {
        /// As whom.
        auth: BeyondtrustAuth,
        /// PEM of the certificate authorities to trust, in Base64.
        #[schemars(schema_with = "bytes")]
        #[serde(default)]
        ca_bundle: Option<String>,
        /// Where such a PEM lies instead.
        ca_provider: Option<CaProvider>,
        /// Path of the folder.
        folder_path: Option<String>,
        /// The server.
        server: BeyondtrustServer,
    }
    /// As whom BeyondTrust is asked.
    BeyondtrustAuth {
        /// With a key.
        apikey: BeyondtrustKey,
    }
    /// A key of BeyondTrust.
    BeyondtrustKey {
        /// Where it lies.
        token: SecretKeySelector,
    }
    /// A server of BeyondTrust.
    BeyondtrustServer {
        /// Its URL.
        api_url: String,
        /// The site.
        site_id: String,
    }
    /// A token of Cloudsmith.
    CloudsmithAccessTokenSpec {
        /// URL of its API.
        api_url: Option<String>,
        /// The organisation.
        org_slug: String,
        /// The service.
        service_slug: String,
        /// Whose token is exchanged.
        service_account_ref: ServiceAccountSelector,
    }
    /// A token of a GitHub App.
    GithubAccessTokenSpec {
        /// URL of its API.
        url: Option<String>,
        /// The app.
        #[serde(rename = "appID")]
        app_id: String,
        /// Its installation.
        #[serde(rename = "installID")]
        install_id: String,
        /// Repositories that it is for.
        repositories: Option<Vec<String>>,
        /// What it may do there.
        permissions: Option<BTreeMap<String, String>>,
        /// As whom.
        auth: GithubAuth,
    }
    /// As whom GitHub is asked.
    GithubAuth {
        /// With the app's key.
        private_key: GithubKey,
    }
    /// The app's key.
    GithubKey {
        /// Where it lies.
        secret_ref: SecretKeySelector,
    }
    /// A deploy token of GitLab.
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "has(self.projectID) != has(self.groupID)",
        "message": "exactly one of projectID and groupID must be set",
    }]))]
    GitlabDeployTokenSpec {
        /// URL of its API.
        url: Option<String>,
        /// The project.
        #[serde(rename = "projectID", default)]
        #[schemars(length(min = 1))]
        project_id: Option<String>,
        /// The group.
        #[serde(rename = "groupID", default)]
        #[schemars(length(min = 1))]
        group_id: Option<String>,
        /// Name of the token.
        #[schemars(length(min = 1))]
        name: String,
        /// User name of the token.
        username: Option<String>,
        /// What it may do.
        #[schemars(schema_with = "gitlab_scopes")]
        scopes: Vec<String>,
        /// When it ends.
        #[schemars(schema_with = "date_time")]
        #[serde(default)]
        expires_at: Option<String>,
        /// As whom.
        auth: GitlabAuth,
    }
    /// As whom GitLab is asked.
    GitlabAuth {
        /// With a token.
        token: GitlabToken,
    }
    /// A token of GitLab.
    GitlabToken {
        /// Where it lies.
        secret_ref: SecretKeySelector,
    }
    /// A service account of Grafana.
    GrafanaSpec {
        /// URL of Grafana.
        url: String,
        /// As whom.
        auth: GrafanaAuth,
        /// The account.
        service_account: GrafanaServiceAccount,
    }
    /// As whom Grafana is asked.
    GrafanaAuth {
        /// With a user's name and password.
        basic: Option<GrafanaBasic>,
        /// With a token.
        token: Option<LocalKey>,
    }
    /// A user of Grafana.
    GrafanaBasic {
        /// The name.
        username: String,
        /// Where the password lies.
        password: LocalKey,
    }
    /// A key of a Secret of the same namespace.
    LocalKey {
        /// Name of the Secret.
        #[schemars(schema_with = "name")]
        #[serde(default)]
        name: Option<String>,
        /// Key in its data.
        #[schemars(schema_with = "key")]
        #[serde(default)]
        key: Option<String>,
    }
    /// An account of Grafana.
    GrafanaServiceAccount {
        /// Its name.
        name: String,
        /// Its role.
        role: String,
        /// How long its token lasts.
        #[schemars(range(min = 1))]
        #[serde(default)]
        seconds_to_live: Option<i64>,
    }
    /// A one-time code.
    MfaSpec {
        /// The hash.
        algorithm: Option<String>,
        /// How many digits.
        length: Option<i64>,
        /// Where the seed lies.
        secret: SecretKeySelector,
        /// How long a code holds, in seconds.
        time_period: Option<i64>,
        /// The moment that it is for.
        #[schemars(schema_with = "date_time")]
        #[serde(default)]
        when: Option<String>,
    }
    /// A token of Quay.
    QuayAccessTokenSpec {
        /// URL of Quay.
        url: Option<String>,
        /// The robot account.
        robot_account: String,
        /// Whose token is exchanged.
        service_account_ref: ServiceAccountSelector,
    }
}

fn gitlab_scopes(_: &mut SchemaGenerator) -> Schema {
    let scopes = [
        "read_repository",
        "read_registry",
        "write_registry",
        "read_package_registry",
        "write_package_registry",
        "read_virtual_registry",
        "write_virtual_registry",
    ];
    json_schema!({"type": "array", "minItems": 1, "items": {"type": "string", "enum": scopes}})
}
