//! Names for containers' namespaces, which have none in /run/netns: a namespace gets one for as long as it has an ENI. The name is
//! listed as made by taskgate, so that it is removed with the ENI, and no killed run leaves it behind.

use std::{io, path::Path};

use super::{EniError, orphans, provisioned::Provisioned};
use crate::{
    netlink::NetlinkError,
    netns::{Namespace, NamespaceId},
};

/// Names the namespace behind a file, such as `/proc/PID/ns/net`, `name`, unless the path is in /run/netns already.
/// Returns its name. The namespace exists as long as the name, with or without a process in it.
///
/// # Errors
/// [`EniError::OwnNetwork`] for the namespace of the calling thread; [`EniError::Refused`] if the file is no network namespace, or
/// if the name is in use for another one.
pub fn attach_namespace(instance: &str, name: &str, path: &Path) -> Result<String, EniError> {
    if let Some(named) = Namespace::name_of(path) {
        return Ok(named);
    }
    let list = Provisioned::of(instance)?;
    orphans::remove_placeholder(&list, name);
    let here = NamespaceId::here()?;
    let mut is_own = false;
    let attached = Namespace::attach(name, path, |namespace| {
        is_own = namespace.id()? == here;
        if is_own {
            return Err(own_network());
        }
        list.announce_namespace(namespace)
    });
    match attached {
        Err(_) if is_own => Err(EniError::OwnNetwork {
            namespace: path.display().to_string(),
        }),
        attached => Ok(attached.map(|_| name.to_owned())?),
    }
}

fn own_network() -> NetlinkError {
    NetlinkError::of("name namespace", "the host's own")(io::Error::from(io::ErrorKind::InvalidInput))
}

/// Removes a name that [`attach_namespace`] or [`TaskEni::make`](super::TaskEni::make) made. No ENI may use it any more. A name
/// that this instance did not make stays.
///
/// # Errors
/// The kernel refused the removal.
pub fn detach_namespace(instance: &str, name: &str) -> Result<(), EniError> {
    let list = Provisioned::of(instance)?;
    if let Some(namespace) = Namespace::open(name)?
        && orphans::is_made_by(&list, name, namespace.id()?)
    {
        list.remove_namespace(namespace)?;
    }
    Ok(())
}
