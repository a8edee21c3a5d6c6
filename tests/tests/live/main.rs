//! Live connections: their fate when rules are removed, and how taskgate reports them.

mod connections;
mod differences;
mod revocation;
