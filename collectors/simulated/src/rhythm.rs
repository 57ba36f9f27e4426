//! Load over time: daily and weekly rhythm with noise, as closed forms over integers.
//!
//! A series is cut into slots of one minute from the start of the fleet; within a slot its rate
//! is constant. What it has amounted to at the start of slot `k` is
//!
//! ```text
//! mark(k) = peak × ( Σ weights of slots before k  +  noise(k) )
//! ```
//!
//! where the sum comes from a table of one week, and the noise is a bounded function of `k`, not
//! a walk. So any instant is found without those before it. A slot's weight is at least the
//! noise's amplitude above zero and below one, so a series always grows, and never by more than
//! its peak per slot.

use crate::mix;

/// Length of a slot in microseconds.
pub(crate) const SLOT_MICROS: u64 = 60_000_000;
const DAY_SLOTS: u64 = 1_440;
const WEEK_SLOTS: u64 = 7 * DAY_SLOTS;
/// 1970-01-01 was a Thursday; weeks begin on Monday.
const EPOCH_SLOT: i64 = 3 * DAY_SLOTS as i64;
/// Weights are in 1/65,536 of the peak.
const ONE: u64 = 1 << 16;
const PROFILES: usize = 5;
/// Wave lengths of the noise in slots, as powers of two, with their share of it in quarters.
const OCTAVES: [(u32, u64); 3] = [(0, 2), (4, 1), (8, 1)];

/// One thing that grows: at most `peak` per slot, in a rhythm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Series {
    seed: u64,
    peak: u64,
    profile: usize,
    phase: u64,
}

/// The weeks of all profiles, laid out from the start of one fleet.
#[derive(Debug)]
pub(crate) struct Rhythm {
    origin: i64,
    first_slot: u64,
    weeks: [Week; PROFILES],
}

#[derive(Debug)]
struct Week {
    /// Sum of the weights of the slots before each slot of the week, and of the whole week.
    sums: Box<[u64]>,
    noise: u64,
}

impl Series {
    /// A series whose rhythm follows from its seed.
    pub(crate) fn new(seed: u64, peak: u64) -> Self {
        let chance = mix::at(seed, 0);
        let profile = (chance % PROFILES as u64) as usize;
        Series { seed, peak, profile, phase: (chance >> 32) % 180 }
    }

    /// The same rhythm with another peak.
    pub(crate) fn with_peak(self, peak: u64) -> Self {
        Series { peak, ..self }
    }
}

impl Rhythm {
    /// For a fleet that starts at `origin`, in microseconds since the epoch.
    pub(crate) fn new(origin: i64) -> Self {
        let slot = origin.div_euclid(SLOT_MICROS as i64) + EPOCH_SLOT;
        let steady = |_, _| ONE / 2;
        let office = |day, minute| match day {
            0..5 => ONE / 6 + bump(minute, 420, 720) * 65 / 100,
            _ => ONE / 6 + bump(minute, 420, 720) * 15 / 100,
        };
        let evening = |day: u64, minute| {
            ONE / 5 + bump(minute, 840, 600) * if day >= 4 { 65 } else { 50 } / 100
        };
        let night =
            |_, minute| ONE / 10 + if (60..300).contains(&minute) { ONE * 4 / 5 } else { 0 };
        let restless = |_, _| ONE * 2 / 5;
        let week = |weight: &dyn Fn(u64, u64) -> u64, noise: u64| {
            let mut sum = 0;
            let mut sums: Vec<u64> = Vec::with_capacity(WEEK_SLOTS as usize + 1);
            sums.push(0);
            for slot in 0..WEEK_SLOTS {
                sum += weight(slot / DAY_SLOTS, slot % DAY_SLOTS);
                sums.push(sum);
            }
            Week { sums: sums.into(), noise: ONE * noise / 100 }
        };
        Rhythm {
            origin,
            first_slot: slot.rem_euclid(WEEK_SLOTS as i64) as u64,
            weeks: [
                week(&steady, 20),
                week(&office, 12),
                week(&evening, 12),
                week(&night, 7),
                week(&restless, 37),
            ],
        }
    }

    /// What a series has amounted to at `at`, since an instant of its own long ago.
    pub(crate) fn amount(&self, series: &Series, at: i64) -> u64 {
        let (slot, into) = self.place(at);
        let low = self.mark(series, slot);
        if into == 0 {
            return low;
        }
        let high = self.mark(series, slot + 1);
        low + (high - low) * into / SLOT_MICROS
    }

    /// The rate of a series in the slot of `at`, by the peak, in 1/65,536.
    pub(crate) fn share(&self, series: &Series, at: i64) -> u64 {
        let (slot, _) = self.place(at);
        let week = &self.weeks[series.profile];
        let place = ((slot + self.first_slot + series.phase) % WEEK_SLOTS) as usize;
        let noise: u64 = OCTAVES
            .iter()
            .map(|&(octave, quarters)| {
                let wave = u128::from(wave(series.seed, octave, slot)) >> (octave + 16);
                ((u128::from(week.noise * quarters / 4) * wave) >> 16) as u64
            })
            .sum();
        week.sums[place + 1] - week.sums[place] + noise
    }

    fn place(&self, at: i64) -> (u64, u64) {
        assert!(at >= self.origin, "the fleet is not asked about times before it");
        let since = (at - self.origin) as u64;
        (since / SLOT_MICROS, since % SLOT_MICROS)
    }

    fn mark(&self, series: &Series, slot: u64) -> u64 {
        let week = &self.weeks[series.profile];
        let place = slot + self.first_slot + series.phase;
        let sum = week.sums[(place % WEEK_SLOTS) as usize]
            + place / WEEK_SLOTS * week.sums[WEEK_SLOTS as usize];
        let mut weight = u128::from(sum) << 32;
        for (octave, quarters) in OCTAVES {
            let wave = wave(series.seed, octave, slot);
            weight += u128::from(week.noise * quarters / 4) * u128::from(wave);
        }
        ((u128::from(series.peak) * weight) >> 48) as u64
    }
}

/// Noise of one wave length, from 0 to 2^(32 + octave): a straight line from one random point to
/// the next, `2^octave` slots on.
fn wave(seed: u64, octave: u32, slot: u64) -> u64 {
    let seed = seed ^ (u64::from(octave) << 56);
    let (from, into) = (slot >> octave, slot & ((1 << octave) - 1));
    let low = mix::at(seed, from) >> 32;
    if octave == 0 {
        return low;
    }
    let high = mix::at(seed, from + 1) >> 32;
    low * ((1 << octave) - into) + high * into
}

/// A hill from 0 to one and back, `width` minutes long.
fn bump(minute: u64, start: u64, width: u64) -> u64 {
    match minute.checked_sub(start) {
        Some(x) if x < width => ONE * 4 * x * (width - x) / (width * width),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: i64 = 1_793_577_600_000_000;

    #[test]
    fn a_series_grows_always_and_never_faster_than_its_peak() {
        let rhythm = Rhythm::new(ORIGIN);
        for seed in 0..25 {
            let peak = 1_000 + seed * 1_000_000;
            let series = Series::new(seed, peak);
            let mut before = rhythm.mark(&series, 0);
            for slot in 1..3 * WEEK_SLOTS {
                let mark = rhythm.mark(&series, slot);
                assert!(mark > before && mark - before <= peak, "seed {seed} slot {slot}");
                before = mark;
            }
        }
    }

    #[test]
    fn within_a_slot_the_amount_runs_straight_from_mark_to_mark() {
        let rhythm = Rhythm::new(ORIGIN);
        let series = Series::new(7, 245_760);
        let at = |micros: i64| rhythm.amount(&series, ORIGIN + micros);
        let slot = SLOT_MICROS as i64;
        assert_eq!(at(slot), rhythm.mark(&series, 1));
        assert_eq!(at(slot / 2), at(0) + (at(slot) - at(0)) / 2);
        assert!(at(slot - 1) <= at(slot));
    }

    #[test]
    fn every_share_lies_below_one() {
        let rhythm = Rhythm::new(ORIGIN);
        for seed in 0..25 {
            let series = Series::new(seed, 1);
            for slot in 0..WEEK_SLOTS as i64 {
                let share = rhythm.share(&series, ORIGIN + slot * SLOT_MICROS as i64);
                assert!((1..ONE).contains(&share), "seed {seed} slot {slot}: {share}");
            }
        }
    }

    #[test]
    fn offices_are_busier_on_monday_noon_than_at_night() {
        let rhythm = Rhythm::new(ORIGIN);
        let office = Series { seed: 1, peak: 1, profile: 1, phase: 0 };
        let hour = |hour: i64| rhythm.share(&office, ORIGIN + hour * 3_600_000_000);
        assert!(hour(13) > 2 * hour(2));
    }
}
