//! Forgetting the connections that netfilter tracks in a namespace.

use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket};
use testkit::Netns;

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE`; without attributes it deletes all entries of the namespace.
const DELETE: u16 = 1 << 8 | 2;
/// `NLM_F_REQUEST | NLM_F_ACK`
const REQUEST_ACK: u16 = 1 | 4;
/// `NLMSG_ERROR`, which an acknowledgement is too.
const ANSWER: u16 = 2;
/// Length of a `nlmsghdr` and a `nfgenmsg`.
const LENGTH: u32 = 16 + 4;

/// Removes all conntrack entries of this namespace: thousands of closed connections, whose entries remain for two
/// minutes, would slow down later ones in every namespace, since all share one hash table.
pub(super) fn flush(netns: &Netns) -> Result<()> {
    let socket: OwnedFd = netns.run(|| {
        Ok(socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?)
    })?;
    let mut request = Vec::new();
    request.extend(LENGTH.to_ne_bytes());
    request.extend(DELETE.to_ne_bytes());
    request.extend(REQUEST_ACK.to_ne_bytes());
    // Sequence and port numbers, then the family (any), the version and the resource: all 0.
    request.resize(LENGTH as usize, 0);
    sendto(socket.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())
        .context("cannot ask netfilter to forget connections")?;
    let mut answer = [0; 256];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let word = |at: usize| answer[..length].get(at..at + 4).and_then(|word| word.try_into().ok());
    let kind = word(4).map(|[low, high, ..]: [u8; 4]| u16::from_ne_bytes([low, high]));
    let error = word(16)
        .map(i32::from_ne_bytes)
        .context("netfilter answers too little")?;
    ensure!(
        kind == Some(ANSWER) && error == 0,
        "netfilter does not forget connections: error {error}"
    );
    Ok(())
}
