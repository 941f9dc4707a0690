//! Scenarios on the real components: each test is a sentence about what a user sees.
//!
//! All values that the tests plant begin with `CANARY`, and the shared operator logs at TRACE:
//! [`leaks`] searches everything that it ever said.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "tests fail by panicking")]

mod auth;
mod availability;
mod aws;
mod azure;
mod bad_input;
mod case;
mod clients;
mod conformance;
mod crds;
mod deployment;
mod find;
mod gcp;
mod leaks;
mod policies;
mod providers;
mod shards;
mod stores;
mod sync;
mod templates;
mod templating;
mod webhook;
