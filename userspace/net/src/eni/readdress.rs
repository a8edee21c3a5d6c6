//! An ENI that gets other addresses while its task runs: in place, since whoever is in the namespace stays there.

use std::net::IpAddr;

use super::{EniError, EniWarning, TaskEni, pair, routes};
use crate::netlink::Netlink;

impl TaskEni {
    /// Takes away the addresses that are not among `addresses`. Where they move between ENIs, all withdraw theirs before
    /// any [`TaskEni::assign`]s them.
    pub async fn withdraw(&mut self, netlink: &Netlink, addresses: &[IpAddr]) -> Result<(), EniError> {
        if self.addresses.iter().all(|address| addresses.contains(address)) {
            return Ok(());
        }
        let task = self.namespace.netlink()?;
        let inside = pair::inside(&task).await?;
        while let Some(at) = self.addresses.iter().position(|address| !addresses.contains(address)) {
            let address = self.addresses[at];
            // With an address go the routes that prefer it.
            self.withdrawn = true;
            routes::remove_to_task(netlink, &self.link, address).await?;
            routes::remove_own_address(&task, &inside, address).await?;
            self.addresses.remove(at);
        }
        Ok(())
    }

    /// Gives it those of `addresses` that it does not have, and has the task send from the first of each family. Gives
    /// what limits it.
    pub async fn assign(&mut self, netlink: &Netlink, addresses: &[IpAddr]) -> Result<Vec<EniWarning>, EniError> {
        if self.addresses == addresses && !self.withdrawn {
            return Ok(Vec::new());
        }
        let task = self.namespace.netlink()?;
        let inside = pair::inside(&task).await?;
        let [host_mac, task_mac] = self.macs;
        for family in routes::families(addresses) {
            // It stays when a family goes, and may be there already.
            routes::unless(libc::EEXIST, family.add_gateway(netlink, &self.link).await)?;
        }
        for address in addresses {
            if !self.addresses.contains(address) {
                let added = routes::add_own_address(&task, &inside, *address).await;
                routes::unless(libc::EEXIST, added)?;
                routes::add_to_task(netlink, &self.link, *address, task_mac).await?;
                self.addresses.push(*address);
            }
        }
        for family in routes::families(addresses) {
            family.put_default(&task, &inside, host_mac).await?;
        }
        self.addresses = addresses.to_vec();
        self.withdrawn = false;
        Ok(pair::warnings(addresses, &self.link))
    }
}
