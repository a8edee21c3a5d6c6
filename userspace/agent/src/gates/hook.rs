//! How gates are attached to links (`settings.attach`): TCX waits for a grace period on each side of each link, clsact
//! for none.

use taskgate_bpf::gate::AttachKind;
use taskgate_model::{Attach, Binding, Eni};
use tracing::info;

use super::Gates;
use crate::error::{ConfigurationError, RunningError};

/// The largest number of links coming up at once that `auto` still attaches by TCX: it takes about 3 seconds for them.
const MOST_BY_TCX: usize = 64;

/// The kind of attachment for links of which this many come up at once.
fn hook(attach: Attach, coming: usize) -> AttachKind {
    match attach {
        Attach::Tcx => AttachKind::Tcx,
        Attach::Auto if coming <= MOST_BY_TCX => AttachKind::Tcx,
        Attach::Auto | Attach::Clsact => AttachKind::Clsact,
    }
}

impl Gates {
    /// Refuses a kind of attachment that this kernel does not have.
    pub(crate) fn check_hook(&self, attach: Attach) -> Result<(), ConfigurationError> {
        if attach == Attach::Tcx && !self.object.gate_programs().has_tcx() {
            return Err(ConfigurationError::Tcx);
        }
        Ok(())
    }

    /// Chooses the kind of attachment for new gates, of which this many come up at once. Attached gates stay as they
    /// are.
    pub(super) fn prefer(&self, attach: Attach, coming: usize) -> AttachKind {
        let programs = self.object.gate_programs();
        programs.prefer(hook(attach, coming));
        programs.hook()
    }

    /// Chooses the kind of attachment for the gates of a configuration, and logs where it differs from that of a single
    /// link.
    pub(super) async fn prefer_for_all(&mut self, attach: Attach, enis: &[(&Eni, u16)]) -> Result<(), RunningError> {
        let has_link = |eni: &Eni| matches!(eni.binding, Some(Binding::Device(_) | Binding::Namespace(_)));
        let all = enis.iter().filter(|(eni, _)| has_link(eni)).count();
        let standing = self.guard.count().await?.gated + std::mem::take(&mut self.inherited);
        let coming = all.saturating_sub(standing);
        let alone = self.prefer(attach, 1);
        if self.prefer(attach, coming) != alone {
            info!(
                "{coming} links come up at once: their gates are filters of clsact, since TCX has the kernel wait for each of \
                 them; `settings.attach: tcx` has TCX all the same"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_links_at_once_get_filters_unless_told_otherwise() {
        for (attach, coming, expected) in [
            (Attach::Auto, 1, AttachKind::Tcx),
            (Attach::Auto, MOST_BY_TCX, AttachKind::Tcx),
            (Attach::Auto, MOST_BY_TCX + 1, AttachKind::Clsact),
            (Attach::Tcx, 4_000, AttachKind::Tcx),
            (Attach::Clsact, 1, AttachKind::Clsact),
        ] {
            assert_eq!(hook(attach, coming), expected, "{attach:?}, {coming}");
        }
    }
}
