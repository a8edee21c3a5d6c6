//! How gates hang on links (`settings.attach`): TCX waits for a grace period on each side of each link, clsact for none.

use taskgate_bpf::gate::AttachKind;
use taskgate_model::{Attach, Binding, Eni};
use tracing::info;

use super::Gates;
use crate::error::{ConfigurationError, RunningError};

/// The most links that come up at once and are gated by TCX all the same where nothing is configured: about 3 seconds.
const MOST_BY_TCX: usize = 64;

/// How the gates of links hang of which this many come up at once.
fn hook(attach: Attach, coming: usize) -> AttachKind {
    match attach {
        Attach::Tcx => AttachKind::Tcx,
        Attach::Auto if coming <= MOST_BY_TCX => AttachKind::Tcx,
        Attach::Auto | Attach::Clsact => AttachKind::Clsact,
    }
}

impl Gates {
    /// Refuses what this kernel does not have.
    pub(crate) fn check_hook(&self, attach: Attach) -> Result<(), ConfigurationError> {
        if attach == Attach::Tcx && !self.object.gate_programs().has_tcx() {
            return Err(ConfigurationError::Tcx);
        }
        Ok(())
    }

    /// Chooses for gates of which this many are put up at once; those that stand stay as they are.
    pub(super) fn prefer(&self, attach: Attach, coming: usize) -> AttachKind {
        let programs = self.object.gate_programs();
        programs.prefer(hook(attach, coming));
        programs.hook()
    }

    /// Chooses for the gates of a configuration, and says so where it is not what one link would get.
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
