//! What the integration tests share.

pub mod sandbox;
pub mod scene;
pub mod witness;
