//! Tests of the parser on frames that other software encoded, and in comparison with another parser.

mod expected;
mod frames;
mod ip;
mod offload;
mod properties;
mod quoted;
mod second;
mod transport;
