//! What the guard says of a tenant that a shard does not serve: the detail of its error, read.

use serde::Deserialize;
use tenantry_schema::guard::TENANT_FENCED;
use tenantry_schema::shard::ShardId;
use tenantry_schema::tenant::Epoch;
use tenantry_wire::backend::ErrorFields;
use tenantry_wire::sqlstate;
use uuid::Uuid;

/// The letter of the field with the name of a constraint.
const CONSTRAINT: u8 = b'n';

/// What a shard has noted of a tenant that it does not serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OwnerState {
    /// Nothing.
    Absent,
    Importing,
    Fenced,
    Moved,
    /// Something else than the transaction's snapshot shows.
    Changed,
    /// Not one of those that refuse.
    #[serde(other)]
    Other,
}

/// Why a shard refuses a tenant, and where the tenant is if the shard knows.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct TenantRefusal {
    pub(crate) state: OwnerState,
    #[serde(default)]
    pub(crate) epoch: Option<Epoch>,
    #[serde(default)]
    pub(crate) shard: Option<ShardId>,
    #[serde(default, rename = "move")]
    pub(crate) move_id: Option<Uuid>,
    /// That the source has handed the tenant over.
    #[serde(default)]
    pub(crate) proof: Option<Uuid>,
}

impl TenantRefusal {
    /// Whether an error says that the shard does not serve the tenant, and how.
    pub(crate) fn read(fields: &ErrorFields) -> Option<Self> {
        let is_it = fields.code == sqlstate::SERIALIZATION_FAILURE
            && fields
                .others
                .iter()
                .any(|(letter, value)| *letter == CONSTRAINT && value == TENANT_FENCED);
        if !is_it {
            return None;
        }
        serde_json::from_str(fields.detail.as_deref()?).ok()
    }

    /// Whether it is of the kind that ends: the tenant is on its way, or has arrived elsewhere.
    pub(crate) fn is_of_a_move(&self) -> bool {
        match self.state {
            OwnerState::Fenced
            | OwnerState::Importing
            | OwnerState::Moved
            | OwnerState::Changed => true,
            OwnerState::Absent | OwnerState::Other => false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tenantry_wire::backend::Severity;

    use super::*;

    fn error(detail: &str) -> ErrorFields {
        let mut fields = ErrorFields::new(Severity::Error, "40001", "no").with_detail(detail);
        fields.others.push((CONSTRAINT, TENANT_FENCED.to_owned()));
        fields
    }

    #[test]
    fn a_forwarding_address_is_read() {
        let detail = r#"{"tenant":"1","state":"moved","epoch":2,"shard":9,
            "move":"0192f0c1-7b6a-7c3e-8a51-000000000001","proof":null}"#;
        let read = TenantRefusal::read(&error(detail)).unwrap();
        assert_eq!(read.state, OwnerState::Moved);
        assert_eq!(read.shard, ShardId::new(9).ok());
        assert_eq!(read.epoch, Some(Epoch(2)));
        assert!(read.is_of_a_move());
    }

    #[test]
    fn other_errors_are_none() {
        let mut other = error(r#"{"state":"moved"}"#);
        other.others.clear();
        assert_eq!(TenantRefusal::read(&other), None);
        let read = TenantRefusal::read(&error(r#"{"state":"new in a later version"}"#)).unwrap();
        assert!(!read.is_of_a_move());
    }
}
