//! Changes an ENI's addresses while its task runs: in place, as processes cannot be moved out of the namespace. The list
//! has every address that the ENI may have meanwhile, so that the next run finds them if this one is killed.

use std::net::IpAddr;

use super::{EniError, EniWarning, TaskEni, pair, routes};
use crate::netlink::{Netlink, NetlinkError};

impl TaskEni {
    /// Removes the addresses that are not among `addresses`. If addresses move between ENIs, withdraw them from all ENIs before
    /// any [`TaskEni::assign`].
    pub async fn withdraw(&mut self, netlink: &Netlink, addresses: &[IpAddr]) -> Result<(), EniError> {
        let mut unwanted = self.all();
        unwanted.retain(|address| !addresses.contains(address));
        if unwanted.is_empty() {
            return Ok(());
        }
        let task = self.namespace.netlink()?;
        let inside = pair::inside(&task).await?;
        // Routes that prefer an address are removed with it.
        self.list_changing(self.all())?;
        for address in unwanted {
            routes::remove_to_task(netlink, &self.link, address).await?;
            routes::remove_own_address(&task, &inside, address).await?;
            self.addresses.retain(|has| *has != address);
            self.partial.retain(|has| *has != address);
        }
        Ok(())
    }

    /// Adds missing `addresses`, and makes the first of each family the task's default source address. Returns the ENI's
    /// limitations.
    pub async fn assign(&mut self, netlink: &Netlink, addresses: &[IpAddr]) -> Result<Vec<EniWarning>, EniError> {
        if self.addresses == addresses && !self.unsettled {
            return Ok(Vec::new());
        }
        let task = self.namespace.netlink()?;
        let inside = pair::inside(&task).await?;
        let [host_mac, task_mac] = self.macs;
        let mut listed = self.all();
        listed.extend(addresses.iter().filter(|address| !self.addresses.contains(address)));
        self.list_changing(listed)?;
        for family in routes::families(addresses) {
            // The gateway stays when a family is removed, and may exist already.
            routes::unless(libc::EEXIST, family.add_gateway(netlink, &self.link).await)?;
        }
        for address in addresses {
            if self.addresses.contains(address) {
                continue;
            }
            if self.partial.contains(address) {
                routes::remove_to_task(netlink, &self.link, *address).await?;
            }
            let added = routes::add_own_address(&task, &inside, *address).await;
            routes::unless(libc::EEXIST, added)?;
            routes::add_to_task(netlink, &self.link, *address, task_mac).await?;
            self.addresses.push(*address);
            self.partial.retain(|has| has != address);
        }
        for family in routes::families(addresses) {
            family.put_default(&task, &inside, host_mac).await?;
        }
        self.addresses = addresses.to_vec();
        self.put_record(self.addresses.clone(), false)?;
        self.unsettled = false;
        Ok(pair::warnings(addresses, &self.link))
    }

    /// The addresses that both ends or only one of them has.
    fn all(&self) -> Vec<IpAddr> {
        self.addresses.iter().chain(&self.partial).copied().collect()
    }

    /// Writes the addresses that the ENI may have during the change to the list.
    fn list_changing(&mut self, addresses: Vec<IpAddr>) -> Result<(), NetlinkError> {
        self.unsettled = true;
        self.put_record(addresses, true)
    }

    fn put_record(&mut self, addresses: Vec<IpAddr>, changing: bool) -> Result<(), NetlinkError> {
        if let Some(complete) = &mut self.record.complete {
            complete.addresses = addresses;
            complete.changing = changing;
        }
        self.list.put(&self.record)
    }
}
