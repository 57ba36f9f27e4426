//! The intruder: a tenant who asks billing about another one.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use nilometer_clock::SystemClock;
use nilometer_contract::{Principal, Role, Scope, Validity};
use nilometer_engine::Selection;
use nilometer_http::{Format, Gate, render};
use nilometer_ledger::Bill;
use nilometer_rating::{Detail, IssuedInvoice, PriceBook};
use tower::ServiceExt;

use crate::bed::{Bed, Site, hour, period, window};
use crate::bills::projects;
use crate::script::{MINUTE, counts, fleet, lively};

const TABLES: [&str; 5] = ["usage", "charges", "usage_history", "charges_history", "invoices"];

fn scope_of(project: &str) -> Scope {
    Scope::projects([(project.into(), Validity::ALWAYS)])
}

async fn csv(site: &Site, scope: &Scope, sql: &str) -> Vec<String> {
    let rows = site.engine.query(scope, sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    let text = String::from_utf8(render(&rows, Format::Csv).unwrap()).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

/// Three hours of a fleet, of which two are billed to everyone.
async fn billed(bed: &Bed) -> (Site, Vec<IssuedInvoice>) {
    let records = fleet(&lively(81), hour(4).plus_micros(10 * MINUTE));
    let (samples, events) = counts(&records);
    bed.append(&records).await;
    let site = bed.start(&PriceBook::built_in()).await;
    site.holds(samples, events).await;
    assert!(site.settle().await >= 2);
    let mut issued = Vec::new();
    for project in projects(&site).into_iter().filter(|project| !project.is_empty()) {
        let invoice =
            site.ledger.invoices.issue(&project, &period(0, 2), Detail::Prices, hour(9)).await;
        issued.push(invoice.unwrap());
    }
    (site, issued)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_sees_its_own_money_only() {
    let bed = Bed::new();
    let (site, issued) = billed(&bed).await;
    let (ours, other) = (&issued[0], &issued[1]);
    let (scope, system) = (scope_of(&ours.project), Scope::system());
    for table in TABLES {
        let found = csv(&site, &scope, &format!("SELECT * FROM {table}")).await;
        let sql = format!("SELECT * FROM {table} WHERE project = '{}'", ours.project);
        let expected = csv(&site, &system, &sql).await;
        assert!(found.len() > 1 && found == expected, "{table}");
        let of_other = format!("SELECT * FROM {table} WHERE project = '{}'", other.project);
        assert!(csv(&site, &system, &of_other).await.len() > 1);
        assert_eq!(csv(&site, &scope, &of_other).await.len(), 1, "{table}: the header");
        let count = csv(&site, &scope, &format!("SELECT count(*) FROM {table}")).await;
        assert!(count.contains(&(found.len() - 1).to_string()), "{table}: {count:?}");
    }
    let (all, of) = (Selection::default(), window(0, 4));
    let selection = Selection { project: Some(ours.project.clone()), ..Selection::default() };
    let ledger = &site.ledger;
    let charges = ledger.rating.charges(&scope, of, &all).await.unwrap();
    assert!(!charges.is_empty());
    assert_eq!(charges, ledger.rating.charges(&system, of, &selection).await.unwrap());
    let usage = ledger.rating.usage(&scope, of, &all).await.unwrap();
    assert_eq!(usage, ledger.rating.usage(&system, of, &selection).await.unwrap());
    assert_eq!(ledger.invoices.issued(&scope, None).await.unwrap(), std::slice::from_ref(ours));
    assert_eq!(ledger.invoices.issued(&scope, Some(&other.project)).await.unwrap(), []);
    assert_eq!(&ledger.invoices.issued_invoice(&scope, &ours.id).await.unwrap(), ours);
    assert!(ledger.invoices.issued_invoice(&scope, &other.id).await.is_err());
    // A bill tells of all of its period, so half of it is not enough.
    let half = Validity { start: hour(1), end: hour(4) };
    let half = Scope::projects([(ours.project.as_str().into(), half)]);
    assert_eq!(ledger.invoices.issued(&half, None).await.unwrap(), []);
    assert!(
        ledger.invoices.draft(&half, &ours.project, &period(0, 3), Detail::Prices).await.is_err()
    );
    assert!(
        ledger.invoices.draft(&half, &ours.project, &period(2, 4), Detail::Prices).await.is_ok()
    );
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_explanation_stays_within_the_scope() {
    let bed = Bed::new();
    let (site, issued) = billed(&bed).await;
    let (ours, other) = (&issued[0], &issued[1]);
    let (ledger, scope) = (&site.ledger, scope_of(&ours.project));
    // On what a machine ran is its own fact.
    let names = csv(&site, &Scope::system(), "SELECT DISTINCT resource FROM resources").await;
    let mine = "SELECT resource FROM resources UNION SELECT node FROM resources \
                UNION SELECT parent FROM resources";
    let mine = csv(&site, &scope, mine).await;
    let theirs = |text: &str| {
        let words = text.split(|c: char| !(c.is_alphanumeric() || "-_".contains(c)));
        let words: std::collections::HashSet<&str> = words.collect();
        names.iter().find(|name| !mine.contains(name) && words.contains(name.as_str())).cloned()
    };
    for line in ours.lines.iter().take(4) {
        let explained = ledger.explanations.explain(&scope, &line.id, None).await.unwrap();
        let text = explained.to_json();
        assert_eq!(theirs(&text), None, "{text}");
        assert!(!text.contains(&other.project), "{text}");
        for step in explained.steps.iter().filter(|step| step.rows.is_some()) {
            csv(&site, &scope, &step.sql).await;
        }
    }
    let unknown =
        |error: nilometer_ledger::LedgerError, id: &str| error.to_string().replace(id, "?");
    let never = ledger.explanations.explain(&scope, "L-0", None).await.unwrap_err();
    let never = unknown(never, "L-0");
    // Somebody draws up the other's bill: its lines are remembered, and still the other's.
    let (system, of, detail) = (Scope::system(), period(2, 4), Detail::Resources);
    let draft = ledger.invoices.draft(&system, &other.project, &of, detail).await.unwrap();
    for line in other.lines.iter().take(2).chain(draft.lines.iter().take(2)) {
        let bill = Bill { project: other.project.clone(), period: period(2, 4) };
        for bill in [None, Some(&bill)] {
            let error = ledger.explanations.explain(&scope, &line.id, bill).await.unwrap_err();
            assert_eq!(unknown(error, &line.id), never);
        }
    }
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_another_s_is_answered_like_what_is_not_there() {
    let bed = Bed::new();
    let (site, issued) = billed(&bed).await;
    let (ours, other) = (&issued[0], &issued[1]);
    let principal = Principal {
        name: "user:alice".into(),
        role: Role::Viewer,
        account: Some("acme".into()),
        scope: scope_of(&ours.project),
    };
    let gate = Gate::trusting(principal, Arc::new(SystemClock));
    let routes = site.ledger.surface().router(gate);
    let ask = async |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = routes.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = to_bytes(response.into_body(), 16 << 20).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    };
    let (start, end) = (hour(0), hour(2));
    for (path, nothing) in [
        (format!("/v1/invoices/{}", other.id), other.id.as_str()),
        (format!("/v1/explain/{}", other.lines[0].id), other.lines[0].id.as_str()),
        (format!("/v1/invoices?project={}", other.project), other.project.as_str()),
        (
            format!("/v1/invoices?project={}&start={start}&end={end}", other.project),
            other.project.as_str(),
        ),
        (
            format!("/v1/charges?project={}&start={start}&end={end}", other.project),
            other.project.as_str(),
        ),
    ] {
        let found = ask(&path).await;
        let (status, text) = ask(&path.replace(nothing, "nothing-of-it")).await;
        assert_eq!((found.0, found.1.replace(nothing, "nothing-of-it")), (status, text), "{path}");
    }
    let (status, list) = ask("/v1/invoices").await;
    assert!(status == 200 && list.contains(&ours.id) && !list.contains(&other.id), "{list}");
    let (status, charges) = ask(&format!("/v1/charges?start={start}&end={end}")).await;
    assert!(status == 200 && charges.contains(&ours.project), "{charges}");
    assert!(!charges.contains(&other.project), "{charges}");
    let (status, _) = ask(&format!("/v1/invoices/{}", ours.id)).await;
    assert_eq!(status, 200);
    let request = Request::post("/v1/invoices").header("content-type", "application/json");
    let request = request.body(Body::from("{}")).unwrap();
    assert_eq!(routes.clone().oneshot(request).await.unwrap().status().as_u16(), 403);
    site.stop().await;
}
