//! Filters of a clsact queueing discipline: adds, replaces, finds and removes them by ifindex, in the network
//! namespace of the calling thread.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption},
};
use rtnetlink::packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};

use super::rtnl::Rtnl;

/// The parent and the handle of a clsact queueing discipline.
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// The parents of a link's ingress and egress filters.
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
/// All protocols, in network byte order as in `tcm_info`.
const ALL: u32 = (libc::ETH_P_ALL as u16).to_be() as u32;

const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;

/// The place of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterPlace {
    /// The link.
    pub ifindex: u32,
    /// Whether it filters ingress; else egress.
    pub ingress: bool,
    /// Filters run in the order of their priorities.
    pub priority: u16,
    /// Distinguishes it from other filters of its priority.
    pub handle: u32,
}

impl FilterPlace {
    fn message(self) -> TcMessage {
        let mut message = TcMessage::default();
        message.header.index = self.ifindex.cast_signed();
        message.header.parent = if self.ingress { INGRESS } else { EGRESS }.into();
        message.header.handle = self.handle.into();
        message.header.info = u32::from(self.priority) << 16 | ALL;
        message.attributes.push(TcAttribute::Kind("bpf".to_owned()));
        message
    }

    /// Whether the place has a filter. `false` also if there is no such link.
    pub fn is_taken(self) -> io::Result<bool> {
        match Rtnl::open()?.ask(RouteNetlinkMessage::GetTrafficFilter(self.message())) {
            Ok(RouteNetlinkMessage::NewTrafficFilter(_)) => Ok(true),
            Ok(other) => Err(io::Error::other(format!("an answer that was not asked for: {other:?}"))),
            // No such link, no clsact, no filter.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL | libc::ENOENT)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts a program there, atomically replacing an existing one.
    pub fn put(self, rtnl: &mut Rtnl, program: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        let number = |kind, value: u32| TcOption::Other(DefaultNla::new(kind, value.to_ne_bytes().to_vec()));
        let name = CString::new(name).map_err(io::Error::other)?;
        let mut message = self.message();
        message.attributes.push(TcAttribute::Options(vec![
            number(TCA_BPF_FD, program.as_raw_fd().cast_unsigned()),
            TcOption::Other(DefaultNla::new(TCA_BPF_NAME, name.into_bytes_with_nul())),
            number(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT),
        ]));
        rtnl.change(RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE)
    }

    /// Removes the filter, if there is one.
    pub fn clear(self) -> io::Result<()> {
        gone(Rtnl::open()?.change(RouteNetlinkMessage::DelTrafficFilter(self.message()), 0))
    }
}

/// A BPF filter in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundFilter {
    /// The filter's priority.
    pub priority: u16,
    /// The filter's handle.
    pub handle: u32,
    /// The name that it was added with.
    pub name: String,
    /// The id of its program.
    pub program: u32,
}

impl FoundFilter {
    /// Whether it has the priority and handle of `place`.
    pub fn is_at(&self, place: FilterPlace) -> bool {
        (self.priority, self.handle) == (place.priority, place.handle)
    }
}

/// The BPF filters of a link, in the order in which they run.
pub fn filters(ifindex: u32, ingress: bool) -> io::Result<Vec<FoundFilter>> {
    let mut message = TcMessage::default();
    message.header.index = ifindex.cast_signed();
    message.header.parent = if ingress { INGRESS } else { EGRESS }.into();
    let found = Rtnl::open()?.dump(RouteNetlinkMessage::GetTrafficFilter(message))?;
    let mut filters = Vec::new();
    for filter in found {
        let RouteNetlinkMessage::NewTrafficFilter(filter) = filter else {
            continue;
        };
        let mut seen = FoundFilter {
            priority: (filter.header.info >> 16) as u16,
            handle: filter.header.handle.into(),
            ..FoundFilter::default()
        };
        let mut is_bpf = false;
        for attribute in filter.attributes {
            let TcAttribute::Options(options) = attribute else {
                continue;
            };
            for option in options {
                match option {
                    TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => {
                        seen.name = name;
                        is_bpf = true;
                    }
                    TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => {
                        seen.program = id;
                        is_bpf = true;
                    }
                    _ => {}
                }
            }
        }
        if is_bpf {
            filters.push(seen);
        }
    }
    Ok(filters)
}

/// The names of all BPF filters of a link.
pub fn names(ifindex: u32, ingress: bool) -> io::Result<Vec<String>> {
    Ok(filters(ifindex, ingress)?
        .into_iter()
        .map(|filter| filter.name)
        .collect())
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EINVAL | libc::ENOENT)) => Ok(()),
        removed => removed,
    }
}

fn clsact(ifindex: u32) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = ifindex.cast_signed();
    message.header.parent = CLSACT.into();
    message.header.handle = CLSACT_HANDLE.into();
    message.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    message
}

/// Adds a clsact queueing discipline to a link. Returns whether it had none.
pub fn add_clsact(rtnl: &mut Rtnl, ifindex: u32) -> io::Result<bool> {
    let request = RouteNetlinkMessage::NewQueueDiscipline(clsact(ifindex));
    match rtnl.change(request, NLM_F_CREATE | NLM_F_EXCL) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes a link's clsact queueing discipline, unless it has filters.
pub fn remove_empty_clsact(ifindex: u32) -> io::Result<()> {
    let mut rtnl = Rtnl::open()?;
    for parent in [INGRESS, EGRESS] {
        let mut message = TcMessage::default();
        message.header.index = ifindex.cast_signed();
        message.header.parent = parent.into();
        if !rtnl.dump(RouteNetlinkMessage::GetTrafficFilter(message))?.is_empty() {
            return Ok(());
        }
    }
    gone(rtnl.change(RouteNetlinkMessage::DelQueueDiscipline(clsact(ifindex)), 0))
}
