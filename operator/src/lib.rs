//! Lockstep's operator: watches ExternalSecrets and stores, reads providers, keeps Secrets in lockstep.
//!
//! To follow one ExternalSecret read `crds/src/external_secret.rs`, then [`external_secret`], [`external_secret::plan`], a
//! provider, and [`external_secret::status`].

pub mod admission;
pub mod audit;
pub mod bucket;
pub mod cli;
pub mod clients;
pub mod connections;
pub mod context;
pub mod controller;
pub mod crds;
pub mod doctor;
pub mod events;
pub mod external_secret;
pub mod fan_out;
pub mod generator;
pub mod generator_state;
pub mod gjson;
pub mod hash;
pub mod hostile;
pub mod kept;
pub mod keys;
pub mod kube_io;
pub mod leader;
pub mod limits;
pub mod logging;
pub mod malformed;
pub mod metrics;
pub mod mirror;
pub mod ownership;
pub mod private;
pub mod push_secret;
pub mod queue;
pub mod reads;
pub mod refs;
pub mod resolver;
pub mod run;
pub mod server;
pub mod shards;
#[cfg(test)]
mod simulation;
pub mod state;
pub mod store;
pub mod turns;
pub mod windows;
