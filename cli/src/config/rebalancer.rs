//! The rebalancer's settings; its defaults are the rebalancer crate's.

use std::time::Duration;

use tenantry_rebalancer::policy::{Mode, Policy, PolicyError, WithoutSpare};

use super::reader::Reader;
use super::value::{ByteSize, Period, SettingValue};

/// Reads `[rebalancer]`; what other sections say is filled in by [`super::Settings::rebalancer`].
pub(super) fn read(reader: &mut Reader<'_>) -> tenantry_rebalancer::Config {
    let default = tenantry_rebalancer::Config::default();
    let spill_dir = reader.path("rebalancer.spill_dir");
    let mut period = |key: &str, default: Duration| reader.value(key, Period(default)).0;
    tenantry_rebalancer::Config {
        pause_budget: period("rebalancer.pause_budget", default.pause_budget),
        probation: period("rebalancer.probation", default.probation),
        lease: period("rebalancer.lease", default.lease),
        moves_max: reader.value("rebalancer.moves_max", default.moves_max),
        moves_per_shard_max: reader.value(
            "rebalancer.moves_per_shard_max",
            default.moves_per_shard_max,
        ),
        spill_dir: spill_dir.unwrap_or(default.spill_dir),
        policy: policy(reader),
        catalog_url: default.catalog_url,
        secrets_file: default.secrets_file,
        fault_point: default.fault_point,
        left_out: default.left_out,
    }
}

/// Reads `[rebalancer.policy]`: when hot tenants are isolated.
fn policy(reader: &mut Reader<'_>) -> Policy {
    let default = Policy::default();
    let seconds = |reader: &mut Reader<'_>, key: &str, default: u32| {
        let period = reader.value(key, Period(Duration::from_secs(default.into())));
        u32::try_from(period.0.as_secs()).unwrap_or(u32::MAX)
    };
    let policy = Policy {
        mode: reader.value("rebalancer.policy.mode", default.mode),
        hot_for_s: seconds(reader, "rebalancer.policy.hot_for", default.hot_for_s),
        share_min: reader.value("rebalancer.policy.share_min", default.share_min),
        busy_min: reader.value("rebalancer.policy.busy_min", default.busy_min),
        bytes_max: reader
            .value("rebalancer.policy.size_max", ByteSize(default.bytes_max))
            .0,
        cool_down_s: seconds(reader, "rebalancer.policy.cool_down", default.cool_down_s),
        spares_kept: reader.value("rebalancer.policy.spares_kept", default.spares_kept),
        isolated_max: reader.value("rebalancer.policy.isolated_max", default.isolated_max),
        at_once_max: reader.value("rebalancer.policy.at_once_max", default.at_once_max),
        without_spare: reader.value("rebalancer.policy.without_spare", default.without_spare),
        returns: reader.value("rebalancer.policy.returns", default.returns),
        cold_for_s: seconds(reader, "rebalancer.policy.cold_for", default.cold_for_s),
        busy_back_max: reader.value("rebalancer.policy.busy_back_max", default.busy_back_max),
    };
    if let Err(error) = policy.check() {
        let key = match error {
            PolicyError::NoDistance => "rebalancer.policy.busy_back_max",
            PolicyError::Share => "rebalancer.policy.share_min",
            PolicyError::Busy => "rebalancer.policy.busy_min",
        };
        reader.refuse(key, error.to_string());
    }
    policy
}

/// Values of a closed set, by their names in the file.
macro_rules! setting_words {
    ($type:ty { $($text:literal => $value:expr),+ $(,)? }) => {
        impl SettingValue for $type {
            fn parse(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok($value),)+
                    _ => Err(format!("`{text}` is none of {}", [$($text),+].join(", "))),
                }
            }

            fn shown(&self) -> String {
                let known = [$(($value, $text)),+];
                let found = known.iter().find(|(value, _)| value == self);
                found.map_or_else(String::new, |(_, text)| (*text).to_owned())
            }
        }
    };
}

setting_words!(Mode {
    "off" => Self::Off,
    "recommend" => Self::Recommend,
    "act" => Self::Act,
});

setting_words!(WithoutSpare {
    "least_loaded" => Self::LeastLoaded,
    "stay" => Self::Stay,
});
