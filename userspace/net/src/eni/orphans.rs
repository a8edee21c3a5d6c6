//! Removal of orphans: links and namespaces of earlier runs that no task has any more. Only the list identifies them, not the
//! properties of a link or a namespace alone.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt as _, path::PathBuf};

use super::{
    EniError, EniSpec, alias,
    provisioned::{LinkRecord, NamespaceRecord, Provisioned, Record as _, Removed},
};
use crate::{
    netlink::{Netlink, NetlinkError},
    netns::{Namespace, NamespaceId},
};

/// Removes the link that an earlier run made for an ENI, even if it was renamed. Another link with the name of the
/// ENI's host end is an error.
pub(super) async fn replace(netlink: &Netlink, list: &Provisioned, spec: &EniSpec<'_>) -> Result<(), EniError> {
    let name = spec.link_name();
    let here = NamespaceId::here()?;
    if let Some(record) = list.get(&name).filter(|record: &LinkRecord| record.is_in(here)) {
        list.remove_link(netlink, &record).await?;
    }
    match netlink.link_message(&name).await? {
        None => Ok(()),
        Some(message) => Err(EniError::Foreign {
            link: name,
            task: spec.task.to_owned(),
            alias: alias(&message).map(str::to_owned),
        }),
    }
}

/// The links and namespaces of earlier runs that are in use, and stay.
#[derive(Debug, Default)]
pub struct InUse<'a> {
    /// Host ends, by their original names.
    pub links: BTreeSet<String>,
    /// Namespaces, by name: they stay with their processes, and are removed with the ENI that [`super::TaskEni::make`] puts there.
    pub namespaces: BTreeSet<&'a str>,
}

/// The result of [`remove_orphans`].
#[derive(Debug, Default)]
pub struct LeftOver {
    /// The names of removed links and namespaces.
    pub removed: Vec<String>,
    /// Orphans that stay, and why.
    pub kept: Vec<Kept>,
}

/// Why a possible orphan stays.
#[derive(Debug, thiserror::Error)]
pub enum Kept {
    /// A part of the list cannot be used.
    #[error(
        "`{}`, which lists what an earlier run made, cannot be used: {cause}; what it listed stays as it is, open if nothing \
         gates it: take that away by hand, then the file", path.display()
    )]
    Damaged {
        /// The file, or the whole folder.
        path: PathBuf,
        /// The reason.
        cause: std::io::Error,
    },
    /// A link is in another network namespace than this run.
    #[error(
        "link `{link}`, which an earlier run made, lies in another network namespace and stays, open if nothing gates it: \
         start this instance there, or take it away by hand"
    )]
    Elsewhere {
        /// The link.
        link: String,
    },
    /// A link has only some of the properties of the listed link.
    #[error(
        "link `{link}`, which an earlier run made, has another alias, name or address now and stays, open if nothing gates it: \
         take it away by hand"
    )]
    Changed {
        /// The link's original name.
        link: String,
    },
    /// The kernel refused.
    #[error("what an earlier run made stays, open if nothing gates it: {refused}: {}", refused.cause)]
    Refused {
        /// The refused operation.
        refused: NetlinkError,
    },
}

/// Removes the links and namespaces of earlier runs of `instance` that are not in use. To be called before the first ENI is
/// made, from the network namespace of `netlink`.
pub async fn remove_orphans(netlink: &Netlink, instance: &str, in_use: &InUse<'_>) -> LeftOver {
    let mut left = LeftOver::default();
    let begun = Provisioned::of(instance).and_then(|list| Ok((list, NamespaceId::here()?)));
    let (list, here) = match begun {
        Ok(begun) => begun,
        Err(refused) => {
            left.kept.push(Kept::Refused { refused });
            return left;
        }
    };
    let listed = list.read();
    let damaged = listed.damaged.into_iter();
    left.kept
        .extend(damaged.map(|(path, cause)| Kept::Damaged { path, cause }));
    for record in listed.links {
        if in_use.links.contains(&record.link) {
            continue;
        }
        if !record.is_in(here) {
            left.kept.push(Kept::Elsewhere { link: record.link });
            continue;
        }
        match list.remove_link(netlink, &record).await {
            Ok(Removed::Now) => left.removed.push(record.link),
            Ok(Removed::WasGone) => {}
            Ok(Removed::Changed) => left.kept.push(Kept::Changed { link: record.link }),
            Err(refused) => left.kept.push(Kept::Refused { refused }),
        }
    }
    for record in listed.namespaces {
        if in_use.namespaces.contains(&*record.namespace) {
            continue;
        }
        match remove_namespace(&list, &record) {
            Ok(Removed::Now) => left.removed.push(record.namespace),
            Ok(Removed::WasGone | Removed::Changed) => {}
            Err(refused) => left.kept.push(Kept::Refused { refused }),
        }
    }
    left
}

fn remove_namespace(list: &Provisioned, record: &NamespaceRecord) -> Result<Removed, NetlinkError> {
    let removed = match Namespace::open(&record.namespace)? {
        Some(namespace) if record.is_of(namespace.id()?) => {
            namespace.remove()?;
            Removed::Now
        }
        Some(_) => Removed::WasGone,
        None => {
            remove_placeholder(list, &record.namespace);
            Removed::WasGone
        }
    };
    list.forget::<NamespaceRecord>(record.name());
    Ok(removed)
}

/// Removes the empty file of a run that was killed between making the file and mounting the namespace on it. It must be listed and
/// read-only.
pub(super) fn remove_placeholder(list: &Provisioned, namespace: &str) {
    let path = Namespace::path(namespace);
    let is_placeholder = fs::symlink_metadata(&path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0 && metadata.mode() & 0o222 == 0);
    if is_placeholder
        && list.get::<NamespaceRecord>(namespace).is_some()
        && let Err(error) = fs::remove_file(&path)
    {
        tracing::warn!("cannot remove `{}`: {error}", path.display());
    }
}

/// Whether this instance made the namespace `id` under this name, in this run or an earlier one.
pub(super) fn is_made_by(list: &Provisioned, name: &str, id: NamespaceId) -> bool {
    list.get::<NamespaceRecord>(name).is_some_and(|record| record.is_of(id))
}
