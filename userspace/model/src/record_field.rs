//! The fields of flow records: those of VPC Flow Logs, versions 2 to 11, and taskgate's own fields.

use serde::{Deserialize, Serialize};

macro_rules! fields {
    ($($(#[$doc:meta])* $field:ident = $name:literal, $version:expr;)+) => {
        /// A field of a flow record.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum RecordField {
            $(
                #[doc = concat!("`", $name, "`.")]
                $(#[$doc])*
                $field,
            )+
        }

        impl RecordField {
            /// All fields: AWS's in the order of its documentation, then taskgate's.
            pub const ALL: &[Self] = &[$(Self::$field),+];

            /// The name in a format.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$field => $name,)+
                }
            }

            /// The version of VPC Flow Logs that introduced the field; `None` for taskgate's own fields.
            pub const fn version(self) -> Option<u8> {
                match self {
                    $(Self::$field => $version,)+
                }
            }
        }
    };
}

fields! {
    Version = "version", Some(2);
    AccountId = "account-id", Some(2);
    InterfaceId = "interface-id", Some(2);
    SrcAddr = "srcaddr", Some(2);
    DstAddr = "dstaddr", Some(2);
    SrcPort = "srcport", Some(2);
    DstPort = "dstport", Some(2);
    Protocol = "protocol", Some(2);
    Packets = "packets", Some(2);
    Bytes = "bytes", Some(2);
    Start = "start", Some(2);
    End = "end", Some(2);
    Action = "action", Some(2);
    LogStatus = "log-status", Some(2);
    VpcId = "vpc-id", Some(3);
    SubnetId = "subnet-id", Some(3);
    InstanceId = "instance-id", Some(3);
    TcpFlags = "tcp-flags", Some(3);
    Type = "type", Some(3);
    PktSrcAddr = "pkt-srcaddr", Some(3);
    PktDstAddr = "pkt-dstaddr", Some(3);
    Region = "region", Some(4);
    AzId = "az-id", Some(4);
    SublocationType = "sublocation-type", Some(4);
    SublocationId = "sublocation-id", Some(4);
    PktSrcAwsService = "pkt-src-aws-service", Some(5);
    PktDstAwsService = "pkt-dst-aws-service", Some(5);
    FlowDirection = "flow-direction", Some(5);
    TrafficPath = "traffic-path", Some(5);
    EcsClusterArn = "ecs-cluster-arn", Some(7);
    EcsClusterName = "ecs-cluster-name", Some(7);
    EcsContainerInstanceArn = "ecs-container-instance-arn", Some(7);
    EcsContainerInstanceId = "ecs-container-instance-id", Some(7);
    EcsContainerId = "ecs-container-id", Some(7);
    EcsSecondContainerId = "ecs-second-container-id", Some(7);
    EcsServiceName = "ecs-service-name", Some(7);
    EcsTaskDefinitionArn = "ecs-task-definition-arn", Some(7);
    EcsTaskArn = "ecs-task-arn", Some(7);
    EcsTaskId = "ecs-task-id", Some(7);
    RejectReason = "reject-reason", Some(8);
    ResourceId = "resource-id", Some(9);
    EncryptionStatus = "encryption-status", Some(10);
    InstanceTag = "instance-tag", Some(11);
    InstanceTag2 = "instance-tag-2", Some(11);
    InterfaceTag = "interface-tag", Some(11);
    InterfaceTag2 = "interface-tag-2", Some(11);
    AsgTag = "asg-tag", Some(11);
    AsgTag2 = "asg-tag-2", Some(11);
    InterfaceType = "interface-type", Some(11);
    NextHopInterfaceId = "next-hop-interface-id", Some(11);
    NextHopSubnetId = "next-hop-subnet-id", Some(11);
    NextHopAzId = "next-hop-az-id", Some(11);
    NextHopVpcId = "next-hop-vpc-id", Some(11);
    NextHopInterfaceType = "next-hop-interface-type", Some(11);
    /// The task whose gate counted the packets.
    TaskgateTask = "taskgate-task", None;
    /// The name of the group whose rule allowed them.
    TaskgateGroup = "taskgate-group", None;
    /// The id of that group.
    TaskgateGroupId = "taskgate-group-id", None;
    /// The rule that allowed them.
    TaskgateRule = "taskgate-rule", None;
    /// The reason for the drop, or for passing without a rule.
    TaskgateReason = "taskgate-reason", None;
    /// Whether the peer is a task that is gated on this host.
    TaskgateSameHost = "taskgate-same-host", None;
    /// The peer's task.
    TaskgatePeerTask = "taskgate-peer-task", None;
    /// The peer's groups.
    TaskgatePeerGroups = "taskgate-peer-groups", None;
    /// The time of the first packet: not known.
    TaskgateFirst = "taskgate-first", None;
    /// The time of the last packet.
    TaskgateLast = "taskgate-last", None;
    /// The generation that admitted them.
    TaskgateGeneration = "taskgate-generation", None;
}

impl RecordField {
    /// The fields of the default format, version 2.
    pub fn default_format() -> impl Iterator<Item = Self> {
        let all = Self::ALL.iter().copied();
        all.filter(|field| field.version() == Some(2))
    }

    /// The field with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|field| field.name() == name)
    }

    /// Whether no value exists on this host: taskgate writes `-`.
    pub const fn is_absent(self) -> bool {
        matches!(
            self,
            Self::InstanceId
                | Self::SublocationType
                | Self::SublocationId
                | Self::PktSrcAwsService
                | Self::PktDstAwsService
                | Self::RejectReason
                | Self::ResourceId
                | Self::EncryptionStatus
                | Self::InstanceTag
                | Self::InstanceTag2
                | Self::InterfaceTag
                | Self::InterfaceTag2
                | Self::AsgTag
                | Self::AsgTag2
                | Self::InterfaceType
                | Self::NextHopInterfaceId
                | Self::NextHopSubnetId
                | Self::NextHopAzId
                | Self::NextHopVpcId
                | Self::NextHopInterfaceType
                | Self::TaskgateFirst
        )
    }

    /// Whether the field describes the ENI with the peer's address.
    pub const fn is_of_peer(self) -> bool {
        matches!(
            self,
            Self::TrafficPath | Self::TaskgateSameHost | Self::TaskgatePeerTask | Self::TaskgatePeerGroups
        )
    }
}
