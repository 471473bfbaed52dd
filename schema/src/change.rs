//! What the catalog's table `change` carries: every write that a router must learn of.
//!
//! The JSON of a [`ChangeBody`] is `{"kind": …, "payload": …}`, the row's columns of these names. SQL triggers write
//! them, so the tags and field names are an interface: add, never rename. A kind that this version does not know fails
//! to read, and the follower reloads everything.

use serde::{Deserialize, Serialize};

use crate::directory::TenantRow;
use crate::fleet::{FleetSettings, Role};
use crate::limits::{KillSwitch, Limits};
use crate::ring::RingMember;
use crate::shard::{Shard, ShardId};
use crate::tenant::TenantId;

/// The changes of one transaction, in their order. Numbers are consecutive: `last_seq` of one group is followed by
/// `first_seq` of the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeGroup {
    /// The number of the first change.
    pub first_seq: u64,
    /// The number of the last change.
    pub last_seq: u64,
    /// The changes. One at least.
    pub changes: Vec<ChangeBody>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "payload", rename_all = "snake_case")]
pub enum ChangeBody {
    /// A tenant was created or altered. The payload is the row.
    Tenant(TenantRow),
    /// A tenant's row was deleted.
    TenantRemoved {
        /// The tenant.
        id: TenantId,
    },
    /// A tenant's overrides of its plan's limits; empty: it has none any more.
    TenantLimits {
        /// The tenant.
        tenant: TenantId,
        /// What they are now.
        limits: Limits,
    },
    /// A plan was created or altered.
    Plan {
        /// Its name.
        name: String,
        /// Its limits.
        limits: Limits,
    },
    /// A plan was removed.
    PlanRemoved {
        /// Its name.
        name: String,
    },
    /// A kill switch was thrown or released.
    KillSwitch(KillSwitch),
    /// A hostname was added, or leads to another tenant.
    Hostname {
        /// The canonical name.
        name: String,
        /// The tenant.
        tenant: TenantId,
    },
    /// A hostname was removed.
    HostnameRemoved {
        /// The canonical name.
        name: String,
    },
    /// A tenant was pinned, or pinned elsewhere.
    Pin {
        /// The tenant.
        tenant: TenantId,
        /// Its shard.
        shard: ShardId,
    },
    /// A tenant's pin was removed.
    PinRemoved {
        /// The tenant.
        tenant: TenantId,
    },
    /// Many tenants were pinned at once, by a change of the ring.
    BulkPins {
        /// The pins, by shard.
        pins: Vec<PinnedTenants>,
    },
    /// A shard was added or altered.
    Shard(Shard),
    /// A shard was removed.
    ShardRemoved {
        /// The shard.
        id: ShardId,
    },
    /// The ring has these members now, and no others.
    Ring {
        /// The members.
        members: Vec<RingMember>,
    },
    /// A role was created or altered.
    Role(Role),
    /// A role was removed.
    RoleRemoved {
        /// Its name.
        name: String,
    },
    /// The fleet's settings.
    Settings(FleetSettings),
}

/// Tenants that are pinned to one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedTenants {
    /// The shard.
    pub shard: ShardId,
    /// The tenants.
    pub tenants: Vec<TenantId>,
}

impl ChangeBody {
    /// Whether a tenant's limits may be others after it: its plan is in its row.
    pub(crate) fn may_change_limits(&self) -> bool {
        matches!(
            self,
            Self::Tenant(_)
                | Self::TenantRemoved { .. }
                | Self::TenantLimits { .. }
                | Self::Plan { .. }
                | Self::PlanRemoved { .. }
                | Self::KillSwitch(_)
        )
    }

    /// The tag under which the change is stored.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Tenant(_) => "tenant",
            Self::TenantRemoved { .. } => "tenant_removed",
            Self::TenantLimits { .. } => "tenant_limits",
            Self::Plan { .. } => "plan",
            Self::PlanRemoved { .. } => "plan_removed",
            Self::KillSwitch(_) => "kill_switch",
            Self::Hostname { .. } => "hostname",
            Self::HostnameRemoved { .. } => "hostname_removed",
            Self::Pin { .. } => "pin",
            Self::PinRemoved { .. } => "pin_removed",
            Self::BulkPins { .. } => "bulk_pins",
            Self::Shard(_) => "shard",
            Self::ShardRemoved { .. } => "shard_removed",
            Self::Ring { .. } => "ring",
            Self::Role(_) => "role",
            Self::RoleRemoved { .. } => "role_removed",
            Self::Settings(_) => "settings",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::limits::KillMode;

    #[test]
    fn the_payload_of_a_tenant_is_what_to_jsonb_writes() {
        let body: ChangeBody = serde_json::from_str(
            r#"{"kind": "tenant", "payload": {"id": 17, "slug": "blue-hat", "state": "suspended", "isolation": "pooled", "plan": null,
                "epoch": 3, "is_demo": true, "is_simulation": false, "created_at": "2026-01-02T03:04:05+00:00",
                "suspended_reason": "unpaid", "suspended_at": "2026-02-03T04:05:06.789+00:00"}}"#,
        )
        .unwrap();
        let ChangeBody::Tenant(row) = &body else {
            panic!("{body:?}")
        };
        assert_eq!(row.id.as_bigint(), Some(17));
        assert_eq!(
            row.suspended_at.unwrap().as_millisecond(),
            1_770_091_506_789
        );
        assert!(row.is_demo && !row.is_simulation);
    }

    #[test]
    fn every_kind_names_itself() {
        let id = TenantId::from_bigint(5).unwrap();
        let shard = ShardId::new(2).unwrap();
        for body in [
            ChangeBody::TenantRemoved { id },
            ChangeBody::TenantLimits {
                tenant: id,
                limits: Limits::default(),
            },
            ChangeBody::Plan {
                name: "small".into(),
                limits: serde_json::from_str(r#"{"connections": 4}"#).unwrap(),
            },
            ChangeBody::PlanRemoved {
                name: "small".into(),
            },
            ChangeBody::KillSwitch(KillSwitch {
                tenant: Some(id),
                mode: KillMode::ReadOnly,
                reason: Some("migration".into()),
                since: jiff::Timestamp::UNIX_EPOCH,
                until: None,
            }),
            ChangeBody::Hostname {
                name: "a.example".into(),
                tenant: id,
            },
            ChangeBody::HostnameRemoved {
                name: "a.example".into(),
            },
            ChangeBody::Pin { tenant: id, shard },
            ChangeBody::PinRemoved { tenant: id },
            ChangeBody::BulkPins {
                pins: vec![PinnedTenants {
                    shard,
                    tenants: vec![id],
                }],
            },
            ChangeBody::ShardRemoved { id: shard },
            ChangeBody::Ring {
                members: vec![RingMember { shard, weight: 3 }],
            },
            ChangeBody::RoleRemoved {
                name: "shop".into(),
            },
        ] {
            let json = serde_json::to_value(&body).unwrap();
            assert_eq!(json["kind"], body.kind());
            assert_eq!(serde_json::from_value::<ChangeBody>(json).unwrap(), body);
        }
    }

    #[test]
    fn an_unknown_kind_is_an_error() {
        assert!(serde_json::from_str::<ChangeBody>(r#"{"kind": "telepathy"}"#).is_err());
    }
}
