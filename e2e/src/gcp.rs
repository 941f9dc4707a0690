//! A Google Cloud: Secret Manager, the token services and a metadata server, with what is kept in memory.
//!
//! Written after the published references; each behaviour names its page. `[memory]` marks what no page that could be read
//! here says. Tokens are checked as Google checks them: by the cluster's keys, a service account's key, or a signature of AWS.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::faults::Faults;
use crate::jwt;
use crate::rsa::Rsa;
use crate::serve;
use crate::signature::Signed;

/// The number of every project: answers name projects by it.
const NUMBER: &str = "123456789012";
/// Secrets on a page where the client asks for no size. [memory]
const PAGE: usize = 100;

/// A request that came in, as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The principal.
    pub principal: String,
    /// Such as `GET /v1/projects/p/secrets/s`.
    pub request: String,
}

#[derive(Clone, Default)]
struct Version {
    state: &'static str,
    data: Vec<u8>,
}

#[derive(Clone, Default)]
struct Secret {
    /// As it was created or changed.
    json: Map<String, Value>,
    versions: Vec<Version>,
    etag: u64,
}

/// A provider of a workload identity pool.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    /// Audiences that a Kubernetes token may have; the pool's own name always.
    pub audiences: Vec<String>,
    /// AWS access keys, with their secrets, whose requests are believed.
    pub aws: HashMap<String, String>,
}

#[derive(Default)]
struct Shared {
    secrets: Mutex<BTreeMap<String, Secret>>,
    /// What principals may reach: beginnings of resources' names.
    grants: Mutex<HashMap<String, Vec<String>>>,
    /// Whose tokens are out, and whether they still hold.
    tokens: Mutex<HashMap<String, (String, bool)>>,
    accounts: Mutex<HashMap<String, Arc<Rsa>>>,
    /// Who may be a service account.
    users: Mutex<HashMap<String, Vec<String>>>,
    pools: Mutex<HashMap<String, Pool>>,
    clusters: Mutex<Vec<String>>,
    issuer: Mutex<Option<jwt::Issuer>>,
    calls: Mutex<Vec<Call>>,
    /// The service account of the machine, where the metadata server is.
    machine: Mutex<Option<String>>,
}

/// A running Google Cloud.
pub struct Gcp {
    /// Where all of its services are.
    pub url: String,
    /// What goes wrong.
    pub faults: Faults,
    shared: Arc<Shared>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Gcp {
    /// Starts one.
    ///
    /// # Errors
    /// Why there is no port.
    pub fn start() -> Result<Self, String> {
        let (shared, faults) = (Arc::<Shared>::default(), Faults::default());
        let url = serve::apart(faults.before(Router::new().fallback(serve).with_state(shared.clone())))?;
        Ok(Self { url, faults, shared })
    }

    /// The key of a service account of Vault's, which exchanges its assertion here: for its own calls to Google.
    pub fn key_of_vault(&self) -> String {
        let mut key = self.account("vault@vault.iam.gserviceaccount.com");
        key["token_uri"] = format!("{}/token", self.url).into();
        key.to_string()
    }

    /// The variables that lead an operator here.
    pub fn environment(&self) -> Vec<(String, String)> {
        let services = ["SECRETMANAGER", "STS", "IAMCREDENTIALS", "SECURETOKEN", "OAUTH2"];
        let mut all: Vec<(String, String)> =
            services.map(|name| (format!("CLOUDSDK_API_ENDPOINT_OVERRIDES_{name}"), self.url.clone())).into();
        all.push(("GCE_METADATA_HOST".into(), self.url.trim_start_matches("http://").into()));
        all
    }

    /// Believes tokens that this issuer signed.
    pub fn trust(&self, issuer: jwt::Issuer) {
        *lock(&self.shared.issuer) = Some(issuer);
    }

    /// Lets a principal reach what begins with these, such as `projects/p/secrets/app`; `projects/p/` is for its list alone.
    pub fn grant(&self, principal: &str, resources: &[&str]) {
        let resources = resources.iter().map(|r| (*r).to_owned()).collect();
        lock(&self.shared.grants).insert(principal.to_owned(), resources);
    }

    /// Makes a service account; answers its key as the console gives it.
    pub fn account(&self, email: &str) -> Value {
        let rsa = lock(&self.shared.accounts).entry(email.to_owned()).or_insert_with(|| Arc::new(Rsa::new(email))).clone();
        json!({
            "type": "service_account",
            "project_id": email.split(['@', '.']).nth(1),
            "private_key_id": rsa.id,
            "private_key": rsa.pem(),
            "client_email": email,
            "client_id": "1",
            "token_uri": "https://oauth2.googleapis.com/token",
        })
    }

    /// Lets principals act as a service account.
    pub fn users(&self, email: &str, principals: &[&str]) {
        self.account(email);
        lock(&self.shared.users).insert(email.to_owned(), principals.iter().map(|p| (*p).to_owned()).collect());
    }

    /// Makes a provider of a workload identity pool, by the audience that names it.
    pub fn pool(&self, audience: &str, pool: Pool) {
        lock(&self.shared.pools).insert(audience.to_owned(), pool);
    }

    /// Makes a GKE cluster known: `projects/P/locations/L/clusters/C`.
    pub fn cluster(&self, name: &str) {
        lock(&self.shared.clusters).push(name.to_owned());
    }

    /// Makes this machine one of Google's, with this service account.
    pub fn machine(&self, email: &str) {
        *lock(&self.shared.machine) = Some(email.to_owned());
    }

    /// Another machine of Google's, with this service account; answers its `GCE_METADATA_HOST`.
    ///
    /// # Errors
    /// Why there is no port.
    pub fn another_machine(&self, email: &str) -> Result<String, String> {
        let (shared, email) = (self.shared.clone(), email.to_owned());
        let answer = move |request: Request| async move {
            let uri = request.uri();
            let path = uri.path().strip_prefix("/computeMetadata/v1/").unwrap_or_default();
            metadata(&shared, Some(email), path, uri.query().unwrap_or_default(), request.headers())
        };
        serve::apart(Router::new().fallback(answer)).map(|url| url.trim_start_matches("http://").to_owned())
    }

    /// Ends the tokens that a principal has.
    pub fn expire(&self, principal: &str) {
        for (who, good) in lock(&self.shared.tokens).values_mut() {
            *good &= who != principal;
        }
    }

    /// Adds a version to a secret, which it makes if there is none. `name`: `projects/P[/locations/L]/secrets/S`.
    pub fn put(&self, name: &str, data: &[u8]) {
        let mut secrets = lock(&self.shared.secrets);
        let secret = secrets.entry(name.to_owned()).or_default();
        secret.versions.push(Version { state: "ENABLED", data: data.to_vec() });
    }

    /// Sets what a secret is besides its versions, such as `labels`.
    pub fn set(&self, name: &str, field: &str, value: Value) {
        lock(&self.shared.secrets).entry(name.to_owned()).or_default().json.insert(field.to_owned(), value);
    }

    /// Disables or destroys a version, by its number.
    pub fn switch(&self, name: &str, version: usize, state: &'static str) {
        if let Some(secret) = lock(&self.shared.secrets).get_mut(name) {
            secret.versions[version - 1].state = state;
        }
    }

    /// Removes a secret.
    pub fn remove(&self, name: &str) -> bool {
        lock(&self.shared.secrets).remove(name).is_some()
    }

    /// A secret as the API shows it, and its versions' data.
    pub fn secret(&self, name: &str) -> Option<(Value, Vec<Vec<u8>>)> {
        let secrets = lock(&self.shared.secrets);
        let secret = secrets.get(name)?;
        Some((Value::Object(secret.json.clone()), secret.versions.iter().map(|v| v.data.clone()).collect()))
    }

    /// What a principal asked so far.
    pub fn calls(&self, principal: &str) -> Vec<String> {
        let calls = lock(&self.shared.calls);
        calls.iter().filter(|call| call.principal == principal).map(|call| call.request.clone()).collect()
    }

    /// A token for a principal, as an administrator gets one.
    pub fn token(&self, principal: &str) -> String {
        self.shared.token(principal)
    }
}

impl Shared {
    fn token(&self, principal: &str) -> String {
        let mut tokens = lock(&self.tokens);
        let token = format!("ya29.CANARY-{}-{principal}", tokens.len());
        tokens.insert(token.clone(), (principal.to_owned(), true));
        token
    }

    fn granted(&self, principal: &str) -> Value {
        json!({
            "access_token": self.token(principal),
            "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "token_type": "Bearer",
            "expires_in": 3599,
        })
    }

    /// The claims of a token of the cluster.
    fn cluster_token(&self, token: &str) -> Result<Value, String> {
        let issuer = lock(&self.issuer).clone().ok_or("no issuer")?;
        issuer.check(token).map_err(|why| match why {
            jwt::Wrong::Expired => "ID Token issued is stale to sign-in.".into(),
            jwt::Wrong::Other(why) => why,
        })
    }
}

/// An error of an API: <https://cloud.google.com/apis/design/errors>.
fn error(code: u16, status: &str, message: impl std::fmt::Display) -> Response {
    let body = json!({"error": {"code": code, "message": message.to_string(), "status": status}});
    (StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_REQUEST), axum::Json(body)).into_response()
}

/// An error of a token service (RFC 6749, section 5.2); seen in google-github-actions/auth#60.
fn oauth(code: &str, description: &str) -> Response {
    let body = json!({"error": code, "error_description": description});
    (StatusCode::BAD_REQUEST, axum::Json(body)).into_response()
}

fn ok(body: Value) -> Response {
    axum::Json(body).into_response()
}

async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, 1 << 20).await else { return StatusCode::BAD_REQUEST.into_response() };
    let path = parts.uri.path().to_owned();
    if let Some(path) = path.strip_prefix("/computeMetadata/v1/") {
        let machine = lock(&shared.machine).clone();
        return metadata(&shared, machine, path, parts.uri.query().unwrap_or_default(), &parts.headers);
    }
    let form: HashMap<String, String> = url::form_urlencoded::parse(&body).into_owned().collect();
    // Public keys of service accounts and of Google itself, as certificates: who checks tokens asks for them.
    if let Some(email) = path.strip_prefix("/service_accounts/v1/metadata/x509/") {
        let rsa = lock(&shared.accounts).get(&email.replace("%40", "@")).cloned();
        return rsa.map_or_else(|| StatusCode::NOT_FOUND.into_response(), |rsa| ok(json!({&rsa.id: rsa.certificate()})));
    }
    match path.as_str() {
        "/oauth2/v1/certs" => {
            let machine = lock(&shared.machine).clone().and_then(|email| lock(&shared.accounts).get(&email).cloned());
            return ok(machine.map_or_else(|| json!({}), |rsa| json!({&rsa.id: rsa.certificate()})));
        }
        "/token" => return key_exchange(&shared, &form),
        "/v1/token" => return exchange(&shared, &form),
        "/v1/identitybindingtoken" => return bind(&shared, &serde_json::from_slice(&body).unwrap_or_default()),
        _ => {}
    }
    let bearer = parts.headers.get("authorization").and_then(|h| h.to_str().ok()).and_then(|h| h.strip_prefix("Bearer "));
    let known = bearer.and_then(|token| lock(&shared.tokens).get(token).cloned());
    let principal = match known {
        Some((principal, true)) => principal,
        _ => {
            let message = "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other \
                           valid authentication credential.";
            return error(401, "UNAUTHENTICATED", message);
        }
    };
    lock(&shared.calls).push(Call { principal: principal.clone(), request: format!("{} {path}", parts.method) });
    let json: Value = serde_json::from_slice(&body).unwrap_or_default();
    if let Some(rest) = path.strip_prefix("/v1/projects/-/serviceAccounts/") {
        return credentials(&shared, &principal, rest, &json);
    }
    secret_manager(&shared, &principal, &parts.method, &parts.uri, &json)
}

/// <https://cloud.google.com/compute/docs/metadata/overview>
fn metadata(shared: &Shared, machine: Option<String>, path: &str, query: &str, headers: &HeaderMap) -> Response {
    if headers.get("metadata-flavor").is_none_or(|flavor| flavor != "Google") {
        return StatusCode::FORBIDDEN.into_response();
    }
    let Some(email) = machine else { return StatusCode::NOT_FOUND.into_response() };
    let text = match path {
        "project/project-id" => email.split(['@', '.']).nth(1).unwrap_or_default().to_owned(),
        "instance/attributes/cluster-location" => "europe-west3".into(),
        "instance/attributes/cluster-name" => "main".into(),
        "instance/service-accounts/default/token" => {
            json!({"access_token": shared.token(&email), "expires_in": 3599, "token_type": "Bearer"}).to_string()
        }
        "instance/service-accounts/default/identity" => {
            let query: HashMap<String, String> = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
            let Some(rsa) = lock(&shared.accounts).get(&email).cloned() else { return StatusCode::NOT_FOUND.into_response() };
            let now = jiff::Timestamp::now().as_second();
            let claims = json!({"aud": query.get("audience"), "email": email, "sub": "1", "iat": now, "exp": now + 3600});
            rsa.sign(&claims.to_string())
        }
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    ([("metadata-flavor", "Google")], text).into_response()
}

/// <https://developers.google.com/identity/protocols/oauth2/service-account#authorizingrequests>
fn key_exchange(shared: &Shared, form: &HashMap<String, String>) -> Response {
    if form.get("grant_type").map(String::as_str) != Some("urn:ietf:params:oauth:grant-type:jwt-bearer") {
        return oauth("unsupported_grant_type", "Invalid grant_type");
    }
    let assertion = form.get("assertion").map(String::as_str).unwrap_or_default();
    let claims = assertion.split('.').nth(1).and_then(|c| base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(c).ok());
    let claims: Value = claims.and_then(|c| serde_json::from_slice(&c).ok()).unwrap_or_default();
    let email = claims["iss"].as_str().unwrap_or_default();
    let Some(rsa) = lock(&shared.accounts).get(email).cloned() else {
        return oauth("invalid_grant", "Invalid grant: account not found");
    };
    let issuer = jwt::Issuer { name: email.to_owned(), keys: rsa.jwks() };
    match issuer.check(assertion) {
        Err(_) => oauth("invalid_grant", "Invalid JWT Signature."),
        // Google's library for Go names the address that it asks.
        Ok(claims)
            if claims["aud"] != "https://oauth2.googleapis.com/token"
                && claims["aud"].as_str().is_none_or(|aud| !aud.starts_with("http://127.0.0.1:") || !aud.ends_with("/token")) =>
        {
            oauth("invalid_grant", "Invalid JWT: Failed audience check.")
        }
        Ok(claims) if claims["scope"].as_str().is_none_or(|s| !s.contains("cloud-platform")) => {
            oauth("invalid_scope", "Invalid OAuth scope or ID token audience provided.")
        }
        Ok(_) => ok(shared.granted(email)),
    }
}

/// <https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token>
fn exchange(shared: &Shared, form: &HashMap<String, String>) -> Response {
    let of = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let audience = of("audience");
    let Some(pool) = lock(&shared.pools).get(audience).cloned() else {
        let why = "Invalid value for \"audience\". This value should be the full resource name of the Identity Provider. See \
                   https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token for the list of possible formats.";
        return oauth("invalid_request", why);
    };
    let subject = match of("subject_token_type") {
        "urn:ietf:params:oauth:token-type:jwt" => match shared.cluster_token(of("subject_token")) {
            Err(why) => return oauth("invalid_grant", &why),
            Ok(claims) => {
                let given: Vec<&str> = claims["aud"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                let own = [audience.to_owned(), format!("https:{audience}")];
                if !given.iter().any(|aud| own.iter().chain(&pool.audiences).any(|allowed| allowed == aud)) {
                    // Text as in google-github-actions/auth#113 [memory]
                    let why = format!("The audience in ID Token [{}] does not match the expected audience.", given.join(", "));
                    return oauth("invalid_grant", &why);
                }
                claims["sub"].as_str().unwrap_or_default().to_owned()
            }
        },
        "urn:ietf:params:aws:token-type:aws4_request" => match aws_subject(&pool, audience, of("subject_token")) {
            Ok(key) => key,
            Err(why) => return oauth("invalid_grant", &why),
        },
        _ => return oauth("invalid_request", "Unsupported subject_token_type."),
    };
    let principal = format!("principal://{}/subject/{subject}", audience.trim_start_matches("//").replace("/providers/", "?"));
    let principal = match principal.split_once('?') {
        Some((pool, rest)) => format!("{pool}/subject/{}", rest.split_once("/subject/").map_or("", |(_, s)| s)),
        None => principal,
    };
    ok(shared.granted(&principal))
}

/// Google sends the request on to AWS, which checks its signature; here it is checked at once.
fn aws_subject(pool: &Pool, audience: &str, token: &str) -> Result<String, String> {
    let text: String =
        url::form_urlencoded::parse(format!("t={token}").as_bytes()).next().map(|(_, v)| v.into_owned()).unwrap_or_default();
    let json: Value = serde_json::from_str(&text).map_err(|_| "The subject token is no JSON".to_owned())?;
    let mut headers = HeaderMap::new();
    for header in json["headers"].as_array().into_iter().flatten() {
        let name = header["key"].as_str().unwrap_or_default().to_lowercase();
        let (name, value) = (name.parse::<axum::http::HeaderName>(), header["value"].as_str().unwrap_or_default().parse());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.insert(name, value);
        }
    }
    let uri: Uri = json["url"].as_str().unwrap_or_default().parse().map_err(|_| "The URL is none".to_owned())?;
    let region = uri.host().and_then(|h| h.strip_prefix("sts.")).and_then(|h| h.strip_suffix(".amazonaws.com"));
    if region.is_none() || headers.get("x-goog-cloud-target-resource").is_none_or(|r| r != audience) {
        return Err("The request is not for this provider".into());
    }
    let signed = Signed::parse(&headers).ok_or("The request is not signed")?;
    let secret =
        pool.aws.get(&signed.key).ok_or("InvalidClientTokenId: The security token included in the request is invalid.")?;
    if headers.get("host").is_none_or(|host| host.as_bytes() != uri.host().unwrap_or_default().as_bytes()) {
        return Err("The request is signed for another host".into());
    }
    // Properties of a query are sorted in the signature; these two are in order.
    if !signed.is_good(secret, &Method::POST, &uri, &headers, b"") {
        return Err(
            "SignatureDoesNotMatch: The request signature we calculated does not match the signature you provided.".into()
        );
    }
    Ok(signed.key)
}

/// GKE's exchange, of which there is no published reference: as Google's libraries use it. Errors' texts are from [memory].
fn bind(shared: &Shared, json: &Value) -> Response {
    let audience = json["audience"].as_str().unwrap_or_default();
    let parts =
        audience.strip_prefix("identitynamespace:").and_then(|rest| rest.split_once(":https://container.googleapis.com/v1/"));
    let Some((pool, cluster)) = parts else { return oauth("invalid_request", "Invalid audience.") };
    if !lock(&shared.clusters).iter().any(|known| known == cluster) {
        return oauth("invalid_target", "The target service indicated by the \"audience\" parameters is invalid.");
    }
    match shared.cluster_token(json["subject_token"].as_str().unwrap_or_default()) {
        Err(why) => oauth("invalid_grant", &why),
        Ok(claims) => {
            if !claims["aud"].as_array().into_iter().flatten().any(|aud| aud == pool) {
                return oauth("invalid_grant", "The audience in ID Token does not match the expected audience.");
            }
            let subject =
                claims["sub"].as_str().unwrap_or_default().trim_start_matches("system:serviceaccount:").replace(':', "/");
            ok(shared.granted(&format!("serviceAccount:{pool}[{subject}]")))
        }
    }
}

/// <https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateAccessToken> and `signJwt`.
fn credentials(shared: &Shared, principal: &str, rest: &str, json: &Value) -> Response {
    // https://cloud.google.com/iam/docs/reference/rest/v1/projects.serviceAccounts/get
    let Some((email, method)) = rest.split_once(':') else {
        let email = rest.replace("%40", "@");
        return match lock(&shared.accounts).get(&email) {
            Some(_) => ok(
                json!({"name": format!("projects/-/serviceAccounts/{email}"), "email": email, "uniqueId": format!("id-{email}"), "projectId": "p"}),
            ),
            None => error(404, "NOT_FOUND", "Unknown service account"),
        };
    };
    let admitted = lock(&shared.users).get(email).is_some_and(|users| users.iter().any(|user| user == principal));
    if !admitted {
        let permission = if method == "signJwt" { "signJwt" } else { "getAccessToken" };
        let message = format!("Permission 'iam.serviceAccounts.{permission}' denied on resource (or it may not exist).");
        return error(403, "PERMISSION_DENIED", message);
    }
    match method {
        "generateAccessToken" => {
            let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3600);
            ok(json!({"accessToken": shared.token(email), "expireTime": end.to_string()}))
        }
        "signJwt" => match lock(&shared.accounts).get(email) {
            Some(rsa) => ok(json!({"keyId": rsa.id, "signedJwt": rsa.sign(json["payload"].as_str().unwrap_or_default())})),
            None => error(404, "NOT_FOUND", "Not found; Gaia id not found for email"),
        },
        _ => error(404, "NOT_FOUND", "Method not found."),
    }
}

/// <https://cloud.google.com/secret-manager/docs/reference/rest>
fn secret_manager(shared: &Shared, principal: &str, method: &Method, uri: &Uri, json: &Value) -> Response {
    let path = uri.path().trim_start_matches("/v1/").replace("%3A", ":");
    let query: HashMap<String, String> =
        url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let (resource, verb) = path.split_once(':').unwrap_or((&path, ""));
    let (parent, rest) = match resource.split_once("/secrets") {
        Some((parent, rest)) => (parent, rest.trim_start_matches('/')),
        None => return error(404, "NOT_FOUND", "Requested entity was not found."),
    };
    let grants = lock(&shared.grants).get(principal).cloned().unwrap_or_default();
    let may = |resource: &str| grants.iter().any(|grant| !grant.ends_with('/') && resource.starts_with(grant.as_str()));
    let may_list = grants.iter().any(|grant| parent.starts_with(grant.trim_end_matches('/')));
    let denied = |permission: &str| {
        let message = format!("Permission 'secretmanager.{permission}' denied for resource '{resource}' (or it may not exist).");
        error(403, "PERMISSION_DENIED", message)
    };
    if rest.is_empty() {
        return match *method {
            Method::GET if may_list => list_secrets(shared, parent, &query),
            Method::GET => denied("secrets.list"),
            _ if !may(&format!("{parent}/secrets/{}", query.get("secretId").cloned().unwrap_or_default())) => {
                denied("secrets.create")
            }
            _ => create(shared, parent, &query, json),
        };
    }
    let mut parts = rest.split('/');
    let name = format!("{parent}/secrets/{}", parts.next().unwrap_or_default());
    if !may(&name) {
        return denied(if verb == "access" { "versions.access" } else { "secrets.get" });
    }
    let mut secrets = lock(&shared.secrets);
    // The text of a missing secret. [memory]
    let missing = || error(404, "NOT_FOUND", format!("Secret [{}] not found or has no versions.", numbered(&name)));
    let Some(secret) = secrets.get_mut(&name) else { return missing() };
    match (method.as_str(), parts.next(), parts.next(), verb) {
        ("GET", None, _, "") => ok(secret.shown(&name)),
        ("PATCH", None, _, "") => {
            if let Some(refused) = secret.stale(json["etag"].as_str()) {
                return refused;
            }
            for field in query.get("updateMask").map(|m| m.split(',').collect::<Vec<_>>()).unwrap_or_default() {
                secret.json.insert(field.to_owned(), json[field].clone());
            }
            secret.etag += 1;
            ok(secret.shown(&name))
        }
        ("DELETE", None, _, "") => {
            if let Some(refused) = secret.stale(query.get("etag").map(String::as_str)) {
                return refused;
            }
            secrets.remove(&name);
            ok(json!({}))
        }
        ("POST", None, _, "addVersion") => secret.add(&name, json),
        ("GET", Some("versions"), None, "") => secret.list(&name, &query),
        ("GET", Some("versions"), Some(version), verb) => secret.read(&name, version, verb),
        ("POST", Some("versions"), Some(version), verb @ ("enable" | "disable" | "destroy")) => secret.turn(&name, version, verb),
        _ => error(404, "NOT_FOUND", "Method not found."),
    }
}

/// Names in answers have the project's number.
fn numbered(name: &str) -> String {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts[1] = NUMBER;
    parts.join("/")
}

/// <https://cloud.google.com/secret-manager/docs/reference/rest/v1/projects.secrets/list>, with the part of
/// <https://cloud.google.com/secret-manager/docs/filtering> that is used: labels, and parts of names.
fn list_secrets(shared: &Shared, parent: &str, query: &HashMap<String, String>) -> Response {
    let filter = query.get("filter").cloned().unwrap_or_default();
    let terms: Vec<(&str, &str)> =
        filter.split(" AND ").filter_map(|term| term.split_once(['=', ':'])).map(|(k, v)| (k.trim(), v.trim())).collect();
    let secrets = lock(&shared.secrets);
    let begin = format!("{parent}/secrets/");
    let found: Vec<Value> = secrets
        .iter()
        .filter(|(name, _)| name.starts_with(&begin))
        .filter(|(name, secret)| {
            terms.iter().all(|(field, value)| match field.strip_prefix("labels.") {
                Some(label) => secret.json.get("labels").is_some_and(|labels| labels[label] == *value),
                None => *field == "name" && name.contains(value),
            })
        })
        .map(|(name, secret)| secret.shown(name))
        .collect();
    ok(page("secrets", found, query))
}

fn page(field: &str, all: Vec<Value>, query: &HashMap<String, String>) -> Value {
    let number = |name: &str| query.get(name).and_then(|n| n.parse::<usize>().ok()).filter(|n| *n > 0);
    let (from, size) = (number("pageToken").unwrap_or(0), number("pageSize").unwrap_or(PAGE).min(PAGE));
    let total = all.len();
    let next = if from + size < total { (from + size).to_string() } else { String::new() };
    let items: Vec<Value> = all.into_iter().skip(from).take(size).collect();
    json!({field: items, "nextPageToken": next, "totalSize": total})
}

/// <https://cloud.google.com/secret-manager/docs/reference/rest/v1/projects.secrets/create>
fn create(shared: &Shared, parent: &str, query: &HashMap<String, String>, json: &Value) -> Response {
    let id = query.get("secretId").cloned().unwrap_or_default();
    let formed = !id.is_empty() && id.len() <= 255 && id.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    if !formed {
        return error(400, "INVALID_ARGUMENT", "The provided Secret ID does not match the expected format [[a-zA-Z_0-9]+].");
    }
    let regional = parent.contains("/locations/");
    if json["replication"].is_object() == regional {
        return error(400, "INVALID_ARGUMENT", "Secret.replication must be set for global secrets and for no other.");
    }
    let name = format!("{parent}/secrets/{id}");
    let mut secrets = lock(&shared.secrets);
    if secrets.contains_key(&name) {
        return error(409, "ALREADY_EXISTS", format!("Secret [{}] already exists.", numbered(&name)));
    }
    let secret = Secret { json: json.as_object().cloned().unwrap_or_default(), ..Secret::default() };
    let shown = secret.shown(&name);
    secrets.insert(name, secret);
    ok(shown)
}

impl Secret {
    fn shown(&self, name: &str) -> Value {
        let mut json = self.json.clone();
        json.insert("name".into(), numbered(name).into());
        json.insert("createTime".into(), "2026-01-01T00:00:00Z".into());
        json.insert("etag".into(), self.tag().into());
        Value::Object(json)
    }

    /// Etags have quotes of their own: <https://cloud.google.com/secret-manager/docs/etags>
    fn tag(&self) -> String {
        format!("\"{}\"", self.etag)
    }

    fn stale(&self, given: Option<&str>) -> Option<Response> {
        let given = given.filter(|g| !g.is_empty())?;
        (given != self.tag()).then(|| error(400, "FAILED_PRECONDITION", "Etag mismatch."))
    }

    /// A number, `latest` (the newest whatever its state) or an alias.
    fn at(&self, version: &str) -> Option<usize> {
        let number = match version {
            "latest" => self.versions.len(),
            other => match other.parse() {
                Ok(number) => number,
                Err(_) => self.json.get("versionAliases")?[other].as_str()?.parse().ok()?,
            },
        };
        (1..=self.versions.len()).contains(&number).then_some(number)
    }

    fn version(&self, name: &str, number: usize) -> Value {
        let state = self.versions[number - 1].state;
        json!({"name": format!("{}/versions/{number}", numbered(name)), "createTime": format!("2026-01-01T00:00:{number:02}Z"), "state": state})
    }

    /// <https://cloud.google.com/secret-manager/docs/reference/rest/v1/projects.secrets.versions/access>
    fn read(&self, name: &str, version: &str, verb: &str) -> Response {
        let Some(number) = self.at(version) else {
            let what = format!("{}/versions/{version}", numbered(name));
            return error(404, "NOT_FOUND", format!("Secret Version [{what}] not found."));
        };
        if verb.is_empty() {
            return ok(self.version(name, number));
        }
        let Version { state, data } = &self.versions[number - 1];
        let what = format!("{}/versions/{number}", numbered(name));
        if *state != "ENABLED" {
            return error(400, "FAILED_PRECONDITION", format!("Secret Version [{what}] is in {state} state."));
        }
        let payload = json!({"data": STANDARD.encode(data), "dataCrc32c": crc32c(data).to_string()});
        ok(json!({"name": what, "payload": payload}))
    }

    /// <https://cloud.google.com/secret-manager/docs/reference/rest/v1/projects.secrets.versions/list>: newest first.
    fn list(&self, name: &str, query: &HashMap<String, String>) -> Response {
        let only = query.get("filter").and_then(|f| f.strip_prefix("state:").or(f.strip_prefix("state=")).map(str::to_owned));
        let numbers = (1..=self.versions.len()).rev();
        let shown = numbers.filter(|n| only.as_ref().is_none_or(|state| self.versions[n - 1].state == state));
        ok(page("versions", shown.map(|n| self.version(name, n)).collect(), query))
    }

    /// <https://cloud.google.com/secret-manager/docs/reference/rest/v1/projects.secrets/addVersion>: at most 64 KiB, and the
    /// checksum must fit where there is one.
    fn add(&mut self, name: &str, json: &Value) -> Response {
        let data = json["payload"]["data"].as_str().unwrap_or_default();
        let Ok(data) = STANDARD.decode(data) else { return error(400, "INVALID_ARGUMENT", "Invalid value at 'payload.data'") };
        let given = &json["payload"]["dataCrc32c"];
        let given = given.as_str().and_then(|c| c.parse().ok()).or(given.as_u64());
        if given.is_some_and(|given| given != u64::from(crc32c(&data))) {
            return error(400, "INVALID_ARGUMENT", "Payload checksum mismatch.");
        }
        if data.len() > 65_536 {
            return error(400, "INVALID_ARGUMENT", "The Secret Payload exceeds the maximum size of 65536 bytes.");
        }
        self.versions.push(Version { state: "ENABLED", data });
        ok(self.version(name, self.versions.len()))
    }

    fn turn(&mut self, name: &str, version: &str, verb: &str) -> Response {
        let Some(number) = self.at(version) else { return error(404, "NOT_FOUND", "Secret Version not found.") };
        self.versions[number - 1].state = match verb {
            "enable" => "ENABLED",
            "disable" => "DISABLED",
            _ => "DESTROYED",
        };
        ok(self.version(name, number))
    }
}

/// Castagnoli's polynomial, bit by bit: not the library that the operator uses.
fn crc32c(data: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 & 0_u32.wrapping_sub(crc & 1));
    !data.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}
