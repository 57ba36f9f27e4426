//! Which tokens of an issuer are let in, as whom, and which never.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use nilometer_accounts::{Accounts, Binding, Config, Denied, NewUser, OidcConfig, Rule};
use nilometer_contract::{MICROS_PER_SECOND, Role};
use serde_json::{Value, json};

use crate::bed::{Bed, START, from_now, refused};
use crate::issuer::{Answer, Issuer, Signer, part, rule};

on_both! {
    tokens_are_let_in_by_rule,
    a_bound_user_comes_before_any_rule,
    accounts_are_named_by_claim,
    tokens_that_are_not_for_us_are_refused,
    forged_tokens_are_refused,
    times_are_checked_within_the_skew,
    keys_are_rotated,
    unknown_keys_do_not_make_us_hammer_the_issuer,
    an_issuer_that_is_away_is_done_without_for_an_hour,
    an_issuer_that_answers_oddly_lets_nobody_in,
}

fn gate(bed: &Bed, oidc: OidcConfig) -> Accounts {
    bed.gate_with(&Config { oidc: vec![oidc], ..Config::default() })
}

/// Claims with one changed, or removed if it is null.
fn with(claims: &Value, name: &str, value: Value) -> Value {
    let mut claims = claims.clone();
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    claims
}

async fn tokens_are_let_in_by_rule(bed: &Bed) {
    let signers = [
        Signer::rsa("r"),
        Signer::ec("e", Algorithm::ES256),
        Signer::ec("f", Algorithm::ES384),
        Signer::ed("d"),
    ];
    let issuer = Issuer::start(&signers.iter().collect::<Vec<_>>()).await;
    // Keys of other kinds and for other purposes do not matter.
    issuer.publish_raw(json!({ "kty": "NEW", "kid": "n" }));
    issuer.publish_raw(json!({ "kty": "RSA", "use": "enc", "kid": "x", "n": "AQAB", "e": "AQAB" }));
    let gate = gate(bed, issuer.config());
    for signer in &signers {
        let token = signer.sign(&issuer.claims());
        let principal = gate.authenticate(&token).await.unwrap();
        assert_eq!((&*principal.name, principal.role), ("oidc:corp:42", Role::Operator));
        assert!(principal.scope.is_system());
        // The audience may be one of several, and the type that of an access token.
        let several = with(&issuer.claims(), "aud", json!(["other", "nilometer"]));
        let header = Header { typ: Some("at+JWT".to_owned()), ..signer.header() };
        gate.authenticate(&signer.sign_as(&header, &several)).await.unwrap();
    }
    // One question for discovery and one for the keys, for all of them.
    assert_eq!(issuer.asked(), 2);
    let stranger = with(&issuer.claims(), "groups", json!(["dev"]));
    let why = refused(&gate, &signers[0].sign(&stranger)).await;
    assert!(why.ends_with("no user and no rule is for it"), "{why}");
}

async fn a_bound_user_comes_before_any_rule(bed: &Bed) {
    bed.accounts(&["acme"]).await;
    bed.directory.accounts.assign("acme", "blue", from_now(), false).await.unwrap();
    let (signer, users) = (Signer::rsa("r"), &bed.directory.users);
    let issuer = Issuer::start(&[&signer]).await;
    let binding = Binding { issuer: "corp".to_owned(), subject: "42".to_owned() };
    let (name, account) = ("alice".to_owned(), Some("acme".to_owned()));
    let alice = NewUser { name, role: Role::Viewer, account, binding: Some(binding) };
    users.add(alice).await.unwrap();
    let gate = gate(bed, issuer.config());
    let token = signer.sign(&issuer.claims());
    let principal = gate.authenticate(&token).await.unwrap();
    assert_eq!((&*principal.name, principal.role), ("user:alice", Role::Viewer));
    assert!(principal.scope.admits("blue", START));
    // Disabled, no rule lets him in either.
    users.set_enabled("alice", false).await.unwrap();
    bed.clock.pass(10);
    assert!(refused(&gate, &token).await.ends_with("user:alice is disabled"));
    // The subject of another issuer is somebody else.
    let other = OidcConfig { name: "other".to_owned(), ..issuer.config() };
    let principal = self::gate(bed, other).authenticate(&token).await.unwrap();
    assert_eq!(&*principal.name, "oidc:other:42");
}

async fn accounts_are_named_by_claim(bed: &Bed) {
    bed.accounts(&["acme", "other"]).await;
    bed.directory.accounts.assign("acme", "blue", from_now(), false).await.unwrap();
    let signer = Signer::rsa("r");
    let issuer = Issuer::start(&[&signer]).await;
    let by_claim = Rule { account_claim: Some("org.id".to_owned()), ..rule("dev", Role::Viewer) };
    let fixed =
        Rule { account: Some("other".to_owned()), ..rule("qa", Role::AccountAdministrator) };
    let gate = gate(bed, OidcConfig { rules: vec![by_claim, fixed], ..issuer.config() });
    let claims = with(&issuer.claims(), "org", json!({ "id": "acme" }));
    let principal = gate.authenticate(&signer.sign(&claims)).await.unwrap();
    assert_eq!((principal.role, principal.account.as_deref()), (Role::Viewer, Some("acme")));
    assert!(principal.scope.admits("blue", START));
    let qa = with(&issuer.claims(), "groups", json!("qa"));
    let principal = gate.authenticate(&signer.sign(&qa)).await.unwrap();
    assert_eq!(principal.account.as_deref(), Some("other"));
    for (org, why) in [
        (json!({ "id": "none" }), "account none is unknown or disabled"),
        (json!({ "id": ["acme", "other"] }), "it names no account, or several"),
        (json!("acme"), "it names no account, or several"),
    ] {
        let token = signer.sign(&with(&issuer.claims(), "org", org));
        let said = refused(&gate, &token).await;
        assert!(said.ends_with(why), "{said}");
    }
}

async fn tokens_that_are_not_for_us_are_refused(bed: &Bed) {
    let signer = Signer::rsa("r");
    let issuer = Issuer::start(&[&signer]).await;
    let (gate, claims) = (gate(bed, issuer.config()), issuer.claims());
    gate.authenticate(&signer.sign(&claims)).await.unwrap();
    for (name, value) in [
        ("aud", json!("other")),
        ("aud", json!(["other"])),
        ("aud", json!([])),
        ("aud", Value::Null),
        ("iss", json!("https://evil.example")),
        ("iss", json!(format!("{}/", issuer.url()))),
        ("iss", json!([issuer.url(), "https://evil.example"])),
        ("iss", Value::Null),
        ("sub", Value::Null),
        ("sub", json!("")),
        ("sub", json!("a\nb")),
        ("sub", json!(["42"])),
    ] {
        refused(&gate, &signer.sign(&with(&claims, name, value))).await;
    }
    let logout = Header { typ: Some("logout+jwt".to_owned()), ..signer.header() };
    assert!(refused(&gate, &signer.sign_as(&logout, &claims)).await.ends_with("of another type"));
    let critical = Header { crit: Some(vec!["b64".to_owned()]), ..signer.header() };
    let why = refused(&gate, &signer.sign_as(&critical, &claims)).await;
    assert!(why.ends_with("it has critical headers"), "{why}");
}

async fn forged_tokens_are_refused(bed: &Bed) {
    let (signer, other) = (Signer::rsa("r"), Signer::rsa("s"));
    let issuer = Issuer::start(&[&signer]).await;
    let (gate, claims) = (gate(bed, issuer.config()), issuer.claims());
    let good = signer.sign(&claims);
    gate.authenticate(&good).await.unwrap();
    let [header, body, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!() };
    // No signature, by any spelling of its absence.
    for none in ["none", "None", "NONE", ""] {
        for end in ["", signature] {
            let none = part(&json!({ "alg": none, "typ": "JWT", "kid": "r" }));
            refused(&gate, &format!("{none}.{body}.{end}")).await;
        }
    }
    refused(&gate, &format!("{header}.{body}.")).await;
    refused(&gate, &format!("{header}.{body}")).await;
    // A symmetric signature by what everybody knows: the public key, in each form of it.
    let public = signer.public();
    let modulus = public["n"].as_str().unwrap();
    for known in [public.to_string().as_bytes(), modulus.as_bytes(), b"", b"r"] {
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let header = Header { kid: Some("r".to_owned()), ..Header::new(algorithm) };
            let forged = encode(&header, &claims, &EncodingKey::from_secret(known)).unwrap();
            let why = refused(&gate, &forged).await;
            assert!(why.ends_with("of a kind that is not accepted"), "{why}");
        }
    }
    // Another's signature under the issuer's key id, and one with a key that the token brings.
    let posing = Header { kid: Some("r".to_owned()), ..other.header() };
    let bringing =
        Header { jwk: serde_json::from_value(other.public()).unwrap(), ..posing.clone() };
    let referring = Header { jku: Some("https://evil.example/keys".to_owned()), ..posing.clone() };
    for header in [posing, bringing, referring] {
        refused(&gate, &other.sign_as(&header, &claims)).await;
    }
    // Other words under a signature of the issuer's.
    let changed = part(&with(&claims, "sub", json!("1")));
    refused(&gate, &format!("{header}.{changed}.{signature}")).await;
    // A right signature of a kind that is not on the list.
    let header = Header { kid: Some("r".to_owned()), ..Header::new(Algorithm::RS512) };
    refused(&gate, &signer.sign_as(&header, &claims)).await;
    // A right signature of a kind that the key is not for.
    let header = Header { kid: Some("r".to_owned()), ..Header::new(Algorithm::ES256) };
    let ec = Signer::ec("r", Algorithm::ES256);
    refused(&gate, &ec.sign_as(&header, &claims)).await;
    // A key of the issuer's that is symmetric signs nothing.
    issuer.publish_raw(json!({ "kty": "oct", "kid": "o", "k": "c2VjcmV0" }));
    bed.clock.pass(31);
    let header = Header { kid: Some("o".to_owned()), ..Header::new(Algorithm::HS256) };
    let forged = encode(&header, &claims, &EncodingKey::from_secret(b"secret")).unwrap();
    refused(&gate, &forged).await;
    gate.authenticate(&good).await.unwrap();
}

async fn times_are_checked_within_the_skew(bed: &Bed) {
    let signer = Signer::ec("e", Algorithm::ES256);
    let issuer = Issuer::start(&[&signer]).await;
    let (gate, claims) = (gate(bed, issuer.config()), issuer.claims());
    let now = START.0 / MICROS_PER_SECOND;
    for (name, seconds, good) in [
        ("exp", -59, true),
        ("exp", -60, false),
        ("exp", i64::MIN / 2, false),
        ("nbf", 60, true),
        ("nbf", 61, false),
        ("iat", 60, true),
        ("iat", 61, false),
    ] {
        let token = signer.sign(&with(&claims, name, json!(now.saturating_add(seconds))));
        match good {
            true => drop(gate.authenticate(&token).await.unwrap()),
            false => drop(refused(&gate, &token).await),
        }
    }
    for odd in [Value::Null, json!("tomorrow"), json!(-1), json!(1e300), json!([now + 600])] {
        refused(&gate, &signer.sign(&with(&claims, "exp", odd))).await;
    }
    // What is optional may be missing.
    let bare = with(&with(&claims, "nbf", Value::Null), "iat", Value::Null);
    let token = signer.sign(&bare);
    gate.authenticate(&token).await.unwrap();
    // The cache keeps no token alive.
    bed.clock.pass(659);
    gate.authenticate(&token).await.unwrap();
    bed.clock.pass(1);
    assert!(refused(&gate, &token).await.ends_with("it is expired"));
}

async fn keys_are_rotated(bed: &Bed) {
    let (old, new) = (Signer::rsa("r"), Signer::ec("new", Algorithm::ES256));
    let issuer = Issuer::start(&[&old]).await;
    let gate = gate(bed, issuer.config());
    let before = old.sign(&issuer.claims());
    gate.authenticate(&before).await.unwrap();
    issuer.publish(&[&old, &new]);
    bed.clock.pass(31);
    // The new key is asked for as soon as a token names it.
    gate.authenticate(&new.sign(&issuer.claims())).await.unwrap();
    issuer.publish(&[&new]);
    bed.clock.pass(11);
    gate.authenticate(&before).await.unwrap();
    // The old one is gone once the keys are asked for again, at the latest after 10 min.
    bed.clock.pass(600);
    assert!(refused(&gate, &before).await.ends_with("its key is unknown"));
    // A token that names no key is of the only one that fits.
    let header = Header { kid: None, ..new.header() };
    gate.authenticate(&new.sign_as(&header, &issuer.claims())).await.unwrap();
    let third = Signer::ec("third", Algorithm::ES256);
    issuer.publish(&[&new, &third]);
    bed.clock.pass(601);
    let late = with(&issuer.claims(), "exp", json!(START.0 / MICROS_PER_SECOND + 9_000));
    assert!(refused(&gate, &new.sign_as(&header, &late)).await.ends_with("its key is unknown"));
    gate.authenticate(&new.sign(&late)).await.unwrap();
}

async fn unknown_keys_do_not_make_us_hammer_the_issuer(bed: &Bed) {
    let signer = Signer::ec("e", Algorithm::ES256);
    let issuer = Issuer::start(&[&signer]).await;
    let gate = gate(bed, issuer.config());
    gate.authenticate(&signer.sign(&issuer.claims())).await.unwrap();
    let mut asked = Vec::new();
    for n in 0..40 {
        let kid = Some(format!("unknown-{n}"));
        let header = Header { kid, ..signer.header() };
        let why = refused(&gate, &signer.sign_as(&header, &issuer.claims())).await;
        assert!(why.ends_with("its key is unknown"), "{why}");
        asked.push(issuer.asked());
        bed.clock.pass(1);
    }
    // Two requests each time: one at first, one after 30 s.
    assert_eq!((asked[0], asked[29], asked[30], asked[39]), (2, 2, 4, 4));
    // Many at once are one question.
    bed.clock.pass(31);
    let header = Header { kid: Some("x".to_owned()), ..signer.header() };
    let token = signer.sign_as(&header, &issuer.claims());
    let (a, b, c) = tokio::join!(
        gate.authenticate(&token),
        gate.authenticate(&token),
        gate.authenticate(&token)
    );
    assert!(a.is_err() && b.is_err() && c.is_err());
    assert_eq!(issuer.asked(), 6);
}

async fn an_issuer_that_is_away_is_done_without_for_an_hour(bed: &Bed) {
    let signer = Signer::ec("e", Algorithm::ES256);
    let issuer = Issuer::start(&[&signer]).await;
    let gate = gate(bed, issuer.config());
    issuer.answer(Answer::Down);
    let claims = with(&issuer.claims(), "exp", json!(START.0 / MICROS_PER_SECOND + 90_000));
    let token = signer.sign(&claims);
    let away = gate.authenticate(&token).await.unwrap_err();
    assert!(matches!(away, Denied::Unavailable(_)));
    issuer.answer(Answer::Documents);
    // It is not asked again at once.
    assert!(matches!(gate.authenticate(&token).await, Err(Denied::Unavailable(_))));
    assert_eq!(issuer.asked(), 1);
    bed.clock.pass(30);
    gate.authenticate(&token).await.unwrap();
    issuer.answer(Answer::Down);
    bed.clock.pass(3_599);
    gate.authenticate(&token).await.unwrap();
    bed.clock.pass(31);
    assert!(matches!(gate.authenticate(&token).await, Err(Denied::Unavailable(_))));
    issuer.answer(Answer::Documents);
    bed.clock.pass(30);
    gate.authenticate(&token).await.unwrap();
}

async fn an_issuer_that_answers_oddly_lets_nobody_in(bed: &Bed) {
    let signer = Signer::ec("e", Algorithm::ES256);
    let issuer = Issuer::start(&[&signer]).await;
    let gate = gate(bed, issuer.config());
    let token = signer.sign(&issuer.claims());
    for answer in [
        Answer::Other,
        Answer::KeysAt("http://evil.example/keys".to_owned()),
        Answer::KeysAt("file:///etc/passwd".to_owned()),
        Answer::Huge,
        Answer::Redirect,
    ] {
        issuer.answer(answer.clone());
        let denied = gate.authenticate(&token).await.unwrap_err();
        assert!(matches!(denied, Denied::Unavailable(_)), "{answer:?}: {denied:?}");
        assert!(!denied.to_string().contains(issuer.url()), "{denied}");
        bed.clock.pass(30);
    }
    issuer.answer(Answer::Documents);
    gate.authenticate(&token).await.unwrap();
}
