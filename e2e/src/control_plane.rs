//! A real control plane: etcd, kube-apiserver and kube-controller-manager.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::components::{Component, find_or_build};
use crate::process::{Process, free_port};

/// A certificate authority that the harness makes for itself.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate in PEM.
    pub pem: String,
}

/// A certificate and its key in PEM.
#[derive(Clone)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Authority {
    /// A new one.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for a server and client of this name and group, valid for `hosts`.
    pub fn issue(&self, name: &str, group: Option<&str>, hosts: &[&str]) -> Pair {
        let hosts: Vec<String> = hosts.iter().map(|h| (*h).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Pair { certificate, key: key.serialize_pem() }
    }
}

/// A running control plane.
pub struct ControlPlane {
    /// `https://127.0.0.1:PORT`.
    pub url: String,
    /// Kubeconfig of an administrator.
    pub kubeconfig: PathBuf,
    /// PEM of its certificate authority.
    pub ca: String,
    /// A key that signs service account tokens, in PEM: its public half.
    pub token_key: String,
    /// The API server, for its CPU time.
    pub api_server: Process,
    _controllers: Process,
    _etcd: Process,
}

fn write(path: PathBuf, text: &str) -> PathBuf {
    std::fs::write(&path, text).expect("a file can be written");
    path
}

/// A kubeconfig with one user.
pub fn kubeconfig(url: &str, ca: &str, user: &str) -> String {
    use base64::Engine;
    let ca = base64::engine::general_purpose::STANDARD.encode(ca);
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: lockstep\n\
         contexts: [{{name: lockstep, context: {{cluster: local, user: user}}}}]\n\
         clusters: [{{name: local, cluster: {{server: '{url}', certificate-authority-data: {ca}}}}}]\n\
         users: [{{name: user, user: {{{user}}}}}]\n"
    )
}

impl ControlPlane {
    /// The issuer of service accounts' tokens, with its published keys.
    pub async fn issuer(&self, client: &kube::Client) -> crate::jwt::Issuer {
        let request = http::Request::get("/openid/v1/jwks").body(Vec::new()).expect("a request");
        let keys = client.request(request).await.expect("the API server publishes its keys");
        crate::jwt::Issuer { name: "https://kubernetes.default.svc".into(), keys }
    }

    /// Starts one in `folder`.
    ///
    /// # Errors
    /// A sentence when a binary can't be had.
    pub fn start(folder: &Path, say: &dyn Fn(&str)) -> Result<Self, String> {
        Self::begin(folder, None, say)
    }

    /// The same with Secrets that are encrypted at rest (secretbox).
    ///
    /// # Errors
    /// A sentence when a binary can't be had.
    pub fn start_encrypted(folder: &Path, say: &dyn Fn(&str)) -> Result<Self, String> {
        use base64::Engine;
        let key = base64::engine::general_purpose::STANDARD.encode([7; 32]);
        let config = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n\
             resources: [{{resources: [secrets], providers: [{{secretbox: {{keys: [{{name: a, secret: {key}}}]}}}}, {{identity: {{}}}}]}}]\n"
        );
        std::fs::create_dir_all(folder).map_err(|e| e.to_string())?;
        Self::begin(folder, Some(write(folder.join("encryption.yaml"), &config)), say)
    }

    fn begin(folder: &Path, encryption: Option<PathBuf>, say: &dyn Fn(&str)) -> Result<Self, String> {
        let etcd = find_or_build(Component::Etcd, say)?;
        let api_server = find_or_build(Component::KubeApiserver, say)?;
        let controllers = find_or_build(Component::KubeControllerManager, say)?;
        std::fs::create_dir_all(folder).map_err(|e| e.to_string())?;
        let authority = Authority::new("lockstep-e2e");
        let server = authority.issue("kube-apiserver", None, &["127.0.0.1", "localhost", "kubernetes.default.svc"]);
        let admin = authority.issue("admin", Some("system:masters"), &[]);
        let signing = KeyPair::generate().expect("a key");
        let ca = write(folder.join("ca.crt"), &authority.pem);
        let certificate = write(folder.join("api.crt"), &server.certificate);
        let key = write(folder.join("api.key"), &server.key);
        let signing_key = write(folder.join("sa.key"), &signing.serialize_pem());
        let token_key = signing.public_key_pem();
        let public_key = write(folder.join("sa.pub"), &token_key);

        let (client_port, peer_port, port) = (free_port(), free_port(), free_port());
        let (client, peer) = (format!("http://127.0.0.1:{client_port}"), format!("http://127.0.0.1:{peer_port}"));
        let mut command = Command::new(etcd);
        command
            .arg("--data-dir")
            .arg(folder.join("etcd"))
            .args(["--unsafe-no-fsync", "--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--quota-backend-bytes=4294967296"]);
        let etcd = Process::start(&command, &folder.join("etcd.log"));

        let url = format!("https://127.0.0.1:{port}");
        let mut command = Command::new(api_server);
        command
            .arg(format!("--etcd-servers={client}"))
            .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", &format!("--secure-port={port}")])
            .arg(format!("--tls-cert-file={}", certificate.display()))
            .arg(format!("--tls-private-key-file={}", key.display()))
            .arg(format!("--client-ca-file={}", ca.display()))
            .arg(format!("--cert-dir={}", folder.join("certs").display()))
            .arg(format!("--service-account-key-file={}", public_key.display()))
            .arg(format!("--service-account-signing-key-file={}", signing_key.display()))
            .args(["--service-account-issuer=https://kubernetes.default.svc", "--authorization-mode=RBAC"])
            .args([
                "--service-cluster-ip-range=10.96.0.0/16",
                "--disable-admission-plugins=ServiceAccount",
                "--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
            ])
            .arg("--max-requests-inflight=800");
        if let Some(config) = encryption {
            command.arg(format!("--encryption-provider-config={}", config.display()));
        }
        let api_server = Process::start(&command, &folder.join("api.log"));

        let encode = |text: &str| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
        let user = format!("client-certificate-data: {}, client-key-data: {}", encode(&admin.certificate), encode(&admin.key));
        let kubeconfig = write(folder.join("kubeconfig"), &kubeconfig(&url, &authority.pem, &user));
        let probe = blocking_client(&authority.pem, &admin);
        api_server.wait_ready(Duration::from_secs(120), || {
            probe.get(format!("{url}/readyz")).send().is_ok_and(|r| r.status().is_success())
        });

        let mut command = Command::new(controllers);
        command
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!("--service-account-private-key-file={}", signing_key.display()))
            .arg(format!("--root-ca-file={}", ca.display()))
            .arg("--controllers=garbagecollector,namespace,serviceaccount,serviceaccount-token,root-ca-cert-publisher")
            .args(["--leader-elect=false", "--secure-port=0", "--kube-api-qps=500", "--kube-api-burst=1000"]);
        let controllers = Process::start(&command, &folder.join("controllers.log"));
        Ok(Self { url, kubeconfig, ca: authority.pem, token_key, api_server, _controllers: controllers, _etcd: etcd })
    }
}

fn blocking_client(ca: &str, pair: &Pair) -> reqwest::blocking::Client {
    let identity = reqwest::Identity::from_pem(format!("{}\n{}", pair.certificate, pair.key).as_bytes()).expect("a pair");
    reqwest::blocking::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(ca.as_bytes()).expect("a certificate")])
        .identity(identity)
        .no_proxy()
        .build()
        .expect("a client")
}
