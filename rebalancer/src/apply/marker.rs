//! What a stream says about the move itself: owner rows, fence markers and probes.

use serde::Deserialize;
use tenantry_wire::replication::LogicalMessage;
use uuid::Uuid;

use super::target::OwnerRow;

/// Prefix of the markers that `tenantry.fence()` writes.
const FENCE: &[u8] = b"tenantry.fence";
/// Prefix of the markers that measure the way.
pub(super) const PROBE: &str = "tenantry.probe";

/// Who may mean us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) move_id: Uuid,
    /// Distinguishes the two streams of a move in probes.
    pub(super) direction: &'static str,
}

#[derive(Debug, Deserialize)]
struct FenceMarker {
    #[serde(rename = "move")]
    move_id: Uuid,
    nonce: Uuid,
}

/// What the move did in one transaction.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Signs {
    owner: Option<OwnerRow>,
    fence: Option<Uuid>,
    /// The number of the last probe.
    pub(super) probe: Option<u64>,
}

impl Signs {
    pub(super) fn owner_changed(&mut self, row: OwnerRow) {
        self.owner = Some(row);
    }

    /// Takes note of a message if it is one of ours; the log has those of every move.
    pub(super) fn message(&mut self, who: &Identity, message: &LogicalMessage<'_>) {
        if message.prefix == FENCE
            && let Ok(marker) = serde_json::from_slice::<FenceMarker>(message.content)
            && marker.move_id == who.move_id
        {
            self.fence = Some(marker.nonce);
        } else if message.prefix == PROBE.as_bytes() {
            self.probe = probe_number(who, message.content).or(self.probe);
        }
    }

    /// The nonce, if the transaction fenced the tenant for this move: the marker counts only with the owner row that the
    /// same transaction wrote, since anyone who may write messages can write markers.
    pub(super) fn fenced(&self, who: &Identity) -> Option<Uuid> {
        let owner = self.owner.as_ref()?;
        let nonce = self.fence?;
        let ours = owner.state == "fenced"
            && is(owner.move_id.as_deref(), who.move_id)
            && is(owner.nonce.as_deref(), nonce);
        ours.then_some(nonce)
    }

    /// The tenant became active here by this move.
    pub(super) fn flipped(&self, who: &Identity) -> bool {
        self.owner_says("active", who)
    }

    /// The tenant left by this move.
    pub(super) fn moved(&self, who: &Identity) -> bool {
        self.owner_says("moved", who)
    }

    /// A fence was lifted.
    pub(super) fn active(&self) -> bool {
        self.owner
            .as_ref()
            .is_some_and(|owner| owner.state == "active")
    }

    fn owner_says(&self, state: &str, who: &Identity) -> bool {
        self.owner
            .as_ref()
            .is_some_and(|owner| owner.state == state && is(owner.move_id.as_deref(), who.move_id))
    }
}

fn is(text: Option<&str>, id: Uuid) -> bool {
    text.and_then(|text| text.parse().ok()) == Some(id)
}

/// The content of a probe.
pub(super) fn probe(who: &Identity, number: u64) -> String {
    format!("{}:{}:{number}", who.move_id, who.direction)
}

fn probe_number(who: &Identity, content: &[u8]) -> Option<u64> {
    let (rest, number) = std::str::from_utf8(content).ok()?.rsplit_once(':')?;
    let (move_id, direction) = rest.split_once(':')?;
    let ours = move_id.parse() == Ok(who.move_id) && direction == who.direction;
    number.parse().ok().filter(|_| ours)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tenantry_wire::replication::Lsn;

    use super::*;

    const MOVE: Uuid = Uuid::from_u128(7);
    const NONCE: Uuid = Uuid::from_u128(8);

    fn us() -> Identity {
        Identity {
            move_id: MOVE,
            direction: "forward",
        }
    }

    fn owner(state: &str, move_id: Option<Uuid>, nonce: Option<Uuid>) -> OwnerRow {
        OwnerRow {
            state: state.to_owned(),
            move_id: move_id.map(|id| id.to_string()),
            nonce: nonce.map(|id| id.to_string()),
        }
    }

    fn heard(prefix: &str, content: &str) -> Signs {
        let mut signs = Signs::default();
        let message = LogicalMessage {
            transactional: true,
            lsn: Lsn(1),
            prefix: prefix.as_bytes(),
            content: content.as_bytes(),
        };
        signs.message(&us(), &message);
        signs
    }

    fn marker(move_id: Uuid, nonce: Uuid) -> Signs {
        let content =
            format!(r#"{{"tenant": "1", "move": "{move_id}", "nonce": "{nonce}", "epoch": 2}}"#);
        heard("tenantry.fence", &content)
    }

    #[test]
    fn a_fence_counts_only_with_its_owner_row() {
        let mut alone = marker(MOVE, NONCE);
        assert_eq!(alone.fenced(&us()), None);
        for other in [
            owner("active", Some(MOVE), Some(NONCE)),
            owner("fenced", Some(NONCE), Some(NONCE)),
            owner("fenced", Some(MOVE), Some(MOVE)),
            owner("fenced", Some(MOVE), None),
        ] {
            alone.owner_changed(other.clone());
            assert_eq!(alone.fenced(&us()), None, "{other:?}");
        }
        alone.owner_changed(owner("fenced", Some(MOVE), Some(NONCE)));
        assert_eq!(alone.fenced(&us()), Some(NONCE));
        let mut without = Signs::default();
        without.owner_changed(owner("fenced", Some(MOVE), Some(NONCE)));
        assert_eq!(without.fenced(&us()), None);
    }

    #[test]
    fn what_others_write_means_nothing() {
        assert_eq!(marker(NONCE, NONCE), Signs::default());
        assert_eq!(heard("tenantry.fence", "nonsense"), Signs::default());
        assert_eq!(heard("elsewhere", &probe(&us(), 1)), Signs::default());
        for content in [
            "",
            "1",
            "x:forward:1",
            &format!("{MOVE}:reverse:1"),
            &format!("{MOVE}:forward:x"),
        ] {
            assert_eq!(heard(PROBE, content), Signs::default(), "{content}");
        }
        assert_eq!(heard(PROBE, &probe(&us(), 7)).probe, Some(7));
    }

    #[test]
    fn activation_and_departure_are_told_by_the_owner_row() {
        let mut signs = Signs::default();
        signs.owner_changed(owner("active", Some(MOVE), None));
        assert!(signs.flipped(&us()) && signs.active() && !signs.moved(&us()));
        signs.owner_changed(owner("active", None, None));
        assert!(!signs.flipped(&us()) && signs.active());
        signs.owner_changed(owner("moved", Some(MOVE), Some(NONCE)));
        assert!(signs.moved(&us()) && !signs.active());
        signs.owner_changed(owner("moved", Some(NONCE), None));
        assert!(!signs.moved(&us()));
    }
}
