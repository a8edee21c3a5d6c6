//! An elastic network interface, and how it is bound to this host.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use super::peer::GroupIndex;

/// An ENI: a member of its groups with all its addresses, and gated here if it has a [`Binding`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Eni {
    /// `eni-…`. A native `members` entry, which has no id, gets one derived from its address.
    pub id: String,
    /// The task's name, for ENIs of native tasks.
    pub task: Option<String>,
    /// The owner's account: twelve digits; `None` means [`super::Model::account`].
    pub account: Option<String>,
    /// All private addresses, IPv4 and IPv6; the first IPv4 is the primary.
    pub addresses: Vec<IpAddr>,
    /// The security groups in the given order, no duplicates; at least one for a gated ENI.
    pub groups: Vec<GroupIndex>,
    /// Whether the configuration has its list of groups. `false` for an ENI in a file without `Groups`: it may have any.
    /// Always `true` for a gated ENI.
    pub groups_known: bool,
    /// Whether the ENI is known to have a gate, here or elsewhere. `false` for a native `members` entry, which only assigns
    /// an address to groups.
    pub gate_known: bool,
    /// The binding to this host; `None` for ENIs elsewhere.
    pub binding: Option<Binding>,
    /// `SourceDestCheck`: whether the ENI must be the source or destination of its traffic.
    pub source_dest_check: bool,
    /// The VPC, if a source names it.
    pub vpc: Option<String>,
    /// The subnet, if a source names it.
    pub subnet: Option<String>,
    /// The id of the availability zone, such as `euw1-az1`; also `None` in a sublocation (AWS's term).
    pub az_id: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// The ECS fields of flow records.
    pub ecs: EcsFields,
}

impl Eni {
    /// The primary private IPv4 address: the first one.
    pub fn primary_ipv4(&self) -> Option<Ipv4Addr> {
        self.addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
    }

    /// Its name in messages: the task's name, or the ENI's id.
    pub fn display_name(&self) -> &str {
        self.task.as_deref().unwrap_or(&self.id)
    }
}

/// How an ENI is bound to this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Binding {
    /// A device by name: the host's end of the task's veth pair, or a VLAN interface on the host.
    Device(String),
    /// A network namespace by name: taskgate creates the veth pair.
    Namespace(String),
    /// A branch on the trunk uplink.
    Vlan(Vlan),
}

/// A branch ENI on a trunk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vlan {
    /// The 802.1Q VLAN id, 1 to 4094.
    pub id: u16,
    /// The branch's MAC address.
    pub mac: [u8; 6],
}

/// The fields of flow records about the task behind an ENI. `None` where unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EcsFields {
    /// `ecs-cluster-name`.
    pub cluster_name: Option<String>,
    /// `ecs-cluster-arn`.
    pub cluster_arn: Option<String>,
    /// `ecs-service-name`.
    pub service_name: Option<String>,
    /// `ecs-task-arn`.
    pub task_arn: Option<String>,
    /// `ecs-task-id`.
    pub task_id: Option<String>,
    /// `ecs-task-definition-arn`.
    pub task_definition_arn: Option<String>,
    /// `ecs-container-instance-arn`.
    pub container_instance_arn: Option<String>,
    /// `ecs-container-instance-id`.
    pub container_instance_id: Option<String>,
    /// `ecs-container-id`.
    pub container_id: Option<String>,
    /// `ecs-second-container-id`.
    pub second_container_id: Option<String>,
}

impl EcsFields {
    /// All fields, each with its name after `ecs-`.
    pub fn fields_mut(&mut self) -> [(&'static str, &mut Option<String>); 10] {
        [
            ("cluster-name", &mut self.cluster_name),
            ("cluster-arn", &mut self.cluster_arn),
            ("service-name", &mut self.service_name),
            ("task-arn", &mut self.task_arn),
            ("task-id", &mut self.task_id),
            ("task-definition-arn", &mut self.task_definition_arn),
            ("container-instance-arn", &mut self.container_instance_arn),
            ("container-instance-id", &mut self.container_instance_id),
            ("container-id", &mut self.container_id),
            ("second-container-id", &mut self.second_container_id),
        ]
    }

    /// Fills in the names and ids at the ends of ARNs where only the ARN is given.
    #[must_use]
    pub fn completed(mut self) -> Self {
        fn last(arn: Option<&String>) -> Option<String> {
            let (_, last) = arn?.rsplit_once('/')?;
            (!last.is_empty()).then(|| last.to_owned())
        }
        self.cluster_name = self.cluster_name.or_else(|| last(self.cluster_arn.as_ref()));
        self.task_id = self.task_id.or_else(|| last(self.task_arn.as_ref()));
        let instance = self.container_instance_arn.as_ref();
        self.container_instance_id = self.container_instance_id.or_else(|| last(instance));
        self
    }
}
