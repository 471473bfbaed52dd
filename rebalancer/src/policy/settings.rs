//! What a policy is: thresholds, times and budgets, as an operator sets them.

use serde::{Deserialize, Serialize};

/// What is done with decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// None are made.
    Off,
    /// They are recorded, for an operator to act upon.
    #[default]
    Recommend,
    /// They are carried out.
    Act,
}

/// What happens to a hot tenant when no spare may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WithoutSpare {
    /// It moves to the least loaded shared shard, if it is better off there.
    #[default]
    LeastLoaded,
    /// It stays.
    Stay,
}

/// When a tenant is isolated, and when it returns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// What is done with decisions.
    pub mode: Mode,
    /// How long a tenant must have been hot, seconds.
    pub hot_for_s: u32,
    /// The part of its shard's busy time that it must take.
    pub share_min: f64,
    /// Server connections that it must keep busy.
    pub busy_min: f64,
    /// The largest tenant that is moved.
    pub bytes_max: u64,
    /// How long nothing is done with a tenant after a move of it, seconds.
    pub cool_down_s: u32,
    /// Spares that are not taken.
    pub spares_kept: usize,
    /// Tenants that may be isolated by policy at a time.
    pub isolated_max: usize,
    /// Moves of the policy's that may be under way at a time.
    pub at_once_max: usize,
    /// What happens when no spare may be taken.
    pub without_spare: WithoutSpare,
    /// Whether tenants return when they are cold.
    pub returns: bool,
    /// How long an isolated tenant must have been cold, seconds.
    pub cold_for_s: u32,
    /// Server connections that a tenant may keep busy at most to return.
    pub busy_back_max: f64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            hot_for_s: 5,
            share_min: 0.3,
            busy_min: 1.0,
            bytes_max: 20 << 30,
            cool_down_s: 900,
            spares_kept: 0,
            isolated_max: 4,
            at_once_max: 1,
            without_spare: WithoutSpare::default(),
            returns: true,
            cold_for_s: 3600,
            busy_back_max: 0.5,
        }
    }
}

/// A policy that contradicts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A tenant would come back and be isolated again.
    #[error("busy_back_max has to be below busy_min, or tenants would go back and forth")]
    NoDistance,
    /// A part is between 0 and 1.
    #[error("share_min is a part of a shard's busy time: more than 0, at most 1")]
    Share,
    /// Amounts are not negative, and are numbers.
    #[error("busy_min and busy_back_max are numbers of connections, 0 or more")]
    Busy,
}

impl Policy {
    /// Whether it makes sense.
    pub fn check(&self) -> Result<(), PolicyError> {
        let is_amount = |busy: f64| busy.is_finite() && busy >= 0.0;
        if !is_amount(self.busy_min) || !is_amount(self.busy_back_max) {
            return Err(PolicyError::Busy);
        }
        if self.busy_back_max >= self.busy_min {
            return Err(PolicyError::NoDistance);
        }
        if !(self.share_min > 0.0 && self.share_min <= 1.0) {
            return Err(PolicyError::Share);
        }
        Ok(())
    }
}
