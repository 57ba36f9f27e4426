//! What a restart tells of resources that changed while nobody looked.

use nilometer_contract::{Gap, ResourceKind};

use super::*;

const SECOND: i64 = 1_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_seconds(1_000_000_000 + second)
}

fn event(change: Change, second: i64, id: &str, flavor: &str) -> LifecycleEvent {
    let mut resource = Resource::new(id, ResourceKind::VM);
    resource.attributes.insert("flavor".to_owned(), flavor.to_owned());
    LifecycleEvent { change, at: at(second), resource, source: "s".to_owned() }
}

fn open(dir: &Path) -> Known {
    let mut gaps = Gaps::open(dir, "a", "n", "samples", at(200));
    Known::open(dir, "events", &mut gaps, at(200))
}

/// A source said all there is: what ended.
fn observed(known: &mut Known, at: Timestamp) -> Vec<LifecycleEvent> {
    let ends = known.missing("s");
    ends.iter().for_each(|end| known.ended(end));
    known.seen("s", at);
    ends
}

/// Events as `change id flavor @second`.
fn text(events: &[LifecycleEvent]) -> Vec<String> {
    let line = |event: &LifecycleEvent| {
        let (resource, second) = (&event.resource, (event.at.0 - at(0).0) / SECOND);
        let end = resource.attributes.get("end").map(|end| format!(" {end}")).unwrap_or_default();
        let flavor = &resource.attributes["flavor"];
        format!("{} {} {flavor} @{second}{end}", event.change.as_str(), resource.id)
    };
    events.iter().map(line).collect()
}

/// An agent that saw `vm` small since 10 and big since 20, and observed last at 100, died. What
/// is reported when the next finds `said` in an observation that starts at 200?
fn check(said: &[LifecycleEvent], reported: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let mut before = open(dir.path());
    before.start();
    before.admit(vec![event(Change::Created, 10, "vm", "small")], Some(at(100)));
    before.admit(vec![event(Change::Changed, 20, "vm", "big")], None);
    observed(&mut before, at(100));
    before.draft().unwrap().keep().unwrap();
    let mut after = open(dir.path());
    after.start();
    let mut events = after.admit(said.to_vec(), Some(at(200)));
    events.extend(observed(&mut after, at(200)));
    assert_eq!(text(&events), reported);
    assert!(observed(&mut after, at(210)).is_empty(), "an end is reported once");
}

#[test]
fn what_is_found_again_keeps_its_history() {
    check(&[event(Change::Created, 10, "vm", "big")], &["created vm big @20"]);
    check(&[event(Change::Created, 200, "vm", "big")], &["created vm big @20"]);
}

#[test]
fn a_resize_meanwhile_counts_from_when_it_is_seen() {
    check(&[event(Change::Created, 10, "vm", "huge")], &["changed vm huge @200"]);
    check(&[event(Change::Created, 201, "vm", "huge")], &["changed vm huge @200"]);
}

#[test]
fn a_life_that_started_meanwhile_is_another_one() {
    check(
        &[event(Change::Created, 150, "vm", "big")],
        &["deleted vm big @100 estimated", "created vm big @150"],
    );
}

#[test]
fn what_is_gone_ended_when_it_was_last_seen() {
    check(&[], &["deleted vm big @100 estimated"]);
}

#[test]
fn an_end_that_the_source_knows_is_not_estimated() {
    let end = event(Change::Deleted, 130, "vm", "big");
    check(&[end], &["deleted vm big @130"]);
}

#[test]
fn events_in_the_spool_are_known_although_the_file_is_older() {
    let dir = tempfile::tempdir().unwrap();
    let mut known = open(dir.path());
    known.replay(&event(Change::Created, 10, "a", "small"));
    known.replay(&event(Change::Created, 11, "b", "small"));
    known.replay(&event(Change::Deleted, 12, "b", "small"));
    known.start();
    assert_eq!(known.alive("s"), 1);
    assert_eq!(text(&observed(&mut known, at(20))), ["deleted a small @10 estimated"]);
}

/// An agent that saw a node of one boot, observed last at 100, died. What does the next tell of
/// the node that it finds in an observation that starts at 200?
fn check_boot(boot: &str, start: i64, reported: &[&str]) {
    let node = |start: i64, boot: &str| {
        let mut said = event(Change::Created, start, "node", "none");
        said.resource.attributes.insert(BOOT_ID.to_owned(), boot.to_owned());
        said
    };
    let dir = tempfile::tempdir().unwrap();
    let mut before = open(dir.path());
    before.start();
    before.admit(vec![node(10, "one")], Some(at(50)));
    observed(&mut before, at(100));
    before.draft().unwrap().keep().unwrap();
    let mut after = open(dir.path());
    after.start();
    assert_eq!(text(&after.admit(vec![node(start, boot)], Some(at(200)))), reported);
}

#[test]
fn a_boot_is_known_by_its_id_and_not_by_a_clock() {
    // The clock was stepped, and the kernel's boot time with it.
    check_boot("one", 150, &["created node none @10"]);
    check_boot("one", 5, &["created node none @10"]);
    let anew = ["deleted node none @100 estimated", "created node none @150"];
    check_boot("two", 150, &anew);
    // Another boot, by a clock that is behind: the new life begins after the old one.
    check_boot("two", 20, &["deleted node none @100 estimated", "created node none @100"]);
}

/// Wherever in the file a bit is flipped: what is still known is right, and a gap tells of what is not.
#[test]
fn damage_costs_the_resource_that_it_touches_and_a_gap_tells() {
    let dir = tempfile::tempdir().unwrap();
    let mut before = open(dir.path());
    before.start();
    let created = |n: i64| event(Change::Created, n, &format!("vm-{n}"), "small");
    before.admit((0..4).map(created).collect(), Some(at(50)));
    observed(&mut before, at(100));
    before.draft().unwrap().keep().unwrap();
    let path = dir.path().join("known");
    let bytes = std::fs::read(&path).unwrap();
    for place in (0..bytes.len()).step_by(5) {
        let mut flipped = bytes.clone();
        flipped[place] ^= 1 << (place % 8);
        std::fs::write(&path, &flipped).unwrap();
        let mut gaps = Gaps::open(dir.path(), "a", "n", "samples", at(200));
        let after = Known::open(dir.path(), "events", &mut gaps, at(200));
        let reported: Vec<Gap> = gaps.front().to_vec();
        let lost: u64 = reported.iter().map(|gap| gap.records).sum();
        assert_eq!(after.alive("s") as u64 + lost, 4, "bit of byte {place}");
        for gap in reported {
            assert_eq!((gap.start, gap.end, gap.sources), (at(100), at(200), vec!["s".to_owned()]));
        }
        gaps.acknowledged();
    }
}

/// Before, the file of all resources was written anew after each observation.
#[test]
fn an_observation_without_news_writes_no_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut known = open(dir.path());
    known.start();
    known.admit(vec![event(Change::Created, 10, "vm", "small")], Some(at(50)));
    observed(&mut known, at(50));
    known.draft().unwrap().keep().unwrap();
    assert!(known.draft().is_none());
    observed(&mut known, at(100));
    let draft = known.draft().unwrap();
    assert!(draft.resources.is_none());
    draft.keep().unwrap();
    let mut after = open(dir.path());
    after.start();
    assert_eq!(text(&observed(&mut after, at(200))), ["deleted vm small @100 estimated"]);
}

/// Until the log has them all, ends are remembered: damage may cost their records.
#[test]
fn ends_are_remembered_until_they_are_sent() {
    let dir = tempfile::tempdir().unwrap();
    let mut known = open(dir.path());
    known.start();
    known.admit(vec![event(Change::Created, 10, "a", "small")], Some(at(50)));
    known.admit(vec![event(Change::Deleted, 60, "a", "small")], None);
    known.draft().unwrap().keep().unwrap();
    let mut known = open(dir.path());
    assert_eq!(text(&known.ends()), ["deleted a small @60"]);
    known.all_sent();
    known.draft().unwrap().keep().unwrap();
    assert!(open(dir.path()).ends().is_empty());
}
