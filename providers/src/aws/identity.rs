//! As whom requests to AWS are signed: access keys, a service account's web identity or the operator's own pod, and the roles
//! that are assumed from there. One set of credentials a connection, got again ahead of its end.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, error::CredentialsError, future};
use aws_sdk_sts::operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityError;
use aws_sdk_sts::types::Tag;
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use lockstep_crds::meta::ServiceAccountSelector;
use lockstep_crds::store::aws::{AwsAuth, AwsKeys};

use super::wire::{self, Carrier};
use crate::held::Held;
use crate::registry::Options;
use crate::{Error, Resolver, Result};

/// Life of the token that is exchanged, and of credentials that do not say when they end.
const TOKEN_LIFE: Duration = Duration::from_secs(3600);
/// Where a service account says which role it is.
const ROLE_ANNOTATION: &str = "eks.amazonaws.com/role-arn";
const AUDIENCE_ANNOTATION: &str = "eks.amazonaws.com/audience";
const AUDIENCE: &str = "sts.amazonaws.com";
/// What CloudTrail shows.
const SESSION: &str = "lockstep";

/// A role, and how it is assumed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Role {
    pub(super) arn: String,
    pub(super) external_id: Option<String>,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) transitive: Vec<String>,
    /// How long its session lasts, in seconds; none: AWS says.
    pub(super) life: Option<i32>,
}

/// Where the first credentials come from.
enum Source {
    Keys(Credentials),
    WebIdentity { field: String, account: ServiceAccountSelector },
    Own { field: String, chain: Box<DefaultCredentialsChain> },
}

/// Gets the credentials of a connection, and keeps them.
pub(super) struct Identity {
    source: Source,
    roles: Vec<Role>,
    sts: aws_sdk_sts::Client,
    region: String,
    resolver: Arc<dyn Resolver>,
    held: Held<Credentials>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

/// `auth` of a spec, for AWS's own services and for Vault's AWS method.
pub(super) struct Auth<'a> {
    /// Where it stands.
    pub(super) field: String,
    pub(super) role_field: String,
    pub(super) auth: Option<&'a AwsAuth>,
    pub(super) roles: Vec<Role>,
    pub(super) region: &'a str,
}

impl Identity {
    /// Reads what the spec refers to. No request goes out to AWS yet.
    pub(super) async fn new(given: Auth<'_>, resolver: Arc<dyn Resolver>, carrier: &Carrier, options: &Options) -> Result<Self> {
        let Auth { field, role_field, auth, roles, region } = given;
        for role in &roles {
            check_arn(&role_field, &role.arn)?;
        }
        let keys = auth.and_then(|a| a.secret_ref.as_ref());
        let jwt = auth.and_then(|a| a.jwt.as_ref());
        let source = match (keys, jwt) {
            (Some(_), Some(_)) => return Err(Error::invalid(field, "names secretRef and jwt; keep one")),
            (Some(keys), None) => Source::Keys(read_keys(&format!("{field}.secretRef"), keys, &*resolver).await?),
            (None, Some(jwt)) => {
                let field = format!("{field}.jwt.serviceAccountRef");
                let account = jwt.service_account_ref.clone().ok_or_else(|| Error::invalid(&field, "is not set"))?;
                Source::WebIdentity { field, account }
            }
            (None, None) => {
                resolver.check_own_identity(&field)?;
                Source::Own { chain: Box::new(own_chain(carrier, region).await), field }
            }
        };
        let mut config = aws_sdk_sts::config::Builder::from(&wire::config(carrier, region, options, None));
        config.set_endpoint_url(options.endpoints.get("sts"));
        let sts = aws_sdk_sts::Client::from_conf(config.build());
        Ok(Self { source, roles, sts, region: region.to_owned(), resolver, held: Held::default() })
    }

    /// Credentials that are good now.
    ///
    /// # Errors
    /// [`Error::Denied`] names the step that was refused, and by which code.
    pub(super) async fn credentials(&self) -> Result<Credentials> {
        // Boxed: the SDK's futures are large and deep, and most calls find credentials that are there.
        let load = Box::pin(async {
            let credentials = self.load().await?;
            let end = credentials.expiry();
            Ok((credentials, end))
        });
        self.held.get(load).await
    }

    /// Others than `stale`, which AWS says have ended; none when there can be no others.
    pub(super) async fn renewed(&self, stale: &Credentials) -> Result<Option<Credentials>> {
        if matches!(self.source, Source::Keys(_)) && self.roles.is_empty() {
            return Ok(None);
        }
        match self.held.forget(|held| held.access_key_id() == stale.access_key_id()).await {
            true => self.credentials().await.map(Some),
            false => Ok(None),
        }
    }

    /// Credentials that are new.
    pub(super) async fn load(&self) -> Result<Credentials> {
        let mut credentials = match &self.source {
            Source::Keys(credentials) => credentials.clone(),
            Source::WebIdentity { field, account } => self.exchange(field, account).await?,
            Source::Own { field, chain } => chain.provide_credentials().await.map_err(|error| own_failure(field, &error))?,
        };
        for role in &self.roles {
            credentials = self.assume(role, credentials).await?;
        }
        Ok(credentials)
    }

    /// A service account's token for credentials of the role that its annotation names.
    async fn exchange(&self, field: &str, account: &ServiceAccountSelector) -> Result<Credentials> {
        let annotations = self.resolver.service_account_annotations(field, account).await?;
        let arn = annotations.get(ROLE_ANNOTATION).ok_or_else(|| {
            Error::invalid(
                field,
                format!("ServiceAccount {} has no annotation {ROLE_ANNOTATION}; it names the role", account.name),
            )
        })?;
        check_arn(field, arn)?;
        let audience = annotations.get(AUDIENCE_ANNOTATION).map_or(AUDIENCE, String::as_str);
        let token = self.resolver.service_account_token(field, account, &[audience.to_owned()], TOKEN_LIFE).await?;
        let token = crate::http::header_token(field, &token)?;
        let what = format!("AssumeRoleWithWebIdentity of {arn} as ServiceAccount {}", account.name);
        let answer = self
            .sts
            .assume_role_with_web_identity()
            .role_arn(arn)
            .role_session_name(SESSION)
            .web_identity_token(token.as_str())
            .send()
            .await
            .map_err(|error| self.refused(&what, arn, wire::failure(&what, &self.region, &error)))?;
        taken(&what, answer.credentials)
    }

    async fn assume(&self, role: &Role, credentials: Credentials) -> Result<Credentials> {
        let what = format!("AssumeRole of {}", role.arn);
        let tags: Result<Vec<Tag>> = role.tags.iter().map(|(key, value)| tag(key, value)).collect();
        let request = self
            .sts
            .assume_role()
            .role_arn(&role.arn)
            .role_session_name(SESSION)
            .set_external_id(role.external_id.clone())
            .set_duration_seconds(role.life)
            .set_tags(Some(tags?).filter(|tags| !tags.is_empty()))
            .set_transitive_tag_keys(Some(role.transitive.clone()).filter(|keys| !keys.is_empty()));
        let signed = aws_sdk_sts::config::Builder::new().credentials_provider(credentials);
        let answer = request.customize().config_override(signed).send().await;
        let answer = answer.map_err(|error| self.refused(&what, &role.arn, wire::failure(&what, &self.region, &error)))?;
        taken(&what, answer.credentials)
    }

    /// What a failure of STS means: it never says that a secret is missing.
    fn refused(&self, what: &str, arn: &str, error: Error) -> Error {
        match error {
            Error::NotFound(why) | Error::Invalid { why, .. } => Error::Denied(why),
            Error::Denied(why) if why.contains("must allow it") => {
                Error::Denied(format!("{why}, and the trust policy of {arn} must admit who asks ({what})"))
            }
            other => other,
        }
    }
}

impl ProvideCredentials for Identity {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async { self.credentials().await.map_err(CredentialsError::provider_error) })
    }
}

fn tag(key: &str, value: &str) -> Result<Tag> {
    let built = Tag::builder().key(key).value(value).build();
    built.map_err(|_| Error::invalid("spec.provider.aws.sessionTags", "a tag needs a key and a value"))
}

pub(super) fn taken(what: &str, given: Option<aws_sdk_sts::types::Credentials>) -> Result<Credentials> {
    let given = given.ok_or_else(|| Error::unavailable(format!("AWS answered {what} without credentials")))?;
    let end = SystemTime::try_from(*given.expiration()).unwrap_or_else(|_| SystemTime::now() + TOKEN_LIFE);
    Ok(Credentials::new(given.access_key_id, given.secret_access_key, Some(given.session_token), Some(end), "lockstep"))
}

async fn read_keys(field: &str, keys: &AwsKeys, resolver: &dyn Resolver) -> Result<Credentials> {
    let read = async |name: &str, selector: &Option<_>| {
        let field = format!("{field}.{name}");
        let selector = selector.as_ref().ok_or_else(|| Error::invalid(&field, "is not set"))?;
        let bytes = resolver.secret_key(&field, selector, None).await?;
        crate::http::header_token(&field, &bytes)
    };
    let id = read("accessKeyIDSecretRef", &keys.access_key_id_secret_ref).await?;
    let secret = read("secretAccessKeySecretRef", &keys.secret_access_key_secret_ref).await?;
    let session = match &keys.session_token_secret_ref {
        Some(_) => Some(read("sessionTokenSecretRef", &keys.session_token_secret_ref).await?.to_string()),
        None => None,
    };
    Ok(Credentials::new(id.as_str(), secret.as_str(), session, None, "lockstep"))
}

/// The operator's own pod: environment, web identity, EKS Pod Identity, the machine's role.
pub(super) async fn own_chain(carrier: &Carrier, region: &str) -> DefaultCredentialsChain {
    DefaultCredentialsChain::builder().configure(own_config(carrier, Some(region))).build().await
}

pub(super) fn own_config(carrier: &Carrier, region: Option<&str>) -> ProviderConfig {
    ProviderConfig::empty()
        .with_region(region.map(|region| aws_types::region::Region::new(region.to_owned())))
        .with_http_client(carrier.clone())
        .with_sleep_impl(TokioSleep::new())
        .with_behavior_version(Some(aws_smithy_runtime_api::client::behavior_version::BehaviorVersion::latest()))
}

pub(super) fn own_failure(field: &str, error: &CredentialsError) -> Error {
    // What STS said to a service account's token is known better than by its words.
    type Exchange = SdkError<AssumeRoleWithWebIdentityError, HttpResponse>;
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(inner) = cause {
        if let Some(exchange) = inner.downcast_ref::<Exchange>() {
            return match wire::failure("AssumeRoleWithWebIdentity of the operator's own pod", "its region", exchange) {
                Error::NotFound(why) | Error::Invalid { why, .. } => Error::Denied(why),
                other => other,
            };
        }
        cause = inner.source();
    }
    let why = crate::http::causes(error, &[]);
    match error {
        CredentialsError::CredentialsNotLoaded(_) => Error::Denied(format!(
            "{field} names no identity, and the operator's own pod has none ({why}); set its secretRef or jwt, or \
             give the operator's service account a role"
        )),
        CredentialsError::ProviderTimedOut(_) => {
            Error::unreachable(format!("the operator's own AWS identity did not come in time ({why})"))
        }
        // The SDK keeps the agent's words to itself, and says its code only.
        _ if why.contains("StatusCode(5") || why.contains("StatusCode(429") => {
            Error::unavailable(format!("the operator's own AWS identity could not be got ({why})"))
        }
        CredentialsError::Unhandled(_) => Error::unreachable(format!("the operator's own AWS identity could not be got ({why})")),
        _ if why.contains("Non-success status from HTTP credential provider") => Error::Denied(format!(
            "the operator's own AWS identity is refused by what its AWS_CONTAINER_CREDENTIALS_* names ({why}); check that EKS Pod \
             Identity associates the operator's service account with a role, and the agent's log"
        )),
        _ => Error::Denied(format!("the operator's own AWS identity is refused ({why})")),
    }
}

/// An ARN of a role, such as `arn:aws:iam::123456789012:role/app`.
fn check_arn(field: &str, arn: &str) -> Result<()> {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let formed = match parts[..] {
        ["arn", partition, "iam", "", account, resource] => {
            partition.starts_with("aws")
                && account.len() == 12
                && account.chars().all(|c| c.is_ascii_digit())
                && resource.strip_prefix("role/").is_some_and(|name| !name.is_empty())
        }
        _ => false,
    };
    let graphic = arn.chars().all(|c| c.is_ascii_graphic());
    if formed && graphic {
        return Ok(());
    }
    let arn = crate::error::foreign_text(arn, &[]);
    Err(Error::invalid(field, format!("{arn:?} is no ARN of a role; write arn:aws:iam::123456789012:role/NAME")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_of_sts_is_none_of_the_operators_own_identity() {
        type Exchange = SdkError<AssumeRoleWithWebIdentityError, HttpResponse>;
        let late = CredentialsError::provider_error(Exchange::timeout_error("late"));
        assert!(matches!(own_failure("auth", &late), Error::Unavailable { everybody: true, .. }));
        let of = |text: &str| own_failure("auth", &CredentialsError::provider_error(text.to_owned()));
        assert!(matches!(of("Non-success status from HTTP credential provider: StatusCode(503)"), Error::Unavailable { .. }));
        assert!(
            matches!(of("Non-success status from HTTP credential provider: StatusCode(400)"), Error::Denied(why) if why.contains("Pod Identity"))
        );
        assert!(matches!(of("no role"), Error::Denied(_)));
    }

    #[test]
    fn only_arns_of_roles_are_assumed() {
        for good in ["arn:aws:iam::123456789012:role/app", "arn:aws-cn:iam::123456789012:role/path/app"] {
            assert!(check_arn("f", good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "app",
            "arn:aws:iam::123:role/app",
            "arn:aws:iam::123456789012:user/app",
            "arn:aws:iam::123456789012:role/",
            "arn:aws:iam::123456789012:role/a b",
        ] {
            assert!(check_arn("f", bad).is_err(), "{bad}");
        }
    }
}
