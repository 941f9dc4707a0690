//! What is to be done with a GeneratorState now: pure decisions.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use lockstep_providers::generator::Held;

use super::cache::{Entry, Known};

/// What is known of the object that uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnerView {
    /// It is not there any more.
    Gone,
    /// Its target holds what it asked for at that time, from these of its generators.
    Settled {
        /// When.
        at: Timestamp,
        /// Its slots.
        slots: Vec<String>,
    },
    /// Whether its target holds it can't be told.
    Unsettled,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing before then.
    Wait(Option<Timestamp>),
    /// Prolong the lease.
    Renew,
    /// Nobody uses it from then on: it is taken back at that time.
    Retire(Timestamp),
    /// Delete the object.
    Delete,
    /// Give the lease back, and let the object go.
    Revoke,
}

/// A lease is looked at when so much of its time is left…
const LOOK_AT: f64 = 0.4;
/// …and another one is made when it could not be prolonged beyond this.
const REPLACE_AT: f64 = 1.0 / 3.0;
/// Soonest look.
const SOONEST: Duration = Duration::from_secs(1);

/// Decides. `newer` is when the youngest of the same slot was made; `at_work` whether this process is about to have it issued.
pub fn plan(entry: &Entry, newer: Option<Timestamp>, owner: &OwnerView, at_work: bool, grace: Duration, now: Timestamp) -> Plan {
    if entry.deleted.is_some() {
        return if !entry.is_kept() {
            Plan::Wait(None)
        } else if entry.known.revoke_at.is_some_and(|at| at > now) {
            Plan::Wait(entry.known.revoke_at)
        } else {
            Plan::Revoke
        };
    }
    if entry.state.pending {
        // Whoever was about to have it issued is gone, or failed.
        return if at_work { Plan::Wait(None) } else { Plan::Delete };
    }
    if *owner == OwnerView::Gone {
        return Plan::Delete;
    }
    if let Some(deadline) = entry.deadline {
        return if deadline <= now { Plan::Delete } else { Plan::Wait(Some(deadline)) };
    }
    if let OwnerView::Settled { at, slots } = owner {
        // The status tells whole seconds.
        let replaced = newer.is_some_and(|newer| newer > entry.state.issued && newer.as_second() <= at.as_second());
        if replaced || !slots.contains(&entry.state.slot) {
            return Plan::Retire(later(now, grace));
        }
    }
    match entry.known.next {
        Some(next) if next > now => Plan::Wait(Some(next)),
        _ if entry.known.ended => Plan::Wait(None),
        _ => Plan::Renew,
    }
}

/// A moment after another.
pub fn later(now: Timestamp, wait: Duration) -> Timestamp {
    let wait = SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX);
    now.checked_add(wait).unwrap_or(Timestamp::MAX)
}

/// What is known of a lease of `whole` seconds that was just prolonged, and before that.
pub fn held(whole: u64, held: Held, before: &Known, now: Timestamp) -> Known {
    // What it hangs on can be prolonged no further, and takes it along: it is a fraction of what it was.
    let within = held.within.max(before.within);
    let last = held.within.filter(|now| within.is_some_and(|most| now.saturating_mul(4) < most) && *now < whole / 3);
    let left = last.map_or(held.seconds, |last| last.min(held.seconds));
    let (whole, left) = (whole.max(1) as f64, left as f64);
    let ended = left < whole * REPLACE_AT;
    let wait = Duration::try_from_secs_f64(left - whole * LOOK_AT).unwrap_or(SOONEST);
    let wait = held.within.map_or(wait, |seconds| wait.min(Duration::from_secs(seconds) / 2)).max(SOONEST);
    let until = later(now, Duration::try_from_secs_f64(left).unwrap_or_default());
    Known { until: Some(until), ended, next: (!ended).then(|| later(now, wait)), within, ..Known::default() }
}

/// What is known after a look that told nothing: it is tried again until the time is over that was told last.
pub fn unknown(entry: &Entry, now: Timestamp) -> Known {
    let failures = entry.known.failures.saturating_add(1);
    let until = entry.known.until.unwrap_or_else(|| later(entry.state.issued, Duration::from_secs(entry.state.lease.seconds)));
    let wait = Duration::from_secs(1 << failures.min(6));
    // A user of the lease who asks in between puts its own look off no further.
    let planned = entry.known.next.filter(|planned| *planned > now).unwrap_or(Timestamp::MAX);
    let next = (until > now).then(|| later(now, wait).min(until).min(planned));
    Known { until: Some(until), ended: until <= now, failures, next, revoke_at: None, within: entry.known.within }
}

/// When a revocation that failed is tried again.
pub fn revoke_again(failures: u32, now: Timestamp) -> Timestamp {
    later(now, Duration::from_secs(1 << failures.min(8)))
}

#[cfg(test)]
mod tests {
    use lockstep_crds::generator::state::FINALIZER;
    use lockstep_providers::generator::Lease;

    use super::super::cache::State;
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn forever(seconds: u64) -> Held {
        Held { seconds, within: None }
    }

    fn entry() -> Entry {
        Entry {
            uid: "u".into(),
            version: "1".into(),
            owner: None,
            state: State {
                lease: Lease { id: "l".into(), seconds: 60, renewable: true, accessor: None, ticket: None },
                slot: "a".into(),
                issued: at(0),
                pending: false,
            },
            resource: Default::default(),
            identity: None,
            deadline: None,
            deleted: None,
            finalizers: vec![FINALIZER.into()],
            conditions: vec![],
            known: Known::default(),
        }
    }

    fn settled(seconds: i64, slots: &[&str]) -> OwnerView {
        OwnerView::Settled { at: at(seconds), slots: slots.iter().map(|s| (*s).to_owned()).collect() }
    }

    const GRACE: Duration = Duration::from_secs(120);

    #[test]
    fn a_lease_is_renewed_while_it_is_used_and_taken_back_when_it_is_not() {
        let used = settled(0, &["a"]);
        let e = entry();
        assert_eq!(plan(&e, None, &used, false, GRACE, at(1)), Plan::Renew, "nothing is known of it after a start");
        let held = Entry { known: held(60, forever(60), &Known::default(), at(1)), ..entry() };
        assert_eq!(plan(&held, None, &used, false, GRACE, at(1)), Plan::Wait(Some(at(37))));
        assert_eq!(plan(&held, None, &used, false, GRACE, at(37)), Plan::Renew);
        assert_eq!(plan(&e, None, &OwnerView::Gone, false, GRACE, at(1)), Plan::Delete);
        assert_eq!(plan(&e, None, &settled(0, &["b"]), false, GRACE, at(1)), Plan::Retire(at(121)));
        let retired = Entry { deadline: Some(at(121)), ..entry() };
        assert_eq!(plan(&retired, None, &used, false, GRACE, at(1)), Plan::Wait(Some(at(121))));
        assert_eq!(plan(&retired, None, &used, false, GRACE, at(121)), Plan::Delete);
        let deleted = Entry { deleted: Some(at(122)), known: held.known.clone(), ..entry() };
        assert_eq!(plan(&deleted, None, &used, false, GRACE, at(122)), Plan::Revoke, "though it would be looked at later");
        let failed = Entry { known: Known { revoke_at: Some(at(130)), ..Known::default() }, ..deleted.clone() };
        assert_eq!(plan(&failed, None, &used, false, GRACE, at(122)), Plan::Wait(Some(at(130))));
        let gone = Entry { finalizers: vec![], ..deleted };
        assert_eq!(plan(&gone, None, &used, false, GRACE, at(122)), Plan::Wait(None));
    }

    #[test]
    fn what_was_about_to_be_issued_is_given_back_unless_somebody_is_at_it() {
        let mut e = entry();
        e.state.pending = true;
        for owner in [settled(0, &["a"]), OwnerView::Unsettled, OwnerView::Gone] {
            assert_eq!(plan(&e, None, &owner, true, GRACE, at(1)), Plan::Wait(None));
            assert_eq!(plan(&e, None, &owner, false, GRACE, at(1)), Plan::Delete);
        }
        assert!(!e.is_current(), "and nobody uses it");
    }

    #[test]
    fn one_that_was_replaced_stays_until_the_target_has_the_other() {
        let e = Entry { known: held(60, forever(60), &Known::default(), at(1)), ..entry() };
        let newer = Some(at(50));
        assert_eq!(plan(&e, newer, &settled(0, &["a"]), false, GRACE, at(37)), Plan::Renew, "the target has the old one");
        assert_eq!(plan(&e, newer, &OwnerView::Unsettled, false, GRACE, at(37)), Plan::Renew);
        assert_eq!(plan(&e, newer, &settled(50, &["a"]), false, GRACE, at(51)), Plan::Retire(at(171)));
        assert_eq!(plan(&e, Some(at(0)), &settled(50, &["a"]), false, GRACE, at(37)), Plan::Renew, "it is the youngest itself");
    }

    #[test]
    fn a_lease_that_can_not_be_prolonged_is_replaced_ahead_of_its_end() {
        assert!(!held(60, forever(60), &Known::default(), at(0)).ended);
        assert!(!held(60, forever(30), &Known::default(), at(0)).ended);
        assert!(held(60, forever(19), &Known::default(), at(0)).ended);
        assert_eq!(held(60, forever(24), &Known::default(), at(0)).next, Some(at(1)), "not at once again");
        assert_eq!(held(60, forever(19), &Known::default(), at(0)).until, Some(at(19)));
        // A day's lease under an hour's login: it is looked at in time, and holds.
        let under = held(86_400, Held { seconds: 86_400, within: Some(3600) }, &Known::default(), at(0));
        assert_eq!((under.ended, under.next), (false, Some(at(1800))));
        // The login comes to the end of its longest time, and with it the lease.
        let later = held(86_400, Held { seconds: 80_000, within: Some(1200) }, &under, at(9));
        assert!(!later.ended && later.within == Some(3600));
        assert!(held(86_400, Held { seconds: 80_000, within: Some(800) }, &later, at(9)).ended);
    }

    #[test]
    fn while_nothing_is_heard_of_it_a_lease_holds_for_the_time_that_was_told() {
        let mut e = Entry { known: held(60, forever(60), &Known::default(), at(100)), ..entry() };
        for second in [140, 142, 146, 154] {
            e.known = unknown(&e, at(second));
            assert!(!e.known.ended && e.known.next > Some(at(second)));
        }
        assert_eq!(e.known.next, Some(at(160)));
        assert!(unknown(&e, at(160)).ended);
        assert!(unknown(&entry(), at(61)).ended, "after a start it holds for its time since it was made");
    }
}
