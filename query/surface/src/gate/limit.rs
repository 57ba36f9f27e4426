//! How often one principal may ask: a bucket of tokens each, by steady time.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

/// Most names that are counted at once. Past it those with full buckets are forgotten, which
/// changes nothing for them; if none is full, the fullest tenth is.
const MAX_NAMES: usize = 10_000;

/// Requests per second, and how many may come at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Tokens that come back per second.
    pub per_second: f64,
    /// Tokens of a full bucket.
    pub burst: f64,
}

impl Rate {
    /// No limit.
    pub const UNLIMITED: Rate = Rate { per_second: f64::INFINITY, burst: f64::INFINITY };
}

/// Counts requests by name.
#[derive(Debug)]
pub struct RateLimiter {
    rate: Rate,
    buckets: Mutex<HashMap<String, Bucket>>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Duration,
}

impl RateLimiter {
    /// With full buckets.
    pub fn new(rate: Rate) -> Self {
        RateLimiter { rate, buckets: Mutex::default() }
    }

    /// Takes a token at an instant of a steady clock; else says how long it takes until there is
    /// one.
    pub fn take(&self, name: &str, now: Duration) -> Result<(), Duration> {
        let Rate { per_second, burst } = self.rate;
        if per_second.is_infinite() {
            return Ok(());
        }
        let mut buckets = self.buckets.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if buckets.len() >= MAX_NAMES && !buckets.contains_key(name) {
            self.forget(&mut buckets, now);
        }
        let full = Bucket { tokens: burst, at: now };
        let bucket = buckets.entry(name.to_owned()).or_insert(full);
        *bucket = Bucket { tokens: self.tokens(*bucket, now), at: now.max(bucket.at) };
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - bucket.tokens) / per_second))
    }

    fn tokens(&self, bucket: Bucket, now: Duration) -> f64 {
        let since = now.saturating_sub(bucket.at).as_secs_f64();
        (bucket.tokens + since * self.rate.per_second).min(self.rate.burst)
    }

    fn forget(&self, buckets: &mut HashMap<String, Bucket>, now: Duration) {
        buckets.retain(|_, bucket| self.tokens(*bucket, now) < self.rate.burst);
        if buckets.len() < MAX_NAMES {
            return;
        }
        let mut tokens: Vec<f64> = buckets.values().map(|it| self.tokens(*it, now)).collect();
        tokens.sort_by(f64::total_cmp);
        let most = tokens[MAX_NAMES * 9 / 10];
        buckets.retain(|_, bucket| self.tokens(*bucket, now) < most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 2.0, burst: 3.0 };

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn tokens_are_spent_and_come_back() {
        let limiter = RateLimiter::new(RATE);
        for _ in 0..3 {
            assert_eq!(limiter.take("a", at(0)), Ok(()));
        }
        assert_eq!(limiter.take("a", at(0)), Err(at(500)));
        assert_eq!(limiter.take("b", at(0)), Ok(()));
        assert_eq!(limiter.take("a", at(400)), Err(at(100)));
        assert_eq!(limiter.take("a", at(500)), Ok(()));
        assert_eq!(limiter.take("a", at(500)), Err(at(500)));
        // A bucket holds no more than its burst, however long nobody asked.
        for _ in 0..3 {
            assert_eq!(limiter.take("a", at(1_000_000)), Ok(()));
        }
        assert!(limiter.take("a", at(1_000_000)).is_err());
    }

    #[test]
    fn the_table_is_bounded_and_nobody_gains_by_it() {
        let limiter = RateLimiter::new(Rate { per_second: 1e-3, burst: 3.0 });
        for _ in 0..3 {
            assert_eq!(limiter.take("spent", at(0)), Ok(()));
        }
        for name in 0..3 * MAX_NAMES {
            assert_eq!(limiter.take(&format!("n{name}"), at(0)), Ok(()));
            assert!(limiter.buckets.lock().unwrap().len() <= MAX_NAMES);
        }
        assert!(limiter.take("spent", at(0)).is_err());
    }
}
