//! Checks the links that a configuration names on this host: missing and unusable ones, and risky settings.

use std::{collections::BTreeSet, fmt, time::Duration};

use nix::net::if_::if_nameindex;
use taskgate_model::{Binding, Model, near::near};
use taskgate_net::{
    link::LinkError,
    netlink::{Netlink, NetlinkError},
    sysctl::NeighbourControl,
};
use tokio::time::Instant;
use tracing::warn;

/// How often the log repeats which links are missing. A link that comes up within this time is not worth a line, but a
/// mistyped name does not correct itself.
const AGAIN: Duration = Duration::from_mins(5);
/// Maximum number of links that one line of the log names.
const NAMED: usize = 8;

/// The user of a link: a task, or the host itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// The task with this name.
    Task(String),
    /// The host, whose uplink it is.
    Uplink,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task(task) => write!(f, "task `{task}`"),
            Self::Uplink => f.write_str("the uplink"),
        }
    }
}

/// A finding about a link that the configuration names.
#[derive(Debug)]
pub struct HostFinding {
    /// The user of the link.
    pub who: Who,
    /// The link's name in the configuration.
    pub device: String,
    /// The state of the link on this host.
    pub found: Found,
}

/// The state of a link that is worth a warning.
#[derive(Debug)]
pub enum Found {
    /// The host has no such link.
    Absent {
        /// Similar names of links on this host that the configuration does not use.
        near: Vec<String>,
    },
    /// The link cannot carry a gate.
    Unusable(LinkError),
    /// The host accepts neighbour messages from the task that can change the host's routes.
    Heeds(Vec<NeighbourControl>),
}

impl HostFinding {
    /// The problem, for users.
    pub fn message(&self) -> String {
        let Self { who, device, found } = self;
        match found {
            Found::Absent { .. } => format!("{who}: this host has no link `{device}`"),
            Found::Unusable(cause) => format!("{who}: {cause}"),
            Found::Heeds(controls) => format!("{who}: on link `{device}` this host heeds {}", listed(controls)),
        }
    }

    /// A remedy, for users.
    pub fn hint(&self) -> String {
        let device = &self.device;
        match &self.found {
            Found::Absent { near } if near.is_empty() => {
                String::from("it is gated as soon as it is there; if it never will be, mend its name")
            }
            Found::Absent { near } => {
                let near: Vec<_> = near.iter().map(|name| format!("`{name}`")).collect();
                format!("did you mean {}?", near.join(", "))
            }
            Found::Unusable(_) => String::from("name the host's end of the task's veth pair, or a VLAN link"),
            Found::Heeds(controls) => remedies(device, controls),
        }
    }
}

fn listed(controls: &[NeighbourControl]) -> String {
    let words: Vec<_> = controls.iter().map(ToString::to_string).collect();
    words.join(" and ")
}

fn remedies(device: &str, controls: &[NeighbourControl]) -> String {
    let remedies: Vec<_> = controls
        .iter()
        .map(|control| format!("`{}`", control.remedy(device)))
        .collect();
    format!(
        "the gate lets none in from the task, and this turns them off as well: {}",
        remedies.join(" and ")
    )
}

/// The links that a configuration names for tasks, and for the uplink.
fn named(model: &Model) -> impl Iterator<Item = (Who, &str)> {
    let tasks = model.gated().filter_map(|eni| match &eni.binding {
        Some(Binding::Device(device)) => Some((Who::Task(eni.display_name().to_owned()), &**device)),
        _ => None,
    });
    tasks.chain(model.uplink.as_ref().map(|uplink| (Who::Uplink, &*uplink.device)))
}

/// The number of links that a configuration names.
pub fn count(model: &Model) -> usize {
    named(model).count()
}

/// Examines the links that a configuration names, in the network namespace of the calling thread, which has to be
/// `netlink`'s. Needs no root.
pub async fn survey(model: &Model, netlink: &Netlink) -> Result<Vec<HostFinding>, NetlinkError> {
    let mut findings = Vec::new();
    for (who, device) in named(model) {
        let looked = match who {
            Who::Task(_) => netlink.link(device).await,
            Who::Uplink => netlink.uplink(device).await,
        };
        let found = match looked {
            Ok(link) if link.faces_task() => heeded(device).map(Found::Heeds),
            Ok(_) => None,
            Err(LinkError::Missing { .. }) => Some(Found::Absent { near: Vec::new() }),
            Err(LinkError::Refused(refused)) => return Err(refused),
            Err(cause) => Some(Found::Unusable(cause)),
        };
        findings.extend(found.map(|found| HostFinding {
            who,
            device: device.to_owned(),
            found,
        }));
    }
    offer(model, &mut findings);
    Ok(findings)
}

/// The control messages that the host accepts on a link to a task.
fn heeded(device: &str) -> Option<Vec<NeighbourControl>> {
    let controls = NeighbourControl::ALL.into_iter();
    let heeded: Vec<_> = controls.filter(|control| control.is_heeded(device)).collect();
    (!heeded.is_empty()).then_some(heeded)
}

/// Suggests existing links for names of links that are missing.
fn offer(model: &Model, findings: &mut [HostFinding]) {
    let named: BTreeSet<&str> = named(model).map(|(_, device)| device).collect();
    // Without the list of links there is nothing to suggest.
    let links: Vec<String> = if_nameindex().map_or_else(
        |_| Vec::new(),
        |links| {
            let names = links.iter().filter_map(|link| link.name().to_str().ok());
            let free = names.filter(|name| *name != "lo" && !named.contains(name));
            free.map(str::to_owned).collect()
        },
    );
    for finding in findings {
        if let Found::Absent { near: offered } = &mut finding.found {
            let names = near(&finding.device, links.iter().map(String::as_str));
            *offered = names.into_iter().map(str::to_owned).collect();
        }
    }
}

/// Logs the links that the configuration in force names and this host does not have, and warns about the settings of
/// those it has.
pub(super) struct HostWatch {
    netlink: Netlink,
    due: Instant,
    /// The warnings about links that were already given, by the link's name. Each is given once.
    told: BTreeSet<(String, Vec<NeighbourControl>)>,
}

impl HostWatch {
    pub(super) fn new(netlink: Netlink) -> Self {
        Self {
            netlink,
            due: Instant::now(),
            told: BTreeSet::new(),
        }
    }

    /// When missing links are to be logged again.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Examines the links and logs warnings: at the start, after a reload, and periodically.
    pub(super) async fn tell(&mut self, model: &Model) {
        if let Some(line) = self.look(model).await {
            warn!("{line}");
        }
    }

    /// Returns the warning that is repeated, and logs the others itself.
    async fn look(&mut self, model: &Model) -> Option<String> {
        self.due = Instant::now() + AGAIN;
        let findings = match survey(model, &self.netlink).await {
            Ok(findings) => findings,
            Err(refused) => {
                let cause = &refused.cause;
                return Some(format!("cannot look for the links of the tasks: {refused}: {cause}"));
            }
        };
        for finding in &findings {
            if let Found::Heeds(controls) = &finding.found {
                self.tell_heeded(&finding.device, controls);
            }
        }
        absent(&findings)
    }

    /// Checks the settings of a link that has come up.
    pub(super) fn link_came(&mut self, name: &str, model: &Model) {
        let is_task = named(model).any(|(who, device)| device == name && who != Who::Uplink);
        if is_task && let Some(controls) = heeded(name) {
            self.tell_heeded(name, &controls);
        }
    }

    fn tell_heeded(&mut self, device: &str, controls: &[NeighbourControl]) {
        if self.told.insert((device.to_owned(), controls.to_vec())) {
            warn!(
                link = device,
                "on link `{device}` this host heeds {}; {}",
                listed(controls),
                remedies(device, controls)
            );
        }
    }
}

/// One line for all missing links.
fn absent(findings: &[HostFinding]) -> Option<String> {
    let absent: Vec<String> = findings
        .iter()
        .filter_map(|finding| match &finding.found {
            Found::Absent { near } => {
                let near = near
                    .first()
                    .map_or_else(String::new, |near| format!(", there is `{near}`"));
                Some(format!("`{}` ({}{near})", finding.device, finding.who))
            }
            _ => None,
        })
        .collect();
    let more = match absent.len().checked_sub(NAMED) {
        None | Some(0) => String::new(),
        Some(more) => format!(" and {more} more"),
    };
    let names = absent.get(..NAMED.min(absent.len()))?.join(", ");
    (!absent.is_empty()).then(|| {
        format!(
            "this host has no link {names}{more}: nothing is gated there until it has; `taskgate check --host` shows all"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(number: usize) -> HostFinding {
        HostFinding {
            who: Who::Task(format!("t{number}")),
            device: format!("d{number}"),
            found: Found::Absent {
                near: (number == 0).then(|| String::from("tg-d0")).into_iter().collect(),
            },
        }
    }

    /// The loop of `run` calls `tell` whenever it is due.
    #[tokio::test]
    async fn a_link_that_is_not_there_is_told_of_again_after_a_while() {
        let text = "taskgate: v1\ngroups: [{ name: g }]\ntasks:\n- { name: t, device: tg-mistyped, addresses: [10.0.0.1], groups: [g] }\n";
        let model = taskgate_config::read(&[("t.yaml", text)]).unwrap().model;
        let mut watch = HostWatch::new(Netlink::open().unwrap());
        assert!(watch.due() <= Instant::now(), "at once");
        for _ in 0..3 {
            let before = Instant::now();
            let line = watch.look(&model).await.unwrap();
            assert!(
                line.starts_with("this host has no link `tg-mistyped` (task `t`"),
                "{line}"
            );
            assert!(watch.due() >= before + AGAIN && watch.due() <= Instant::now() + AGAIN);
        }
    }

    #[test]
    fn a_line_names_some_of_many() {
        assert_eq!(absent(&[]), None);
        assert_eq!(
            absent(&[missing(0)]).unwrap(),
            "this host has no link `d0` (task `t0`, there is `tg-d0`): nothing is gated there until it has; `taskgate check \
             --host` shows all"
        );
        let many: Vec<_> = (0..20).map(missing).collect();
        let line = absent(&many).unwrap();
        assert!(
            line.contains("`d7` (task `t7`) and 12 more: ") && !line.contains("d8"),
            "{line}"
        );
    }
}
