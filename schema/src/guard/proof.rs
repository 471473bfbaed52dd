//! The proof that a move was committed, as the destination stores it before the commit.
//!
//! It must agree with `tenantry.proof_hash()` in `sql/11_moves.sql`.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::tenant::Epoch;

/// What `tenantry.expect_proof()` is told: SHA-256 over the proof and the epoch that the fence will give the tenant, so
/// that the proof is good for no other epoch.
pub fn proof_hash(proof: Uuid, epoch: Epoch) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(proof.as_bytes());
    hash.update(epoch.0.to_be_bytes());
    hash.finalize().into()
}
