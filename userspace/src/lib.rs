//! taskgate.
