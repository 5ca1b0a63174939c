//! Rate limits of exchanges, introspection and revocation, and the allowance for recording what strangers send.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use sallyport_domain::id::{ProviderId, TrustId};
use sallyport_domain::scope::Scope;

/// Attempts of each [`Noise`] recorded per provider and scope in a minute; the rest are counted.
const NOISE_PER_MINUTE: NonZeroU32 = NonZeroU32::new(60).unwrap();
/// Keyed limiters forget idle keys once they hold this many.
const KEYS_KEPT: usize = 100_000;
/// Stands for every address that cannot be told.
const NOWHERE: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
/// How many admissions lie between two looks at that.
const SWEEP_EVERY: u64 = 10_000;

/// The limits. A limit of 0 is none.
#[derive(Debug)]
pub struct Limits {
    global: Option<DefaultDirectRateLimiter>,
    per_address: Option<DefaultKeyedRateLimiter<IpAddr>>,
    per_trust: Option<DefaultKeyedRateLimiter<TrustId>>,
    noise: DefaultKeyedRateLimiter<(Noise, ProviderId, Scope)>,
    admissions: AtomicU64,
}

/// Refused attempts that anyone may make as often as they like. Each sort has an allowance of its own, so that the one which
/// costs a stranger nothing cannot hide the other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Noise {
    /// It located a provider and did not verify.
    Unverified,
    /// It verified, by an issuer that serves strangers too, and is of somebody whom the trusts do not mean.
    Stranger,
}

impl Noise {
    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unverified => "unverified",
            Self::Stranger => "stranger",
        }
    }
}

/// Try again after this many whole seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetryAfter(pub u32);

impl Limits {
    /// Requests a second: in all, per source address; exchanges a second per trust. Each allows a burst of one second's worth.
    pub fn new(global: u32, per_address: u32, per_trust: u32) -> Self {
        let quota = |n| NonZeroU32::new(n).map(Quota::per_second);
        Self {
            global: quota(global).map(RateLimiter::direct),
            per_address: quota(per_address).map(RateLimiter::keyed),
            per_trust: quota(per_trust).map(RateLimiter::keyed),
            noise: RateLimiter::keyed(Quota::per_minute(NOISE_PER_MINUTE)),
            admissions: AtomicU64::new(0),
        }
    }

    /// Asked before anything else is looked at.
    ///
    /// # Errors
    /// When the global or the address's limit is used up.
    pub fn admit(&self, address: Option<IpAddr>) -> Result<(), RetryAfter> {
        // The address first: one that is refused must not use up what belongs to all.
        if let Some(limiter) = &self.per_address {
            // All whose address cannot be told are one client: behind a proxy, anyone can see to it that it cannot.
            let client = network_of(address.unwrap_or(NOWHERE));
            let result = limiter.check_key(&client).map_err(retry_after);
            self.forget_idle(limiter);
            result?;
        }
        match &self.global {
            Some(global) => global.check().map_err(retry_after),
            None => Ok(()),
        }
    }

    /// Asked once a trust would grant.
    ///
    /// # Errors
    /// When the trust's limit is used up.
    pub fn admit_trust(&self, trust: TrustId) -> Result<(), RetryAfter> {
        match &self.per_trust {
            Some(limiter) => limiter.check_key(&trust).map_err(retry_after),
            None => Ok(()),
        }
    }

    /// Whether one more such attempt at this provider and scope is recorded, or only counted.
    pub fn record_noise(&self, noise: Noise, provider: ProviderId, scope: &Scope) -> bool {
        let recorded = self.noise.check_key(&(noise, provider, scope.clone())).is_ok();
        self.forget_idle(&self.noise);
        recorded
    }

    /// Sweeps a limiter that holds many keys, now and then: a sweep at each request would be an attack of its own.
    fn forget_idle<K: Clone + std::hash::Hash + Eq>(&self, limiter: &DefaultKeyedRateLimiter<K>) {
        let due = self.admissions.fetch_add(1, Ordering::Relaxed).is_multiple_of(SWEEP_EVERY);
        if due && limiter.len() > KEYS_KEPT {
            limiter.retain_recent();
        }
    }
}

/// What counts as one client: an IPv4 address, or the /64 that an IPv6 host commonly has to itself.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

fn retry_after(not_until: governor::NotUntil<governor::clock::QuantaInstant>) -> RetryAfter {
    let wait = not_until.wait_time_from(DefaultClock::default().now()) + Duration::from_millis(999);
    RetryAfter(u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(limits: &Limits, addresses: &[Option<&str>]) -> usize {
        addresses.iter().filter(|text| limits.admit(text.map(|text| text.parse().unwrap())).is_ok()).count()
    }

    // The clock is the real one: a machine that stalls for a second lets one more in, and no test here minds.

    #[test]
    fn an_address_that_cannot_be_told_is_limited_like_any_other() {
        let limits = Limits::new(0, 1, 0);
        assert!(admitted(&limits, &[None; 20]) < 20);
        let others = admitted(&limits, &[Some("203.0.113.7"); 20]);
        assert!((1..20).contains(&others), "the others have theirs: {others}");
    }

    #[test]
    fn a_host_s_many_ipv6_addresses_and_disguises_are_one_client() {
        let limits = Limits::new(0, 1, 0);
        assert!(
            admitted(&limits, &["2001:db8::1", "2001:db8::2", "2001:db8::ffff:1", "2001:db8:0:0:9::"].map(Some)) < 4
        );
        assert_eq!(admitted(&limits, &[Some("2001:db8:0:1::1")]), 1, "the network next door");
        assert!(admitted(&limits, &["192.0.2.1", "::ffff:192.0.2.1", "::ffff:c000:201"].map(Some)) < 3);
    }

    #[test]
    fn who_is_over_their_own_limit_does_not_use_up_what_belongs_to_all() {
        let limits = Limits::new(3, 1, 0);
        assert!(admitted(&limits, &[Some("192.0.2.1"); 50]) < 50);
        assert_eq!(admitted(&limits, &["192.0.2.2", "192.0.2.3"].map(Some)), 2);
    }

    #[test]
    fn what_never_verified_is_recorded_sixty_times_a_minute_for_each_provider_and_scope() {
        let limits = Limits::new(0, 0, 0);
        let recorded = |provider: u128, scope: &Scope| {
            let provider = ProviderId(uuid::Uuid::from_u128(provider));
            (0..200).filter(|_| limits.record_noise(Noise::Unverified, provider, scope)).count()
        };
        let space = Scope::Space(sallyport_domain::id::SpaceId::parse("acme-space").unwrap());
        for (provider, scope) in [(1, &space), (2, &space), (1, &Scope::Platform)] {
            let recorded = recorded(provider, scope);
            assert!((60..70).contains(&recorded), "each has its own: {recorded}");
        }
    }
}
