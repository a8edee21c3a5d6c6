//! `taskgate check`: read, validate, compile, lint.

use std::{
    collections::HashSet,
    fmt::{self, Write as _},
    path::Path,
};

use serde::Serialize;
use taskgate_agent::{Found, HostFinding, StartError, Who, count_links, room, share, survey, table_bytes};
use taskgate_analysis::{
    display,
    host_image::HostImage,
    lint::{self, Lint},
};
use taskgate_compiler::CompileError;
use taskgate_config::{Loaded, Problem, Problems, count_problems};
use taskgate_ebpf::abi::image::{Share, Shared};
use taskgate_model::{Direction, Location, Model};
use taskgate_net::netlink::Netlink;

use super::{
    args::{Check, Output},
    error::{Error, Exit},
    output,
};

/// The sizes of a configuration.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Summary {
    groups: usize,
    /// Number of rule ids: the parts to which a list of ports or peers expands count as one rule.
    rules: usize,
    prefix_lists: usize,
    /// All ENIs, whether gated here or not.
    enis: usize,
    gated: usize,
    policies: usize,
    policy_bytes: usize,
    image_bytes: usize,
    /// Bytes of the tables of connections and denied flows.
    table_bytes: usize,
    connections: Divided,
    denials: Divided,
}

/// How a table is shared if every gated task is present.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Divided {
    total: u32,
    /// Entries guaranteed to each task.
    floor: u32,
    /// Entries common to all tasks.
    pool: u32,
    #[serde(skip)]
    tasks: u32,
}

impl Divided {
    fn new(model: &Model, table: Shared) -> Self {
        let settings = &model.settings;
        let tasks = u32::try_from(model.gated().count()).unwrap_or(u32::MAX);
        let room = room(settings, settings.connections.total, settings.denials.total, table);
        let Share { floor, pool } = share(room, tasks, 0);
        Self {
            total: room.0,
            floor,
            pool,
            tasks,
        }
    }
}

impl fmt::Display for Divided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            total,
            floor,
            pool,
            tasks,
        } = self;
        if *tasks == 0 {
            return write!(f, "{total}, no task is gated");
        }
        if *floor == 0 {
            return write!(
                f,
                "{total}: too few for a floor for each of {tasks} tasks, {pool} in common"
            );
        }
        write!(f, "{total}: {floor} for each task, {pool} in common")
    }
}

/// The JSON document.
#[derive(Debug, Serialize)]
struct Document {
    valid: bool,
    summary: Option<Summary>,
    errors: Vec<Note>,
    warnings: Vec<Note>,
    /// The report on this host: with `--host`, for a valid configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<HostReport>,
}

/// The links of this host that the configuration names.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct HostReport {
    /// The number of links that are named.
    links: usize,
    findings: Vec<HostNote>,
}

/// A finding about one of these links.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct HostNote {
    /// The task that needs the link; `None` for the uplink.
    task: Option<String>,
    device: String,
    /// `absent`, `unusable` or `heeds-neighbour`.
    problem: &'static str,
    message: String,
    hint: String,
}

impl From<HostFinding> for HostNote {
    fn from(finding: HostFinding) -> Self {
        Self {
            problem: match finding.found {
                Found::Absent { .. } => "absent",
                Found::Unusable(_) => "unusable",
                Found::Heeds(_) => "heeds-neighbour",
            },
            message: finding.message(),
            hint: finding.hint(),
            task: match finding.who {
                Who::Task(task) => Some(task),
                Who::Uplink => None,
            },
            device: finding.device,
        }
    }
}

impl HostReport {
    /// Examines the host, in the network namespace of this process.
    fn new(model: &Model) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let findings = runtime
            .map_err(StartError::without("timers and sockets"))?
            .block_on(async {
                let netlink = Netlink::open()?;
                survey(model, &netlink).await
            });
        let findings = findings.map_err(StartError::Netlink)?;
        Ok(Self {
            links: count_links(model),
            findings: findings.into_iter().map(HostNote::from).collect(),
        })
    }

    fn count(&self, problem: &str) -> usize {
        let alike = self.findings.iter().filter(|note| note.problem == problem);
        alike.count()
    }

    /// The exit status: links that can never be gated are a failure, missing ones are not found.
    fn exit(&self) -> Exit {
        match (self.count("unusable"), self.count("absent")) {
            (0, 0) => Exit::Ok,
            (0, _) => Exit::NotFound,
            _ => Exit::Failure,
        }
    }
}

/// A problem, at a place in a file if it has one.
#[derive(Debug, Default, Serialize)]
struct Note {
    file: Option<String>,
    line: Option<u32>,
    column: Option<u32>,
    message: String,
    hint: Option<String>,
}

impl From<Problem> for Note {
    fn from(problem: Problem) -> Self {
        let known = |place: u32| (place != 0).then_some(place);
        Self {
            file: Some(problem.file),
            line: known(problem.line),
            column: known(problem.column),
            message: problem.message,
            hint: Some(problem.hint),
        }
    }
}

impl From<CompileError> for Note {
    fn from(error: CompileError) -> Self {
        Self {
            message: error.to_string(),
            ..Self::default()
        }
    }
}

/// Checks the configuration in a folder.
pub(super) fn run(folder: &Path, question: &Check) -> Result<Exit, Error> {
    let checked = check(folder, question.host);
    if question.output == Output::Json {
        return json(checked);
    }
    let Checked {
        summary,
        warnings,
        host,
    } = checked?;
    output::problems(output::Severity::Warning, &warnings);
    let mut text = text(folder, summary, count_problems(&warnings));
    let mut exit = Exit::Ok;
    if let Some(host) = host {
        for HostNote { message, hint, .. } in &host.findings {
            output::stderr_line(format_args!("warning: {message}; {hint}"));
        }
        let here = host.links - host.count("absent");
        writeln!(text, "  {:<13} {here} of {}", "links here", host.links).ok();
        exit = host.exit();
    }
    output::stdout(&text)?;
    Ok(exit)
}

struct Checked {
    summary: Summary,
    /// The warnings of the sources, then those of the lints.
    warnings: Vec<Problem>,
    /// The report on this host, if it was requested.
    host: Option<HostReport>,
}

fn check(folder: &Path, with_host: bool) -> Result<Checked, Error> {
    let loaded = taskgate_config::load(folder)?;
    let host = HostImage::new(&loaded.model, &|eni| eni.binding.is_some(), &loaded.model.exempt())?;
    let summary = summary(&loaded.model, &host);
    let found = lint::lints(&loaded.model);
    let host = with_host.then(|| HostReport::new(&loaded.model)).transpose()?;
    let Loaded {
        mut warnings, files, ..
    } = loaded;
    warnings.extend(found.into_iter().map(|lint| problem(lint, folder, &files)));
    Ok(Checked {
        summary,
        warnings,
        host,
    })
}

/// Converts a lint to a problem at its place. A lint that concerns no single rule is placed at the folder.
fn problem(lint: Lint, folder: &Path, files: &[String]) -> Problem {
    let Lint {
        message,
        hint,
        location,
    } = lint;
    let place = location.and_then(|place| Some((place, files.get(place.file as usize)?.clone())));
    let (Location { line, column, .. }, file) =
        place.unwrap_or_else(|| (Location::default(), folder.display().to_string()));
    Problem {
        file,
        line,
        column,
        message,
        hint,
        stands_for: 1,
    }
}

fn summary(model: &Model, host: &HostImage) -> Summary {
    let rules = model
        .groups
        .iter()
        .flat_map(|group| [Direction::Ingress, Direction::Egress].map(|direction| group.rules(direction)))
        .map(|rules| rules.iter().map(|rule| &rule.id).collect::<HashSet<_>>().len())
        .sum();
    Summary {
        groups: model.groups.len(),
        rules,
        prefix_lists: model.prefix_lists.len(),
        enis: model.enis.len(),
        gated: model.gated().count(),
        policies: host.policies,
        policy_bytes: host.policy_bytes,
        image_bytes: host.image_bytes(),
        table_bytes: table_bytes(&model.settings),
        connections: Divided::new(model, Shared::Connections),
        denials: Divided::new(model, Shared::Denials),
    }
}

fn text(folder: &Path, summary: Summary, warnings: usize) -> String {
    let Summary {
        groups,
        rules,
        prefix_lists,
        enis,
        gated,
        policies,
        policy_bytes,
        image_bytes,
        table_bytes,
        connections,
        denials,
    } = summary;
    let with = match warnings {
        0 => String::new(),
        some => format!(", with {}", output::count(some, "warning")),
    };
    let mut text = format!("the configuration in `{}` is valid{with}\n", folder.display());
    for (name, value) in [
        ("groups", groups.to_string()),
        ("rules", rules.to_string()),
        ("prefix lists", prefix_lists.to_string()),
        ("ENIs", enis.to_string()),
        ("gated tasks", gated.to_string()),
        ("policies", format!("{policies} ({})", display::bytes(policy_bytes))),
        ("image", display::bytes(image_bytes)),
        ("tables", display::bytes(table_bytes)),
        ("connections", connections.to_string()),
        ("denials", denials.to_string()),
    ] {
        // Writing to a string cannot fail.
        writeln!(text, "  {name:<13} {value}").ok();
    }
    text
}

/// Prints the answer as a JSON document, also for a configuration that is refused.
fn json(checked: Result<Checked, Error>) -> Result<Exit, Error> {
    let notes = |problems: Vec<Problem>| problems.into_iter().map(Note::from).collect();
    let refused = |errors, warnings| Document {
        valid: false,
        summary: None,
        errors,
        warnings,
        host: None,
    };
    let document = match checked {
        Ok(checked) => Document {
            valid: true,
            summary: Some(checked.summary),
            errors: Vec::new(),
            warnings: notes(checked.warnings),
            host: checked.host,
        },
        Err(Error::Invalid(Problems { errors, warnings })) => refused(notes(errors), notes(warnings)),
        Err(Error::Compile(error)) => refused(vec![Note::from(error)], Vec::new()),
        Err(error) => return Err(error),
    };
    output::json(&document)?;
    match document {
        Document { valid: false, .. } => Ok(Exit::Invalid),
        Document { host, .. } => Ok(host.map_or(Exit::Ok, |host| host.exit())),
    }
}
