//! How much each principal may have: requests a minute and sessions at once, by tier.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use viva_actors::types::{Principal, Tier};

use crate::config::{TierSection, TiersSection};

/// Principals that are remembered; those who are idle are forgotten beyond it. Each takes some hundred bytes.
const PRINCIPALS_MAX: usize = 10_000;

/// When somebody whose sessions are all taken may try again: about the time a short conversation still takes.
pub const RETRY_SESSION_S: u64 = 15;

#[derive(Debug)]
struct Used {
    /// Requests they may still make now.
    requests: f64,
    at: Instant,
    sessions: u32,
}

impl Used {
    /// Requests that are free at a time, where a minute has so many.
    fn at_time(&self, minute: f64, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        (self.requests + since * minute / 60.0).min(minute)
    }
}

/// What is left of a quota.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Left {
    /// Requests that a minute has.
    pub limit: u32,
    /// Requests that may be made now.
    pub remaining: u32,
    /// How long until all of them may.
    pub reset: Duration,
}

/// Looks at somebody's quota.
#[derive(Clone)]
pub struct Meter {
    quotas: Quotas,
    principal: Principal,
}

impl Meter {
    /// What is left now; none where nothing is counted.
    pub fn left(&self) -> Option<Left> {
        self.quotas.left(&self.principal, Instant::now())
    }
}

type Names = (String, String);

/// What is used of the quotas.
#[derive(Clone)]
pub struct Quotas {
    tiers: TiersSection,
    used: Arc<Mutex<HashMap<Names, Used>>>,
}

/// A session that counts, until this is dropped.
pub struct Seat {
    whose: Names,
    used: Arc<Mutex<HashMap<Names, Used>>>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(used) = lock(&self.used).get_mut(&self.whose) {
            used.sessions = used.sessions.saturating_sub(1);
        }
    }
}

fn lock(used: &Mutex<HashMap<Names, Used>>) -> MutexGuard<'_, HashMap<Names, Used>> {
    used.lock().unwrap_or_else(PoisonError::into_inner)
}

fn names(principal: &Principal) -> Names {
    (principal.tenant.clone(), principal.user.clone())
}

impl Quotas {
    /// Nothing is used yet.
    pub fn new(tiers: TiersSection) -> Self {
        Self { tiers, used: Arc::default() }
    }

    /// What looks at this one's quota.
    pub fn meter(&self, principal: &Principal) -> Meter {
        Meter { quotas: self.clone(), principal: principal.clone() }
    }

    /// How many requests somebody may still make; none where they are not counted.
    pub fn left(&self, principal: &Principal, now: Instant) -> Option<Left> {
        let limit = self.tier(principal.tier).requests_per_minute;
        if limit == 0 {
            return None;
        }
        let minute = f64::from(limit);
        let all = lock(&self.used);
        let requests = all.get(&names(principal)).map_or(minute, |used| used.at_time(minute, now));
        let reset = Duration::from_secs_f64((minute - requests).max(0.0) * 60.0 / minute);
        Some(Left { limit, remaining: requests as u32, reset })
    }

    fn tier(&self, tier: Tier) -> &TierSection {
        match tier {
            Tier::Free => &self.tiers.free,
            Tier::Pro => &self.tiers.pro,
            Tier::Enterprise => &self.tiers.enterprise,
        }
    }

    /// Counts a request; when it is too many, the seconds after which the next may come.
    pub fn request(&self, principal: &Principal, now: Instant) -> Result<(), u64> {
        let minute = f64::from(self.tier(principal.tier).requests_per_minute);
        if minute == 0.0 {
            return Ok(());
        }
        let mut all = lock(&self.used);
        forget_idle(&mut all, now);
        let used = all.entry(names(principal)).or_insert(Used { requests: minute, at: now, sessions: 0 });
        used.requests = used.at_time(minute, now);
        used.at = now;
        if used.requests < 1.0 {
            return Err(((1.0 - used.requests) * 60.0 / minute).ceil() as u64);
        }
        used.requests -= 1.0;
        Ok(())
    }

    /// A session for as long as the seat lives; none where all are taken.
    pub fn seat(&self, principal: &Principal, now: Instant) -> Option<Seat> {
        let tier = self.tier(principal.tier);
        let whose = names(principal);
        let mut all = lock(&self.used);
        let requests = f64::from(tier.requests_per_minute);
        let used = all.entry(whose.clone()).or_insert(Used { requests, at: now, sessions: 0 });
        if tier.sessions_max > 0 && used.sessions >= tier.sessions_max {
            return None;
        }
        used.sessions += 1;
        drop(all);
        Some(Seat { whose, used: Arc::clone(&self.used) })
    }
}

/// Whoever has no session and has not come for a minute has their whole quota again.
fn forget_idle(all: &mut HashMap<Names, Used>, now: Instant) {
    const MINUTE: Duration = Duration::from_secs(60);
    if all.len() >= PRINCIPALS_MAX {
        all.retain(|_, used| used.sessions > 0 || now.saturating_duration_since(used.at) < MINUTE);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn quotas() -> Quotas {
        let free = TierSection { sessions_max: 2, requests_per_minute: 3 };
        let enterprise = TierSection { sessions_max: 0, requests_per_minute: 0 };
        Quotas::new(TiersSection { free, enterprise, ..TiersSection::default() })
    }

    fn user(user: &str, tier: Tier) -> Principal {
        Principal { tenant: "t".into(), user: user.into(), tier }
    }

    #[test]
    fn a_minute_has_so_many_requests_and_not_one_more() {
        let (quotas, now) = (quotas(), Instant::now());
        let (ann, bob) = (user("ann", Tier::Free), user("bob", Tier::Free));
        for _ in 0..3 {
            assert_eq!(quotas.request(&ann, now), Ok(()));
        }
        assert_eq!(quotas.request(&ann, now), Err(20));
        assert_eq!(quotas.request(&bob, now), Ok(()), "others have their own");
        assert_eq!(quotas.request(&ann, now + Duration::from_secs(20)), Ok(()));
        assert_eq!(quotas.request(&ann, now + Duration::from_secs(21)), Err(19));
    }

    #[test]
    fn what_is_left_is_told_and_looking_costs_nothing() {
        let (quotas, now) = (quotas(), Instant::now());
        let ann = user("ann", Tier::Free);
        let left = |at| quotas.left(&ann, at).unwrap();
        assert_eq!(left(now), Left { limit: 3, remaining: 3, reset: Duration::ZERO });
        for _ in 0..2 {
            quotas.request(&ann, now).unwrap();
        }
        assert_eq!(left(now), Left { limit: 3, remaining: 1, reset: Duration::from_secs(40) });
        assert_eq!(left(now), left(now));
        assert_eq!(left(now + Duration::from_secs(20)).remaining, 2);
        assert_eq!(quotas.left(&user("big", Tier::Enterprise), now), None);
    }

    #[test]
    fn a_session_counts_until_it_ends() {
        let (quotas, now) = (quotas(), Instant::now());
        let ann = user("ann", Tier::Free);
        let first = quotas.seat(&ann, now).unwrap();
        let _second = quotas.seat(&ann, now).unwrap();
        assert!(quotas.seat(&ann, now).is_none());
        drop(first);
        assert!(quotas.seat(&ann, now).is_some());
    }

    #[test]
    fn zero_is_no_limit() {
        let (quotas, now) = (quotas(), Instant::now());
        let big = user("big", Tier::Enterprise);
        let seats: Vec<Seat> = (0..100).map(|_| quotas.seat(&big, now).unwrap()).collect();
        assert!((0..1_000).all(|_| quotas.request(&big, now).is_ok()));
        drop(seats);
    }
}
