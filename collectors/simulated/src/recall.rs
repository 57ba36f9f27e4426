//! What a source that resumes has to say first.
//!
//! Whoever listened before may have heard of any step up to now, and may take what is not
//! mentioned at once for gone. So everything is mentioned that lived at the position or has lived
//! since, in a way that is true whatever was heard already:
//!
//! ```text
//!            position                         now
//! ── state ─────┼──── events as they were ─────┤
//!   `changed`, at the instant of its last change
//! ```
//!
//! A repeated event has the id of the first one. A `changed` at the instant of a creation, with
//! the state it was created with, adds nothing to a history; it goes before each `created`, so
//! that no listener takes that for a resource found again.

use std::collections::HashMap;

use nilometer_contract::{Change, LifecycleEvent, Resource, Timestamp};

use crate::churn::Living;
use crate::config::FleetConfig;
use crate::estate::Estate;
use crate::fleet::event;
use crate::reading::{Reading, Witness};

/// The newest event of each living resource.
#[derive(Default)]
struct Census(HashMap<String, LifecycleEvent>);

/// The events as they come.
struct Tale(Vec<LifecycleEvent>);

impl Witness for Census {
    fn change(&mut self, change: Change, at: i64, resource: &Resource) {
        match change {
            Change::Deleted => drop(self.0.remove(&resource.id)),
            _ => drop(self.0.insert(resource.id.clone(), event(Change::Changed, at, resource))),
        }
    }

    fn read(&mut self, _: i64, _: &Resource, _: &[Reading]) {}
}

impl Witness for Tale {
    fn change(&mut self, change: Change, at: i64, resource: &Resource) {
        if change == Change::Created {
            self.0.push(event(Change::Changed, at, resource));
        }
        self.0.push(event(change, at, resource));
    }

    fn read(&mut self, _: i64, _: &Resource, _: &[Reading]) {}
}

/// Everything alive at `position` and everything that has happened since, up to `now` inclusive.
pub(crate) fn recall(
    config: &FleetConfig,
    position: Option<Timestamp>,
    now: Timestamp,
) -> Vec<LifecycleEvent> {
    let mut living = Living::new(Estate::new(config.clone()));
    let mut census = Census::default();
    if let Some(position) = position {
        living.run(position.0, &mut census);
    }
    let mut events: Vec<LifecycleEvent> = census.0.into_values().collect();
    events.sort_unstable_by(|a, b| (a.at, &a.resource.id).cmp(&(b.at, &b.resource.id)));
    let mut tale = Tale(events);
    living.run(now.0, &mut tale);
    tale.0
}
