//! State that a process leaves to the next one, in addition to the kernel's tables and the journal: the numbers by
//! which table entries refer to ENIs and rules. A file in /run, replaced as a whole before the numbers in it come into
//! force.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Read as _, Write as _},
    marker::PhantomData,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use taskgate_bpf::{load::LoadOptions, object::BpfObject};
use taskgate_compiler::{NumberedRule, RuleIds, RuleName};
use taskgate_ebpf::{abi::TABLE_LAYOUT, conntable::Seed};
use taskgate_model::Direction;
use taskgate_net::eni::STATE_FOLDER;

/// The content of a state file.
pub(super) trait Kept: Serialize + DeserializeOwned {
    /// The extension of the file's name, after the instance's name.
    const SUFFIX: &str;
    /// The version of the file's format, raised with every change of it.
    const FORMAT: u32;

    /// The format version that the file was written in.
    fn format(&self) -> u32;

    /// The id of the boot during which the file was written.
    fn boot(&self) -> &str;
}

/// Why the state of an earlier process cannot be read, or that of this process cannot be saved.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} `{path}`")]
pub struct StateError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    cause: io::Error,
}

/// A state file of an instance.
#[derive(Clone, Debug)]
pub(super) struct KeptFile<T> {
    path: PathBuf,
    boot: String,
    content: PhantomData<T>,
}

/// The file with the numbers of ENIs and rules.
pub(super) type StateFile = KeptFile<State>;

/// The content of the [`StateFile`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct State {
    format: u32,
    boot: String,
    /// The layout of the tables.
    pub(super) abi: u64,
    /// The seed that the tables are hashed with; no other tables have it.
    pub(super) seed: Seed,
    conns: u32,
    denials: u32,
    slots: u32,
    /// The last generation that was, or was about to be, in force.
    pub(super) generation: u64,
    /// The ENI of each slot.
    pub(super) enis: BTreeMap<u16, String>,
    /// The rules in the order of their numbers.
    rules: Vec<SavedRule>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct SavedRule {
    group: String,
    group_name: String,
    ingress: bool,
    rule: String,
    content: String,
}

impl From<&NumberedRule> for SavedRule {
    fn from(NumberedRule { name, content }: &NumberedRule) -> Self {
        Self {
            group: name.group.clone(),
            group_name: name.group_name.clone(),
            ingress: name.direction == Direction::Ingress,
            rule: name.rule.clone(),
            content: content.clone(),
        }
    }
}

impl From<&SavedRule> for NumberedRule {
    fn from(saved: &SavedRule) -> Self {
        let direction = if saved.ingress {
            Direction::Ingress
        } else {
            Direction::Egress
        };
        Self {
            name: RuleName {
                group: saved.group.clone(),
                group_name: saved.group_name.clone(),
                direction,
                rule: saved.rule.clone(),
            },
            content: saved.content.clone(),
        }
    }
}

impl Kept for State {
    const SUFFIX: &str = "state";
    const FORMAT: u32 = 1;

    fn format(&self) -> u32 {
        self.format
    }

    fn boot(&self) -> &str {
        &self.boot
    }
}

impl State {
    /// The initial state of a process with new tables.
    pub(super) fn of(object: &BpfObject, boot: &str) -> Self {
        let options = object.options();
        Self {
            format: Self::FORMAT,
            boot: boot.to_owned(),
            abi: TABLE_LAYOUT,
            seed: *object.seed(),
            conns: options.conns,
            denials: options.denials,
            slots: options.slots,
            generation: 0,
            enis: BTreeMap::new(),
            rules: Vec::new(),
        }
    }

    /// Replaces the sizes in `options` with those of the saved tables.
    pub(super) fn sizes(&self, options: LoadOptions) -> LoadOptions {
        LoadOptions {
            conns: self.conns,
            denials: self.denials,
            slots: self.slots,
            ..options
        }
    }

    /// The register of the saved rules and their numbers.
    pub(super) fn rule_ids(&self) -> RuleIds {
        RuleIds::of(self.rules.iter().map(NumberedRule::from).collect())
    }

    /// Updates the generation and the numbers of ENIs and rules.
    pub(super) fn update(&mut self, generation: u64, enis: BTreeMap<u16, String>, rules: &RuleIds) {
        self.generation = generation;
        self.enis = enis;
        self.rules = rules.rules().iter().map(SavedRule::from).collect();
    }
}

impl<T: Kept> KeptFile<T> {
    pub(super) fn of(instance: &str) -> Result<Self, StateError> {
        let boot = taskgate_net::boot_id().map_err(|cause| StateError {
            operation: "read",
            path: taskgate_net::BOOT_ID.into(),
            cause,
        })?;
        Ok(Self {
            path: Path::new(STATE_FOLDER).join(format!("{instance}.{}", T::SUFFIX)),
            boot,
            content: PhantomData,
        })
    }

    /// The id of the current boot.
    pub(super) fn boot(&self) -> &str {
        &self.boot
    }

    /// The file's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file that an earlier process of this boot left, if there is one.
    pub(super) fn read(&self) -> Result<Option<T>, StateError> {
        let mut options = OpenOptions::new();
        // Without `O_NONBLOCK`, opening a named pipe would block.
        let opened = options
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&self.path);
        let mut file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(self.failed("open"))?,
        };
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(self.failed("read"))?;
        let state: T = serde_json::from_slice(&text)
            .map_err(io::Error::from)
            .map_err(self.failed("make sense of"))?;
        if state.boot() != self.boot {
            // The file is of an earlier boot: everything that it describes is gone.
            return Ok(None);
        }
        if state.format() != T::FORMAT {
            let other = io::Error::other(format!(
                "it has form {}, and this taskgate writes {}",
                state.format(),
                T::FORMAT
            ));
            return Err(self.failed("make sense of")(other));
        }
        Ok(Some(state))
    }

    /// Writes the file, replacing an existing one in one step.
    pub(super) fn write(&self, state: &T) -> Result<(), StateError> {
        let next = self.next();
        let write = || -> io::Result<()> {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            options.custom_flags(libc::O_NOFOLLOW);
            let mut file = options.open(&next)?;
            file.write_all(&serde_json::to_vec(state)?)?;
            fs::rename(&next, &self.path)
        };
        write().map_err(self.failed("write"))
    }

    /// Removes the file and a partly written successor, if they exist.
    pub(super) fn remove(&self) -> Result<(), StateError> {
        for path in [self.next(), self.path.clone()] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(self.failed("remove"))?,
            }
        }
        Ok(())
    }

    /// The temporary file in which the successor is written.
    fn next(&self) -> PathBuf {
        self.path.with_extension(format!("{}.next", T::SUFFIX))
    }

    fn failed(&self, operation: &'static str) -> impl FnOnce(io::Error) -> StateError {
        let path = self.path.clone();
        move |cause| StateError { operation, path, cause }
    }
}
