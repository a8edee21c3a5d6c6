//! The AWS CLI command that adds a rule: `aws ec2 authorize-security-group-ingress` or `-egress`.
//!
//! Source: AWS CLI Command Reference, `authorize-security-group-ingress`, shorthand syntax of `--ip-permissions`.

use std::net::IpAddr;

use taskgate_model::{Direction, GroupIndex, Model};

use super::advised_peer::{AdvisedPeer, host_cidr};
use crate::display::plain_id;
use crate::frame::Message;

/// The command that adds one rule to a group, ready for a shell. `owner`: the account of the peer's group, if it is another
/// account. `None` if an id is not in AWS's form: a file could inject a command with it.
pub(super) fn aws_command(
    model: &Model,
    group: GroupIndex,
    direction: Direction,
    message: Message,
    far: AdvisedPeer,
    owner: Option<&str>,
) -> Option<String> {
    let group = plain_id(&model.group(group).id)?;
    let far = match far {
        AdvisedPeer::Group(named) => {
            let id = plain_id(&model.group(named).id)?;
            let owner = owner.map_or_else(String::new, |owner| format!(",UserId={owner}"));
            format!("UserIdGroupPairs=[{{GroupId={id}{owner}}}]")
        }
        AdvisedPeer::List(list) => format!(
            "PrefixListIds=[{{PrefixListId={}}}]",
            plain_id(&model.prefix_list(list).id)?
        ),
        AdvisedPeer::Address(address @ IpAddr::V4(_)) => format!("IpRanges=[{{CidrIp={}}}]", host_cidr(address)),
        AdvisedPeer::Address(address @ IpAddr::V6(_)) => format!("Ipv6Ranges=[{{CidrIpv6={}}}]", host_cidr(address)),
    };
    Some(format!(
        "aws ec2 authorize-security-group-{direction} --group-id {group} --ip-permissions '{},{far}'",
        protocol(message),
    ))
}

/// The port fields hold an ICMP message's type and code; for other protocols without ports AWS ignores them and prints -1.
fn protocol(message: Message) -> String {
    let (name, from, to) = match message {
        Message::Tcp { port, .. } => ("tcp", port, port),
        Message::Udp { port, .. } => ("udp", port, port),
        Message::Icmp { kind, code } => ("icmp", kind.into(), code.into()),
        Message::Icmpv6 { kind, code } => ("icmpv6", kind.into(), code.into()),
        Message::Other(number) => return format!("IpProtocol={number},FromPort=-1,ToPort=-1"),
    };
    format!("IpProtocol={name},FromPort={from},ToPort={to}")
}
