//! A filter of a clsact queueing discipline, asked for. aya puts filters up and takes them off, and does not look.

use std::{io, os::fd::AsRawFd as _};

use aya::programs::{TcAttachType, tc::TcHandle};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcMessage},
};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use rtnetlink::packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};

/// The parent of a link's filters for what comes in, and for what goes out.
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
/// Every protocol, as the kernel has it there: in network byte order.
const ALL: u32 = (libc::ETH_P_ALL as u16).to_be() as u32;

/// Whether a link of this network namespace has a BPF filter under this priority and handle. `false` also where there is
/// no such link.
pub(super) fn is_there(ifindex: u32, way: TcAttachType, priority: u16, handle: TcHandle) -> io::Result<bool> {
    let mut message = TcMessage::default();
    message.header.index = ifindex.cast_signed();
    message.header.parent = if way == TcAttachType::Ingress { INGRESS } else { EGRESS }.into();
    message.header.handle = u32::from(handle).into();
    message.header.info = u32::from(priority) << 16 | ALL;
    message.attributes.push(TcAttribute::Kind("bpf".to_owned()));
    let answer = ask(RouteNetlinkMessage::GetTrafficFilter(message))?;
    match answer.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewTrafficFilter(_)) => Ok(true),
        NetlinkPayload::Error(error) => match error.to_io() {
            // No such link, no clsact, no filter.
            error if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL | libc::ENOENT)) => Ok(false),
            error => Err(error),
        },
        other => Err(io::Error::other(format!("an answer that was not asked for: {other:?}"))),
    }
}

fn ask(request: RouteNetlinkMessage) -> io::Result<NetlinkMessage<RouteNetlinkMessage>> {
    /// A filter's description is some hundred bytes.
    const ROOM: usize = 8192;
    let mut message = NetlinkMessage::from(request);
    message.header.flags = NLM_F_REQUEST;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);

    let protocol = SockProtocol::NetlinkRoute;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    send(socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
    let mut bytes = vec![0; ROOM];
    let length = recv(socket.as_raw_fd(), &mut bytes, MsgFlags::empty())?;
    NetlinkMessage::deserialize(&bytes[..length]).map_err(io::Error::other)
}
