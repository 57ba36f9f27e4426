//! A real OIDC issuer on loopback, with real keys, that does what a test wants.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use nilometer_accounts::{OidcConfig, Rule};
use nilometer_contract::{MICROS_PER_SECOND, Role};
use serde_json::{Value, json};

use crate::bed::START;

/// What the issuer answers instead of its documents.
#[derive(Clone, Debug, Default)]
pub(crate) enum Answer {
    #[default]
    Documents,
    Down,
    /// Its discovery document is another issuer's.
    Other,
    /// Its keys are elsewhere.
    KeysAt(String),
    Huge,
    Redirect,
}

/// A running issuer.
pub(crate) struct Issuer {
    shared: Arc<Shared>,
}

struct Shared {
    url: String,
    keys: Mutex<BTreeMap<String, Value>>,
    answer: Mutex<Answer>,
    asked: AtomicUsize,
}

/// A key to sign with.
#[derive(Clone)]
pub(crate) struct Signer {
    pub(crate) id: String,
    pub(crate) algorithm: Algorithm,
    key: EncodingKey,
}

impl Issuer {
    pub(crate) async fn start(keys: &[&Signer]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Shared {
            url,
            keys: Mutex::default(),
            answer: Mutex::default(),
            asked: AtomicUsize::new(0),
        };
        let shared = Arc::new(shared);
        let routes = Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(key_set))
            .with_state(shared.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let issuer = Issuer { shared };
        issuer.publish(keys);
        issuer
    }

    pub(crate) fn url(&self) -> &str {
        &self.shared.url
    }

    /// Has these keys, and no others, from now on.
    pub(crate) fn publish(&self, keys: &[&Signer]) {
        let keys = keys.iter().map(|signer| (signer.id.clone(), signer.public())).collect();
        *self.shared.keys.lock().unwrap() = keys;
    }

    /// Has this document as a key, too.
    pub(crate) fn publish_raw(&self, key: Value) {
        self.shared.keys.lock().unwrap().insert(key.to_string(), key);
    }

    pub(crate) fn answer(&self, answer: Answer) {
        *self.shared.answer.lock().unwrap() = answer;
    }

    /// How often its keys or its discovery document were asked for.
    pub(crate) fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::Relaxed)
    }

    /// Settings that accept it.
    pub(crate) fn config(&self) -> OidcConfig {
        OidcConfig {
            name: "corp".to_owned(),
            issuer: self.url().to_owned(),
            audience: vec!["nilometer".to_owned()],
            algorithms: ["RS256", "ES256", "ES384", "EdDSA"].map(str::to_owned).into(),
            clock_skew: std::time::Duration::from_secs(60),
            user_claim: "sub".to_owned(),
            rules: vec![rule("ops", Role::Operator)],
        }
    }

    /// Claims of a token that is let in, for ten minutes.
    pub(crate) fn claims(&self) -> Value {
        let now = START.0 / MICROS_PER_SECOND;
        json!({
            "iss": self.url(), "aud": "nilometer", "sub": "42", "groups": ["dev", "ops"],
            "iat": now, "nbf": now, "exp": now + 600,
        })
    }
}

/// Members of a group have a role.
pub(crate) fn rule(group: &str, role: Role) -> Rule {
    let (claim, value) = ("groups".to_owned(), group.to_owned());
    Rule { claim, value, role, account: None, account_claim: None }
}

impl Signer {
    /// RSA keys take long to make: all tests share one for each name.
    pub(crate) fn rsa(id: &str) -> Self {
        static MADE: LazyLock<Mutex<BTreeMap<String, Signer>>> = LazyLock::new(Mutex::default);
        let mut made = MADE.lock().unwrap();
        let make = || {
            let pkcs8 = KeyPair::generate(KeySize::Rsa2048).unwrap().as_der().unwrap();
            // The library wants PKCS #1, which begins behind the 26 bytes that say what follows.
            let key = EncodingKey::from_rsa_der(&pkcs8.as_ref()[26..]);
            Signer { id: id.to_owned(), algorithm: Algorithm::RS256, key }
        };
        made.entry(id.to_owned()).or_insert_with(make).clone()
    }

    pub(crate) fn ec(id: &str, algorithm: Algorithm) -> Self {
        let curve = match algorithm {
            Algorithm::ES384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
            _ => &ECDSA_P256_SHA256_FIXED_SIGNING,
        };
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(curve, &SystemRandom::new()).unwrap();
        Signer { id: id.to_owned(), algorithm, key: EncodingKey::from_ec_der(pkcs8.as_ref()) }
    }

    pub(crate) fn ed(id: &str) -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).unwrap();
        let key = EncodingKey::from_ed_der(pkcs8.as_ref());
        Signer { id: id.to_owned(), algorithm: Algorithm::EdDSA, key }
    }

    /// As the issuer publishes it.
    pub(crate) fn public(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.id.clone());
        serde_json::to_value(jwk).unwrap()
    }

    pub(crate) fn header(&self) -> Header {
        Header { kid: Some(self.id.clone()), ..Header::new(self.algorithm) }
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.sign_as(&self.header(), claims)
    }

    pub(crate) fn sign_as(&self, header: &Header, claims: &Value) -> String {
        encode(header, claims, &self.key).unwrap()
    }
}

/// The part of a token that says this, in base64 for URLs.
pub(crate) fn part(value: &Value) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let text = value.to_string();
    let group = |bytes: &[u8]| {
        let bits = (0..3).fold(0_u32, |bits, n| bits << 8 | u32::from(*bytes.get(n).unwrap_or(&0)));
        let digit = move |n: usize| char::from(DIGITS[(bits >> (18 - 6 * n)) as usize & 63]);
        (0..=bytes.len()).map(digit).collect::<String>()
    };
    text.as_bytes().chunks(3).map(group).collect()
}

async fn discovery(State(shared): State<Arc<Shared>>) -> Response {
    shared.asked.fetch_add(1, Ordering::Relaxed);
    let url = &shared.url;
    let (issuer, keys) = match shared.answer.lock().unwrap().clone() {
        Answer::Documents => (url.clone(), format!("{url}/keys")),
        Answer::Down => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Answer::Other => ("https://evil.example".to_owned(), format!("{url}/keys")),
        Answer::KeysAt(keys) => (url.clone(), keys),
        Answer::Huge => return "x".repeat(1 << 20).into_response(),
        Answer::Redirect => {
            return axum::response::Redirect::to(&format!("{url}/keys")).into_response();
        }
    };
    axum::Json(json!({ "issuer": issuer, "jwks_uri": keys })).into_response()
}

async fn key_set(State(shared): State<Arc<Shared>>) -> Response {
    shared.asked.fetch_add(1, Ordering::Relaxed);
    let keys: Vec<Value> = shared.keys.lock().unwrap().values().cloned().collect();
    axum::Json(json!({ "keys": keys })).into_response()
}
