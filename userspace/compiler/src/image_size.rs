//! The size of the image for a configuration. Fixed when the image is created; a new process creates a new image.

use taskgate_ebpf::abi::image::{BANK_BYTES, LEAST_MEMBER_BANKS, MOST_MEMBER_BANKS, member_room, policy_bank};

use super::{CompileError, Compiled};

/// The banks of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSize {
    /// Banks of `members`: a power of two.
    pub member_banks: u32,
    /// Banks of policies.
    pub policy_banks: u32,
}

impl ImageSize {
    /// The size for a configuration with room for a quarter more addresses, so that members can be added without a restart.
    ///
    /// # Errors
    /// [`CompileError::TooManyMembers`].
    pub fn of(compiled: &Compiled) -> Result<Self, CompileError> {
        Ok(Self {
            member_banks: member_banks(compiled.addresses())?,
            policy_banks: policy_banks(compiled.policy_bytes()),
        })
    }

    /// The total number of banks.
    pub const fn banks(self) -> u32 {
        policy_bank(self.member_banks) + self.policy_banks
    }

    /// The room for addresses.
    pub const fn members(self) -> u32 {
        member_room(self.member_banks)
    }
}

/// The banks of `members` for this number of addresses.
fn member_banks(addresses: usize) -> Result<u32, CompileError> {
    let most = member_room(MOST_MEMBER_BANKS) as usize;
    if addresses > most {
        return Err(CompileError::TooManyMembers { addresses, most });
    }
    let wanted = addresses + addresses / 4;
    let sizes = (0..).map(|doubled| LEAST_MEMBER_BANKS << doubled);
    let mut sizes = sizes.take_while(|banks| *banks < MOST_MEMBER_BANKS);
    Ok(sizes
        .find(|banks| member_room(*banks) as usize >= wanted)
        .unwrap_or(MOST_MEMBER_BANKS))
}

/// The banks for policies of `bytes` in total: the current generation and the next one exist at the same time, and a policy
/// never spans two banks.
fn policy_banks(bytes: usize) -> u32 {
    let banks = bytes.div_ceil(BANK_BYTES as usize / 2) as u32;
    2 * banks + 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_more_members_than_there_are() {
        let rows = |addresses| member_banks(addresses).map(member_room);
        for (addresses, room) in [
            (0, 65_536),
            (52_429, 65_536),
            (52_430, 122_880),
            (65_536, 122_880),
            (800_000, 1_966_080),
            (1_000_000, 1_966_080),
            (1_572_864, 1_966_080),
            (1_572_865, 3_932_160),
            (7_864_320, 7_864_320),
        ] {
            assert_eq!(rows(addresses), Ok(room), "{addresses}");
        }
        assert_eq!(
            rows(7_864_321).unwrap_err().to_string(),
            "cannot compile 7864321 addresses of group members and exempt hosts: an image has room for 7864320 at most; \
             remove some, or name networks in prefix lists"
        );
    }
}
