//! The parser against bytes that others encoded, and against another parser.

mod expected;
mod frames;
mod ip;
mod offload;
mod properties;
mod quoted;
mod second;
mod transport;
