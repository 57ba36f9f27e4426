//! Who is let in with a key, and for how long.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use nilometer_accounts::{
    Accounts, AccountsError, Authenticator, Config, Denied, ExposeSecret, Identity, KeyRequest,
    NewUser, Rejection,
};
use nilometer_contract::{Role, Scope};

use crate::bed::{Bed, after, ask, from_now, period, refused, request};

on_both! {
    a_key_is_let_in_with_its_account_and_projects,
    each_role_has_its_scope,
    a_revocation_takes_effect_within_the_life_of_the_cache,
    a_key_expires_to_the_microsecond,
    wrong_tokens_have_one_answer,
    a_users_keys_follow_the_user,
    nobody_of_a_disabled_account_is_let_in,
    the_last_use_is_recorded_about_once_a_minute,
    keys_that_do_not_go_together_are_refused,
    several_processes_create_one_first_key,
    a_token_of_the_configuration_is_an_operators,
    a_database_that_fails_is_no_refusal,
    further_authenticators_are_asked_last,
}

async fn a_key_is_let_in_with_its_account_and_projects(bed: &Bed) {
    bed.accounts(&["acme", "other"]).await;
    let accounts = &bed.directory.accounts;
    accounts.assign("acme", "blue", period(0, 100), false).await.unwrap();
    accounts.assign("other", "blue", period(100, 200), false).await.unwrap();
    accounts.assign("acme", "red", from_now(), false).await.unwrap();
    let created = bed.key(Role::Viewer, Some("acme")).await;
    let principal = ask(&bed.gate(), &created.token).await.unwrap();
    assert_eq!(*principal.name, *format!("key:{}", created.key.id));
    assert_eq!((principal.role, principal.account.as_deref()), (Role::Viewer, Some("acme")));
    let sees = |project, seconds| principal.scope.admits(project, after(seconds));
    assert!(sees("blue", 0) && sees("blue", 99) && sees("red", 1_000_000));
    assert!(!sees("blue", 100) && !sees("blue", -1) && !sees("red", -1) && !sees("", 0));
    assert!(!principal.scope.is_system());
}

async fn each_role_has_its_scope(bed: &Bed) {
    bed.accounts(&["acme"]).await;
    let gate = bed.gate();
    for role in Role::ALL {
        let account = matches!(role, Role::AccountAdministrator | Role::Viewer).then_some("acme");
        let created = bed.key(role, account).await;
        let principal = ask(&gate, &created.token).await.unwrap();
        assert_eq!((principal.role, principal.account.as_deref()), (role, account));
        match role {
            Role::Operator | Role::Scheduler => assert!(principal.scope.is_system()),
            _ => assert_eq!(principal.scope, Scope::projects([])),
        }
    }
}

async fn a_revocation_takes_effect_within_the_life_of_the_cache(bed: &Bed) {
    let created = bed.key(Role::Operator, None).await;
    let (gate, other) = (bed.gate(), bed.gate());
    ask(&gate, &created.token).await.unwrap();
    let revoked = bed.directory.keys.revoke(&created.key.id).await.unwrap();
    assert_eq!(revoked.revoked_at, Some(after(0)));
    // A process that had not let it in refuses it at once, the one that had within 10 s.
    assert!(refused(&other, created.token.expose_secret()).await.ends_with("it is revoked"));
    bed.clock.pass(9);
    ask(&gate, &created.token).await.unwrap();
    bed.clock.pass(1);
    assert!(refused(&gate, created.token.expose_secret()).await.ends_with("it is revoked"));
    let again = bed.directory.keys.revoke(&created.key.id).await.unwrap();
    assert_eq!(again.revoked_at, Some(after(0)));
    // What the process itself changed takes effect at once, if it says so.
    let created = bed.key(Role::Operator, None).await;
    ask(&gate, &created.token).await.unwrap();
    bed.directory.keys.revoke(&created.key.id).await.unwrap();
    gate.forget_cached();
    refused(&gate, created.token.expose_secret()).await;
    let unknown = bed.directory.keys.revoke("0123456789abcdef").await.unwrap_err();
    assert!(matches!(unknown, AccountsError::Unknown { what: "key", .. }));
}

async fn a_key_expires_to_the_microsecond(bed: &Bed) {
    let expires = after(5).plus_micros(1);
    let request = KeyRequest { expires_at: Some(expires), ..request(Role::Operator, None) };
    let created = bed.directory.keys.create(request.clone()).await.unwrap();
    let gate = bed.gate();
    bed.clock.pass(5);
    ask(&gate, &created.token).await.unwrap();
    // The cache does not keep it alive.
    bed.clock.set(expires);
    assert!(refused(&gate, created.token.expose_secret()).await.ends_with("it is expired"));
    assert!(refused(&bed.gate(), created.token.expose_secret()).await.ends_with("it is expired"));
    let late = bed.directory.keys.create(request).await.unwrap_err();
    assert!(matches!(late, AccountsError::Expired(at) if at == expires));
}

async fn wrong_tokens_have_one_answer(bed: &Bed) {
    let (one, two) = (bed.key(Role::Operator, None).await, bed.key(Role::Operator, None).await);
    let (one, two) = (one.token.expose_secret(), two.token.expose_secret());
    let gate = bed.gate();
    let swapped = format!("{}{}", &one[..21], &two[21..]);
    let unknown = format!("nlm_0123456789abcdef_{}", &one[21..]);
    let flipped = format!("{}{}", &one[..84], if one.ends_with('0') { "1" } else { "0" });
    let (long, huge) = (format!("{one}00"), "x".repeat(1 << 20));
    let upper = one.to_uppercase();
    for token in [
        "",
        " ",
        "nlm_",
        "x",
        "a.b.c",
        "gAAAAABf",
        &swapped,
        &unknown,
        &flipped,
        &long,
        &huge,
        &upper,
        &one[..84],
        &one[1..],
        &format!(" {one}"),
    ] {
        let why = refused(&gate, token).await;
        assert!(!why.contains(&one[21..60]) && !why.contains(&two[21..60]), "{why}");
    }
}

async fn a_users_keys_follow_the_user(bed: &Bed) {
    bed.accounts(&["acme", "other"]).await;
    let users = &bed.directory.users;
    let new = NewUser {
        name: "alice".to_owned(),
        role: Role::AccountAdministrator,
        account: Some("acme".to_owned()),
        binding: None,
    };
    users.add(new).await.unwrap();
    let of_alice = |role| KeyRequest { user: Some("alice".to_owned()), ..request(role, None) };
    let created = bed.directory.keys.create(of_alice(Role::AccountAdministrator)).await.unwrap();
    assert_eq!(created.key.account.as_deref(), Some("acme"));
    let token = created.token.expose_secret();
    let principal = bed.gate().authenticate(token).await.unwrap();
    assert_eq!(*principal.name, *format!("user:alice/key:{}", created.key.id));

    users.set_role("alice", Role::Viewer, Some("acme")).await.unwrap();
    assert!(refused(&bed.gate(), token).await.ends_with("its user may do less than it"));
    users.set_role("alice", Role::AccountAdministrator, Some("other")).await.unwrap();
    assert!(refused(&bed.gate(), token).await.ends_with("its user is of another account"));
    users.set_role("alice", Role::Operator, None).await.unwrap();
    let principal = bed.gate().authenticate(token).await.unwrap();
    assert_eq!(principal.role, Role::AccountAdministrator);
    users.set_enabled("alice", false).await.unwrap();
    assert!(refused(&bed.gate(), token).await.ends_with("its user is disabled"));
    let disabled = bed.directory.keys.create(of_alice(Role::Operator)).await.unwrap_err();
    assert!(matches!(disabled, AccountsError::Disabled { what: "user", .. }));
    users.set_enabled("alice", true).await.unwrap();
    bed.gate().authenticate(token).await.unwrap();
}

async fn nobody_of_a_disabled_account_is_let_in(bed: &Bed) {
    bed.accounts(&["acme"]).await;
    let created = bed.key(Role::Viewer, Some("acme")).await;
    let (gate, accounts) = (bed.gate(), &bed.directory.accounts);
    ask(&gate, &created.token).await.unwrap();
    accounts.set_enabled("acme", false).await.unwrap();
    bed.clock.pass(10);
    let why = refused(&gate, created.token.expose_secret()).await;
    assert!(why.ends_with("account acme is unknown or disabled"), "{why}");
    for _ in 0..2 {
        accounts.set_enabled("acme", false).await.unwrap();
        assert_eq!(accounts.list().await.unwrap()[0].disabled_at, Some(after(0)));
    }
    let late = bed.directory.keys.create(request(Role::Viewer, Some("acme"))).await.unwrap_err();
    assert!(matches!(late, AccountsError::Disabled { what: "account", .. }));
    accounts.set_enabled("acme", true).await.unwrap();
    ask(&gate, &created.token).await.unwrap();
}

async fn the_last_use_is_recorded_about_once_a_minute(bed: &Bed) {
    let created = bed.key(Role::Operator, None).await;
    let gate = bed.gate();
    let mut seen = Vec::new();
    for _ in 0..8 {
        ask(&gate, &created.token).await.unwrap();
        seen.push(bed.directory.keys.list().await.unwrap()[0].last_used_at);
        bed.clock.pass(20);
    }
    let [first, second, third] = [Some(after(0)), Some(after(60)), Some(after(120))];
    assert_eq!(seen, [first, first, first, second, second, second, third, third]);
    // A wrong secret is no use.
    let token = created.token.expose_secret().replace("nlm_", "nlm_x");
    refused(&gate, &token).await;
    assert_eq!(bed.directory.keys.list().await.unwrap()[0].last_used_at, third);
}

async fn keys_that_do_not_go_together_are_refused(bed: &Bed) {
    bed.accounts(&["acme", "other"]).await;
    let new = NewUser {
        name: "bob".to_owned(),
        role: Role::Viewer,
        account: Some("acme".to_owned()),
        binding: None,
    };
    bed.directory.users.add(new).await.unwrap();
    let of_bob =
        |role, account| KeyRequest { user: Some("bob".to_owned()), ..request(role, account) };
    let label = KeyRequest { label: "a\nb".to_owned(), ..request(Role::Operator, None) };
    let nobody = KeyRequest { user: Some("eve".to_owned()), ..request(Role::Operator, None) };
    for (request, why) in [
        (request(Role::Viewer, None), "is one within an account"),
        (request(Role::Operator, Some("acme")), "is one without an account"),
        (request(Role::Agent, Some("acme")), "is one without an account"),
        (request(Role::Viewer, Some("none")), "there is no account \"none\""),
        (nobody, "there is no user \"eve\""),
        (of_bob(Role::AccountAdministrator, None), "can have no key of role account_admin"),
        (of_bob(Role::Operator, None), "can have no key of role operator"),
        (of_bob(Role::Viewer, Some("other")), "can have no key of account \"other\""),
        (label, "without control characters"),
    ] {
        let error = bed.directory.keys.create(request).await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    assert!(bed.directory.keys.list().await.unwrap().is_empty());
}

async fn several_processes_create_one_first_key(bed: &Bed) {
    let mut starts = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let directory = bed.again().await;
        starts.spawn(async move { directory.keys.create_first().await.unwrap() });
    }
    let created: Vec<_> = starts.join_all().await.into_iter().flatten().collect();
    assert_eq!(created.len(), 1);
    let principal = ask(&bed.gate(), &created[0].token).await.unwrap();
    assert_eq!(principal.role, Role::Operator);
    // One that is revoked was a key all the same.
    bed.directory.keys.revoke(&created[0].key.id).await.unwrap();
    assert!(bed.directory.keys.create_first().await.unwrap().is_none());
}

async fn a_token_of_the_configuration_is_an_operators(bed: &Bed) {
    let config = Config::default();
    let token = "correct horse".into();
    let gate = Accounts::new(bed.directory.clone(), &config, &token, Vec::new()).unwrap();
    let principal = gate.authenticate("correct horse").await.unwrap();
    assert_eq!((&*principal.name, principal.role), ("key:listen.token", Role::Operator));
    for wrong in ["correct hors", "correct horse ", "Correct horse", ""] {
        refused(&gate, wrong).await;
    }
    // Without one, nothing is.
    refused(&bed.gate(), "").await;
}

async fn a_database_that_fails_is_no_refusal(bed: &Bed) {
    let (known, new) = (bed.key(Role::Operator, None).await, bed.key(Role::Operator, None).await);
    let gate = bed.gate();
    ask(&gate, &known.token).await.unwrap();
    bed.sql("ALTER TABLE api_keys RENAME TO moved").await;
    // Whom the cache knows is let in without a question to the database.
    ask(&gate, &known.token).await.unwrap();
    bed.clock.pass(10);
    for token in [&known.token, &new.token] {
        let denied = ask(&gate, token).await.unwrap_err();
        assert!(matches!(denied, Denied::Unavailable(_)), "{denied:?}");
        assert!(denied.to_string().contains("cannot be checked"), "{denied}");
    }
    bed.sql("ALTER TABLE moved RENAME TO api_keys").await;
    ask(&gate, &new.token).await.unwrap();
}

/// Tokens of another kind, as Keystone's are; counts how often it is asked.
struct Fernet(Arc<AtomicUsize>);

#[async_trait]
impl Authenticator for Fernet {
    async fn identify(&self, bearer: &str) -> Result<Option<Identity>, Rejection> {
        let identity = |account: &str| Identity {
            name: "keystone:ada".to_owned(),
            role: Role::Viewer,
            account: Some(account.to_owned()),
            expires: Some(after(30)),
        };
        self.0.fetch_add(1, Ordering::Relaxed);
        match bearer.strip_prefix("gAAAA") {
            None => Ok(None),
            Some("away") => Err(Rejection::Unavailable("Keystone does not answer".into())),
            Some("bad") => Err(Rejection::Refused("a token that Keystone refuses".to_owned())),
            Some(account) => Ok(Some(identity(account))),
        }
    }
}

async fn further_authenticators_are_asked_last(bed: &Bed) {
    bed.accounts(&["acme"]).await;
    bed.directory.accounts.assign("acme", "blue", from_now(), false).await.unwrap();
    let created = bed.key(Role::Operator, None).await;
    let (directory, config) = (bed.directory.clone(), Config::default());
    let asked = Arc::new(AtomicUsize::new(0));
    let further: Vec<Box<dyn Authenticator>> = vec![Box::new(Fernet(asked.clone()))];
    let gate = Accounts::new(directory, &config, &"".into(), further).unwrap();
    ask(&gate, &created.token).await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    // It proves who it is; what he sees, the directory says.
    let principal = gate.authenticate("gAAAAacme").await.unwrap();
    assert_eq!((&*principal.name, principal.role), ("keystone:ada", Role::Viewer));
    assert!(principal.scope.admits("blue", after(5)));
    assert!(refused(&gate, "gAAAAnone").await.ends_with("none is unknown or disabled"));
    assert_eq!(refused(&gate, "gAAAAbad").await, "a token that Keystone refuses");
    assert!(matches!(gate.authenticate("gAAAAaway").await, Err(Denied::Unavailable(_))));
    // And until when: from then on the cache does not answer for it.
    let count = asked.load(Ordering::Relaxed);
    gate.authenticate("gAAAAacme").await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), count);
    bed.clock.set(after(30));
    gate.authenticate("gAAAAacme").await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), count + 1);
}
