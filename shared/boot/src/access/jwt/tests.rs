//! Tokens of a real issuer: keys as a file, and fetched over TLS.

use axum::Router;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_telemetry::Metrics;
use jsonwebtoken::{EncodingKey, Header, encode};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::json;

use super::*;
use crate::clock::{RandomIds, SystemClock};
use crate::config::{Grpc, Http};
use crate::context::Served;

/// A key pair of an issuer.
struct Issuer {
    pair: KeyPair,
    kid: &'static str,
}

impl Issuer {
    fn new(kid: &'static str) -> Self {
        Self { pair: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(), kid }
    }

    /// Its public key; a point is 4, x, y.
    fn jwks(&self) -> String {
        let point = self.pair.public_key_raw();
        let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
        let key = json!({"kty": "EC", "crv": "P-256", "use": "sig", "kid": self.kid, "x": part(1..33), "y": part(33..65)});
        json!({"keys": [key]}).to_string()
    }

    fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.kid.to_owned()), ..Header::new(Algorithm::ES256) };
        encode(&header, claims, &EncodingKey::from_ec_der(self.pair.serialized_der())).unwrap()
    }
}

fn in_seconds(seconds: i64) -> i64 {
    use countersign_delivery::ports::Clock as _;
    SystemClock.now().as_millis() / 1_000 + seconds
}

fn claims() -> Value {
    json!({"iss": "https://issuer", "aud": "countersign", "sub": "ann", "exp": in_seconds(60), "roles": ["operator", "gardener"]})
}

fn with(key: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[key] = value;
    claims
}

fn section(jwks: &str) -> AccessSection {
    let (jwt_issuer, jwt_audience) = ("https://issuer".to_owned(), "countersign".to_owned());
    AccessSection { jwks: jwks.to_owned(), jwt_issuer, jwt_audience, ..AccessSection::default() }
}

fn context(served: Served) -> Context {
    Context::new("test", Arc::new(SystemClock), Arc::new(RandomIds), served, None)
}

#[tokio::test]
async fn only_a_token_of_this_issuer_for_this_audience_that_is_valid_now_is_somebodys() {
    let (folder, issuer) = (tempfile::tempdir().unwrap(), Issuer::new("one"));
    let file = folder.path().join("jwks.json");
    std::fs::write(&file, issuer.jwks()).unwrap();
    let jwt = Jwt::open(&context(Served::default()), &section(file.to_str().unwrap())).unwrap().unwrap();

    let ann = jwt.caller(&issuer.sign(&claims())).await.unwrap();
    assert_eq!((ann.name(), ann.means()), ("ann", Means::Jwt));
    assert!(ann.may(Role::Operator) && ann.may(Role::Viewer) && !ann.may(Role::Producer));
    let words = jwt.caller(&issuer.sign(&with("roles", json!("viewer producer")))).await.unwrap();
    assert!(words.may(Role::Producer) && words.may(Role::Viewer) && !words.may(Role::Operator));
    let none = jwt.caller(&issuer.sign(&with("roles", json!(null)))).await.unwrap();
    assert!(Role::ALL.into_iter().all(|role| !none.may(role)));

    let stranger = Issuer::new("one").sign(&claims());
    let unknown = Issuer::new("two").sign(&claims());
    let by_public_key = {
        let header = Header { kid: Some("one".into()), ..Header::new(Algorithm::HS256) };
        encode(&header, &claims(), &EncodingKey::from_secret(issuer.pair.public_key_raw())).unwrap()
    };
    let unsigned = {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.", part(json!({"alg": "none", "kid": "one"})), part(claims()))
    };
    let changed = issuer.sign(&claims()).replacen("ey", "eY", 1);
    for (token, words) in [
        (issuer.sign(&with("iss", json!("https://other"))), "another issuer"),
        (issuer.sign(&with("aud", json!("other"))), "another audience"),
        (issuer.sign(&with("exp", json!(in_seconds(-60)))), "expired"),
        (issuer.sign(&with("nbf", json!(in_seconds(600)))), "not valid yet"),
        (issuer.sign(&json!({"iss": "https://issuer", "aud": "countersign", "exp": in_seconds(60)})), "lacks"),
        (stranger, "signature"),
        (unknown, "does not publish"),
        (by_public_key, "signature"),
        (unsigned, "no JWT"),
        (changed, "no JWT"),
        ("sesame".to_owned(), "no JWT"),
        (String::new(), "no JWT"),
    ] {
        let Err(Denied::Unknown(why)) = jwt.caller(&token).await else { panic!("{token} is let in") };
        assert!(why.contains(words), "{words}: {why}");
    }
}

#[tokio::test]
async fn keys_are_fetched_over_tls_again_for_a_key_that_is_new_and_kept_when_their_place_is_away() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let pair = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&pair).unwrap();
    std::fs::write(path("cert.pem"), certificate.pem()).unwrap();
    std::fs::write(path("key.pem"), pair.serialize_pem()).unwrap();
    let tls = crate::access::Tls { certificate_file: path("cert.pem"), key_file: path("key.pem"), ..Default::default() };

    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let published = Arc::new(RwLock::new(old.jwks()));
    let issuing = context(Served { tls, grpc: Grpc::loopback(0), ..Served::default() });
    let shown = published.clone();
    issuing.http(Role::Viewer, Router::new().route("/keys", get(async move || shown.read().unwrap().clone())));
    issuing.health.running();
    let address = crate::http::serve(&issuing, &Http::loopback(0), Metrics::detached()).await.unwrap();

    let mut section = section(&format!("https://localhost:{}/keys", address.port()));
    section.jwks_ca_file = path("cert.pem");
    let context = context(Served::default());
    let jwt = Jwt::open(&context, &section).unwrap().unwrap();
    assert_eq!(jwt.caller(&old.sign(&claims())).await.unwrap().name(), "ann");
    *published.write().unwrap() = new.jwks();
    assert!(jwt.caller(&new.sign(&claims())).await.is_err(), "not asked again so soon");
    let Keys::Fetched(fetched) = &jwt.keys else { panic!("fetched") };
    *fetched.last.lock().await = None;
    assert_eq!(jwt.caller(&new.sign(&claims())).await.unwrap().name(), "ann");
    assert!(matches!(jwt.caller(&old.sign(&claims())).await, Err(Denied::Unknown(_))), "what is withdrawn is worth nothing");

    issuing.frame.servers_stop.cancel();
    fetched.fetch(Duration::ZERO).await;
    assert_eq!(jwt.caller(&new.sign(&claims())).await.unwrap().name(), "ann", "what is known stays in force");
    let nowhere = Jwt::open(&context, &section).unwrap().unwrap();
    assert!(matches!(nowhere.caller(&new.sign(&claims())).await, Err(Denied::Later(_))));
}
