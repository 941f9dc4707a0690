//! Who somebody is on Google Cloud, for others to ask: a token that a service account's key signs, or Google for it. Vault's
//! Google method checks it (<https://developer.hashicorp.com/vault/docs/auth/gcp>).

use std::sync::Arc;
use std::time::Duration;

use lockstep_crds::store::gcpsm::{GcpAuth, GcpWorkloadIdentity};
use lockstep_crds::store::vault::VaultGcpAuth;
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::identity::{Ask, Auth, Identity, Source};
use crate::registry::Options;
use crate::{Error, Resolver, Result};

/// Vault takes 15 min at most unless its role says otherwise (`max_jwt_exp`).
const LIFE: Duration = Duration::from_secs(600);

/// An identity that Vault can be shown.
pub(crate) struct SignedIdentity {
    field: String,
    identity: Identity,
}

impl SignedIdentity {
    /// From `auth.gcp` of a Vault store, which stands at `field`.
    pub(crate) async fn new(field: String, spec: &VaultGcpAuth, resolver: Arc<dyn Resolver>, options: &Options) -> Result<Self> {
        // A service account alone is that account of the operator's own cluster.
        let here = spec.service_account_ref.clone().map(|account| GcpWorkloadIdentity {
            service_account_ref: account,
            cluster_location: spec.location.clone(),
            ..GcpWorkloadIdentity::default()
        });
        let auth = GcpAuth {
            secret_ref: spec.secret_ref.clone(),
            workload_identity: spec.workload_identity.clone().or(here),
            workload_identity_federation: None,
        };
        let given = Auth { field: field.clone(), auth: Some(&auth), project: spec.project_id.as_deref() };
        let identity = Identity::new(given, resolver, options).await?;
        Ok(Self { field, identity })
    }

    /// The body of a login with Vault's Google method.
    pub(crate) async fn login(&self, role: &str) -> Result<Value> {
        let audience = format!("vault/{role}");
        let token = match &self.identity.source {
            Source::Key(key) => key.assertion(&audience, LIFE, json!({"sub": key.email}))?,
            Source::Own(_) => self.of_machine(&audience).await?,
            Source::Workload(_) | Source::Federation(_) => self.by_google(&audience).await?,
        };
        Ok(json!({"role": role, "jwt": token.as_str()}))
    }

    /// A token that says which machine this is.
    async fn of_machine(&self, audience: &str) -> Result<Zeroizing<String>> {
        let audience: String = url::form_urlencoded::byte_serialize(format!("http://{audience}").as_bytes()).collect();
        let path = format!("instance/service-accounts/default/identity?audience={audience}&format=full");
        let token = self.identity.channel.metadata(&path).await?;
        let why = "names no identity, and the operator's own machine has none; set secretRef or workloadIdentity";
        token.map(Zeroizing::new).ok_or_else(|| Error::Denied(format!("{} {why}", self.field)))
    }

    /// A token that Google signs for a service account (IAM credentials API, signJwt).
    async fn by_google(&self, audience: &str) -> Result<Zeroizing<String>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Signed {
            signed_jwt: Zeroizing<String>,
        }
        let token = self.identity.token().await?;
        let account = token.account.as_deref().ok_or_else(|| {
            let why = "the Kubernetes service account has no annotation iam.gke.io/gcp-service-account; Vault knows Google's";
            Error::invalid(&self.field, why)
        })?;
        let end = jiff::Timestamp::now().as_second() + LIFE.as_secs().cast_signed();
        let claims = json!({"aud": audience, "sub": account, "exp": end});
        let request = self.identity.channel.credentials_of(account, "signJwt")?.header("authorization", token.header());
        let ask = Ask {
            what: format!("a signature of {account}"),
            secrets: vec![token.text()],
            hint: "it needs roles/iam.serviceAccountTokenCreator on itself",
        };
        let signed: Signed = self.identity.channel.ask(request.json(&json!({"payload": claims.to_string()})), &ask).await?;
        Ok(signed.signed_jwt)
    }
}
