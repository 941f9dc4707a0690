//! Lockstep on real components: a control plane, a Vault, the operator as a process, and ways to disturb them.
//!
//! [`harness::Harness`] starts one set for a test binary. Everything listens on loopback, on free ports, in a temporary
//! folder, and ends with the process that started it, however that ends.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a harness fails by panicking")]

pub mod aws;
pub mod azure;
pub mod canary;
pub mod case;
pub mod components;
pub mod control_plane;
pub mod faults;
pub mod gcp;
pub mod harness;
pub mod http_api;
pub mod interposer;
pub mod jwt;
pub mod ntlm;
pub mod operator;
pub mod otlp;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod python;
pub mod reliability;
pub mod rsa;
pub mod scale;
pub mod serve;
pub mod signature;
pub mod table;
pub mod vault;
