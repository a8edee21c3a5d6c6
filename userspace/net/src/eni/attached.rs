//! Namespaces of containers, which have no name in /run/netns: they get one for as long as they have an ENI. It is listed as
//! one that taskgate made, so that it goes with the ENI, and no run that is killed leaves it behind.

use std::{io, path::Path};

use super::{EniError, orphans, provisioned::Provisioned};
use crate::{
    netlink::NetlinkError,
    netns::{Namespace, NamespaceId},
};

/// Gives the namespace behind a file, such as `/proc/PID/ns/net`, the name `name`, unless the path is that of a name already.
/// Gives the name that it has then. The namespace stays while it has the name, with or without a process in it.
///
/// # Errors
/// [`EniError::OwnNetwork`] for the namespace of the calling thread; [`EniError::Refused`] if the file is none, or if the name
/// is another one's.
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

/// Takes away a name that [`attach_namespace`] or an ENI's making gave, and that no ENI is behind. One that was there before
/// stays.
///
/// # Errors
/// The kernel refused it.
pub fn detach_namespace(instance: &str, name: &str) -> Result<(), EniError> {
    let list = Provisioned::of(instance)?;
    if let Some(namespace) = Namespace::open(name)?
        && orphans::is_made_by(&list, name, namespace.id()?)
    {
        list.remove_namespace(namespace)?;
    }
    Ok(())
}
