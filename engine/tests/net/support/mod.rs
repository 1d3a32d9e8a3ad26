//! What the tests stand on: worlds, guests, processes and payload.

pub(crate) mod attacker;
pub(crate) mod command;
pub(crate) mod connections;
pub(crate) mod frames;
pub(crate) mod guest;
pub(crate) mod harness;
pub(crate) mod links;
pub(crate) mod machine;
pub(crate) mod namespace;
pub(crate) mod needs;
pub(crate) mod payload;
pub(crate) mod process;
pub(crate) mod reexec;
pub(crate) mod resolver;
pub(crate) mod servers;
pub(crate) mod world;
