//! Takes over intact ENIs of an earlier run, without any change that the task could notice.

use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

use super::{
    EniError, EniSpec, TaskEni, orphans, pair,
    provisioned::{Complete, LinkRecord, Provisioned},
    routes,
};
use crate::{
    link::{self, Link},
    netlink::Netlink,
    netns::{Namespace, NamespaceId},
};

/// Why the ENI of an earlier run has to be made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Unfit {
    #[error("the earlier run ended before the ENI was complete")]
    Incomplete,
    #[error("its link has another Ethernet address than it was made with")]
    Mac,
    #[error("its link is down")]
    Down,
    #[error("its link leads to another namespace than the task's")]
    Namespace,
    #[error("the other end of its link is no longer the namespace's `eth0`")]
    Inside,
    #[error("the namespace's `eth0` has another Ethernet address than it was made with")]
    InsideMac,
    #[error("the namespace's `eth0` is down")]
    InsideDown,
}

/// The parts of an existing ENI to take over.
struct Found {
    link: Link,
    namespace: Namespace,
    task: Netlink,
    inside: Link,
    complete: Complete,
}

impl TaskEni {
    /// Takes over the ENI that an earlier run of this instance made for the task, unchanged. `None` if there is none, or if it
    /// was changed since: [`Self::make`] replaces such an ENI. It keeps its addresses: [`Self::withdraw`]
    /// and [`Self::assign`] change them, and restore addresses that are missing at one of the ends.
    ///
    /// Its link is up and may have no gate. The caller is in the network namespace of `netlink`.
    pub async fn adopt(netlink: &Netlink, spec: &EniSpec<'_>) -> Result<Option<Self>, EniError> {
        let list = Provisioned::of(spec.instance)?;
        let Some(record) = list.get::<LinkRecord>(&spec.link_name()) else {
            return Ok(None);
        };
        let Some(message) = record.look(netlink).await? else {
            return Ok(None);
        };
        if !record.is_of(NamespaceId::here()?, &message) {
            return Ok(None);
        }
        let found = match examine(spec, &record, &message).await? {
            Ok(found) => found,
            Err(unfit) => {
                let (task, link) = (spec.task, &record.link);
                tracing::warn!(
                    task,
                    link,
                    "task `{task}`: the ENI of an earlier run is made anew: {unfit}"
                );
                return Ok(None);
            }
        };
        let Found { link, complete, .. } = &found;
        let owned = routes::own_addresses(&found.task, &found.inside, &complete.addresses).await?;
        let (mut addresses, mut partial) = (Vec::new(), Vec::new());
        for address in &complete.addresses {
            match (
                owned.contains(address),
                routes::is_to_task(netlink, link, *address).await?,
            ) {
                (true, true) => addresses.push(*address),
                (false, false) => {}
                _ => partial.push(*address),
            }
        }
        pair::fill_checksums(spec, &found.namespace)?;
        let mut warnings = pair::distrust(link);
        warnings.append(&mut pair::warnings(spec.addresses, link));
        let made_namespace = orphans::is_made_by(&list, spec.namespace, complete.task);
        Ok(Some(Self {
            unsettled: complete.changing || addresses != complete.addresses,
            link: found.link,
            list,
            record,
            macs: spec.macs(),
            namespace: found.namespace,
            made_namespace,
            addresses,
            partial,
            warnings,
        }))
    }
}

/// Checks that a link is the host's end of the ENI that was made for the task.
async fn examine(
    spec: &EniSpec<'_>,
    record: &LinkRecord,
    message: &LinkMessage,
) -> Result<Result<Found, Unfit>, EniError> {
    let Some(complete) = record.complete.clone() else {
        return Ok(Err(Unfit::Incomplete));
    };
    if !record.has_mac(message) {
        return Ok(Err(Unfit::Mac));
    }
    if !is_up(message) {
        return Ok(Err(Unfit::Down));
    }
    let Some(namespace) = Namespace::open(spec.namespace)? else {
        return Ok(Err(Unfit::Namespace));
    };
    if namespace.id()? != complete.task {
        return Ok(Err(Unfit::Namespace));
    }
    let task = namespace.netlink()?;
    let Some(inside) = task.link_message(pair::INSIDE).await? else {
        return Ok(Err(Unfit::Inside));
    };
    // Each end has the ifindex of the other one.
    let is_other_end =
        |of: &LinkMessage, end: &LinkMessage| of.attributes.contains(&LinkAttribute::Link(end.header.index));
    if !is_other_end(message, &inside) || !is_other_end(&inside, message) {
        return Ok(Err(Unfit::Inside));
    }
    if !inside
        .attributes
        .contains(&LinkAttribute::Address(spec.task_mac().to_vec()))
    {
        return Ok(Err(Unfit::InsideMac));
    }
    if !is_up(&inside) {
        return Ok(Err(Unfit::InsideDown));
    }
    Ok(Ok(Found {
        link: link::parse(message)?,
        inside: link::parse(&inside)?,
        namespace,
        task,
        complete,
    }))
}

fn is_up(message: &LinkMessage) -> bool {
    message.header.flags.contains(LinkFlags::Up)
}
