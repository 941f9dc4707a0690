//! Credentials that are got again ahead of their end: one set a connection, whoever asks.

use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Mutex;

use crate::{Error, Result};

/// How long before their end credentials are got again, at most a fifth of their life.
const AHEAD: Duration = Duration::from_secs(300);
/// How long credentials that could not be renewed are kept before the next try.
const TRY_AGAIN: Duration = Duration::from_secs(30);
/// How long a refusal is the answer for everybody.
const REFUSAL_HOLDS: Duration = Duration::from_secs(30);

/// Credentials as they were given, and when they end; none: they do not say.
pub(crate) type Given<T> = (T, Option<SystemTime>);

/// Keeps the credentials of a connection. One lock: whoever comes while they are got waits for those.
pub(crate) struct Held<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    given: Option<Given<T>>,
    /// When others are got.
    renew: Option<SystemTime>,
    refused: Option<(Error, SystemTime)>,
    /// When credentials were last let go of before their time.
    let_go: Option<Instant>,
}

impl<T> Default for Held<T> {
    fn default() -> Self {
        Self { state: Mutex::new(State { given: None, renew: None, refused: None, let_go: None }) }
    }
}

impl<T: Clone> Held<T> {
    /// Credentials that are good now: those that are there, or what `load` gets.
    ///
    /// # Errors
    /// What `load` answers. A refusal is kept for a while and answered without asking again.
    pub(crate) async fn get(&self, load: impl Future<Output = Result<Given<T>>>) -> Result<T> {
        let mut state = self.state.lock().await;
        let now = SystemTime::now();
        if let Some((value, _)) = &state.given
            && state.renew.is_none_or(|renew| now < renew)
        {
            return Ok(value.clone());
        }
        if let Some((error, at)) = &state.refused
            && at.elapsed().is_ok_and(|since| since < REFUSAL_HOLDS)
        {
            return Err(error.clone());
        }
        match load.await {
            Ok((value, end)) => {
                let life = end.map(|end| end.duration_since(now).unwrap_or_default());
                let renew = life.map(|life| now + life.saturating_sub(AHEAD.min(life / 5)));
                *state = State { given: Some((value.clone(), end)), renew, refused: None, let_go: state.let_go };
                Ok(value)
            }
            Err(error) => {
                let lives = |(_, end): &&Given<T>| end.is_none_or(|end| now + TRY_AGAIN < end);
                if let Some((value, _)) = state.given.as_ref().filter(lives) {
                    tracing::warn!(%error, "credentials could not be renewed ahead of their end");
                    let value = value.clone();
                    state.renew = Some(now + TRY_AGAIN);
                    return Ok(value);
                }
                if matches!(error, Error::Denied(_) | Error::Invalid { .. }) {
                    state.refused = Some((error.clone(), now));
                }
                Err(error)
            }
        }
    }

    /// Lets go of credentials that are said to have ended before their time; others that came meanwhile stay. Answers whether
    /// there may be others now: those that were just got are believed in, so that a refusal of every one of them does not get
    /// another for each request.
    pub(crate) async fn forget(&self, ended: impl FnOnce(&T) -> bool) -> bool {
        let mut state = self.state.lock().await;
        if !state.given.as_ref().is_some_and(|(value, _)| ended(value)) {
            return true;
        }
        if state.let_go.is_some_and(|at| at.elapsed() < REFUSAL_HOLDS) {
            return false;
        }
        state.given = None;
        state.let_go = Some(Instant::now());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(seconds: u64) -> Option<SystemTime> {
        Some(SystemTime::now() + Duration::from_secs(seconds))
    }

    #[tokio::test]
    async fn credentials_are_got_once_and_again_ahead_of_their_end() {
        let held = Held::default();
        assert_eq!(held.get(async { Ok((1, end(3600))) }).await, Ok(1));
        assert_eq!(held.get(async { Ok((2, None)) }).await, Ok(1));
        held.forget(|value| *value == 7).await;
        assert_eq!(held.get(async { Ok((2, None)) }).await, Ok(1), "only what ended is let go of");
        held.forget(|value| *value == 1).await;
        assert_eq!(held.get(async { Ok((3, None)) }).await, Ok(3));
        assert!(!held.forget(|value| *value == 3).await, "what was just got is believed in");
        assert!(held.forget(|value| *value == 1).await, "another one has come meanwhile");
        let other = Held::default();
        assert_eq!(other.get(async { Ok((3, end(0))) }).await, Ok(3));
        assert_eq!(other.get(async { Ok((4, None)) }).await, Ok(4), "what has ended is not given out");
    }

    #[tokio::test]
    async fn a_failed_renewal_keeps_what_still_lives_and_a_refusal_is_not_repeated() {
        let held = Held::default();
        let denied = || Err::<Given<u8>, _>(Error::Denied("no".into()));
        // 250 s of life are renewed 50 s ahead: as if that time had come.
        assert_eq!(held.get(async { Ok((1, end(250))) }).await, Ok(1));
        held.state.lock().await.renew = end(0);
        assert_eq!(held.get(async { denied() }).await, Ok(1));
        held.forget(|_| true).await;
        assert!(held.get(async { denied() }).await.is_err());
        assert!(held.get(async { Ok((2, None)) }).await.is_err(), "the refusal holds");
        let other = Held::default();
        assert!(other.get(async { Err::<Given<u8>, _>(Error::unreachable("gone")) }).await.is_err());
        assert_eq!(other.get(async { Ok((2, None)) }).await, Ok(2), "an outage does not");
    }
}
