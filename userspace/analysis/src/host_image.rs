//! A configuration compiled into an image on the host: no kernel, no root.

use std::sync::atomic::AtomicU64;

use taskgate_compiler::{
    CompileError, CompileOptions, Compiled, EniLimits, GroupSetIds, ImageSize, ImageWriter, RuleIds,
};
use taskgate_ebpf::abi::image::{NO_CAP, Share, Shared};
use taskgate_model::{Eni, Exempt, Model};
use taskgate_tables::image::host_image;

/// Entries in each table for one ENI: an answer sends one packet through each gate.
const ROOM: u32 = 16;

/// An image with one generation, and its registers of ENIs and rules.
pub struct HostImage {
    /// The image and its writer.
    pub writer: ImageWriter<Vec<AtomicU64>>,
    /// The rules by number.
    pub rule_ids: RuleIds,
    /// The number of distinct policies.
    pub policies: usize,
    /// Their size in bytes.
    pub policy_bytes: usize,
}

impl HostImage {
    /// Compiles a model with a gate for each ENI that `gated` selects, which passes traffic to `exempt` without a rule.
    ///
    /// # Errors
    /// The configuration does not fit into an image.
    pub fn new(model: &Model, gated: &dyn Fn(&Eni) -> bool, exempt: &Exempt) -> Result<Self, CompileError> {
        let gate = |eni: &Eni| {
            gated(eni).then_some(EniLimits {
                connections: NO_CAP,
                isolated: false,
            })
        };
        let scope = CompileOptions {
            gate: &gate,
            exempt: &exempt.addresses,
            dhcp: exempt.dhcp,
        };
        let mut rule_ids = RuleIds::default();
        let compiled = Compiled::new(model, scope, &mut rule_ids, &mut GroupSetIds::default())?;
        let (policies, policy_bytes) = (compiled.policies(), compiled.policy_bytes());
        let size = ImageSize::of(&compiled)?;
        let mut writer = ImageWriter::with_members(host_image(size.banks()), size.member_banks)?;
        for table in Shared::ALL {
            writer.control().set_share(table, Share { floor: ROOM, pool: 0 });
        }
        // The image has no readers yet, so no grace period is needed.
        writer.prepare(&compiled, &mut || {})?.commit();
        Ok(Self {
            writer,
            rule_ids,
            policies,
            policy_bytes,
        })
    }

    /// The size of the image in bytes, here as in the kernel.
    pub fn image_bytes(&self) -> usize {
        size_of_val(self.writer.memory())
    }
}
