//! ENIs that taskgate makes: a namespace, a veth pair, addresses and routes. The gate is attached before the links are up.

mod adopt;
mod attached;
mod orphans;
mod pair;
mod provisioned;
mod readdress;
mod routes;

use std::{error::Error, fmt, net::IpAddr};

use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::LinkUnspec;
use sha2::{Digest as _, Sha256};

use self::provisioned::{LinkRecord, Provisioned, Removed};
pub use self::{
    attached::{attach_namespace, detach_namespace},
    orphans::{InUse, Kept, LeftOver, remove_orphans},
    provisioned::STATE_FOLDER,
};
use super::{
    link::{Link, LinkError},
    netlink::{Netlink, NetlinkError},
    netns::{Namespace, NamespaceId},
};

/// The specification of an ENI to be made.
#[derive(Clone, Copy, Debug)]
pub struct EniSpec<'a> {
    /// The taskgate instance that makes it.
    pub instance: &'a str,
    /// The task's name.
    pub task: &'a str,
    /// The namespace's name in /run/netns. A missing namespace is made.
    pub namespace: &'a str,
    /// The ENI's addresses; the first of each family is the task's default source address.
    pub addresses: &'a [IpAddr],
    /// Whether checksum and segmentation offload are off at the task's end: for gates that cannot read a frame's pending offloads.
    /// The task can turn them on again if it may configure its network.
    pub fills_checksums: bool,
}

impl EniSpec<'_> {
    /// The name of the host's end: `tg-` and twelve hex digits of a hash over instance and task.
    pub fn link_name(&self) -> String {
        let mut number = [0; 8];
        number[2..].copy_from_slice(&self.hash()[..6]);
        format!("tg-{:012x}", u64::from_be_bytes(number))
    }

    /// The MAC addresses of both ends, the host's first. They are the same each time, so that no neighbour cache is
    /// stale after a restart, and that the pair of an interrupted run is recognised.
    fn macs(&self) -> [routes::Mac; 2] {
        let hash = self.hash();
        [6, 12].map(|at| {
            let mut mac = [0; 6];
            mac.copy_from_slice(&hash[at..at + 6]);
            // Unicast, locally administered.
            mac[0] = mac[0] & 0xfc | 2;
            mac
        })
    }

    /// The MAC address of the task's end.
    pub fn task_mac(&self) -> [u8; 6] {
        self.macs()[1]
    }

    fn hash(&self) -> [u8; 32] {
        Sha256::new()
            .chain_update(self.instance)
            .chain_update([0])
            .chain_update(self.task)
            .finalize()
            .into()
    }

    /// The alias of the host's end, shown in lists of links.
    fn alias(&self) -> String {
        // The kernel takes 255 bytes.
        let alias = format!("taskgate {} {}", self.instance, self.task);
        alias[..alias.floor_char_boundary(255)].to_owned()
    }
}

/// Why an ENI cannot be made. No part of it remains, unless a warning in the log says so.
#[derive(Debug, thiserror::Error)]
pub enum EniError {
    /// The namespace already has an `eth0`.
    #[error("namespace `{namespace}` already has an `eth0`: take it away, or name another namespace for the task")]
    Occupied {
        /// The namespace.
        namespace: String,
    },
    /// The name leads to taskgate's own network namespace.
    #[error(
        "namespace `{namespace}` is the host's own, where nothing would lie between the task and the host: name another one"
    )]
    OwnNetwork {
        /// The namespace.
        namespace: String,
    },
    /// A link that this instance did not make has the name of the host's end.
    #[error("link `{link}` is in the way and was not made by taskgate for task `{task}`{}: remove or rename it", says(.alias.as_ref()))]
    Foreign {
        /// The link.
        link: String,
        /// The task that needs the name.
        task: String,
        /// The link's alias.
        alias: Option<String>,
    },
    /// The gate could not be attached.
    #[error("the gate of task `{task}` does not stand")]
    Gate {
        /// The task.
        task: String,
        /// The error of the gate.
        #[source]
        cause: Box<dyn Error + Send + Sync>,
    },
    /// The host's end cannot be looked at.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The kernel refused an operation.
    #[error(transparent)]
    Refused(#[from] NetlinkError),
}

fn says(alias: Option<&String>) -> String {
    alias.map_or_else(String::new, |alias| format!(" (it says `{alias}`)"))
}

/// A limitation of an ENI that was made, and its remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EniWarning {
    /// The host does not forward packets of a family.
    ForwardingOff {
        /// The setting to turn on.
        sysctl: &'static str,
        /// Whether tasks on this host reach each other all the same.
        among_tasks: bool,
    },
    /// A setting of the host's end could not be turned on.
    Setting {
        /// The setting.
        sysctl: String,
        /// The error in words.
        cause: String,
    },
    /// A setting that makes the host accept routing messages from the task could not be turned off.
    Trusting {
        /// The setting.
        sysctl: String,
        /// The error in words.
        cause: String,
    },
}

impl fmt::Display for EniWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ForwardingOff { sysctl, among_tasks } => {
                let reach = if *among_tasks {
                    "tasks reach each other and this host, but nothing beyond it"
                } else {
                    "tasks reach this host, but neither each other nor anything beyond it"
                };
                write!(f, "`{sysctl}` is 0: {reach}; turn it on with `sysctl -w {sysctl}=1`")
            }
            Self::Setting { sysctl, cause } => write!(
                f,
                "`{sysctl}` cannot be set: {cause}; unless the host forwards anyway, the task reaches this host only"
            ),
            Self::Trusting { sysctl, cause } => write!(
                f,
                "`{sysctl}` cannot be set to 0: {cause}; the gate alone keeps the task from changing the host's routes"
            ),
        }
    }
}

/// An ENI that taskgate made. It stays when this is dropped; [`Self::remove`] removes it.
#[derive(Debug)]
pub struct TaskEni {
    link: Link,
    list: Provisioned,
    record: LinkRecord,
    /// The MAC addresses of both ends, the host's first.
    macs: [routes::Mac; 2],
    namespace: Namespace,
    made_namespace: bool,
    /// The addresses of both ends.
    addresses: Vec<IpAddr>,
    /// Addresses that only one end has, as an ENI that was taken over may have.
    partial: Vec<IpAddr>,
    /// Routes of the addresses may be missing: addresses were withdrawn, or were incomplete, and [`Self::assign`] has not run since.
    unsettled: bool,
    warnings: Vec<EniWarning>,
}

impl TaskEni {
    /// Makes the ENI: first namespace, veth pair and addresses; then `gate` attaches a gate to the host's end; only then are the links
    /// brought up and the routes added. The host's end and the routes to it are in the network namespace of the
    /// calling thread, which must be that of `netlink`.
    ///
    /// An ENI that an earlier run of this instance left is replaced. If anything fails, everything is undone.
    pub async fn make<G, E>(
        netlink: &Netlink,
        spec: &EniSpec<'_>,
        gate: impl FnOnce(&Link) -> Result<G, E>,
    ) -> Result<(Self, G), EniError>
    where
        E: Error + Send + Sync + 'static,
    {
        let list = Provisioned::of(spec.instance)?;
        orphans::replace(netlink, &list, spec).await?;
        let (namespace, origin) = namespace(&list, spec).await?;
        let made_namespace = origin != Origin::Foreign;
        let built = pair::build(netlink, &list, spec, &namespace, gate).await;
        match built {
            Ok((link, record, warnings, gate)) => Ok((
                Self {
                    link,
                    list,
                    record,
                    macs: spec.macs(),
                    namespace,
                    made_namespace,
                    addresses: spec.addresses.to_vec(),
                    partial: Vec::new(),
                    unsettled: false,
                    warnings,
                },
                gate,
            )),
            Err(error) => {
                // An existing namespace stays for the next attempt: it has a task in it.
                if origin == Origin::New {
                    undo(list.remove_namespace(namespace));
                }
                Err(error)
            }
        }
    }

    /// The host's end.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The namespace of the task's end.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Whether the namespace is removed with the ENI.
    pub fn made_namespace(&self) -> bool {
        self.made_namespace
    }

    /// The ENI's limitations.
    pub fn warnings(&self) -> &[EniWarning] {
        &self.warnings
    }

    /// Removes the ENI, and the namespace's name if taskgate made it and it still leads there. Processes in the namespace
    /// stay there, without a network. Another link that has got the ifindex stays. The gate may be detached afterwards.
    pub async fn remove(self, netlink: &Netlink) -> Result<(), NetlinkError> {
        let link = self.list.remove_link(netlink, &self.record).await;
        if matches!(link, Ok(Removed::Changed)) {
            tracing::warn!(
                link = self.link.name,
                "link `{}` stays, open if nothing gates it: it has another alias, name or address than taskgate gave it",
                self.link.name
            );
        }
        let namespace = if self.made_namespace {
            self.list.remove_namespace(self.namespace)
        } else {
            Ok(())
        };
        link.map(drop).and(namespace)
    }
}

/// Logs a failed undo: its part of the ENI stays.
fn undo(undone: Result<(), NetlinkError>) {
    if let Err(refused) = undone {
        tracing::warn!("{refused}: {}", refused.cause);
    }
}

async fn delete(netlink: &Netlink, ifindex: u32, name: &str) -> Result<(), NetlinkError> {
    let deleted = netlink.handle().link().del(ifindex).execute().await;
    match deleted.map_err(NetlinkError::of("delete link", name)) {
        Err(refused) if refused.is(libc::ENODEV) => Ok(()),
        deleted => deleted,
    }
}

/// The origin of an ENI's namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// Made just now.
    New,
    /// Made by this instance before, for an ENI that is gone or in a run that was killed.
    Earlier,
    /// Not made by this instance.
    Foreign,
}

/// The namespace of an ENI, made if it is missing.
async fn namespace(list: &Provisioned, spec: &EniSpec<'_>) -> Result<(Namespace, Origin), EniError> {
    if let Some(namespace) = Namespace::open(spec.namespace)? {
        let id = namespace.id()?;
        if id == NamespaceId::here()? {
            let namespace = spec.namespace.to_owned();
            return Err(EniError::OwnNetwork { namespace });
        }
        let origin = if orphans::is_made_by(list, spec.namespace, id) {
            Origin::Earlier
        } else {
            Origin::Foreign
        };
        return Ok((namespace, origin));
    }
    orphans::remove_placeholder(list, spec.namespace);
    let made = Namespace::make(spec.namespace, async |namespace| {
        let lo = LinkUnspec::new_with_name("lo").up().build();
        let set = namespace.netlink()?.handle().link().set(lo).execute().await;
        set.map_err(NetlinkError::of("set up", "lo"))?;
        list.announce_namespace(namespace)
    });
    Ok((made.await?, Origin::New))
}

fn alias(message: &LinkMessage) -> Option<&str> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfAlias(alias) => Some(&**alias),
        _ => None,
    })
}
