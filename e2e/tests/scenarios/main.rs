//! Scenarios on the real components: each test is a sentence about what a user sees.
//!
//! All values that the tests plant begin with `CANARY`, and the shared operator logs at TRACE:
//! [`leaks`] searches everything that it ever said.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "tests fail by panicking")]

mod admission;
mod audit;
mod auth;
mod availability;
mod aws;
mod azure;
mod bad_input;
mod clients;
mod conformance;
mod contract;
mod crds;
mod deployment;
mod doctor;
mod fan_out;
mod find;
mod gcp;
mod generators;
mod hostile;
mod leaks;
mod leases;
mod ownership;
mod policies;
mod providers;
mod push;
mod push_stores;
mod refresh;
mod reliability;
mod rendering;
mod rights;
mod samples;
mod shards;
mod store_samples;
mod stores;
mod supply;
mod sync;
mod targets;
mod templates;
mod templating;
mod tenants;
mod validation;
mod values;
mod vault;
mod webhook;
