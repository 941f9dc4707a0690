//! An Azure: Key Vault, Entra ID's token endpoint and a machine's metadata service, over TLS, with what is kept in memory.
//!
//! Written after the published references; each behaviour names its page. `[memory]` marks what no page that could be read
//! here says, and `[seen]` what public logs of the real thing show. Tokens and certificates are checked as Entra ID does.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::control_plane::Authority;
use crate::faults::Faults;
use crate::jwt;
use crate::serve;

/// What tokens for vaults are for.
const RESOURCE: &str = "https://vault.azure.net";
/// What tokens for registries are asked for.
const MANAGEMENT: &str = "https://management.azure.com";
/// Objects on a page (`maxresults`, 1 to 25).
const PAGE: usize = 25;

/// An application, and how it may say who it is.
#[derive(Clone, Debug, Default)]
pub struct Application {
    /// Its client secrets.
    pub secrets: Vec<String>,
    /// Its certificates, in PEM.
    pub certificates: Vec<String>,
    /// Subjects of the cluster's tokens that may be it.
    pub subjects: Vec<String>,
}

#[derive(Clone, Default)]
struct Object {
    versions: Vec<(String, Map<String, Value>)>,
    deleted: bool,
}

#[derive(Default)]
struct Shared {
    port: Mutex<u16>,
    /// By vault, collection and name in small letters.
    objects: Mutex<BTreeMap<(String, String, String), Object>>,
    /// What applications may reach: `VAULT/secrets/app`, `VAULT/secrets/` for its list alone.
    grants: Mutex<HashMap<String, Vec<String>>>,
    /// By tenant and client id.
    applications: Mutex<HashMap<(String, String), Application>>,
    tokens: Mutex<HashMap<String, (String, bool)>>,
    /// Identities of the machine: client id, and which application each is.
    machine: Mutex<HashMap<String, String>>,
    issuer: Mutex<Option<jwt::Issuer>>,
    /// What a vault's challenge asks for, where it is not what it should be.
    challenges: Mutex<HashMap<String, String>>,
    calls: Mutex<Vec<(String, String)>>,
    next: AtomicU64,
}

/// A running Azure.
pub struct Azure {
    /// The port of all of its services.
    pub port: u16,
    /// PEM of the authority that its certificate is of.
    pub authority: String,
    /// What goes wrong.
    pub faults: Faults,
    shared: Arc<Shared>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Azure {
    /// Starts one.
    ///
    /// # Errors
    /// Why there is no port.
    pub fn start() -> Result<Self, String> {
        let (shared, faults) = (Arc::<Shared>::default(), Faults::default());
        let authority = Authority::new("lockstep-e2e-azure");
        let pair = authority.issue(
            "azure",
            None,
            &["localhost", "127.0.0.1", "*.vault.azure.net", "*.azurecr.io", "*.vault.stack.example"],
        );
        let app = faults.before(Router::new().fallback(serve).with_state(shared.clone()));
        let port = serve::apart_with_tls(app, &pair)?;
        *lock(&shared.port) = port;
        Ok(Self { port, authority: authority.pem, faults, shared })
    }

    /// The variables that lead an operator's own identity here.
    pub fn environment(&self) -> Vec<(String, String)> {
        vec![("AZURE_AUTHORITY_HOST".into(), self.entra()), ("AZURE_POD_IDENTITY_AUTHORITY_HOST".into(), self.entra())]
    }

    /// Where tokens are got.
    pub fn entra(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// The URL of a vault.
    pub fn vault(&self, name: &str) -> String {
        format!("https://{name}.vault.azure.net:{}", self.port)
    }

    /// Believes tokens that this issuer signed.
    pub fn trust(&self, issuer: jwt::Issuer) {
        *lock(&self.shared.issuer) = Some(issuer);
    }

    /// Makes an application, or changes it.
    pub fn application(&self, tenant: &str, client: &str, application: Application) {
        lock(&self.shared.applications).insert((tenant.to_owned(), client.to_owned()), application);
    }

    /// Makes this machine one of Azure's, with an identity: of a client id, or of the system with none.
    pub fn machine(&self, client: &str, application: &str) {
        lock(&self.shared.machine).insert(client.to_owned(), application.to_owned());
    }

    /// Lets an application reach what begins with these: `VAULT/secrets/app`; `VAULT/secrets/` is for the list alone.
    pub fn grant(&self, client: &str, resources: &[&str]) {
        lock(&self.shared.grants).insert(client.to_owned(), resources.iter().map(|r| (*r).to_owned()).collect());
    }

    /// Ends the tokens that an application has.
    pub fn expire(&self, client: &str) {
        for (who, good) in lock(&self.shared.tokens).values_mut() {
            *good &= who != client;
        }
    }

    /// Lets a vault's challenge ask for tokens for something else.
    pub fn challenge(&self, vault: &str, resource: &str) {
        lock(&self.shared.challenges).insert(vault.to_owned(), resource.to_owned());
    }

    /// Adds a version to a secret; answers it.
    pub fn put(&self, vault: &str, name: &str, value: &str, more: Value) -> String {
        let mut json = json!({"value": value});
        json.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        self.shared.add(vault, "secrets", name, json.as_object().cloned().unwrap_or_default())
    }

    /// Adds a version of a key or a certificate, as the API shows it.
    pub fn put_object(&self, vault: &str, collection: &str, name: &str, json: Value) -> String {
        self.shared.add(vault, collection, name, json.as_object().cloned().unwrap_or_default())
    }

    /// Removes an object for good.
    pub fn purge(&self, vault: &str, collection: &str, name: &str) -> bool {
        let key = (vault.to_owned(), collection.to_owned(), name.to_lowercase());
        lock(&self.shared.objects).remove(&key).is_some()
    }

    /// The versions of an object.
    pub fn versions(&self, vault: &str, collection: &str, name: &str) -> Vec<Value> {
        let key = (vault.to_owned(), collection.to_owned(), name.to_lowercase());
        let objects = lock(&self.shared.objects);
        let versions = objects.get(&key).map(|object| object.versions.clone()).unwrap_or_default();
        versions.into_iter().map(|(_, json)| Value::Object(json)).collect()
    }

    /// What an application asked so far, such as `GET /secrets/app/`.
    pub fn calls(&self, client: &str) -> Vec<String> {
        lock(&self.shared.calls).iter().filter(|(who, _)| who == client).map(|(_, request)| request.clone()).collect()
    }
}

/// An error of Key Vault: <https://learn.microsoft.com/azure/key-vault/general/authentication-requests-and-responses>
fn error(status: u16, code: &str, message: impl std::fmt::Display, inner: Option<&str>) -> Response {
    let mut error = json!({"code": code, "message": message.to_string()});
    if let Some(inner) = inner {
        error["innererror"] = json!({"code": inner});
    }
    (StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), axum::Json(json!({"error": error}))).into_response()
}

/// An error of Entra ID: <https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow>. The
/// description has line breaks.
fn entra(status: u16, code: &str, number: u32, words: &str) -> Response {
    let body = json!({
        "error": code,
        "error_description": format!(
            "AADSTS{number}: {words}\r\nTrace ID: 00000000-0000-0000-0000-000000000000\r\nCorrelation ID: \
             00000000-0000-0000-0000-000000000001\r\nTimestamp: 2026-01-01 00:00:00Z"
        ),
        "error_codes": [number],
        "timestamp": "2026-01-01 00:00:00Z",
        "trace_id": "00000000-0000-0000-0000-000000000000",
        "correlation_id": "00000000-0000-0000-0000-000000000001",
    });
    (StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST), axum::Json(body)).into_response()
}

fn ok(body: Value) -> Response {
    axum::Json(body).into_response()
}

async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, 1 << 20).await else { return StatusCode::BAD_REQUEST.into_response() };
    let path = parts.uri.path().to_owned();
    let query: HashMap<String, String> =
        url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    if path == "/metadata/identity/oauth2/token" {
        return machine(&shared, &query, &parts.headers);
    }
    if path == "/acr/v1/_catalog" {
        return catalog(&parts.headers);
    }
    if let Some(step) = path.strip_prefix("/oauth2/") {
        let form: HashMap<String, String> = url::form_urlencoded::parse(&body).into_owned().collect();
        return registry(&shared, step, &parts.headers, &form);
    }
    let mut segments = path.trim_matches('/').split('/');
    let tenant = segments.next().unwrap_or_default().to_owned();
    let rest: Vec<&str> = segments.collect();
    match rest[..] {
        ["oauth2", "v2.0", "token"] => {
            let form: HashMap<String, String> = url::form_urlencoded::parse(&body).into_owned().collect();
            return token(&shared, &tenant, &form, &parts.headers);
        }
        // https://learn.microsoft.com/entra/identity-platform/v2-protocols-oidc
        ["v2.0", ".well-known", "openid-configuration"] => {
            let here = format!("https://localhost:{}/{tenant}", *lock(&shared.port));
            return ok(json!({
                "token_endpoint": format!("{here}/oauth2/v2.0/token"),
                "authorization_endpoint": format!("{here}/oauth2/v2.0/authorize"),
                "issuer": format!("{here}/v2.0"),
            }));
        }
        _ => {}
    }
    let host = parts.headers.get("host").and_then(|h| h.to_str().ok()).unwrap_or_default().to_owned();
    let vault = host.split('.').next().unwrap_or_default().to_owned();
    let bearer = parts.headers.get("authorization").and_then(|h| h.to_str().ok()).and_then(|h| h.strip_prefix("Bearer "));
    let client = match bearer.and_then(|token| lock(&shared.tokens).get(token).cloned()) {
        Some((client, true)) => client,
        _ => return unauthorized(&shared, &vault),
    };
    lock(&shared.calls).push((client.clone(), format!("{} {path}", parts.method)));
    let json: Value = serde_json::from_slice(&body).unwrap_or_default();
    let asked = Asked { vault, host, client, method: parts.method, uri: parts.uri, query, json };
    shared.key_vault(&asked)
}

/// Clients read when a registry's refresh token ends: it is a JWT. What it was given for is its signature.
fn refresh_token(given: &str) -> String {
    let part = |bytes: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, bytes);
    let claims = json!({"exp": jiff::Timestamp::now().as_second() + 10_800, "grant_type": "refresh_token"});
    [part(b"{\"alg\":\"RS256\"}"), part(claims.to_string().as_bytes()), part(given.as_bytes())].join(".")
}

fn of_refresh_token(token: &str) -> String {
    let last = token.rsplit('.').next().unwrap_or_default();
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, last).unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

/// A container registry's list of repositories, for those who have a token for it.
fn catalog(headers: &HeaderMap) -> Response {
    let host = headers.get("host").and_then(|h| h.to_str().ok()).unwrap_or_default();
    let given = headers.get("authorization").and_then(|h| h.to_str().ok()).unwrap_or_default();
    if given.starts_with("Bearer access.registry:catalog:*.") {
        return ok(json!({"repositories": ["app", "base"]}));
    }
    let challenge = format!(
        "Bearer realm=\"https://{host}/oauth2/token\",service=\"{host}\",scope=\"registry:catalog:*\",error=\"invalid_token\""
    );
    (StatusCode::UNAUTHORIZED, [("www-authenticate", challenge)], axum::Json(json!({"errors": []}))).into_response()
}

/// A container registry's two exchanges (<https://github.com/Azure/acr/blob/main/docs/AAD-OAuth.md>).
fn registry(shared: &Shared, step: &str, headers: &HeaderMap, form: &HashMap<String, String>) -> Response {
    let of = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let host = headers.get("host").and_then(|h| h.to_str().ok()).unwrap_or_default();
    let refused = |message: &str| {
        let errors = json!({"errors": [{"code": "UNAUTHORIZED", "message": message}]});
        (StatusCode::UNAUTHORIZED, axum::Json(errors)).into_response()
    };
    if of("service") != host {
        return refused("service is not this registry");
    }
    let (kind, given) = match step {
        "exchange" => ("access_token", of("access_token")),
        _ => ("refresh_token", of("refresh_token")),
    };
    let given = if step == "exchange" { given.to_owned() } else { of_refresh_token(given) };
    let client = match lock(&shared.tokens).get(&given).cloned() {
        Some((client, true)) if of("grant_type") == kind => client,
        _ => return refused("the token is not valid"),
    };
    let registry = host.split('.').next().unwrap_or_default();
    if !lock(&shared.grants).get(&client).is_some_and(|grants| grants.iter().any(|grant| grant == registry)) {
        return refused("retrieving permissions failed");
    }
    match step {
        "exchange" => ok(json!({"refresh_token": refresh_token(&given)})),
        _ => ok(json!({"access_token": format!("access.{}.{}", of("scope"), shared.token(&client))})),
    }
}

/// <https://learn.microsoft.com/azure/key-vault/general/authentication-requests-and-responses>
fn unauthorized(shared: &Shared, vault: &str) -> Response {
    let resource = lock(&shared.challenges).get(vault).cloned().unwrap_or_else(|| RESOURCE.into());
    // Every vault here is of the one tenant that there is.
    let tenant = lock(&shared.applications).keys().next().map(|(tenant, _)| tenant.clone()).unwrap_or_default();
    let challenge = format!("Bearer authorization=\"https://login.microsoftonline.com/{tenant}\", resource=\"{resource}\"");
    let mut response = error(401, "Unauthorized", "AKV10000: Request is missing a Bearer or PoP token.", None);
    if let Ok(value) = challenge.parse() {
        response.headers_mut().insert("www-authenticate", value);
    }
    response
}

/// <https://learn.microsoft.com/entra/identity/managed-identities-azure-resources/how-to-use-vm-token>
fn machine(shared: &Shared, query: &HashMap<String, String>, headers: &HeaderMap) -> Response {
    let of = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
    let bad = |error: &str, description: &str| {
        (StatusCode::BAD_REQUEST, axum::Json(json!({"error": error, "error_description": description}))).into_response()
    };
    if headers.get("metadata").is_none_or(|m| !m.as_bytes().eq_ignore_ascii_case(b"true")) {
        return bad("bad_request_102", "Required metadata header not specified");
    }
    if of("resource") != RESOURCE {
        return bad("invalid_resource", "AADSTS500011: The resource principal was not found.");
    }
    let Some(client) = lock(&shared.machine).get(of("client_id")).cloned() else {
        return bad("invalid_request", "Identity not found");
    };
    let end = jiff::Timestamp::now().as_second() + 3600;
    ok(json!({
        "access_token": shared.token(&client),
        "expires_in": "3599",
        "expires_on": end.to_string(),
        "resource": RESOURCE,
        "token_type": "Bearer",
    }))
}

/// <https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow>; errors' statuses as [seen].
fn token(shared: &Shared, tenant: &str, form: &HashMap<String, String>, headers: &HeaderMap) -> Response {
    let of = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    let applications = lock(&shared.applications).clone();
    if !applications.keys().any(|(known, _)| known == tenant) {
        return entra(
            400,
            "invalid_tenant",
            90_002,
            &format!("Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID."),
        );
    }
    let client = of("client_id").to_owned();
    let Some(application) = applications.get(&(tenant.to_owned(), client.clone())) else {
        let words = format!("Application with identifier '{client}' was not found in the directory '{tenant}'.");
        return entra(400, "unauthorized_client", 700_016, &words);
    };
    let known = [RESOURCE, MANAGEMENT].map(|resource| format!("{resource}/.default"));
    if !known.iter().any(|scope| scope == of("scope")) && !of("scope").starts_with("https://vault.stack.example") {
        return entra(400, "invalid_scope", 70_011, "The provided value for the input parameter 'scope' is not valid.");
    }
    let refusal = if form.contains_key("client_secret") {
        match application.secrets.iter().any(|secret| secret == of("client_secret")) {
            true => None,
            false => Some((401, "invalid_client", 7_000_215, "Invalid client secret provided.".to_owned())),
        }
    } else {
        let host = headers.get("host").and_then(|h| h.to_str().ok()).unwrap_or_default();
        let audience = format!("https://{host}/{tenant}/oauth2/v2.0/token");
        asserted(shared, application, &client, &audience, of("client_assertion")).err()
    };
    match refusal {
        Some((status, code, number, words)) => entra(status, code, number, &words),
        None => {
            ok(json!({"token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599, "access_token": shared.token(&client)}))
        }
    }
}

type Refusal = (u16, &'static str, u32, String);

/// An assertion of the application's certificate, or a federated token: its header says which.
fn asserted(shared: &Shared, application: &Application, client: &str, audience: &str, assertion: &str) -> Result<(), Refusal> {
    let part = |index: usize| {
        let text = assertion.split('.').nth(index)?;
        serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
    };
    let invalid = |number: u32, words: &str| (401, "invalid_client", number, words.to_owned());
    let (Some(header), Some(claims)) = (part(0), part(1)) else {
        return Err(invalid(50_027, "JWT token is invalid or malformed."));
    };
    if let Some(thumbprint) = header["x5t#S256"].as_str().or(header["x5t"].as_str()) {
        return by_certificate(application, client, audience, assertion, &header, &claims, thumbprint);
    }
    let issuer = lock(&shared.issuer)
        .clone()
        .ok_or_else(|| invalid(700_211, "No matching federated identity record found for presented assertion issuer."))?;
    // The issuer's keys are asked for at its own address. [memory: number and words of a token that is none of its]
    let claims = issuer.check(assertion).map_err(|why| match why {
        jwt::Wrong::Expired => invalid(700_024, "Client assertion is not within its valid time range."),
        jwt::Wrong::Other(why) => invalid(500_024, &why),
    })?;
    let subject = claims["sub"].as_str().unwrap_or_default();
    if !application.subjects.iter().any(|known| known == subject) {
        let words = format!("No matching federated identity record found for presented assertion subject '{subject}'.");
        return Err(invalid(700_213, &words));
    }
    let audiences: Vec<&str> = claims["aud"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !audiences.contains(&"api://AzureADTokenExchange") {
        let words =
            format!("No matching federated identity record found for presented assertion audience '{}'.", audiences.join(" "));
        return Err(invalid(700_212, &words));
    }
    Ok(())
}

/// <https://learn.microsoft.com/entra/identity-platform/certificate-credentials#assertion-format>
fn by_certificate(
    application: &Application,
    client: &str,
    audience: &str,
    assertion: &str,
    header: &Value,
    claims: &Value,
    thumbprint: &str,
) -> Result<(), Refusal> {
    use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    let invalid = |number: u32, words: &str| (401, "invalid_client", number, words.to_owned());
    let found = application.certificates.iter().find_map(|pem| {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        let sha1 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &der);
        let prints = [URL_SAFE_NO_PAD.encode(Sha256::digest(&der)), URL_SAFE_NO_PAD.encode(sha1.as_ref())];
        prints.iter().any(|print| print == thumbprint.trim_end_matches('=')).then_some(der)
    });
    let Some(certificate) = found else {
        return Err(invalid(
            700_027,
            "The certificate with identifier used to sign the client assertion is not registered on application.",
        ));
    };
    let (message, signature) = assertion.rsplit_once('.').unwrap_or_default();
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap_or_default();
    let key = public_key(&certificate).unwrap_or_default();
    let good = match header["alg"].as_str() {
        Some("PS256") => UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, key).verify(message.as_bytes(), &signature).is_ok(),
        Some("RS256") => UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key).verify(message.as_bytes(), &signature).is_ok(),
        _ => false,
    };
    if !good {
        return Err(invalid(700_027, "Client assertion failed signature validation."));
    }
    let now = jiff::Timestamp::now().as_second();
    if claims["exp"].as_f64().is_none_or(|exp| exp < now as f64) {
        return Err(invalid(700_024, "Client assertion is not within its valid time range."));
    }
    if claims["aud"] != audience {
        return Err(invalid(700_023, "Client assertion audience claim does not match Realm issuer."));
    }
    if claims["iss"] != client || claims["sub"] != client || claims["jti"].as_str().is_none_or(str::is_empty) {
        return Err(invalid(700_021, "Client assertion application identifier doesn't match 'client_id' parameter."));
    }
    Ok(())
}

/// The RSA key in a certificate: the last SEQUENCE of two INTEGERs before its extensions, in a BIT STRING.
fn public_key(certificate: &[u8]) -> Option<Vec<u8>> {
    // rsaEncryption, with its NULL parameter and the BIT STRING's tag (RFC 3279).
    let oid = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00, 0x03];
    let at = certificate.windows(oid.len()).position(|window| window == oid)? + oid.len();
    let rest = certificate.get(at..)?;
    let (length, header) = match *rest.first()? {
        0x82 => (usize::from(*rest.get(1)?) << 8 | usize::from(*rest.get(2)?), 3),
        0x81 => (usize::from(*rest.get(1)?), 2),
        short => (usize::from(short), 1),
    };
    // The BIT STRING begins with the number of unused bits.
    Some(rest.get(header + 1..header + length)?.to_vec())
}

struct Asked {
    vault: String,
    host: String,
    client: String,
    method: Method,
    uri: Uri,
    query: HashMap<String, String>,
    json: Value,
}

impl Shared {
    fn token(&self, client: &str) -> String {
        let mut tokens = lock(&self.tokens);
        let token = format!("eyJ.CANARY-{}-{client}", tokens.len());
        tokens.insert(token.clone(), (client.to_owned(), true));
        token
    }

    fn add(&self, vault: &str, collection: &str, name: &str, mut json: Map<String, Value>) -> String {
        let version = format!("{:032x}", self.next.fetch_add(1, Ordering::SeqCst) + 0xabcd_0000);
        let now = jiff::Timestamp::now().as_second();
        let mut attributes = json!({"enabled": true, "created": now, "updated": now, "recoveryLevel": "Recoverable+Purgeable", "recoverableDays": 90});
        if let (Some(all), Some(given)) = (attributes.as_object_mut(), json.get("attributes").and_then(Value::as_object)) {
            all.extend(given.clone());
        }
        json.insert("attributes".into(), attributes);
        let mut objects = lock(&self.objects);
        let object = objects.entry((vault.to_owned(), collection.to_owned(), name.to_lowercase())).or_default();
        json.insert("name".into(), name.into());
        object.versions.push((version.clone(), json));
        version
    }

    /// <https://learn.microsoft.com/rest/api/keyvault/>, api-version 2025-07-01
    fn key_vault(&self, asked: &Asked) -> Response {
        let path = asked.uri.path().trim_matches('/').to_owned();
        let parts: Vec<&str> = path.split('/').collect();
        if !asked.query.contains_key("api-version") {
            return error(400, "BadParameter", "The request is missing the api-version parameter.", None);
        }
        let (collection, rest) = (parts[0].trim_start_matches("deleted"), &parts[1..]);
        if !["secrets", "certificates", "keys"].contains(&collection) {
            return error(404, "NotFound", "Not found", None);
        }
        let Some(name) = rest.first().copied() else { return self.list(asked, collection) };
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') || name.len() > 127 {
            return error(400, "BadParameter", format!("The request URI contains an invalid name: {name}"), None);
        }
        let resource = format!("{}/{collection}/{}", asked.vault, name.to_lowercase());
        let grants = lock(&self.grants).get(&asked.client).cloned().unwrap_or_default();
        if !grants.iter().any(|grant| !grant.ends_with('/') && resource.starts_with(grant.as_str())) {
            return forbidden(asked, &resource);
        }
        if parts[0].starts_with("deleted") {
            return self.deleted(asked, collection, name, rest.get(1).copied());
        }
        match (asked.method.as_str(), rest.get(1).copied()) {
            ("GET", version) => self.read(asked, collection, name, version),
            ("PUT", None) if collection != "certificates" => self.set(asked, collection, name),
            ("POST", Some("import")) if collection == "certificates" => self.import(asked, name),
            ("DELETE", None) => self.delete(asked, collection, name),
            _ => error(405, "BadParameter", "Method not allowed", None),
        }
    }

    fn read(&self, asked: &Asked, collection: &str, name: &str, version: Option<&str>) -> Response {
        let objects = lock(&self.objects);
        let object = objects.get(&(asked.vault.clone(), collection.to_owned(), name.to_lowercase())).filter(|o| !o.deleted);
        let found = object.and_then(|object| match version {
            Some(version) => object.versions.iter().find(|(id, _)| id == version),
            None => object.versions.last(),
        });
        let kind = if collection == "secrets" {
            "Secret"
        } else if collection == "keys" {
            "Key"
        } else {
            "Certificate"
        };
        let Some((id, json)) = found else {
            let words = format!(
                "A {} with (name/id) {name} was not found in this key vault. If you recently deleted this {} you may be able to \
                 recover it using the correct recovery command.",
                kind.to_lowercase(),
                kind.to_lowercase()
            );
            return error(404, &format!("{kind}NotFound"), words, None);
        };
        // [seen]
        if collection == "secrets" && json["attributes"]["enabled"] == false {
            return error(403, "Forbidden", "Operation get is not allowed on a disabled secret.", Some("SecretDisabled"));
        }
        ok(shown(asked, collection, id, json, true))
    }

    /// <https://learn.microsoft.com/rest/api/keyvault/secrets/set-secret/set-secret>, and import-key
    fn set(&self, asked: &Asked, collection: &str, name: &str) -> Response {
        if let Some(refused) = self.recoverable(asked, collection, name) {
            return refused;
        }
        let mut json = asked.json.as_object().cloned().unwrap_or_default();
        match collection {
            "secrets" => match json.get("value").and_then(Value::as_str) {
                None => return error(400, "BadParameter", "The value of the secret is missing.", None),
                Some(value) if value.len() > 25_600 => {
                    return error(400, "BadParameter", "The secret value is too long: the maximum is 25600 characters.", None);
                }
                Some(_) => {}
            },
            _ => {
                let Some(key) = json.get_mut("key").and_then(Value::as_object_mut) else {
                    return error(400, "BadParameter", "Property key is required", None);
                };
                // What is private does not come back.
                key.retain(|field, _| ["kty", "n", "e", "crv", "x", "y"].contains(&field.as_str()));
                key.insert("key_ops".into(), json!(["encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"]));
            }
        }
        let tags = json.get("tags").and_then(Value::as_object).map_or(0, Map::len);
        if tags > 15 {
            return error(400, "BadParameter", "There are more than 15 tags.", None);
        }
        self.add(&asked.vault, collection, name, json);
        self.read(asked, collection, name, None)
    }

    /// <https://learn.microsoft.com/rest/api/keyvault/certificates/import-certificate/import-certificate>
    fn import(&self, asked: &Asked, name: &str) -> Response {
        if let Some(refused) = self.recoverable(asked, "certificates", name) {
            return refused;
        }
        let value = asked.json["value"].as_str().unwrap_or_default();
        let kind = asked.json["policy"]["secret_props"]["contentType"].as_str().unwrap_or("application/x-pkcs12");
        let Some(leaf) = leaf(value, kind) else {
            return error(400, "BadParameter", "The specified X.509 certificate content can not be read.", None);
        };
        let mut json = asked.json.as_object().cloned().unwrap_or_default();
        json.remove("value");
        json.insert("cer".into(), STANDARD.encode(&leaf).into());
        self.add(&asked.vault, "certificates", name, json);
        // Key and chain are there as a secret of the same name.
        let secret = json!({"value": value, "contentType": kind, "managed": true, "tags": asked.json["tags"]});
        self.add(&asked.vault, "secrets", name, secret.as_object().cloned().unwrap_or_default());
        self.read(asked, "certificates", name, None)
    }

    /// A soft-deleted object keeps its name. [seen]
    fn recoverable(&self, asked: &Asked, collection: &str, name: &str) -> Option<Response> {
        let objects = lock(&self.objects);
        let object = objects.get(&(asked.vault.clone(), collection.to_owned(), name.to_lowercase()))?;
        object.deleted.then(|| {
            let words = format!(
                "{name} is currently in a deleted but recoverable state, and its name cannot be reused; in this state, it can only \
                 be recovered or purged."
            );
            error(409, "Conflict", words, Some("ObjectIsDeletedButRecoverable"))
        })
    }

    fn delete(&self, asked: &Asked, collection: &str, name: &str) -> Response {
        let answer = self.read(asked, collection, name, None);
        let mut objects = lock(&self.objects);
        if let Some(object) = objects.get_mut(&(asked.vault.clone(), collection.to_owned(), name.to_lowercase())) {
            object.deleted = true;
        }
        answer
    }

    fn deleted(&self, asked: &Asked, collection: &str, name: &str, verb: Option<&str>) -> Response {
        let key = (asked.vault.clone(), collection.to_owned(), name.to_lowercase());
        let there = lock(&self.objects).get(&key).is_some_and(|object| object.deleted);
        if !there {
            return error(404, "SecretNotFound", format!("Deleted Secret not found: {name}"), None);
        }
        match (asked.method.as_str(), verb) {
            ("DELETE", None) => {
                lock(&self.objects).remove(&key);
                StatusCode::NO_CONTENT.into_response()
            }
            ("POST", Some("recover")) => {
                if let Some(object) = lock(&self.objects).get_mut(&key) {
                    object.deleted = false;
                }
                self.read(asked, collection, name, None)
            }
            _ => {
                let objects = lock(&self.objects);
                let Some((id, json)) = objects.get(&key).and_then(|object| object.versions.last()) else {
                    return error(404, "SecretNotFound", format!("Deleted Secret not found: {name}"), None);
                };
                let mut answer = shown(asked, collection, id, json, false);
                answer["recoveryId"] = format!("https://{}/deleted{collection}/{name}", asked.host).into();
                ok(answer)
            }
        }
    }

    /// <https://learn.microsoft.com/rest/api/keyvault/secrets/get-secrets/get-secrets>
    fn list(&self, asked: &Asked, collection: &str) -> Response {
        let grants = lock(&self.grants).get(&asked.client).cloned().unwrap_or_default();
        let all = format!("{}/{collection}/", asked.vault);
        if !grants.iter().any(|grant| all.starts_with(grant.as_str())) {
            return forbidden(asked, &all);
        }
        let from: usize = asked.query.get("$skiptoken").and_then(|t| t.parse().ok()).unwrap_or(0);
        let objects = lock(&self.objects);
        let found: Vec<Value> = objects
            .iter()
            .filter(|((vault, kind, _), object)| *vault == asked.vault && kind == collection && !object.deleted)
            .filter_map(|(_, object)| object.versions.last())
            .map(|(id, json)| shown(asked, collection, id, json, false))
            .collect();
        let more = from + PAGE < found.len();
        let next = format!("https://{}/{collection}?api-version=2025-07-01&$skiptoken={}", asked.host, from + PAGE);
        let page: Vec<Value> = found.into_iter().skip(from).take(PAGE).collect();
        ok(json!({"value": page, "nextLink": if more { json!(next) } else { Value::Null }}))
    }
}

/// Role assignments: message as [seen], with its line breaks.
fn forbidden(asked: &Asked, resource: &str) -> Response {
    let words = format!(
        "Caller is not authorized to perform action on resource.\r\nIf role assignments, deny assignments or role definitions were \
         changed recently, please observe propagation time.\r\nCaller: appid={}\r\nResource: '{resource}'\r\nAssignment: (not found)",
        asked.client
    );
    error(403, "Forbidden", words, Some("ForbiddenByRbac"))
}

/// An object as the API shows it; in lists without its value and version.
fn shown(asked: &Asked, collection: &str, version: &str, json: &Map<String, Value>, whole: bool) -> Value {
    let mut json = json.clone();
    let name = json.remove("name").and_then(|n| n.as_str().map(str::to_owned)).unwrap_or_default();
    let base = format!("https://{}/{collection}/{name}", asked.host);
    let id = if whole { format!("{base}/{version}") } else { base };
    if !whole {
        json.remove("value");
        json.remove("cer");
        json.remove("policy");
    }
    match collection {
        "keys" if whole => {
            if let Some(key) = json.get_mut("key").and_then(Value::as_object_mut) {
                key.insert("kid".into(), id.into());
            }
        }
        "keys" => {
            json.remove("key");
            json.insert("kid".into(), id.into());
        }
        _ => {
            json.insert("id".into(), id.into());
        }
    }
    Value::Object(json)
}

/// The certificate in what is imported.
fn leaf(value: &str, kind: &str) -> Option<Vec<u8>> {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    if kind == "application/x-pem-file" {
        // Microsoft's clients for .NET send the text, those for Python its Base64. [memory]
        let text = STANDARD.decode(value).unwrap_or_else(|_| value.as_bytes().to_vec());
        return CertificateDer::from_pem_slice(&text).ok().map(|der| der.to_vec());
    }
    let file = STANDARD.decode(value).ok()?;
    let store = p12_keystore::KeyStore::from_pkcs12(&file, "", p12_keystore::Pkcs12ImportPolicy::Relaxed).ok()?;
    let (_, chain) = store.private_key_chain()?;
    Some(chain.certs().first()?.as_der().to_vec())
}
