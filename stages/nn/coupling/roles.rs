//! Which channels of an image condition a coupling, and which it transforms.

use anyhow::{Result, ensure};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How couplings split an odd number c of channels, such as three (A3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ChannelSplit {
    /// The first channel conditions, two are transformed (in general c / 2 rounded down), as integer
    /// division in the official code has it.
    ConditionOnOne,
    /// The first two channels condition, one is transformed (c / 2 rounded up).
    ConditionOnTwo,
    /// The first channel and the other two take turns: in every second step the two condition
    /// and the one is transformed.
    Alternate,
}

impl ChannelSplit {
    /// The roles in a step of a flow, counted from 0.
    pub fn roles(self, channels: usize, step: usize) -> Result<Roles> {
        ensure!(
            channels >= 2,
            "a coupling needs at least two channels, the images have {channels}"
        );
        let (fewer, more) = (channels / 2, channels.div_ceil(2));
        let last_condition = self == Self::Alternate && step % 2 == 1;
        let conditioning = match self {
            Self::ConditionOnOne => fewer,
            Self::ConditionOnTwo => more,
            Self::Alternate if last_condition => more,
            Self::Alternate => fewer,
        };
        Ok(Roles {
            conditioning,
            transformed: channels - conditioning,
            last_condition,
        })
    }
}

/// Channels of a coupling by what they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    pub conditioning: usize,
    pub transformed: usize,
    /// Whether those that condition are the last channels and not the first.
    pub last_condition: bool,
}

impl Roles {
    /// As in the official code: the first half, rounded down, conditions.
    pub fn official(channels: usize) -> Result<Self> {
        ChannelSplit::ConditionOnOne.roles(channels, 0)
    }
}
