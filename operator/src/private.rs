//! Keeps others out of the memory of a process that holds credentials.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// No core dump is written of this process, and nobody but root attaches to it or reads its memory (`PR_SET_DUMPABLE`, proc(5) and
/// ptrace(2)): a dump on a node's disk, or in a crash collector, would hold every value and every login of that moment.
///
/// What the kernel refuses is said, and the operator runs all the same.
pub fn close() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "the kernel does not keep others out of this process' memory (PR_SET_DUMPABLE)");
    }
    // A second way to the same end, for a child process that is dumpable again.
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        tracing::warn!(%error, "core dumps could not be limited");
    }
}
