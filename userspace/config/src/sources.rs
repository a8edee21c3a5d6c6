//! The parsed files of a configuration, kept so that tasks can be added later.

use std::path::Path;

use super::problem::{Diagnostics, Problems};
use super::raw::{Collected, Object as _};
use super::{Loaded, bounds, folder, read_file, resolve};

/// The contents of configuration files, before they are compared and joined. Errors in them are reported by
/// [`Sources::resolve`].
#[derive(Clone, Debug)]
pub struct Sources {
    collected: Collected,
    report: Diagnostics,
}

impl Sources {
    /// Reads a folder as [`super::load`] does.
    pub fn open(folder: &Path) -> Self {
        let mut report = Diagnostics::default();
        let mut collected = Collected::default();
        let mut bytes_left = bounds::FOLDER_BYTES;
        for path in folder::files(folder, &mut report) {
            let file = report.file(path.display().to_string());
            if let Some(text) = folder::text(file, &path, &mut bytes_left, &mut report) {
                read_file(file, &text, &mut collected, &mut report);
            } else {
                report.objects_lost = true;
            }
        }
        Self { collected, report }
    }

    /// Reads files that are in memory, as [`super::read`] does.
    pub fn of(files: &[(&str, &str)]) -> Self {
        let mut sources = Self {
            collected: Collected::default(),
            report: Diagnostics::default(),
        };
        sources.add(files);
        sources
    }

    fn add(&mut self, files: &[(&str, &str)]) {
        for (name, text) in files {
            let file = self.report.file(*name);
            read_file(file, text, &mut self.collected, &mut self.report);
        }
    }

    /// Builds the model of the files.
    ///
    /// # Errors
    ///
    /// All errors in their contents.
    pub fn resolve(mut self) -> Result<Loaded, Problems> {
        let model = resolve::model(self.collected, &mut self.report);
        let (warnings, files) = self.report.finish()?;
        Ok(Loaded { model, warnings, files })
    }

    /// Builds the model of the files and of further documents, such as tasks that were added while taskgate runs: each one a
    /// name for messages, and its text. The same checks apply to both.
    ///
    /// # Errors
    ///
    /// All errors in the files and in the further documents.
    pub fn resolve_with(&self, beside: &[(&str, &str)]) -> Result<Loaded, Problems> {
        let mut sources = self.clone();
        sources.report.end_files();
        sources.add(beside);
        sources.resolve()
    }

    /// The place of a task in the files, as `FILE:LINE:COLUMN`; case is ignored.
    pub fn task_place(&self, name: &str) -> Option<String> {
        let mut tasks = self.collected.tasks.iter();
        let task = tasks.find(|task| task.name.eq_ignore_ascii_case(name))?;
        Some(self.report.place(task.key().1))
    }
}
