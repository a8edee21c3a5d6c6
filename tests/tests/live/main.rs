//! Live connections: what becomes of them when rules go, and how taskgate tells of them.

mod connections;
mod differences;
mod revocation;
