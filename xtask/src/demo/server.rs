//! What the tasks serve: one line that says who answers.

use std::{
    io::Write as _,
    net::{Ipv6Addr, TcpListener},
};

use anyhow::{Context as _, Result};

use super::{cast::Actor, place::joined};

/// The line that a task answers with.
pub(super) fn greeting(name: &str) -> String {
    format!("this is {name}\n")
}

/// Serves on a port of a task, over both families, until the process ends.
pub(super) fn start(actor: &Actor, port: u16) -> Result<()> {
    let name = actor.name.clone();
    let listener = actor.place.spawn(move || {
        // Both families: `bindv6only` is off in a fresh namespace, unless the machine's default is another.
        TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).with_context(|| format!("`{name}` cannot listen on {port}"))
    })?;
    // A socket stays in the namespace that it was made in, whichever thread uses it.
    let listener = joined(listener)?;
    let greeting = greeting(&actor.name);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // A client that is gone already has seen that it was let through.
            stream.write_all(greeting.as_bytes()).ok();
        }
    });
    Ok(())
}
