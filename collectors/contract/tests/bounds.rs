//! Bounds of events, gaps, resources and catalogues: what lies at each is taken, one beyond is not.
#![allow(clippy::unwrap_used)]

use nilometer_contract::{
    BatchBuilder, Catalogue, Change, Epoch, Gap, GapKind, InvalidResource, Labels, LifecycleEvent,
    MAX_ATTRIBUTES, MAX_EVENT_BYTES, MAX_GAP_BYTES, MAX_TEXT_BYTES, MICROS_PER_SECOND, Resource,
    ResourceKind, Subject, Timestamp, micros,
};

const AT: Timestamp = Timestamp(1_795_000_000_000_000);
const FIRST: Timestamp = Timestamp::MIN;

fn text(bytes: usize) -> String {
    "x".repeat(bytes)
}

fn event() -> LifecycleEvent {
    let resource = Resource::new("vm-1", ResourceKind::VM);
    LifecycleEvent { change: Change::Changed, at: AT, resource, source: "libvirt".to_owned() }
}

fn gap() -> Gap {
    Gap {
        kind: GapKind::Late,
        agent: "a".to_owned(),
        node: "n".to_owned(),
        sources: Vec::new(),
        topic: "t".to_owned(),
        partition: None,
        start: AT,
        end: AT,
        records: 0,
        samples: 0,
        reason: "r".to_owned(),
    }
}

fn before(at: Timestamp) -> Timestamp {
    at.plus_micros(-1)
}

/// Puts a text somewhere in a resource.
type Edit = fn(&mut Resource, String);

#[test]
fn a_resource_holds_no_more_than_its_bounds() {
    let most = text(MAX_TEXT_BYTES);
    let more = text(MAX_TEXT_BYTES + 1);
    let changes: [(&str, Edit); 7] = [
        ("id", |of, text| of.id = text),
        ("project", |of, text| of.project = text),
        ("name", |of, text| of.name = text),
        ("node", |of, text| of.node = text),
        ("parent", |of, text| of.parent = Some(text)),
        ("attribute key", |of, text| of.attributes = [(text, String::new())].into()),
        ("attribute value", |of, text| of.attributes = [("k".to_owned(), text)].into()),
    ];
    for (name, change) in changes {
        let mut resource = Resource::new("r", ResourceKind::VM);
        change(&mut resource, most.clone());
        assert_eq!(resource.check(), Ok(()), "{name}");
        change(&mut resource, more.clone());
        let Err(InvalidResource::TooLong { field, bytes }) = resource.check() else {
            panic!("{name} is taken");
        };
        assert_eq!((field, bytes), (name, MAX_TEXT_BYTES + 1));
    }
    let with = |count: usize| {
        let mut resource = Resource::new("r", ResourceKind::VM);
        resource.attributes = (0..count).map(|n| (n.to_string(), String::new())).collect();
        resource.check()
    };
    assert_eq!(with(MAX_ATTRIBUTES), Ok(()));
    let refused = InvalidResource::TooManyAttributes(MAX_ATTRIBUTES + 1);
    assert_eq!(with(MAX_ATTRIBUTES + 1), Err(refused));
    assert_eq!(Resource::new("", ResourceKind::VM).check(), Err(InvalidResource::NoId));
}

#[test]
fn an_event_is_refused_both_ways_for_each_of_its_rules() {
    let good = event().encode().unwrap();
    assert_eq!(LifecycleEvent::decode(&good).unwrap(), event());
    let with = |from: &str, to: &str| {
        let text = String::from_utf8(good.clone()).unwrap();
        assert!(text.contains(from), "{text}");
        match LifecycleEvent::decode(text.replacen(from, to, 1).as_bytes()) {
            Ok(_) => "taken".to_owned(),
            Err(error) => error.to_string(),
        }
    };
    assert_eq!(with("\"1.0\"", "\"1.1\""), "specversion is \"1.1\"");
    assert!(with("resource.changed", "resource.moved").starts_with("type is"));
    assert!(with("nilometer.resource.changed", "changed").starts_with("type is"));
    assert!(with("\"subject\":\"vm-1\"", "\"subject\":\"vm-2\"").contains("different resources"));
    assert!(with("{", "").contains("not a CloudEvent"));
    assert_eq!(with("resource.changed", "resource.created"), "taken");
    assert_eq!(with("resource.changed", "resource.deleted"), "taken");

    let refused = |change: &dyn Fn(&mut LifecycleEvent)| {
        let mut event = event();
        change(&mut event);
        event.encode().err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(refused(&|event| event.at = FIRST), "");
    assert_eq!(refused(&|event| event.at = before(Timestamp::MAX)), "");
    assert!(refused(&|event| event.at = before(FIRST)).contains("2000 to 2199"));
    assert!(refused(&|event| event.at = Timestamp::MAX).contains("2000 to 2199"));
    assert_eq!(refused(&|event| event.source = text(1_024)), "");
    assert!(refused(&|event| event.source = text(1_025)).contains("empty or too long"));
    assert!(refused(&|event| event.source = String::new()).contains("empty or too long"));
    assert!(refused(&|event| event.resource.id = String::new()).contains("out of bounds"));
    let year = "\"time\":\"2026-11";
    assert!(with(year, "\"time\":\"1999-11").contains("2000 to 2199"), "and when it is read");
}

#[test]
fn the_length_of_an_event_is_bounded_both_ways() {
    let padded = |bytes: usize| {
        let mut good = event().encode().unwrap();
        good.extend(vec![b' '; bytes - good.len()]);
        LifecycleEvent::decode(&good).is_ok()
    };
    assert!(padded(MAX_EVENT_BYTES));
    assert!(!padded(MAX_EVENT_BYTES + 1));
    // Control characters take six bytes each in JSON; the last attribute fills up what is left.
    let mut event = event();
    let control = "\u{1}".repeat(MAX_TEXT_BYTES);
    event.resource.attributes = (0..42).map(|n| (format!("{n:03}"), control.clone())).collect();
    let mut left = MAX_EVENT_BYTES - event.encode().unwrap().len();
    let quoting = "\"000\":\"\",".len();
    for n in 42.. {
        let fill = (left - quoting).min(MAX_TEXT_BYTES - 100);
        event.resource.attributes.insert(format!("{n:03}"), text(fill));
        left -= quoting + fill;
        if left < quoting {
            event.resource.attributes.get_mut("042").unwrap().push_str(&text(left));
            break;
        }
    }
    assert_eq!(event.encode().unwrap().len(), MAX_EVENT_BYTES);
    event.resource.name.push('x');
    let refused = event.encode().unwrap_err().to_string();
    assert_eq!(refused, "event has 131073 bytes, more than 131072");
}

#[test]
fn a_gap_holds_no_more_than_its_bounds() {
    let taken = |change: &dyn Fn(&mut Gap)| {
        let mut gap = gap();
        change(&mut gap);
        let encoded = gap.encode();
        if let Ok(bytes) = &encoded {
            assert_eq!(Gap::decode(bytes).unwrap(), gap);
        }
        encoded.is_ok()
    };
    let (most, more) = (text(MAX_TEXT_BYTES), text(MAX_TEXT_BYTES + 1));
    let texts: [fn(&mut Gap, String); 4] = [
        |gap, text| gap.agent = text,
        |gap, text| gap.node = text,
        |gap, text| gap.topic = text,
        |gap, text| gap.reason = text,
    ];
    for change in texts {
        assert!(taken(&|gap| change(gap, most.clone())));
        assert!(!taken(&|gap| change(gap, more.clone())));
    }
    assert!(taken(&|gap| gap.sources = vec!["s".to_owned(); 16]));
    assert!(!taken(&|gap| gap.sources = vec!["s".to_owned(); 17]));
    assert!(taken(&|gap| gap.sources = vec![text(1_024)]));
    assert!(!taken(&|gap| gap.sources = vec![text(1_025)]));
    assert!(taken(&|gap| (gap.start, gap.end) = (FIRST, before(Timestamp::MAX))));
    assert!(!taken(&|gap| gap.start = before(FIRST)));
    assert!(!taken(&|gap| gap.end = Timestamp::MAX));
    assert!(!taken(&|gap| gap.end = before(gap.start)));
    let padded = |bytes: usize| {
        let mut good = gap().encode().unwrap();
        good.extend(vec![b' '; bytes - good.len()]);
        Gap::decode(&good).is_ok()
    };
    assert!(padded(MAX_GAP_BYTES) && !padded(MAX_GAP_BYTES + 1));
    let wide = |count: usize| {
        let mut gap = gap();
        gap.sources = vec![text(1_000); count];
        gap.encode().is_ok()
    };
    assert!(wide(7) && !wide(9), "within the bound of each, beyond that of all");
    for kind in
        [GapKind::Lost, GapKind::Unobserved, GapKind::Late, GapKind::Expired, GapKind::Damaged]
    {
        let bytes = Gap { kind, ..gap() }.encode().unwrap();
        let written = String::from_utf8(bytes).unwrap().contains(kind.as_str());
        assert_eq!(written, kind != GapKind::Lost, "{kind:?}: the usual one is left out");
    }
}

#[test]
fn a_catalogue_is_refused_for_each_of_its_rules() {
    let entry = |name: &str, kind: &str, more: &str, resources: &str| {
        format!(
            "[[meter]]\nname = '{name}'\nkind = '{kind}'\nunit = 'bytes'\ndescription = ''\n\
             resources = [{resources}]\n{more}\n"
        )
    };
    let parsed = |entries: &[String]| {
        let text =
            format!("default_hold_seconds = 300\n[[kind]]\nname = 'vm'\n{}", entries.concat());
        Catalogue::parse(&text).map_err(|error| error.to_string())
    };
    let refusal = |kind: &str, more: &str, resources: &str| {
        parsed(&[entry("m", kind, more, resources)]).err().unwrap_or_default()
    };
    for kind in ["counter", "gauge", "delta", "allocation"] {
        assert_eq!(refusal(kind, "", "'vm'"), "");
        let attribute = refusal(kind, "attribute = 'a'", "'vm'");
        let expected = if kind == "allocation" { "" } else { "meter m: only an allocation has" };
        assert!(attribute.starts_with(expected) && attribute.is_empty() == expected.is_empty());
    }
    assert!(refusal("level", "", "'vm'").contains("kind is one of"));
    assert!(refusal("level", "attribute = 'a'", "'vm'").contains("kind is one of"));
    assert_eq!(refusal("gauge", "", ""), "", "of any kind");
    assert!(refusal("gauge", "", "'vn'").contains("no kind vn is declared"));
    for (seconds, is_taken) in [(0, false), (1, true), (86_400, true), (86_401, false)] {
        let found = refusal("gauge", &format!("hold_seconds = {seconds}"), "'vm'");
        assert_eq!(found.is_empty(), is_taken, "{seconds}: {found}");
    }
    let named = |name: &str| entry(name, "gauge", "", "'vm'");
    assert!(parsed(&[named("a"), named("a")]).unwrap_err().contains("declared twice"));
    let many = |count: usize| (0..count).map(|n| named(&n.to_string())).collect::<Vec<_>>();
    assert!(parsed(&many(65_536)).is_ok());
    assert!(parsed(&many(65_537)).unwrap_err().contains("one too many"));
    let two = parsed(&[named("a"), entry("b", "counter", "hold_seconds = 7", "'vm'")]).unwrap();
    assert_eq!(two.meters().map(|meter| &*meter.name).collect::<Vec<_>>(), ["a", "b"]);
    let hold = |name| two.find(name).unwrap().hold_micros;
    assert_eq!((hold("a"), hold("b")), (300 * MICROS_PER_SECOND, 7 * MICROS_PER_SECOND));
    assert_eq!(two.find("c"), None);
}

#[test]
fn units_of_usage_follow_from_kind_and_base_unit() {
    let units = ["seconds", "bytes", "joules", "1"];
    let level = ["second_seconds", "byte_seconds", "joule_seconds", "seconds"];
    let kinds = [("counter", units), ("delta", units), ("gauge", level), ("allocation", level)];
    for (kind, expected) in kinds {
        for (unit, expected) in units.into_iter().zip(expected) {
            let text = format!(
                "default_hold_seconds = 1\n[[kind]]\nname = 'vm'\n[[meter]]\nname = 'm'\nkind = '{kind}'\n\
                 unit = '{unit}'\ndescription = ''\nresources = ['vm']\n"
            );
            let catalogue = Catalogue::parse(&text).unwrap();
            let meter = catalogue.find("m").unwrap();
            assert_eq!(&*meter.usage_unit, expected, "{kind} {unit}");
            assert_eq!((meter.kind.as_str(), meter.unit.as_str()), (kind, unit));
            assert_eq!(meter.unit.to_string(), unit);
        }
    }
}

#[test]
fn instants_are_read_and_moved_exactly() {
    assert_eq!(Timestamp::from_nanos(1_999), Timestamp(1));
    assert_eq!(Timestamp::from_nanos(-1), Timestamp(-1));
    assert_eq!(Timestamp::from_seconds(-2), Timestamp(-2_000_000));
    assert_eq!(Timestamp(i64::MAX - 1).plus_micros(5), Timestamp(i64::MAX));
    assert_eq!(micros(std::time::Duration::from_millis(3)), 3_000);
    assert_eq!(micros(std::time::Duration::MAX), i64::MAX);
    assert_eq!(AT.to_string(), "2026-11-18T11:06:40Z");
    assert_eq!(Timestamp(AT.0 + 5).to_string(), "2026-11-18T11:06:40.000005Z");
    assert_eq!(Timestamp::from(AT.to_datetime()), AT);
    assert_eq!(Timestamp(i64::MAX).to_datetime().timestamp(), 0, "beyond what chrono holds");
    for (at, expected) in [
        (FIRST, true),
        (before(FIRST), false),
        (before(Timestamp::MAX), true),
        (Timestamp::MAX, false),
    ] {
        assert_eq!(at.is_plausible(), expected, "{at}");
    }
    assert_eq!(
        (FIRST.to_string(), Timestamp::MAX.to_string()),
        ("2000-01-01T00:00:00Z".to_owned(), "2200-01-01T00:00:00Z".to_owned(),)
    );
}

#[test]
fn a_builder_counts_what_it_holds_and_leaves_out() {
    let mut builder = BatchBuilder::new("test");
    assert!(builder.is_empty());
    let one = builder.subject(&Resource::new("a", ResourceKind::VM));
    let other = builder.subject(&Resource::new("b", ResourceKind::VM));
    assert_eq!((one, other), (0, 1));
    assert_eq!(builder.subject(&Resource::new("a", ResourceKind::VM)), 0, "each once");
    builder.push_named(one, "cpu.time", AT, 1.0);
    builder.push_named(one, "memory.usage", AT, f64::NAN);
    builder.push_named(other, "memory.usage", AT, 2.0);
    assert_eq!((builder.len(), builder.not_finite(), builder.is_empty()), (2, 1, false));
    let mut more = BatchBuilder::new("test");
    let c = more.subject(&Resource::new("c", ResourceKind::VM));
    let b = more.subject(&Resource::new("b", ResourceKind::VM));
    more.push_named(c, "memory.usage", AT, 3.0);
    more.push_named(b, "cpu.time", AT, f64::INFINITY);
    more.push_named(b, "cpu.time", AT, 4.0);
    builder.append(more);
    assert_eq!((builder.len(), builder.not_finite()), (4, 2));
    let batch = builder.build();
    assert_eq!((batch.len(), batch.is_empty(), batch.subjects.len()), (4, false, 3));
    assert!(!batch.subjects.is_empty());
    assert_eq!((&batch.resource[..], &batch.meter[..]), (&[0, 1, 2, 1][..], &[0, 1, 1, 0][..]));
    assert_eq!(&batch.value[..], [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(batch.slice(1, 2).value[..], [2.0, 3.0]);
    assert!(batch.slice(4, 0).is_empty());
    let none = BatchBuilder::new("test").build();
    assert!(none.is_empty() && none.subjects.is_empty());
}

#[test]
fn samples_move_to_another_epoch_in_order() {
    let epoch = Epoch { instance: "i".to_owned(), sequence: 2, start: AT };
    let moved = |samples: &[(u32, i64)], last: i64| {
        let mut builder = BatchBuilder::new("test");
        for id in ["a", "b"] {
            builder.subject(&Resource::new(id, ResourceKind::VM));
        }
        for &(subject, second) in samples {
            builder.push_named(subject, "cpu.time", Timestamp::from_seconds(second), second as f64);
        }
        let last = AT.plus_micros(last * MICROS_PER_SECOND);
        let batch = builder.moved_to(&epoch, last).build();
        assert_eq!(batch.epoch, epoch);
        let seconds = batch.at.iter().map(|at| (at - AT.0) / MICROS_PER_SECOND);
        batch
            .resource
            .iter()
            .copied()
            .zip(seconds)
            .zip(batch.value.iter().map(|&v| v as i64))
            .collect()
    };
    let of = |samples: &[(u32, i64)], last| -> Vec<((u32, i64), i64)> { moved(samples, last) };
    assert_eq!(of(&[(0, 10), (0, 20)], 100), [((0, 90), 10), ((0, 100), 20)]);
    assert_eq!(of(&[(0, 10), (0, 20)], 10), [((0, 0), 10), ((0, 10), 20)], "at its start");
    assert_eq!(of(&[(0, 10), (0, 20)], 9), [((0, 9), 20)], "before its start");
    assert_eq!(of(&[(0, 10), (1, 15), (0, 20)], 3), [((1, 0), 15), ((0, 3), 20)], "but the last");
    assert_eq!(of(&[(0, 20), (0, 20)], 30), [((0, 30), 20)], "not before the next");
    assert_eq!(of(&[(0, 30), (1, 20)], 40), [((0, 40), 30), ((1, 40), 20)], "not after the last");
}

#[test]
fn samples_of_series_that_differ_in_labels_move_apart() {
    let epoch = Epoch { instance: "i".to_owned(), sequence: 2, start: AT };
    let vm = Resource::new("a", ResourceKind::VM);
    let mut builder = BatchBuilder::new("test");
    for mode in ["user", "system"] {
        let labels = Labels::new([("mode", mode)]).unwrap();
        let subject = builder.subject(Subject { labels, ..Subject::from(&vm) });
        for second in [10, 20] {
            builder.push_named(subject, "cpu.time", Timestamp::from_seconds(second), second as f64);
        }
    }
    let batch = builder.moved_to(&epoch, AT.plus_micros(100 * MICROS_PER_SECOND)).build();
    let seconds = batch.at.iter().map(|at| (at - AT.0) / MICROS_PER_SECOND);
    let moved: Vec<(u32, i64)> = batch.resource.iter().copied().zip(seconds).collect();
    assert_eq!(moved, [(0, 90), (0, 100), (1, 90), (1, 100)]);
}
