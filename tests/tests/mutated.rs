//! Configurations mutated as by a typing error, a broken tool or an attacker: each is refused with the errors and their
//! places, or can be compiled. None makes the reader or the compiler panic.

use std::{fs, panic::resume_unwind, path::Path, thread};

use anyhow::{Context as _, Result, ensure};
use taskgate_analysis::host_image::HostImage;
use taskgate_config::{Problem, Sources};
use testkit::{mutation::mutated, random::Random};

const TEXTS: u32 = 10_000;
/// The number of threads that read the texts.
const PARTS: u32 = 4;
const SEED: u64 = 0x7461_736b_6761_7465;

/// The examples' files, folder by folder.
fn folders() -> Result<Vec<Vec<(String, String)>>> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut folders = Vec::new();
    for folder in ["native", "trunk", "aws"] {
        let mut files = Vec::new();
        for entry in fs::read_dir(examples.join(folder))? {
            let path = entry?.path();
            let name = path
                .file_name()
                .context("a file without a name")?
                .to_string_lossy()
                .into_owned();
            files.push((name, fs::read_to_string(&path)?));
        }
        files.sort();
        folders.push(files);
    }
    Ok(folders)
}

/// Whether a problem has a place in one of these files: an existing line, or the whole file.
fn is_located(problem: &Problem, files: &[(&str, &str)]) -> bool {
    let Some((_, text)) = files.iter().find(|(name, _)| *name == problem.file) else {
        return false;
    };
    // The reader's lines end as YAML's do.
    let lines = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count() + 1;
    !problem.message.is_empty() && problem.line as usize <= lines && (problem.line == 0) == (problem.column == 0)
}

/// Reads and compiles a part of the texts. Returns how many were refused and how many compiled.
fn read(folders: &[Vec<(String, String)>], seed: u64) -> Result<(u32, u32)> {
    let mut random = Random::new(seed);
    let (mut refused, mut compiled) = (0, 0);
    for number in 0..TEXTS / PARTS {
        let mut files = random.pick(folders).clone();
        let which = random.index(files.len());
        files[which].1 = mutated(&files[which].1, &mut random);
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (&**name, &**text)).collect();
        let told = || {
            format!(
                "text {number} of seed {seed:#x}, `{}`:\n{}",
                files[which].0, files[which].1
            )
        };
        match Sources::of(&files).resolve() {
            Err(problems) => {
                refused += 1;
                ensure!(!problems.errors.is_empty(), "nothing is wrong with {}", told());
                let lost = problems.errors.iter().find(|problem| !is_located(problem, &files));
                ensure!(lost.is_none(), "{lost:?} is nowhere in {}", told());
            }
            Ok(loaded) => {
                compiled += 1;
                let model = loaded.model;
                let image = HostImage::new(&model, &|eni| eni.binding.is_some(), &model.exempt());
                image.map(drop).with_context(told)?;
            }
        }
    }
    Ok((refused, compiled))
}

#[test]
fn each_is_refused_with_a_place_or_compiles() -> Result<()> {
    let folders = &folders()?;
    let (mut refused, mut compiled) = (0, 0);
    thread::scope(|scope| -> Result<()> {
        let start = |part| scope.spawn(move || read(folders, SEED + u64::from(part)));
        let parts: Vec<_> = (0..PARTS).map(start).collect();
        for part in parts {
            let of_part = part.join().unwrap_or_else(|panic| resume_unwind(panic))?;
            refused += of_part.0;
            compiled += of_part.1;
        }
        Ok(())
    })?;
    // Neither is the rule without an exception, or the texts show little.
    ensure!(
        refused > TEXTS / 5 && compiled > TEXTS / 20,
        "{refused} refused, {compiled} compiled"
    );
    Ok(())
}
