//! Plays the demo. `cargo xtask demo` builds it and runs it as root.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its output is its purpose")]

use std::process::ExitCode;

use taskgate_tests::demo;

fn main() -> ExitCode {
    match demo::play() {
        Ok(wrong) if wrong.is_empty() => {
            println!("\nall of it went as the rules say, and taskgate left nothing behind");
            return ExitCode::SUCCESS;
        }
        Ok(wrong) => {
            for line in &wrong {
                eprintln!("demo: wrong: {line}");
            }
            eprintln!(
                "error: {} of the demo's results are not what they should be",
                wrong.len()
            );
        }
        Err(error) => eprintln!("error: {error:#}"),
    }
    ExitCode::FAILURE
}
