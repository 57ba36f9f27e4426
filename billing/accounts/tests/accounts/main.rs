//! The same suite on SQLite and on a real PostgreSQL, and real keys of a real issuer on loopback.

#![allow(clippy::unwrap_used)]

/// Makes of each `async fn(&Bed)` a test on SQLite and one on PostgreSQL.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name(&crate::bed::Bed::sqlite().await).await;
            })*
        }

        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                if let Some(bed) = crate::bed::Bed::postgres().await {
                    super::$name(&bed).await;
                }
            })*
        }
    };
}

mod backups;
mod bed;
mod issuer;
mod keys;
mod oidc;
mod outages;
mod ownership;
mod secrets;
mod users;
