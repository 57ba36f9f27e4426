//! A key is shown once, and is nowhere else.

use nilometer_accounts::{AccountsError, ExposeSecret, Location};
use nilometer_contract::Role;

use crate::bed::{Bed, ask, holds, logged, refused, request};

on_both! {
    a_key_is_in_no_log_no_error_and_no_file,
}

async fn a_key_is_in_no_log_no_error_and_no_file(bed: &Bed) {
    bed.accounts(&["acme"]).await;
    let created = bed.key(Role::Viewer, Some("acme")).await;
    let token = created.token.expose_secret().to_owned();
    let secret = &token[21..];
    let gate = bed.gate();
    let principal = ask(&gate, &created.token).await.unwrap();
    let mut said = format!("{created:?} {principal:?} {:?}", bed.directory.keys.list().await);
    // Refused, each time with most of the secret.
    for wrong in [format!("{token}0"), token.to_uppercase(), token.replace("nlm_", "")] {
        said += &refused(&gate, &wrong).await;
    }
    bed.directory.keys.revoke(&created.key.id).await.unwrap();
    gate.forget_cached();
    said += &refused(&gate, &token).await;
    // A database that fails while the key is looked at, and while one is stored.
    bed.sql("ALTER TABLE api_keys RENAME COLUMN hash TO digest").await;
    let denied = ask(&gate, &created.token).await.unwrap_err();
    said += &format!("{denied} {denied:?} {}", denied.reason());
    let error: AccountsError =
        bed.directory.keys.create(request(Role::Operator, None)).await.unwrap_err();
    said += &format!("{error} {error:?} {:?}", bed.location);
    bed.sql("ALTER TABLE api_keys RENAME COLUMN digest TO hash").await;
    said += &String::from_utf8(bed.directory.backup().await.unwrap().to_json().unwrap()).unwrap();

    let (logged, stored) = (logged(), bed.bytes_on_disk().await);
    // The search finds what is there.
    assert!(holds(&logged, b"INSERT INTO api_keys"), "the log has no statements");
    assert!(holds(&stored, created.key.id.as_bytes()), "the files have no key");
    for part in [secret, &secret[..32], &secret[32..]] {
        assert!(!holds(&logged, part.as_bytes()), "in the log");
        assert!(!holds(&stored, part.as_bytes()), "in the files");
        assert!(!said.contains(part), "{said}");
    }
    if let Location::Postgres(url) = &bed.location {
        let password = url.expose_secret().split([':', '@']).nth(2).unwrap();
        assert!(!holds(&logged, password.as_bytes()) && !said.contains(password), "the password");
    }
}
