//! When a token is to be renewed: its margin before the end, and the point after `refresh_on`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::OnceLock;

use crate::schema::AccessToken;
use crate::time::UnixSeconds;

/// A token is renewed this long before its end, in seconds, or a fifth of its lifetime if that is less.
const MARGIN: i64 = 300;
/// How far `cached_at` may be ahead of the clock: machines that share a cache differ a little.
const SKEW: i64 = 300;

/// What a token is good for at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// It is served.
    Fresh,
    /// It is served, and renewed ahead of time.
    RefreshDue,
    /// It is renewed, and served only if that fails.
    Margin,
    /// It is at its end.
    Expired,
    /// It seems to have been stored in the future: the clock was set back, so its expiry cannot be trusted.
    ClockSetBack,
}

/// What `token` is good for at `now`.
pub(crate) fn freshness(token: &AccessToken, now: UnixSeconds) -> Freshness {
    if token.cached_at.since(now) > SKEW {
        return Freshness::ClockSetBack;
    }
    let left = token.expires_on.since(now);
    if left <= 0 {
        Freshness::Expired
    } else if left <= margin(token) {
        Freshness::Margin
    } else {
        match token.refresh_on {
            Some(refresh_on) if refresh_on <= now && refresh_at(token, refresh_on) <= now => {
                Freshness::RefreshDue
            }
            _ => Freshness::Fresh,
        }
    }
}

fn margin(token: &AccessToken) -> i64 {
    MARGIN.min(token.expires_on.since(token.cached_at).max(0) / 5)
}

/// When this node renews the token: a point after `refresh_on` that is fixed for token and node, so that a fleet
/// that signed in together does not renew together. At most a fifth of the time that the provider wanted the token
/// to be used, and the first half of what is left before the margin, so that a failure leaves time for another try.
fn refresh_at(token: &AccessToken, refresh_on: UnixSeconds) -> UnixSeconds {
    let window = token.expires_on.since(refresh_on).saturating_sub(margin(token));
    let spread = (window / 2).min(refresh_on.since(token.cached_at) / 5);
    if spread <= 0 {
        return refresh_on;
    }
    let mut hasher = DefaultHasher::new();
    (node(), &token.client_id, &token.realm, token.cached_at.get(), token.expires_on.get()).hash(&mut hasher);
    token.target.iter().for_each(|scope| scope.hash(&mut hasher));
    refresh_on.plus(i64::try_from(hasher.finish() % spread.unsigned_abs().max(1)).unwrap_or(0))
}

/// The host's name.
fn node() -> &'static [u8] {
    static NODE: OnceLock<Vec<u8>> = OnceLock::new();
    NODE.get_or_init(|| {
        #[cfg(unix)]
        let name = rustix::system::uname().nodename().to_bytes().to_vec();
        // Set by the system, and no setting of a user.
        #[cfg(not(unix))]
        #[allow(clippy::disallowed_methods)]
        let name = std::env::var_os("COMPUTERNAME").unwrap_or_default().into_encoded_bytes();
        name
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretString;
    use crate::schema::TokenScheme;

    fn token(cached_at: i64, lifetime: i64) -> AccessToken {
        AccessToken {
            home_account_id: None,
            environment: "h".into(),
            client_id: "c".into(),
            realm: "r".into(),
            target: "s".into(),
            secret: SecretString::from("t"),
            token_type: "Bearer".into(),
            scheme: TokenScheme::Bearer,
            cached_at: UnixSeconds::new(cached_at),
            expires_on: UnixSeconds::new(cached_at + lifetime),
            extended_expires_on: UnixSeconds::new(cached_at + lifetime),
            refresh_on: None,
            user_assertion_hash: None,
            extended: None,
        }
    }

    #[test]
    fn the_margin_is_five_minutes_or_a_fifth_of_the_lifetime() {
        for (lifetime, last_good) in
            [(3600, 3299), (1500, 1199), (1000, 799), (301, 240), (299, 239), (60, 47)]
        {
            let token = token(1000, lifetime);
            let at = |second: i64| freshness(&token, UnixSeconds::new(1000 + second));
            assert_eq!(at(last_good), Freshness::Fresh, "lifetime {lifetime}");
            assert_eq!(at(last_good + 1), Freshness::Margin, "lifetime {lifetime}");
            assert_eq!(at(lifetime - 1), Freshness::Margin, "lifetime {lifetime}");
            assert_eq!(at(lifetime), Freshness::Expired, "lifetime {lifetime}");
        }
        assert_eq!(freshness(&token(1000, 0), UnixSeconds::new(1000)), Freshness::Expired);
    }

    #[test]
    fn a_token_from_the_future_is_not_trusted() {
        let token = token(10_000, 3600);
        assert_eq!(freshness(&token, UnixSeconds::new(9_700)), Freshness::Fresh);
        assert_eq!(freshness(&token, UnixSeconds::new(9_699)), Freshness::ClockSetBack);
    }

    #[test]
    fn the_point_of_renewal_is_fixed_and_differs_between_tokens() {
        let mut points = std::collections::BTreeSet::new();
        for n in 0..50 {
            let mut token = token(1_000_000, 86_400);
            let refresh_on = token.cached_at.plus(43_200);
            token.refresh_on = Some(refresh_on);
            token.target = format!("scope-{n}").as_str().into();
            let at = refresh_at(&token, refresh_on);
            assert_eq!(at, refresh_at(&token.clone(), refresh_on), "fixed per token");
            assert!((0..43_200 / 5).contains(&at.since(refresh_on)), "{at}");
            assert_eq!(freshness(&token, at.plus(-1)), Freshness::Fresh);
            assert_eq!(freshness(&token, at), Freshness::RefreshDue);
            points.insert(at);
        }
        assert!(points.len() > 40, "spread over the window");
    }

    #[test]
    fn a_point_of_renewal_at_or_after_the_margin_changes_nothing() {
        let mut token = token(0, 3600);
        for refresh_on in [3300, 3600, 4000, i64::MAX] {
            token.refresh_on = Some(UnixSeconds::new(refresh_on));
            assert_eq!(freshness(&token, UnixSeconds::new(3299)), Freshness::Fresh);
            assert_eq!(freshness(&token, UnixSeconds::new(3300)), Freshness::Margin);
        }
        token.refresh_on = Some(UnixSeconds::new(-5));
        assert_eq!(freshness(&token, UnixSeconds::new(1)), Freshness::RefreshDue, "no overflow, no spread");
    }
}
