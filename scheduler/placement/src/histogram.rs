//! What is remembered of one resource's use of cpu or memory: 200 bytes, whatever its age.
//!
//! Two views of the same past. A histogram whose weights fade by half every half-life gives high
//! percentiles; a profile of the highest value per hour of the day gives the rhythm.
//!
//! ```text
//! weights   top ▏▁ ▂ ▅ ▇ ▃ … ▏everything lower     40 buckets of 5 %, anchored at the top
//! profile   00 01 02 … 22 23                        one byte an hour, steps of 8 %
//! ```
//!
//! The buckets cover a factor of 7 below the highest value seen: peaks are what placement asks
//! for, so whatever lies lower shares the last bucket, and a percentile that falls there reads
//! too high, never too low. All rounding goes up.

use nilometer_contract::{MICROS_PER_HOUR, MICROS_PER_SECOND, Timestamp};

const BUCKETS: usize = 40;
const LAST: usize = BUCKETS - 1;
const HOURS: usize = 24;
const BUCKET_GROWTH: f64 = 1.05;
const PROFILE_GROWTH: f64 = 1.08;
/// Steps a profile's hour loses per day without being reached again: about a fifth a day.
const PROFILE_FADE: u8 = 3;
/// Weights are scaled back to the present after this many half-lives, so that they stay finite.
const RESCALE_HALF_LIVES: f64 = 2.0;
/// A bucket at the top below this share of all weight no longer anchors the others.
const FORGOTTEN_SHARE: f32 = 1e-3;
const MICROS_PER_MINUTE: i64 = 60 * MICROS_PER_SECOND;

/// How one meter is sketched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shape {
    /// Smallest value told apart from zero.
    pub(crate) floor: f64,
    /// Time in which the weight of a value halves, in hours.
    pub(crate) half_life_hours: f64,
    /// The percentile that counts as the peak, 0 to 1.
    pub(crate) peak: f64,
}

/// Cores in use: p95, half-life 12 h.
pub(crate) const CPU: Shape = Shape { floor: 0.001, half_life_hours: 12.0, peak: 0.95 };
/// Bytes in use: p98, half-life 24 h.
pub(crate) const MEMORY: Shape = Shape { floor: 1_048_576.0, half_life_hours: 24.0, peak: 0.98 };

/// Past usage of one resource by one meter.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct UsageHistogram {
    weights: [f32; BUCKETS],
    /// Minute at which one second of use weighs one.
    reference: u32,
    first: u32,
    hour: u32,
    top: u16,
    profile: [u8; HOURS],
}

impl UsageHistogram {
    /// Nothing seen yet; `at` is when recording began.
    pub(crate) fn new(at: Timestamp) -> Self {
        UsageHistogram {
            weights: [0.0; BUCKETS],
            reference: minute(at),
            first: minute(at),
            hour: hour(at),
            top: 0,
            profile: [0; HOURS],
        }
    }

    /// Adds a value that held for `seconds` up to `at`. Values come in order of time.
    pub(crate) fn add(&mut self, shape: Shape, at: Timestamp, seconds: f64, value: f64) {
        self.rescale(shape, at);
        let bucket = steps(value, shape.floor, BUCKET_GROWTH).min(f64::from(u16::MAX)) as u16;
        if bucket > self.top {
            self.raise(bucket);
        }
        let slot = usize::from(self.top - bucket).min(LAST);
        self.weights[slot] += (seconds * self.weight(shape, at)) as f32;
        self.roll(hour(at));
        let code = (steps(value, shape.floor, PROFILE_GROWTH) + 1.0).min(255.0) as u8;
        let of_day = self.hour as usize % HOURS;
        self.profile[of_day] = self.profile[of_day].max(code);
    }

    /// The shape's percentile of all that was seen, or `None` before anything was.
    pub(crate) fn percentile(&self, shape: Shape) -> Option<f64> {
        let total: f32 = self.weights.iter().sum();
        if total <= 0.0 {
            return None;
        }
        let above = total * (1.0 - shape.peak) as f32;
        let mut seen = 0.0;
        let slot = self.weights.iter().position(|weight| {
            seen += weight;
            seen > above
        });
        let bucket = usize::from(self.top).saturating_sub(slot.unwrap_or(LAST));
        Some(shape.floor * BUCKET_GROWTH.powi(bucket as i32))
    }

    /// Highest value expected in the hour from `now`: of the same hours on past days where those
    /// are known, else the percentile.
    pub(crate) fn next_hour_peak(&self, shape: Shape, now: Timestamp) -> Option<f64> {
        let start = hour(now) as usize;
        let codes = [self.profile[start % HOURS], self.profile[(start + 1) % HOURS]];
        match codes.iter().min() {
            Some(0) | None => {
                let so_far = codes.iter().map(|&code| decode(code, shape)).fold(0.0, f64::max);
                self.percentile(shape).map(|peak| peak.max(so_far))
            }
            Some(_) => codes.iter().map(|&code| decode(code, shape)).reduce(f64::max),
        }
    }

    /// When recording began, to the minute.
    pub(crate) fn first(&self) -> Timestamp {
        Timestamp(i64::from(self.first) * MICROS_PER_MINUTE)
    }

    fn weight(&self, shape: Shape, at: Timestamp) -> f64 {
        let hours =
            (at.0 - i64::from(self.reference) * MICROS_PER_MINUTE) as f64 / MICROS_PER_HOUR as f64;
        (hours / shape.half_life_hours).exp2()
    }

    fn rescale(&mut self, shape: Shape, at: Timestamp) {
        let weight = self.weight(shape, at);
        if weight < RESCALE_HALF_LIVES.exp2() {
            return;
        }
        let scale = (1.0 / weight) as f32;
        self.weights.iter_mut().for_each(|bucket| *bucket *= scale);
        self.reference = minute(at);
        let total: f32 = self.weights.iter().sum();
        let forgotten =
            self.weights.iter().take_while(|&&weight| weight < total * FORGOTTEN_SHARE).count();
        // Some bucket holds its share, none below the floor holds any: fewer are forgotten than `top`.
        self.weights.rotate_left(forgotten);
        self.weights[BUCKETS - forgotten..].fill(0.0);
        self.top -= forgotten as u16;
    }

    /// Anchors the buckets at a higher value; what falls off the end joins the last bucket.
    fn raise(&mut self, top: u16) {
        let by = usize::from(top - self.top).min(LAST);
        let fallen: f32 = self.weights[BUCKETS - by..].iter().sum();
        self.weights.rotate_right(by);
        self.weights[..by].fill(0.0);
        self.weights[LAST] += fallen;
        self.top = top;
    }

    /// Fades the hours entered since the last value.
    fn roll(&mut self, to: u32) {
        let passed = to.saturating_sub(self.hour);
        for ahead in 1..=passed.min(HOURS as u32) {
            let days = 1 + (passed - ahead) / HOURS as u32;
            let fade = days.min(85) as u8 * PROFILE_FADE;
            let code = &mut self.profile[(self.hour + ahead) as usize % HOURS];
            *code = if *code == 0 { 0 } else { code.saturating_sub(fade).max(1) };
        }
        self.hour = self.hour.max(to);
    }
}

fn decode(code: u8, shape: Shape) -> f64 {
    match code {
        0 => 0.0,
        code => shape.floor * PROFILE_GROWTH.powi(i32::from(code) - 1),
    }
}

/// Steps of `growth` from `floor` up to `value`, rounded up; 0 at or below the floor.
fn steps(value: f64, floor: f64, growth: f64) -> f64 {
    if value <= floor { 0.0 } else { ((value / floor).ln() / growth.ln() - 1e-9).ceil() }
}

fn minute(at: Timestamp) -> u32 {
    u32::try_from(at.0 / MICROS_PER_MINUTE).unwrap_or(0)
}

fn hour(at: Timestamp) -> u32 {
    u32::try_from(at.0 / MICROS_PER_HOUR).unwrap_or(0)
}

#[cfg(test)]
mod tests;
