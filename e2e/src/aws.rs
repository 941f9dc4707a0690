//! An AWS: the emulator moto for what is kept, and a gateway before it for what moto leaves out.
//!
//! moto takes every key, signs nothing, believes every web-identity token and never throttles. The gateway knows keys and roles,
//! checks signatures (Signature Version 4, as its reference describes it) and tokens (against the cluster's own keys), says no
//! with AWS's error bodies, counts calls, and fails them on demand.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};

use crate::faults::{Faults, cut};
use crate::jwt;
use crate::process::{Process, free_port};
use crate::python;
use crate::serve;
use crate::signature;

/// The region of everything here.
pub const REGION: &str = "eu-central-1";
/// The account of everything here.
pub const ACCOUNT: &str = "123456789012";

/// Access keys, and what they may do.
#[derive(Clone, Debug, Default)]
pub struct Key {
    /// The secret access key.
    pub secret: String,
    /// The session token that goes with it.
    pub session: Option<String>,
    /// Beginnings of the names that may be read and written.
    pub names: Vec<String>,
    /// Operations that are refused, such as BatchGetSecretValue.
    pub refused: Vec<String>,
    /// Whether the credentials have ended.
    pub expired: bool,
}

/// A role, who may assume it, and what it may do.
#[derive(Clone, Debug, Default)]
pub struct Role {
    /// Access key ids, subjects of tokens such as `system:serviceaccount:NS:NAME`, and ARNs of roles.
    pub trusts: Vec<String>,
    /// The audience that a token must have.
    pub audience: String,
    /// The external id that must be given.
    pub external_id: Option<String>,
    /// Tags that the session must have.
    pub tags: BTreeMap<String, String>,
    /// As [`Key::names`].
    pub names: Vec<String>,
}

/// A call that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Whose.
    pub key: String,
    /// Which operation, such as GetSecretValue.
    pub operation: String,
    /// How many names it is about.
    pub names: usize,
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    /// AWS answers with an error.
    Error {
        /// HTTP status.
        status: u16,
        /// AWS's code.
        code: String,
        /// `Retry-After`, in seconds.
        retry_after: Option<u64>,
    },
    /// The answer comes late.
    Late(Duration),
    /// The connection ends without an answer.
    Cut,
}

#[derive(Default)]
struct Shared {
    target: String,
    keys: Mutex<HashMap<String, Key>>,
    /// Which role session credentials are of.
    sessions: Mutex<HashMap<String, String>>,
    roles: Mutex<HashMap<String, Role>>,
    /// Roles by the service accounts whose pods have them.
    pods: Mutex<HashMap<String, String>>,
    calls: Mutex<Vec<Call>>,
    /// Faults by key and operation, with how often they still happen.
    faults: Mutex<Vec<(String, String, usize, Fault)>>,
    issuer: Mutex<Option<jwt::Issuer>>,
    http: reqwest::Client,
}

/// A running AWS.
pub struct Aws {
    /// Where all of its services are.
    pub url: String,
    /// What goes wrong before the gateway.
    pub faults: Faults,
    shared: Arc<Shared>,
    _moto: Process,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Aws {
    /// Starts moto and the gateway.
    ///
    /// # Errors
    /// A sentence that says what is missing and what to do.
    pub fn start(folder: &Path, say: &dyn Fn(&str)) -> Result<Self, String> {
        let port = free_port();
        let mut command = Command::new(python::programs(say)?.join("moto_server"));
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).env("MOTO_ACCOUNT_ID", ACCOUNT);
        let moto = Process::start(&command, &folder.join("moto.log"));
        let reached = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        moto.wait_ready(Duration::from_secs(60), reached);
        let shared = Arc::new(Shared { target: format!("http://127.0.0.1:{port}"), http: client(), ..Shared::default() });
        let faults = Faults::default();
        let routes = Router::new().route("/pod-identity", get(pod_identity)).fallback(serve);
        let url = serve::apart(faults.before(routes.with_state(shared.clone())))?;
        Ok(Self { url, faults, shared, _moto: moto })
    }

    /// Believes tokens that this issuer signed.
    pub fn trust(&self, issuer: jwt::Issuer) {
        *lock(&self.shared.issuer) = Some(issuer);
    }

    /// Makes access keys known, or changes what they may do.
    pub fn key(&self, id: &str, key: Key) {
        lock(&self.shared.keys).insert(id.to_owned(), key);
    }

    /// Makes a role; answers its ARN.
    pub fn role(&self, name: &str, role: Role) -> String {
        let arn = format!("arn:aws:iam::{ACCOUNT}:role/{name}");
        lock(&self.shared.roles).insert(arn.clone(), role);
        arn
    }

    /// Associates a service account, such as `system:serviceaccount:NS:NAME`, with a role, as EKS Pod Identity does. The agent of
    /// the node is at `/pod-identity`.
    pub fn associate(&self, subject: &str, arn: &str) {
        lock(&self.shared.pods).insert(subject.to_owned(), arn.to_owned());
    }

    /// Ends the credentials that were given for a role.
    pub fn expire_sessions(&self, arn: &str) {
        let sessions = lock(&self.shared.sessions);
        let mut keys = lock(&self.shared.keys);
        for (id, _) in sessions.iter().filter(|(_, role)| *role == arn) {
            if let Some(key) = keys.get_mut(id) {
                key.expired = true;
            }
        }
    }

    /// Fails an operation for a key, or with an empty key for everybody, so many times.
    pub fn fail(&self, key: &str, operation: &str, times: usize, fault: Fault) {
        lock(&self.shared.faults).push((key.to_owned(), operation.to_owned(), times, fault));
    }

    /// Fails nothing for a key any more.
    pub fn heal(&self, key: &str) {
        lock(&self.shared.faults).retain(|(of, ..)| of != key);
    }

    /// Calls so far of a key, and of sessions of roles that it stands for.
    pub fn calls(&self, key: &str) -> Vec<Call> {
        let sessions = lock(&self.shared.sessions);
        let is = |call: &&Call| call.key == key || sessions.get(&call.key).is_some_and(|role| role == key);
        lock(&self.shared.calls).iter().filter(is).cloned().collect()
    }

    /// Calls moto itself, as an administrator.
    pub async fn admin(&self, target: &str, body: Value) -> Value {
        let service = if target.starts_with("secretsmanager") { "secretsmanager" } else { "ssm" };
        let credential = format!(
            "AWS4-HMAC-SHA256 Credential=admin/20260101/{REGION}/{service}/aws4_request, SignedHeaders=host, Signature=0"
        );
        let request = client().post(&self.shared.target).header("x-amz-target", target).header("authorization", credential);
        let request = request.header("content-type", "application/x-amz-json-1.1").body(body.to_string());
        let answer = request.send().await.expect("moto answers");
        let (status, text) = (answer.status(), answer.text().await.expect("a body"));
        assert!(status.is_success(), "moto answered {target} with {status}: {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// Makes or changes a secret.
    pub async fn put_secret(&self, name: &str, value: &str) {
        let there = self.admin("secretsmanager.ListSecrets", json!({"Filters": [{"Key": "name", "Values": [name]}]})).await;
        let exists = there["SecretList"].as_array().into_iter().flatten().any(|s| s["Name"] == name);
        match exists {
            true => self.admin("secretsmanager.PutSecretValue", json!({"SecretId": name, "SecretString": value})).await,
            false => self.admin("secretsmanager.CreateSecret", json!({"Name": name, "SecretString": value})).await,
        };
    }

    /// Makes or changes a parameter.
    pub async fn put_parameter(&self, name: &str, value: &str) {
        let body = json!({"Name": name, "Value": value, "Type": "SecureString", "Overwrite": true});
        self.admin("AmazonSSM.PutParameter", body).await;
    }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().expect("a client")
}

/// A request as the gateway sees it.
struct Asked {
    operation: String,
    /// STS speaks XML, the others JSON.
    sts: bool,
    json: Value,
    form: HashMap<String, String>,
}

impl Asked {
    fn new(headers: &HeaderMap, body: &Bytes) -> Self {
        let target = headers.get("x-amz-target").and_then(|t| t.to_str().ok()).and_then(|t| t.split_once('.'));
        match target {
            Some((_, operation)) => Self {
                operation: operation.to_owned(),
                sts: false,
                json: serde_json::from_slice(body).unwrap_or_default(),
                form: HashMap::new(),
            },
            None => {
                let form: HashMap<String, String> = url::form_urlencoded::parse(body).into_owned().collect();
                let operation = form.get("Action").cloned().unwrap_or_default();
                Self { operation, sts: true, json: Value::Null, form }
            }
        }
    }

    fn names(&self) -> Vec<String> {
        let one = ["SecretId", "Name", "ResourceId"].iter().filter_map(|field| self.json[field].as_str());
        let many = ["SecretIdList", "Names"].iter().filter_map(|field| self.json[field].as_array()).flatten();
        one.chain(many.filter_map(Value::as_str)).map(str::to_owned).collect()
    }

    fn error(&self, status: u16, code: &str, message: &str) -> Response {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
        let body = match self.sts {
            true => format!(
                "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>{code}</Code>\
                 <Message>{message}</Message></Error><RequestId>0</RequestId></ErrorResponse>"
            ),
            false => json!({"__type": code, "message": message}).to_string(),
        };
        let kind = if self.sts { "text/xml" } else { "application/x-amz-json-1.1" };
        (status, [("content-type", kind)], body).into_response()
    }
}

async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, 16 << 20).await else { return StatusCode::BAD_REQUEST.into_response() };
    let asked = Asked::new(&parts.headers, &body);
    let signed = signature::Signed::parse(&parts.headers);
    let id = signed.as_ref().map(|s| s.key.clone()).unwrap_or_default();
    let call = Call { key: id.clone(), operation: asked.operation.clone(), names: asked.names().len() };
    lock(&shared.calls).push(call);
    match next_fault(&shared, &id, &asked.operation) {
        Some(Fault::Cut) => return cut(),
        Some(Fault::Late(wait)) => tokio::time::sleep(wait).await,
        Some(Fault::Error { status, code, retry_after }) => {
            let mut response = asked.error(status, &code, "as the test asked");
            if let Some(seconds) = retry_after {
                response.headers_mut().insert("retry-after", seconds.into());
            }
            return response;
        }
        None => {}
    }
    let role = match admit(&shared, &asked, signed.as_ref(), &parts.method, &parts.uri, &parts.headers, &body) {
        Ok(role) => role,
        Err(response) => return *response,
    };
    let names = lock(&shared.keys).get(&id).map(|key| key.names.clone()).unwrap_or_default();
    let answer = match asked.operation.as_str() {
        "GetCallerIdentity" => (200, caller_identity(&shared, &id)),
        "BatchGetSecretValue" => batch(&shared, &asked, &parts.headers, &names).await,
        _ => forward(&shared, &parts.headers, body).await,
    };
    let (status, text) = answer;
    if let Some(role) = role {
        learn(&shared, &role, &text);
    }
    // A missing secret is a 404 of moto's and a 400 of AWS's.
    let status = if status == 404 { 400 } else { status };
    let kind = if asked.sts { "text/xml" } else { "application/x-amz-json-1.1" };
    (StatusCode::from_u16(status).unwrap_or(StatusCode::OK), [("content-type", kind)], text).into_response()
}

fn next_fault(shared: &Shared, id: &str, operation: &str) -> Option<Fault> {
    let role = lock(&shared.sessions).get(id).cloned();
    let mut faults = lock(&shared.faults);
    let hit = faults.iter_mut().find(|(key, op, times, _)| {
        (key.is_empty() || key == id || role.as_ref() == Some(key)) && op == operation && *times > 0
    })?;
    hit.2 -= 1;
    Some(hit.3.clone())
}

/// Decides whether a request is let through; answers the role whose credentials it asks for.
fn admit(
    shared: &Shared,
    asked: &Asked,
    signed: Option<&signature::Signed>,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Option<String>, Box<Response>> {
    let refuse = |status: u16, code: &str, message: &str| Err(Box::new(asked.error(status, code, message)));
    if asked.operation == "AssumeRoleWithWebIdentity" {
        return with_token(shared, asked).map(Some).or_else(|(code, message)| refuse(400, code, &message));
    }
    let Some(signed) = signed else {
        return refuse(400, "MissingAuthenticationTokenException", "Missing Authentication Token");
    };
    let key = lock(&shared.keys).get(&signed.key).cloned();
    let (unknown, wrong, denied) = match asked.sts {
        true => ("InvalidClientTokenId", "SignatureDoesNotMatch", "AccessDenied"),
        false => ("UnrecognizedClientException", "InvalidSignatureException", "AccessDeniedException"),
    };
    let Some(key) = key else {
        return refuse(if asked.sts { 403 } else { 400 }, unknown, "The security token included in the request is invalid.");
    };
    let session = headers.get("x-amz-security-token").and_then(|t| t.to_str().ok());
    if session != key.session.as_deref() {
        return refuse(400, unknown, "The security token included in the request is invalid.");
    }
    if !signed.is_good(&key.secret, method, uri, headers, body) {
        let message = "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details.";
        return refuse(if asked.sts { 403 } else { 400 }, wrong, message);
    }
    if key.expired {
        return refuse(400, "ExpiredTokenException", "The security token included in the request is expired");
    }
    if asked.operation == "AssumeRole" {
        let assumed = with_key(shared, asked, &signed.key);
        return assumed.map(Some).or_else(|message| refuse(403, "AccessDenied", &message));
    }
    let who = format!("User: arn:aws:iam::{ACCOUNT}:user/{} is not authorized to perform: {}", signed.key, asked.operation);
    if key.refused.contains(&asked.operation) {
        return refuse(400, denied, &who);
    }
    let allowed = |name: &String| key.names.iter().any(|prefix| name.trim_start_matches(ARN_OF_SECRETS).starts_with(prefix));
    let names = asked.names();
    if asked.operation != "BatchGetSecretValue" && !names.iter().all(allowed) {
        return refuse(400, denied, &format!("{who} on resource: {}", names.join(", ")));
    }
    match asked.operation.as_str() {
        "BatchGetSecretValue" if names.len() > 20 => {
            refuse(400, "InvalidParameterException", "SecretIdList must have length less than or equal to 20")
        }
        "GetParameters" if names.len() > 10 => {
            refuse(400, "ValidationException", "Member must have length less than or equal to 10")
        }
        _ => Ok(None),
    }
}

const ARN_OF_SECRETS: &str = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:";

fn with_token(shared: &Shared, asked: &Asked) -> Result<String, (&'static str, String)> {
    let arn = asked.form.get("RoleArn").cloned().unwrap_or_default();
    let token = asked.form.get("WebIdentityToken").map(String::as_str).unwrap_or_default();
    let issuer = lock(&shared.issuer).clone();
    let issuer = issuer.ok_or(("InvalidIdentityToken", "No OpenIDConnect provider found in your account".to_owned()))?;
    let claims = issuer.check(token).map_err(|why| match why {
        jwt::Wrong::Expired => ("ExpiredTokenException", "Token expired".to_owned()),
        jwt::Wrong::Other(why) => ("InvalidIdentityToken", why),
    })?;
    let denied = || ("AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity".to_owned());
    let role = lock(&shared.roles).get(&arn).cloned().ok_or_else(denied)?;
    let subject = claims["sub"].as_str().unwrap_or_default().to_owned();
    let audiences: Vec<&str> = claims["aud"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !audiences.contains(&role.audience.as_str()) {
        return Err(("InvalidIdentityToken", "Incorrect token audience".to_owned()));
    }
    if role.trusts.contains(&subject) { Ok(arn) } else { Err(denied()) }
}

/// The agent of EKS Pod Identity, as pods see it: the container credential provider of the SDKs' reference
/// (<https://docs.aws.amazon.com/sdkref/latest/guide/feature-container-credentials.html>) with the token that EKS puts into pods. Codes
/// of refusals are those of EKS Auth's `AssumeRoleForPodIdentity`; how the agent words them is from memory.
async fn pod_identity(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let token = headers.get("authorization").and_then(|t| t.to_str().ok()).unwrap_or_default();
    let refuse = |code: &str, why: &str| {
        let body = json!({"code": code, "message": format!("(pod-identity-agent): {why}")}).to_string();
        (StatusCode::BAD_REQUEST, [("content-type", "application/json")], body).into_response()
    };
    let issuer = lock(&shared.issuer).clone();
    let claims = match issuer.map(|issuer| issuer.check(token)) {
        Some(Ok(claims)) => claims,
        Some(Err(jwt::Wrong::Expired)) => return refuse("ExpiredTokenException", "Token expired"),
        _ => return refuse("InvalidTokenException", "Token is invalid"),
    };
    if !claims["aud"].as_array().into_iter().flatten().any(|audience| audience == "pods.eks.amazonaws.com") {
        return refuse("InvalidTokenException", "Token's audience is not pods.eks.amazonaws.com");
    }
    let role = lock(&shared.pods).get(claims["sub"].as_str().unwrap_or_default()).cloned();
    let Some(arn) = role else {
        return refuse("ResourceNotFoundException", "No association found for the service account");
    };
    let id = format!("ASIAPOD{:016X}", lock(&shared.sessions).len());
    let session = format!("session-of-{id}");
    let names = lock(&shared.roles).get(&arn).map(|role| role.names.clone()).unwrap_or_default();
    let key = Key { secret: format!("secret-of-{id}"), session: Some(session.clone()), names, ..Key::default() };
    let body = json!({"AccessKeyId": id, "SecretAccessKey": key.secret, "Token": session, "AccountId": ACCOUNT,
        "Expiration": (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(6)).to_string()});
    lock(&shared.keys).insert(id.clone(), key);
    lock(&shared.sessions).insert(id, arn);
    ([("content-type", "application/json")], body.to_string()).into_response()
}

fn with_key(shared: &Shared, asked: &Asked, key: &str) -> Result<String, String> {
    let arn = asked.form.get("RoleArn").cloned().unwrap_or_default();
    let denied = format!("User: {key} is not authorized to perform: sts:AssumeRole on resource: {arn}");
    let role = lock(&shared.roles).get(&arn).cloned().ok_or_else(|| denied.clone())?;
    let own = lock(&shared.sessions).get(key).cloned();
    let trusted = role.trusts.iter().any(|who| who == key || own.as_ref() == Some(who));
    let external = role.external_id.as_ref() == asked.form.get("ExternalId");
    let tagged = |(name, value): (&String, &String)| {
        (1..=50).any(|i| {
            asked.form.get(&format!("Tags.member.{i}.Key")) == Some(name)
                && asked.form.get(&format!("Tags.member.{i}.Value")) == Some(value)
        })
    };
    if trusted && external && role.tags.iter().all(tagged) { Ok(arn) } else { Err(denied) }
}

/// moto knows nobody: who a key is comes from here.
fn caller_identity(shared: &Shared, key: &str) -> String {
    let arn = match lock(&shared.sessions).get(key) {
        Some(role) => format!("{}/lockstep", role.replace(":iam:", ":sts:").replace(":role/", ":assumed-role/")),
        None => format!("arn:aws:iam::{ACCOUNT}:user/{key}"),
    };
    format!(
        "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult><Arn>{arn}</Arn>\
         <UserId>{key}</UserId><Account>{ACCOUNT}</Account></GetCallerIdentityResult><ResponseMetadata><RequestId>0</RequestId>\
         </ResponseMetadata></GetCallerIdentityResponse>"
    )
}

/// Knows the credentials that STS has given out.
fn learn(shared: &Shared, role: &str, answer: &str) {
    let inside = |tag: &str| {
        let (_, rest) = answer.split_once(&format!("<{tag}>"))?;
        rest.split_once(&format!("</{tag}>")).map(|(value, _)| value.to_owned())
    };
    let names = lock(&shared.roles).get(role).map(|r| r.names.clone()).unwrap_or_default();
    if let (Some(id), Some(secret)) = (inside("AccessKeyId"), inside("SecretAccessKey")) {
        let key = Key { secret, session: inside("SessionToken"), names, ..Key::default() };
        lock(&shared.keys).insert(id.clone(), key);
        lock(&shared.sessions).insert(id, role.to_owned());
    }
}

async fn forward(shared: &Shared, headers: &HeaderMap, body: Bytes) -> (u16, String) {
    let mut request = shared.http.post(&shared.target).body(body);
    for name in ["x-amz-target", "authorization", "content-type", "x-amz-security-token", "x-amz-date"] {
        if let Some(value) = headers.get(name) {
            request = request.header(name, value);
        }
    }
    let answer = request.send().await.expect("moto answers");
    (answer.status().as_u16(), answer.text().await.unwrap_or_default())
}

/// moto knows no rights: those of single names come here, as AWS gives them.
async fn batch(shared: &Shared, asked: &Asked, headers: &HeaderMap, allowed: &[String]) -> (u16, String) {
    let is_allowed = |name: &String| allowed.iter().any(|prefix| name.trim_start_matches(ARN_OF_SECRETS).starts_with(prefix));
    let (good, bad): (Vec<String>, Vec<String>) = asked.names().into_iter().partition(is_allowed);
    let mut answer = json!({"SecretValues": [], "Errors": []});
    if !good.is_empty() {
        let body = json!({"SecretIdList": good}).to_string();
        let (status, text) = forward(shared, headers, body.into()).await;
        if status != 200 {
            return (status, text);
        }
        answer = serde_json::from_str(&text).unwrap_or(answer);
    }
    let errors = bad.iter().map(|name| {
        json!({"SecretId": name, "ErrorCode": "AccessDeniedException", "Message": "is not authorized to perform: secretsmanager:GetSecretValue"})
    });
    let mut all: Vec<Value> = answer["Errors"].as_array().cloned().unwrap_or_default();
    all.extend(errors);
    answer["Errors"] = all.into();
    (200, answer.to_string())
}
