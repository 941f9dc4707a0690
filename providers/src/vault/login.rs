//! The token of a connection: one login for everyone who uses it, renewed before it expires, revoked at the end.

use std::sync::{Arc, Weak};
use std::time::Duration;

use lockstep_crds::meta::{SecretKeySelector, ServiceAccountSelector};
use lockstep_crds::store::vault::{VaultAppRole, VaultAuth, VaultGcpAuth, VaultIamAuth, VaultJwtAuth, VaultKubernetesAuth};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::FIELD;
use super::client::{VaultClient, check_namespace};
use super::kv::Path;
use crate::registry::Options;
use crate::secret_bytes::WipedJson;
use crate::{Error, Resolver, Result};

/// Certificate and key of `auth.cert`: they belong to the connection, not to a request.
pub(super) type CertRefs = (SecretKeySelector, SecretKeySelector);

/// How a token is got.
pub(super) enum Login {
    /// It lies in a Secret.
    Token(SecretKeySelector),
    AppRole(VaultAppRole),
    Kubernetes(VaultKubernetesAuth),
    Jwt(VaultJwtAuth),
    /// userPass and ldap: the same request under two mounts.
    Password {
        field: &'static str,
        path: String,
        username: String,
        password: SecretKeySelector,
    },
    Cert {
        path: String,
        role: Option<String>,
    },
    #[cfg(feature = "aws")]
    Iam {
        path: String,
        role: String,
        caller: Box<crate::aws::iam::CallerIdentity>,
    },
    #[cfg(feature = "gcp")]
    Gcp {
        path: String,
        role: String,
        signed: Box<crate::gcp::signed::SignedIdentity>,
    },
}

impl Login {
    /// The one method of a spec.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is none or more than one, [`Error::Unsupported`] for what this build lacks.
    pub(super) async fn from_spec(
        auth: Option<&VaultAuth>,
        resolver: &Arc<dyn Resolver>,
        options: &Options,
    ) -> Result<(Self, Option<CertRefs>)> {
        let field = format!("{FIELD}.auth");
        let known = "tokenSecretRef, appRole, kubernetes, jwt, userPass, ldap, cert, iam, gcp";
        let auth = auth.ok_or_else(|| Error::invalid(&field, format!("is not set; name one of {known}")))?;
        let named: Vec<&str> = [
            ("tokenSecretRef", auth.token_secret_ref.is_some()),
            ("appRole", auth.app_role.is_some()),
            ("kubernetes", auth.kubernetes.is_some()),
            ("ldap", auth.ldap.is_some()),
            ("userPass", auth.user_pass.is_some()),
            ("jwt", auth.jwt.is_some()),
            ("cert", auth.cert.is_some()),
            ("iam", auth.iam.is_some()),
            ("gcp", auth.gcp.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, set)| set.then_some(name))
        .collect();
        match named[..] {
            [] => return Err(Error::invalid(&field, format!("names no method; name one of {known}"))),
            [_] => {}
            _ => return Err(Error::invalid(&field, format!("names {}; keep one", named.join(" and ")))),
        }
        if let Some(namespace) = auth.namespace.as_deref().filter(|n| !n.is_empty()) {
            check_namespace("auth.namespace", namespace)?;
        }
        let password = |field: &'static str, path: &str, username: &str, secret: &Option<SecretKeySelector>| {
            let password = secret
                .clone()
                .ok_or_else(|| Error::invalid(format!("{FIELD}.auth.{field}.secretRef"), "is not set; it names the password"))?;
            Ok(Self::Password { field, path: mount(path), username: username.to_owned(), password })
        };
        let login = if let Some(token) = &auth.token_secret_ref {
            Self::Token(token.clone())
        } else if let Some(role) = &auth.app_role {
            if role.role_id.is_some() == role.role_ref.is_some() {
                return Err(Error::invalid(format!("{field}.appRole"), "needs exactly one of roleId and roleRef"));
            }
            Self::AppRole(role.clone())
        } else if let Some(kubernetes) = &auth.kubernetes {
            if kubernetes.service_account_ref.is_some() && kubernetes.secret_ref.is_some() {
                return Err(Error::invalid(format!("{field}.kubernetes"), "names serviceAccountRef and secretRef; keep one"));
            }
            Self::Kubernetes(kubernetes.clone())
        } else if let Some(jwt) = &auth.jwt {
            if jwt.secret_ref.is_some() == jwt.kubernetes_service_account_token.is_some() {
                let why = "needs exactly one of secretRef and kubernetesServiceAccountToken";
                return Err(Error::invalid(format!("{field}.jwt"), why));
            }
            Self::Jwt(jwt.clone())
        } else if let Some(user) = &auth.user_pass {
            password("userPass", &user.path, &user.username, &user.secret_ref)?
        } else if let Some(ldap) = &auth.ldap {
            password("ldap", &ldap.path, &ldap.username, &ldap.secret_ref)?
        } else if let Some(cert) = &auth.cert {
            let (Some(certificate), Some(key)) = (&cert.client_cert, &cert.secret_ref) else {
                return Err(Error::invalid(format!("{field}.cert"), "needs clientCert and secretRef (the key)"));
            };
            let refs = (certificate.clone(), key.clone());
            return Ok((Self::Cert { path: mount(&cert.path), role: cert.vault_role.clone() }, Some(refs)));
        } else if let Some(iam) = &auth.iam {
            Self::iam(&format!("{field}.iam"), iam, resolver, options).await?
        } else if let Some(gcp) = &auth.gcp {
            Self::gcp(&format!("{field}.gcp"), gcp, resolver, options).await?
        } else {
            return Err(Error::Unsupported(format!("{field}: use one of {known}")));
        };
        Ok((login, None))
    }

    #[cfg(feature = "aws")]
    async fn iam(field: &str, iam: &VaultIamAuth, resolver: &Arc<dyn Resolver>, options: &Options) -> Result<Self> {
        let path = mount(iam.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("aws"));
        let caller = crate::aws::iam::CallerIdentity::new(field.to_owned(), iam, resolver.clone(), options).await?;
        Ok(Self::Iam { path, role: iam.vault_role.clone(), caller: Box::new(caller) })
    }

    #[cfg(feature = "gcp")]
    async fn gcp(field: &str, gcp: &VaultGcpAuth, resolver: &Arc<dyn Resolver>, options: &Options) -> Result<Self> {
        let signed = crate::gcp::signed::SignedIdentity::new(field.to_owned(), gcp, resolver.clone(), options).await?;
        Ok(Self::Gcp { path: mount(&gcp.path), role: gcp.role.clone(), signed: Box::new(signed) })
    }

    #[cfg(not(feature = "gcp"))]
    async fn gcp(field: &str, _: &VaultGcpAuth, _: &Arc<dyn Resolver>, _: &Options) -> Result<Self> {
        Err(Error::Unsupported(format!("{field} needs a build with the gcp provider")))
    }

    #[cfg(not(feature = "aws"))]
    async fn iam(field: &str, _: &VaultIamAuth, _: &Arc<dyn Resolver>, _: &Options) -> Result<Self> {
        Err(Error::Unsupported(format!("{field} needs a build with the aws provider")))
    }
}

fn mount(path: &str) -> String {
    path.trim_matches('/').to_owned()
}

/// A token and when it ends.
pub(super) struct Token {
    pub(super) text: Zeroizing<String>,
    /// None: it does not end, or we did not make it.
    expires: Option<Instant>,
    /// When the login was made.
    made: Instant,
    /// Names it to those who may not have it.
    accessor: Option<String>,
}

#[derive(Default)]
struct State {
    token: Option<Arc<Token>>,
    /// When Vault last said that the token lives: a denial soon after needs no second question.
    confirmed: Option<Instant>,
    /// The last login, if it was refused.
    refused: Option<(Error, Instant)>,
    closed: bool,
    /// What was issued to it would end with it: it is not given back.
    leased: bool,
}

/// Keeps the connection's token. One lock: whoever comes while a login is under way waits for that one.
pub(super) struct Session {
    client: Arc<VaultClient>,
    namespace: Option<String>,
    login: Login,
    resolver: Arc<dyn Resolver>,
    state: Mutex<State>,
    this: Weak<Self>,
}

/// How long after a login a denial is taken as one of the policy, and not of the token.
const BELIEVED_FOR: Duration = Duration::from_secs(5);
/// How long after a login its policies are taken to be those of the role.
const POLICIES_HOLD: Duration = Duration::from_secs(60);
/// How long a refused login is the answer for everybody: more tries lock accounts.
const REFUSAL_HOLDS: Duration = Duration::from_secs(30);
/// Longest life of a token that is reckoned with.
const LIFE_MAX: Duration = Duration::from_secs(10 * 365 * 86_400);
/// A login that ends sooner than this is not renewed but made again when it is needed.
const SHORTEST_RENEWAL: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct LoginAnswer {
    auth: LoginAuth,
}

#[derive(Deserialize)]
struct LoginAuth {
    #[serde(default)]
    client_token: Zeroizing<String>,
    #[serde(default)]
    accessor: String,
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

impl Session {
    pub(super) async fn new(
        client: Arc<VaultClient>,
        namespace: Option<String>,
        login: Login,
        resolver: Arc<dyn Resolver>,
    ) -> Result<Arc<Self>> {
        let session = Arc::new_cyclic(|this| Self {
            client,
            namespace,
            login,
            resolver,
            state: Mutex::new(State::default()),
            this: this.clone(),
        });
        if let Login::Token(selector) = &session.login {
            let field = format!("{FIELD}.auth.tokenSecretRef");
            let token = session.resolver.secret_key(&field, selector, Some("token")).await?;
            let text = crate::http::header_token(&field, &token)?;
            session.state.lock().await.token =
                Some(Arc::new(Token { text, expires: None, made: Instant::now(), accessor: None }));
        }
        Ok(session)
    }

    /// The token, from a login if there is none that lives.
    pub(super) async fn token(&self) -> Result<Arc<Token>> {
        let mut state = self.state.lock().await;
        match &state.token {
            Some(token) if token.expires.is_none_or(|at| Instant::now() < at) => Ok(token.clone()),
            _ => self.log_in(&mut state).await,
        }
    }

    /// The token to try again with after a 403 to a request that was sent at `asked`; none when the 403 stands.
    ///
    /// A new login is made once when Vault no longer knows the token, and when the token is old enough for its role to have
    /// got other policies since: a token's policies are those of its login.
    pub(super) async fn after_denial(&self, token: &Arc<Token>, asked: Instant) -> Result<Option<Arc<Token>>> {
        if matches!(self.login, Login::Token(_)) {
            return Ok(None);
        }
        let mut state = self.state.lock().await;
        match &state.token {
            Some(current) if !Arc::ptr_eq(current, token) => return Ok(Some(current.clone())),
            _ => {}
        }
        if token.made.elapsed() < BELIEVED_FOR || state.confirmed.is_some_and(|at| at >= asked) {
            return Ok(None);
        }
        match self.look_up(token).await {
            // What was issued to a token ends with it: it is prolonged for as long as it lives, and not replaced.
            Ok(()) if token.made.elapsed() < POLICIES_HOLD || state.leased => {
                state.confirmed = Some(Instant::now());
                Ok(None)
            }
            Ok(()) => {
                let fresh = self.log_in(&mut state).await?;
                self.give_back(token).await;
                Ok(Some(fresh))
            }
            Err(Error::Denied(_)) => self.log_in(&mut state).await.map(Some),
            Err(error) => Err(error),
        }
    }

    /// Makes sure that the identity is taken.
    pub(super) async fn check(&self) -> Result<()> {
        let token = self.token().await?;
        match self.look_up(&token).await {
            Err(Error::Denied(why)) if matches!(self.login, Login::Token(_)) => Err(Error::Denied(format!(
                "{why}; the token of {FIELD}.auth.tokenSecretRef is expired, revoked or not of this Vault"
            ))),
            // A token that was just given is good, even if it may not look at itself (roles without the default policy).
            Err(Error::Denied(_)) if token.made.elapsed() < POLICIES_HOLD => Ok(()),
            Err(Error::Denied(_)) => {
                let mut state = self.state.lock().await;
                match &state.token {
                    Some(current) if !Arc::ptr_eq(current, &token) => Ok(()),
                    _ => self.log_in(&mut state).await.map(drop),
                }
            }
            other => other,
        }
    }

    async fn look_up(&self, token: &Token) -> Result<()> {
        let path = Path::new("auth", &["token", "lookup-self"]);
        self.client.send(Method::GET, &path, Some(&token.text), self.namespace.as_deref(), None).await.map(drop)
    }

    async fn log_in(&self, state: &mut State) -> Result<Arc<Token>> {
        if state.closed {
            return Err(Error::unavailable("the connection is being closed"));
        }
        if let Some((error, at)) = &state.refused
            && at.elapsed() < REFUSAL_HOLDS
        {
            return Err(error.clone());
        }
        let answer = self.try_log_in(state).await;
        state.refused = match &answer {
            Err(error @ (Error::Denied(_) | Error::Invalid { .. })) => Some((error.clone(), Instant::now())),
            _ => None,
        };
        answer
    }

    async fn try_log_in(&self, state: &mut State) -> Result<Arc<Token>> {
        let (path, body) = Box::pin(self.request()).await?;
        let body = WipedJson(body);
        let answer = self.client.send(Method::POST, &path, None, self.namespace.as_deref(), Some(&body.0)).await;
        let answer = answer.map_err(|error| match error {
            Error::Denied(why) | Error::NotFound(why) => Error::Denied(format!("login failed: {why}")),
            other => other,
        })?;
        let LoginAnswer { auth } =
            serde_json::from_slice(&answer).map_err(|_| Error::unavailable(format!("the answer of {path} holds no token")))?;
        let life = (auth.lease_duration > 0).then(|| Duration::from_secs(auth.lease_duration).min(LIFE_MAX));
        let accessor = Some(auth.accessor).filter(|a| !a.is_empty());
        let (now, expires) = (Instant::now(), life.map(|l| Instant::now() + l));
        let token = Arc::new(Token { text: auth.client_token, expires, made: now, accessor });
        state.token = Some(token.clone());
        state.confirmed = Some(Instant::now());
        if let Some(life) = life.filter(|_| auth.renewable) {
            tokio::spawn(keep_renewed(self.this.clone(), token.clone(), life));
        }
        Ok(token)
    }

    /// Path and body of the login. The body holds credentials.
    async fn request(&self) -> Result<(Path, Value)> {
        let read = async |field: &str, selector: &SecretKeySelector, default: &str| -> Result<Zeroizing<String>> {
            let field = format!("{FIELD}.auth.{field}");
            let bytes = self.resolver.secret_key(&field, selector, Some(default)).await?;
            let text = bytes.as_text().ok_or_else(|| Error::invalid(&field, "is not text"))?;
            Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
        };
        Ok(match &self.login {
            Login::Token(_) => return Err(Error::invalid(format!("{FIELD}.auth.tokenSecretRef"), "the token has ended")),
            Login::AppRole(role) => {
                let role_id = match (&role.role_id, &role.role_ref) {
                    (Some(id), _) => Zeroizing::new(id.clone()),
                    (None, Some(selector)) => read("appRole.roleRef", selector, "role-id").await?,
                    (None, None) => return Err(Error::invalid(format!("{FIELD}.auth.appRole"), "needs roleId or roleRef")),
                };
                let secret_id = read("appRole.secretRef", &role.secret_ref, "secret-id").await?;
                (login_path(&role.path, None)?, json!({"role_id": role_id.as_str(), "secret_id": secret_id.as_str()}))
            }
            Login::Kubernetes(kubernetes) => {
                let jwt = match (&kubernetes.service_account_ref, &kubernetes.secret_ref) {
                    (Some(account), _) => self.account_token("kubernetes.serviceAccountRef", account, &[], 600).await?,
                    (None, Some(selector)) => read("kubernetes.secretRef", selector, "token").await?,
                    (None, None) => text(&self.resolver.own_token(&format!("{FIELD}.auth.kubernetes")).await?)?,
                };
                (login_path(&kubernetes.mount_path, None)?, json!({"role": kubernetes.role, "jwt": jwt.as_str()}))
            }
            Login::Jwt(method) => {
                let jwt = match (&method.secret_ref, &method.kubernetes_service_account_token) {
                    (Some(selector), _) => read("jwt.secretRef", selector, "jwt").await?,
                    (None, Some(token)) => {
                        let audiences = token.audiences.clone().unwrap_or_else(|| vec!["vault".into()]);
                        let seconds = token.expiration_seconds.unwrap_or(600).clamp(600, 1 << 32) as u64;
                        let field = "jwt.kubernetesServiceAccountToken.serviceAccountRef";
                        self.account_token(field, &token.service_account_ref, &audiences, seconds).await?
                    }
                    (None, None) => return Err(Error::invalid(format!("{FIELD}.auth.jwt"), "needs a JWT")),
                };
                let mut body = json!({"jwt": jwt.as_str()});
                if let Some(role) = &method.role {
                    body["role"] = json!(role);
                }
                (login_path(&method.path, None)?, body)
            }
            #[cfg(feature = "aws")]
            Login::Iam { path, role, caller } => (login_path(path, None)?, Box::pin(caller.login(role)).await?),
            #[cfg(feature = "gcp")]
            Login::Gcp { path, role, signed } => (login_path(path, None)?, Box::pin(signed.login(role)).await?),
            Login::Password { field, path, username, password } => {
                let password = read(&format!("{field}.secretRef"), password, "password").await?;
                (login_path(path, Some(username))?, json!({"password": password.as_str()}))
            }
            Login::Cert { path, role } => {
                (login_path(path, None)?, role.as_ref().map_or_else(|| json!({}), |name| json!({"name": name})))
            }
        })
    }

    async fn account_token(
        &self,
        field: &str,
        account: &ServiceAccountSelector,
        audiences: &[String],
        seconds: u64,
    ) -> Result<Zeroizing<String>> {
        let field = format!("{FIELD}.auth.{field}");
        let token = self.resolver.service_account_token(&field, account, audiences, Duration::from_secs(seconds)).await?;
        text(&token)
    }

    /// Gives a token that a login made back to Vault.
    pub(super) async fn revoke(&self) {
        let mut state = self.state.lock().await;
        state.closed = true;
        let token = state.token.take();
        if matches!(self.login, Login::Token(_)) {
            return;
        }
        if let Some(token) = token.filter(|_| !state.leased) {
            self.give_back(&token).await;
        }
    }

    /// Something was issued to the token: it stays until it ends by itself. Answers what names it, unless a person gave it.
    pub(super) async fn leased(&self) -> Option<String> {
        let mut state = self.state.lock().await;
        state.leased = true;
        state.token.as_ref().and_then(|token| token.accessor.clone())
    }

    /// Prolongs a login that something was issued to, be it this connection's or one of an earlier process. Answers for how many
    /// seconds it lives; none: that can't be told.
    pub(super) async fn prolong(&self, accessor: &str) -> Result<Option<u64>> {
        let token = self.token().await?;
        if token.accessor.as_deref() == Some(accessor) {
            // Renewed by itself.
            return Ok(token.expires.map(|at| at.saturating_duration_since(Instant::now()).as_secs()));
        }
        let path = Path::new("auth", &["token", "renew-accessor"]);
        let body = json!({"accessor": accessor});
        match self.client.send(Method::POST, &path, Some(&token.text), self.namespace.as_deref(), Some(&body)).await {
            Ok(answer) => {
                let answer = serde_json::from_slice::<LoginAnswer>(&answer).ok();
                Ok(answer.map(|LoginAnswer { auth }| auth.lease_duration).filter(|seconds| *seconds > 0))
            }
            // Not allowed, or a token that can't be renewed: it ends when it ends.
            Err(Error::Denied(why)) => {
                tracing::debug!(%why, "a login that something was issued to can't be prolonged");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn give_back(&self, token: &Token) {
        let path = Path::new("auth", &["token", "revoke-self"]);
        let sent = self.client.send(Method::POST, &path, Some(&token.text), self.namespace.as_deref(), None).await;
        if let Err(error) = sent {
            tracing::debug!(%error, "a Vault token could not be revoked; it ends by itself");
        }
    }
}

/// Accessor and text of a token that was made on request.
pub(super) fn made(answer: &[u8]) -> serde_json::Result<(String, crate::SecretBytes)> {
    let LoginAnswer { auth } = serde_json::from_slice(answer)?;
    Ok((auth.accessor, crate::SecretBytes::new(auth.client_token.as_bytes().to_vec())))
}

fn text(bytes: &crate::SecretBytes) -> Result<Zeroizing<String>> {
    let text =
        bytes.as_text().ok_or_else(|| Error::invalid(format!("{FIELD}.auth"), "the service account's token is not text"))?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

fn login_path(mount: &str, user: Option<&str>) -> Result<Path> {
    let field = format!("{FIELD}.auth");
    super::kv::check_segments(&field, mount.trim_matches('/'))?;
    if let Some(user) = user {
        super::kv::check_segments(&field, user)?;
    }
    let mut path = Path::new("auth", &[]);
    path.segments = mount.trim_matches('/').split('/').chain(["login"]).chain(user).map(str::to_owned).collect();
    Ok(path)
}

/// Renews a token at two thirds of its life, for as long as the session lives and still uses it.
async fn keep_renewed(session: Weak<Session>, mut token: Arc<Token>, mut life: Duration) {
    let path = Path::new("auth", &["token", "renew-self"]);
    while life >= SHORTEST_RENEWAL {
        tokio::time::sleep(life.mul_f64(2.0 / 3.0)).await;
        let Some(session) = session.upgrade() else { return };
        let mut state = session.state.lock().await;
        if state.closed || !state.token.as_ref().is_some_and(|current| Arc::ptr_eq(current, &token)) {
            return;
        }
        let answer =
            session.client.send(Method::POST, &path, Some(&token.text), session.namespace.as_deref(), Some(&json!({}))).await;
        let renewed = match answer {
            Ok(body) => serde_json::from_slice::<LoginAnswer>(&body).ok(),
            Err(Error::Denied(_)) => return,
            Err(_) => None,
        };
        // Without an answer it is tried again in what is left; after the token's end the next user logs in.
        let Some(LoginAnswer { auth }) = renewed else {
            life = token.expires.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
            continue;
        };
        life = Duration::from_secs(auth.lease_duration).min(LIFE_MAX);
        token = Arc::new(Token {
            text: token.text.clone(),
            expires: Some(Instant::now() + life),
            made: token.made,
            accessor: token.accessor.clone(),
        });
        state.token = Some(token.clone());
    }
}
