//! Who is let in: tokens, certificates, and what is rotated while the process runs.

use std::collections::BTreeMap;
use std::path::PathBuf;

use countersign_boot::Client;
use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};
use sha2::{Digest as _, Sha256};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

use super::*;

/// A folder with what an operator would mount.
struct Mounted {
    folder: tempfile::TempDir,
    authority: (CertificateParams, KeyPair),
}

impl Mounted {
    fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let this = Self { authority: (params.clone(), key), folder };
        std::fs::write(this.path("ca.pem"), params.self_signed(&this.authority.1).unwrap().pem()).unwrap();
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Signs a certificate for a name; writes it and its key.
    fn certificate(&self, file: &str, name: &str) -> Certificate {
        let key = KeyPair::generate().unwrap();
        let (params, authority) = &self.authority;
        let issuer = Issuer::from_params(params, authority);
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        std::fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
        std::fs::write(self.path(&format!("{file}.pem")), certificate.pem()).unwrap();
        certificate
    }

    /// Writes the tokens file: name, roles, token.
    fn tokens(&self, tokens: &[(&str, &str, &str)]) {
        let entry = |(name, role, token): &(&str, &str, &str)| {
            let hash: String =
                Sha256::digest(token.as_bytes()).iter().fold(String::new(), |hash, byte| hash + &format!("{byte:02x}"));
            format!("[[tokens]]\nname = {name:?}\nroles = [{role:?}]\nsha256 = {hash:?}\n")
        };
        // Moved into place, as a mounted secret is.
        std::fs::write(self.path("tokens.new"), tokens.iter().map(entry).collect::<String>()).unwrap();
        std::fs::rename(self.path("tokens.new"), self.path("tokens.toml")).unwrap();
    }

    /// A value with the folder in the place of `{}`.
    fn in_full(&self, value: &str) -> String {
        value.replace("{}", self.folder.path().to_str().unwrap())
    }

    fn start(&self, variables: &[(&str, &str)]) -> Service {
        let variables: Vec<_> = variables.iter().map(|(key, value)| (*key, self.in_full(value))).collect();
        let variables: Vec<_> = variables.iter().map(|(key, value)| (*key, value.as_str())).collect();
        Service::start(&variables)
    }

    fn client(&self) -> reqwest::ClientBuilder {
        let authority = reqwest::Certificate::from_pem(&std::fs::read(self.path("ca.pem")).unwrap()).unwrap();
        // No pool: every request meets the certificate of now.
        reqwest::Client::builder().tls_certs_only([authority]).pool_max_idle_per_host(0)
    }
}

const TOKENS: (&str, &str) = ("COUNTERSIGN_ACCESS__TOKENS_FILE", "{}/tokens.toml");
const TLS: [(&str, &str); 2] =
    [("COUNTERSIGN_TLS__CERTIFICATE_FILE", "{}/server.pem"), ("COUNTERSIGN_TLS__KEY_FILE", "{}/server.key")];

/// Status and `www-authenticate` of a GET with this token.
async fn ask(url: &str, token: Option<&str>) -> (u16, bool) {
    let mut request = reqwest::Client::new().get(url);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.headers().contains_key("www-authenticate"))
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn reflect(client: &Client, url: &str) -> Result<(), tonic::Status> {
    let channel = client.endpoint(url).unwrap().connect().await.unwrap();
    let message_request = Some(MessageRequest::ListServices(String::new()));
    let question = ServerReflectionRequest { host: String::new(), message_request };
    let mut reflection = ServerReflectionClient::new(client.bearer().on(channel));
    reflection.server_reflection_info(futures::stream::iter([question])).await.map(|_| ())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_opens_what_its_role_may_and_health_is_open_to_everybody() {
    let mounted = Mounted::new();
    mounted.tokens(&[("ann", "viewer", "sesame"), ("shop", "producer", "shopping")]);
    let service = mounted.start(&[TOKENS]);
    let http = format!("http://{}", service.http());
    for path in ["/health/live", "/health/ready"] {
        for token in [None, Some("wrong")] {
            assert_eq!(ask(&(http.clone() + path), token).await.0, 200, "{path} with {token:?}");
        }
    }
    for path in ["/metrics", "/hello"] {
        let url = http.clone() + path;
        for (token, answer) in
            [(None, (401, true)), (Some("wrong"), (401, true)), (Some("shopping"), (403, false)), (Some("sesame"), (200, false))]
        {
            assert_eq!(ask(&url, token).await, answer, "{path} with {token:?}");
        }
    }
    let grpc = format!("http://{}", service.addresses()["grpc"].as_str().unwrap());
    let file = |token: &str| {
        let file = mounted.path(token);
        std::fs::write(&file, token).unwrap();
        Client { token_file: file, ..Client::default() }
    };
    let nobody = Client::default();
    let channel = nobody.endpoint(&grpc).unwrap().connect().await.unwrap();
    HealthClient::new(channel).check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(reflect(&nobody, &grpc).await.unwrap_err().code(), Code::Unauthenticated);
    assert_eq!(reflect(&file("wrong"), &grpc).await.unwrap_err().code(), Code::Unauthenticated);
    let refused = reflect(&file("shopping"), &grpc).await.unwrap_err();
    assert!(refused.code() == Code::PermissionDenied && refused.message().contains("role viewer"), "{refused:?}");
    reflect(&file("sesame"), &grpc).await.unwrap();

    let (_, metrics) = (
        0,
        reqwest::Client::new().get(http.clone() + "/metrics").bearer_auth("sesame").send().await.unwrap().text().await.unwrap(),
    );
    for counted in [
        r#"surface="grpc",reason="nothing"} 1"#,
        r#"surface="grpc",reason="forbidden"} 1"#,
        r#"surface="http",reason="unknown"} 2"#,
    ] {
        assert!(metrics.contains(counted), "{counted} in {metrics}");
    }

    // Rotated while it runs; half a file changes nothing.
    std::fs::write(mounted.path("tokens.toml"), "[[tokens]]\nname = ").unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(ask(&(http.clone() + "/hello"), Some("sesame")).await.0, 200, "what cannot be read changes nothing");
    mounted.tokens(&[("ann", "viewer", "simsala")]);
    until("the new token to be known", async || ask(&(http.clone() + "/hello"), Some("simsala")).await.0 == 200).await;
    assert_eq!(ask(&(http.clone() + "/hello"), Some("sesame")).await.0, 401);
    service.signal(Signal::TERM);
    let (code, log) = service.ended();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("was not let in") && log.contains("cannot be used"), "{log}");
    for token in ["sesame", "shopping", "simsala", "wrong"] {
        assert!(!log.contains(token), "the token {token} is in the log: {log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_opens_what_its_names_may_and_is_rotated_under_way() {
    let mounted = Mounted::new();
    let first = mounted.certificate("server", "localhost");
    mounted.certificate("client", "callback.countersign.svc");
    mounted.certificate("other", "somebody.else");
    let names = r#"{"callback.countersign.svc" = ["viewer"]}"#;
    let mut variables = TLS.to_vec();
    variables.extend([("COUNTERSIGN_TLS__CLIENT_CA_FILE", "{}/ca.pem"), ("COUNTERSIGN_ACCESS__CERTIFICATES", names)]);
    let service = mounted.start(&variables);
    let place = |surface: &str| service.addresses()[surface].as_str().unwrap().replace("127.0.0.1", "localhost");
    let (http, grpc) = (format!("https://{}", place("http")), format!("https://{}", place("grpc")));
    let identity = |file: &str| {
        let part = |end: &str| std::fs::read(mounted.path(&format!("{file}.{end}"))).unwrap();
        reqwest::Identity::from_pem(&[part("pem"), part("key")].concat()).unwrap()
    };
    let get = async |client: reqwest::ClientBuilder, path: &str| {
        client
            .build()
            .unwrap()
            .get(http.clone() + path)
            .send()
            .await
            .map(|answer| answer.status().as_u16())
            .map_err(|error| error.is_connect())
    };
    assert_eq!(get(mounted.client(), "/health/ready").await, Ok(200), "health needs no certificate");
    let listen = http.replace("https://localhost", "127.0.0.1");
    let variables: Vec<_> = variables.iter().map(|(key, value)| (*key, mounted.in_full(value))).collect();
    let variables: Vec<_> = variables.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let asked = run(&[&variables[..], &[("COUNTERSIGN_HTTP__LISTEN", &listen)]].concat(), &["--health"]);
    assert_eq!(asked.status.code(), Some(0), "--health needs no certificate either: {asked:?}");
    assert_eq!(get(mounted.client(), "/hello").await, Ok(401));
    assert_eq!(get(mounted.client().identity(identity("client")), "/hello").await, Ok(200));
    assert_eq!(get(mounted.client().identity(identity("other")), "/hello").await, Ok(401), "a name that has no role");
    assert_eq!(get(reqwest::Client::builder(), "/hello").await, Err(true), "who does not trust the authority does not connect");

    let shown = |file: &str| Client {
        ca_file: mounted.path("ca.pem"),
        certificate_file: mounted.path(&format!("{file}.pem")),
        key_file: mounted.path(&format!("{file}.key")),
        ..Client::default()
    };
    reflect(&shown("client"), &grpc).await.unwrap();
    assert_eq!(reflect(&shown("other"), &grpc).await.unwrap_err().code(), Code::Unauthenticated);
    let strangers = Mounted::new();
    strangers.certificate("client", "callback.countersign.svc");
    let stranger = Client {
        ca_file: mounted.path("ca.pem"),
        ..Client { certificate_file: strangers.path("client.pem"), key_file: strangers.path("client.key"), ..Client::default() }
    };
    let channel = stranger.endpoint(&grpc).unwrap().connect_lazy();
    let refused = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    assert!(refused.is_err(), "a certificate of another authority is not nothing");

    let serving = async || {
        let answer = mounted.client().tls_info(true).build().unwrap().get(http.clone() + "/health/live").send().await.unwrap();
        answer.extensions().get::<reqwest::tls::TlsInfo>().unwrap().peer_certificate().unwrap().to_vec()
    };
    assert_eq!(serving().await, first.der().to_vec());
    let second = mounted.certificate("server", "localhost");
    until("the new certificate to be shown", async || serving().await == second.der().to_vec()).await;
    service.signal(Signal::TERM);
    assert_eq!(service.ended().0, Some(0));
}

#[test]
fn what_would_let_everybody_in_or_cannot_be_used_does_not_start() {
    let mounted = Mounted::new();
    mounted.certificate("server", "localhost");
    let other = KeyPair::generate().unwrap().serialize_pem();
    std::fs::write(mounted.path("other.key"), other).unwrap();
    let (certificate, key, wrong) = (mounted.text("server.pem"), mounted.text("server.key"), mounted.text("other.key"));
    let (certificate, key, wrong) = (certificate.as_str(), key.as_str(), wrong.as_str());
    let cases: [(BTreeMap<&str, &str>, i32, &str); 5] = [
        ([("COUNTERSIGN_GRPC__LISTEN", "0.0.0.0:0")].into(), 2, "nobody is asked who calls"),
        ([("COUNTERSIGN_TLS__CERTIFICATE_FILE", certificate)].into(), 2, "go together"),
        ([("COUNTERSIGN_ACCESS__TOKENS_FILE", "/nowhere/tokens.toml")].into(), 1, "/nowhere/tokens.toml cannot be read"),
        (
            [("COUNTERSIGN_TLS__CERTIFICATE_FILE", certificate), ("COUNTERSIGN_TLS__KEY_FILE", wrong)].into(),
            1,
            "cannot be used together",
        ),
        ([("COUNTERSIGN_TLS__CERTIFICATE_FILE", key), ("COUNTERSIGN_TLS__KEY_FILE", key)].into(), 1, "holds no certificate"),
    ];
    for (variables, code, words) in cases {
        let variables: Vec<_> = variables.into_iter().collect();
        let (ended, log) = Service::start(&variables).ended();
        assert!(ended == Some(code) && log.contains(words), "{words}: {ended:?} {log}");
    }
}
