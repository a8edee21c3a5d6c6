//! rtnetlink without an async runtime: for threads that must not wait for other work.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

use netlink_packet_route::RouteNetlinkMessage;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
    sockopt::RcvBufForce,
};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};

/// The largest datagram of a dump.
const ROOM: usize = 32 * 1024;

/// An rtnetlink socket. It belongs to the network namespace in which it was opened.
#[derive(Debug)]
pub struct Rtnl {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Rtnl {
    /// Opens a socket in the network namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        let protocol = SockProtocol::NetlinkRoute;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        Ok(Self {
            socket,
            buffer: vec![0; ROOM],
        })
    }

    /// Opens a socket that receives the kernel's messages about links, with a receive buffer of `room` bytes.
    pub fn listen_to_links(room: usize) -> io::Result<Self> {
        let listening = Self::open()?;
        // Without CAP_NET_ADMIN the buffer keeps its size.
        if let Err(error) = setsockopt(&listening.socket, RcvBufForce, &room) {
            tracing::debug!("a netlink socket keeps its receive buffer: {error}");
        }
        bind(
            listening.socket.as_raw_fd(),
            &NetlinkAddr::new(0, 1 << (libc::RTNLGRP_LINK - 1)),
        )?;
        Ok(listening)
    }

    /// Sends a request with one answer. An error message is returned as an error.
    pub fn ask(&mut self, request: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        self.send(request, NLM_F_REQUEST)?;
        match self.receive(MsgFlags::empty())?.into_iter().next() {
            Some(NetlinkPayload::InnerMessage(answer)) => Ok(answer),
            Some(NetlinkPayload::Error(error)) => Err(error.to_io()),
            other => Err(io::Error::other(format!("an answer that was not asked for: {other:?}"))),
        }
    }

    /// Sends a request to change something, and waits for the acknowledgement. `flags`: in addition to those of every request.
    pub fn change(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(request, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        match self.receive(MsgFlags::empty())?.into_iter().next() {
            Some(NetlinkPayload::Error(error)) if error.code.is_none() => Ok(()),
            Some(NetlinkPayload::Error(error)) => Err(error.to_io()),
            other => Err(io::Error::other(format!("an answer that was not asked for: {other:?}"))),
        }
    }

    /// Sends a dump request, and returns all answers.
    pub fn dump(&mut self, request: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.send(request, NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut found = Vec::new();
        loop {
            for payload in self.receive(MsgFlags::empty())? {
                match payload {
                    NetlinkPayload::InnerMessage(message) => found.push(message),
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Done(_) | NetlinkPayload::Error(_) => return Ok(found),
                    _ => {}
                }
            }
        }
    }

    /// The pending messages, possibly none. `ENOBUFS`: the kernel had to drop some.
    pub fn waiting(&mut self) -> io::Result<Vec<NetlinkPayload<RouteNetlinkMessage>>> {
        match self.receive(MsgFlags::MSG_DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Vec::new()),
            received => received,
        }
    }

    fn send(&self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = flags;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty())?;
        Ok(())
    }

    /// One datagram's messages.
    fn receive(&mut self, flags: MsgFlags) -> io::Result<Vec<NetlinkPayload<RouteNetlinkMessage>>> {
        let length = loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, flags) {
                Err(nix::Error::EINTR) => {}
                received => break received?,
            }
        };
        let mut rest = &self.buffer[..length];
        let mut payloads = Vec::new();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
            let taken = (message.header.length as usize).next_multiple_of(4).max(4);
            rest = rest.get(taken..).unwrap_or_default();
            payloads.push(message.payload);
        }
        Ok(payloads)
    }
}

impl AsFd for Rtnl {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
