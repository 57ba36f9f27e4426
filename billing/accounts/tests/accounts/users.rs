//! Users and accounts: names, roles, bindings; and the file that they are in.

use std::os::unix::fs::PermissionsExt;

use nilometer_accounts::{AccountsError, Binding, Directory, Location, NewUser};
use nilometer_contract::Role;

use crate::bed::{Bed, after};

on_both! {
    accounts_are_added_once,
    users_are_added_once_and_bound_once,
    roles_and_accounts_go_together,
    a_database_is_opened_by_many_at_once,
    a_database_of_a_later_version_is_refused,
    a_role_of_a_later_version_is_an_error,
}

fn new(name: &str, role: Role, account: Option<&str>) -> NewUser {
    NewUser { name: name.to_owned(), role, account: account.map(str::to_owned), binding: None }
}

fn bound(name: &str, subject: &str) -> NewUser {
    let binding = Binding { issuer: "corp".to_owned(), subject: subject.to_owned() };
    NewUser { binding: Some(binding), ..new(name, Role::Operator, None) }
}

async fn accounts_are_added_once(bed: &Bed) {
    let accounts = &bed.directory.accounts;
    bed.clock.pass(3);
    let added = accounts.add("acme", "Acme Ltd.").await.unwrap();
    assert_eq!((added.created_at, added.disabled_at), (after(3), None));
    accounts.add("aardvark", "").await.unwrap();
    let listed = accounts.list().await.unwrap();
    assert_eq!(listed.iter().map(|a| a.name.as_str()).collect::<Vec<_>>(), ["aardvark", "acme"]);
    assert_eq!(listed[1], added);
    let again = accounts.add("acme", "").await.unwrap_err();
    assert_eq!(again.to_string(), "account \"acme\" exists already");
    assert!(accounts.add("Acme", "").await.is_err() && accounts.add("a", "\n").await.is_err());
    let unknown = accounts.set_enabled("none", false).await.unwrap_err();
    assert!(unknown.to_string().contains("`nilometer account list`"), "{unknown}");
}

async fn users_are_added_once_and_bound_once(bed: &Bed) {
    let users = &bed.directory.users;
    let alice = users.add(bound("alice", "42")).await.unwrap();
    assert_eq!(users.list().await.unwrap(), [alice]);
    let again = users.add(new("alice", Role::Operator, None)).await.unwrap_err();
    assert!(matches!(again, AccountsError::Exists { what: "user", .. }));
    let taken = users.add(bound("bob", "42")).await.unwrap_err();
    assert!(matches!(taken, AccountsError::Bound { user, .. } if user == "alice"));
    users.add(bound("bob", "43")).await.unwrap();
    // Any number of users have no binding.
    users.add(new("carol", Role::Operator, None)).await.unwrap();
    users.add(new("dave", Role::Operator, None)).await.unwrap();
}

async fn roles_and_accounts_go_together(bed: &Bed) {
    bed.accounts(&["acme"]).await;
    let users = &bed.directory.users;
    for (role, account, why) in [
        (Role::Viewer, None, "say which"),
        (Role::AccountAdministrator, None, "say which"),
        (Role::Operator, Some("acme"), "leave it out"),
        (Role::Viewer, Some("none"), "there is no account"),
        (Role::Agent, None, "nilometer key create --role agent"),
        (Role::Scheduler, None, "nilometer key create --role scheduler"),
    ] {
        let error = users.add(new("alice", role, account)).await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    users.add(new("alice", Role::Viewer, Some("acme"))).await.unwrap();
    let error = users.set_role("alice", Role::Operator, Some("acme")).await.unwrap_err();
    assert!(matches!(error, AccountsError::RoleAccount { .. }));
    let error = users.set_role("bob", Role::Operator, None).await.unwrap_err();
    assert!(matches!(error, AccountsError::Unknown { what: "user", .. }));
    users.set_role("alice", Role::Operator, None).await.unwrap();
    assert_eq!(users.list().await.unwrap()[0].account, None);
}

async fn a_database_is_opened_by_many_at_once(bed: &Bed) {
    // As at the first start of several roles: the tables are made once.
    bed.sql(
        "DROP TABLE api_keys; DROP TABLE users; DROP TABLE ownerships; DROP TABLE accounts; \
         DROP TABLE accounts_migrations",
    )
    .await;
    let mut opened = tokio::task::JoinSet::new();
    for n in 0..8 {
        let (location, clock) = (bed.location.clone(), bed.clock.clone());
        opened.spawn(async move {
            let directory = Directory::open(&location, clock).await.unwrap();
            directory.accounts.add(&format!("a{n}"), "").await.unwrap();
        });
    }
    opened.join_all().await;
    assert_eq!(bed.again().await.accounts.list().await.unwrap().len(), 8);
}

async fn a_database_of_a_later_version_is_refused(bed: &Bed) {
    bed.sql(
        "INSERT INTO accounts_migrations (version, description, success, checksum, execution_time) \
         SELECT 99, 'later', success, checksum, 0 FROM accounts_migrations",
    )
    .await;
    let refused = Directory::open(&bed.location, bed.clock.clone()).await.err().unwrap();
    assert!(refused.to_string().contains("newer nilometer"), "{refused}");
}

async fn a_role_of_a_later_version_is_an_error(bed: &Bed) {
    bed.directory.users.add(new("alice", Role::Operator, None)).await.unwrap();
    bed.sql("UPDATE users SET role = 'emperor'").await;
    let error = bed.directory.users.list().await.unwrap_err();
    assert!(error.to_string().contains("the role \"emperor\""), "{error}");
}

#[tokio::test]
async fn the_file_of_sqlite_is_its_owners_alone() {
    let bed = Bed::sqlite().await;
    let Location::Sqlite(path) = &bed.location else { panic!("not SQLite") };
    let mode = |name: &str| {
        let path = path.with_file_name(name);
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    bed.directory.accounts.add("acme", "").await.unwrap();
    for name in ["accounts.sqlite", "accounts.sqlite-wal", "accounts.sqlite-shm"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    // One that was opened to others is closed again.
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    bed.again().await;
    assert_eq!(mode("accounts.sqlite"), 0o600);
}

#[tokio::test]
async fn a_database_that_is_not_there_is_named_without_its_password() {
    let bed = Bed::sqlite().await;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("postgres://ada:hunter2@127.0.0.1:{port}/nilometer");
    let location = Location::parse(&url.into(), std::path::Path::new("")).unwrap();
    let error = Directory::open(&location, bed.clock.clone()).await.err().unwrap();
    let said = format!("{error} {error:?}");
    assert!(said.contains("postgres://127.0.0.1/nilometer"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}
