//! What is told of reliability, tried out: crashes at every write, a proxy that lies, specs that change in every way.
//!
//! [`stories`] are what people do; [`world`] is one operator with proxies around it; [`state`] is what must be the same in the end.
//! The long form of everything is `cargo reliability`; tests run a part.

pub mod crash;
pub mod lies;
pub mod soak;
pub mod specs;
pub mod state;
pub mod stories;
pub mod watched;
pub mod world;

/// What became of the cases of one class of fault.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Cases that were tried.
    pub tried: usize,
    /// What went wrong, one line a case.
    pub failed: Vec<String>,
    /// Of what the cases consist.
    pub notes: Vec<String>,
}

impl Tally {
    /// Counts one case.
    pub fn add(&mut self, outcome: Result<(), String>) {
        self.tried += 1;
        self.failed.extend(outcome.err());
    }

    /// Both together.
    pub fn join(&mut self, other: Self) {
        self.tried += other.tried;
        self.failed.extend(other.failed);
        self.notes.extend(other.notes);
    }
}
