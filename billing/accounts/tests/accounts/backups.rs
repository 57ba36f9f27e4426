//! What is stored goes from one database to another and back.

use nilometer_accounts::{
    AccountsError, Backup, Binding, CreatedKey, ExposeSecret, KeyRequest, NewUser, Restored,
};
use nilometer_contract::Role;

use crate::bed::{Bed, after, ask, from_now, holds, period, request};

on_both! {
    a_backup_restores_everything_into_sqlite,
    a_backup_restores_everything_into_postgres,
    nothing_is_overwritten_unasked,
    a_restore_that_fails_changes_nothing,
}

/// Something of everything; returns the key of a viewer.
async fn fill(bed: &Bed) -> CreatedKey {
    let directory = &bed.directory;
    directory.accounts.add("acme", "Acme Ltd.").await.unwrap();
    directory.accounts.add("gone", "").await.unwrap();
    directory.accounts.assign("acme", "blue", period(0, 100), false).await.unwrap();
    directory.accounts.assign("gone", "blue", period(100, 200), false).await.unwrap();
    directory.accounts.assign("acme", "prod/wëb", from_now(), false).await.unwrap();
    directory.accounts.set_enabled("gone", false).await.unwrap();
    let binding = Binding { issuer: "corp".to_owned(), subject: "42".to_owned() };
    let alice = NewUser {
        name: "alice".to_owned(),
        role: Role::Viewer,
        account: Some("acme".to_owned()),
        binding: Some(binding),
    };
    directory.users.add(alice).await.unwrap();
    let of_alice = KeyRequest {
        user: Some("alice".to_owned()),
        expires_at: Some(after(1_000)),
        ..request(Role::Viewer, None)
    };
    let created = directory.keys.create(of_alice).await.unwrap();
    ask(&bed.gate(), &created.token).await.unwrap();
    let revoked = bed.key(Role::Operator, None).await;
    directory.keys.revoke(&revoked.key.id).await.unwrap();
    created
}

async fn restores(from: &Bed, to: &Bed) {
    let created = fill(from).await;
    let json = from.directory.backup().await.unwrap().to_json().unwrap();
    assert!(!holds(&json, &created.token.expose_secret().as_bytes()[21..]));
    let backup = Backup::from_json(&json).unwrap();
    let restored = to.directory.restore(&backup, false).await.unwrap();
    assert_eq!(restored, Restored { accounts: 2, ownerships: 3, users: 1, keys: 2 });
    // To the byte, and the key lets in as before.
    assert_eq!(to.directory.backup().await.unwrap().to_json().unwrap(), json);
    let (before, now) =
        (ask(&from.gate(), &created.token).await, ask(&to.gate(), &created.token).await);
    assert_eq!(before.unwrap(), now.unwrap());
}

async fn a_backup_restores_everything_into_sqlite(bed: &Bed) {
    restores(bed, &Bed::sqlite().await).await;
}

async fn a_backup_restores_everything_into_postgres(bed: &Bed) {
    if let Some(to) = Bed::postgres().await {
        restores(bed, &to).await;
    }
}

async fn nothing_is_overwritten_unasked(bed: &Bed) {
    let created = fill(bed).await;
    let backup = bed.directory.backup().await.unwrap();
    let later = bed.key(Role::Operator, None).await;
    let refused = bed.directory.restore(&backup, false).await.unwrap_err();
    assert!(matches!(refused, AccountsError::NotEmpty(_)));
    let refused = refused.to_string();
    assert!(refused.contains(bed.directory.name()) && refused.contains("--replace"), "{refused}");
    ask(&bed.gate(), &later.token).await.unwrap();
    bed.directory.restore(&backup, true).await.unwrap();
    let gate = bed.gate();
    ask(&gate, &created.token).await.unwrap();
    crate::bed::refused(&gate, later.token.expose_secret()).await;
}

async fn a_restore_that_fails_changes_nothing(bed: &Bed) {
    let created = fill(bed).await;
    let backup = bed.directory.backup().await.unwrap();
    // Both keys of the backup have one label: the second, which is stored last, is not taken.
    bed.sql("DELETE FROM api_keys WHERE revoked_at IS NOT NULL").await;
    bed.sql("CREATE UNIQUE INDEX one_label ON api_keys (label)").await;
    let stored = bed.directory.backup().await.unwrap().to_json().unwrap();
    let failed = bed.directory.restore(&backup, true).await.unwrap_err();
    assert!(matches!(failed, AccountsError::Database(_)), "{failed}");
    assert_eq!(bed.again().await.backup().await.unwrap().to_json().unwrap(), stored);
    ask(&bed.gate(), &created.token).await.unwrap();
}

/// As the first version wrote it, for ever.
const FIRST: &[u8] = include_bytes!("fixtures/backup-1.json");

#[tokio::test]
async fn a_backup_of_the_first_version_is_restored() {
    let bed = Bed::sqlite().await;
    let backup = Backup::from_json(FIRST).unwrap();
    bed.directory.restore(&backup, false).await.unwrap();
    let keys = bed.directory.keys.list().await.unwrap();
    let key = keys.iter().find(|key| key.user.as_deref() == Some("alice")).unwrap();
    assert_eq!((&*key.id, key.expires_at), ("785a7328e6c14efb", Some(after(1_000))));
    assert_eq!(bed.directory.backup().await.unwrap().to_json().unwrap(), FIRST.trim_ascii());
}

#[test]
fn what_is_no_backup_is_refused() {
    let text = String::from_utf8(FIRST.to_owned()).unwrap();
    for (changed, why) in [
        (text.replace("Acme Ltd.", "Acme Inc."), "its checksum is another"),
        (text.replace("\"nilometer_accounts\": 1", "\"nilometer_accounts\": 2"), "of version 2"),
        (text[..text.len() / 2].to_owned(), "EOF"),
        (text.replace("\"users\"", "\"user\""), "unknown field"),
        ("{}".to_owned(), "missing field"),
        (String::new(), "EOF"),
    ] {
        assert_ne!(changed, text);
        let error = Backup::from_json(changed.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}
