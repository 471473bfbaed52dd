//! What holds at every moment of every move, as predicates: the model checker asks them of each state it reaches, and
//! the executor of what it reads on the shards before it goes on.

use tenantry_schema::catalog::moves::{MoveState, MoveStatus, Side};
use tenantry_schema::tenant::Epoch;

use super::{Effect, Machine};

/// What an owner row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OwnerState {
    /// The tenant is served here.
    Active,
    /// It will be; nobody is served.
    Importing,
    /// It is about to leave; nobody is served.
    Fenced,
    /// It has left.
    Moved,
}

impl OwnerState {
    /// As the guard spells it.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "active" => Some(Self::Active),
            "importing" => Some(Self::Importing),
            "fenced" => Some(Self::Fenced),
            "moved" => Some(Self::Moved),
            _ => None,
        }
    }
}

/// The owner row of a move's tenant on one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OwnerRow {
    /// What it says.
    pub state: OwnerState,
    /// The version of the placement.
    pub epoch: Epoch,
    /// Whether it names this move.
    pub ours: bool,
}

impl OwnerRow {
    /// Whether statements of the tenant are accepted.
    pub fn serves(self) -> bool {
        self.state == OwnerState::Active
    }
}

/// The owner rows on both shards of a move, each read at a moment of its own; `None`: there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owners {
    /// The source's.
    pub source: Option<OwnerRow>,
    /// The destination's.
    pub destination: Option<OwnerRow>,
}

impl Owners {
    /// The row on a side.
    pub fn on(self, side: Side) -> Option<OwnerRow> {
        match side {
            Side::Source => self.source,
            Side::Destination => self.destination,
        }
    }

    fn serves(self, side: Side) -> bool {
        self.on(side).is_some_and(OwnerRow::serves)
    }

    fn handed_over(self, side: Side) -> bool {
        self.on(side)
            .is_some_and(|row| row.ours && row.state == OwnerState::Moved)
    }
}

/// An invariant that does not hold: nothing more may be done to the tenant before somebody has looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Violation {
    /// Two shards accept writes of the tenant.
    #[error("both shards serve the tenant")]
    BothServe,
    /// The catalog says the tenant has moved, and the shard that it left serves it.
    #[error("the shard that the tenant has left serves it")]
    LeftServes,
    /// The tenant was handed over to a shard that does not know of it.
    #[error("the tenant was handed over to a shard that has no row for it")]
    HandedToNobody,
    /// A move that is over has left a fence, or nobody serves its tenant.
    #[error("the move is over and the tenant is not served where it lives")]
    OverButNotServed,
    /// Rows would be deleted that are served, or the only ones there are.
    #[error("the rows to be deleted are those that are served, or may yet be")]
    DeletesWhatIsServed,
}

/// "At most one shard accepts a tenant's writes", and that a handed over tenant arrives. Reading two shards takes time:
/// the rows must have been read while nobody worked on the move.
pub fn check(status: &MoveStatus, owners: Owners) -> Result<(), Violation> {
    if owners.serves(Side::Source) && owners.serves(Side::Destination) {
        return Err(Violation::BothServe);
    }
    let left = status.lives_at.other();
    if status.placement_epoch.is_some()
        && owners.serves(left)
        && !owners.handed_over(status.lives_at)
    {
        return Err(Violation::LeftServes);
    }
    for side in [Side::Source, Side::Destination] {
        if owners.handed_over(side) && owners.on(side.other()).is_none() {
            return Err(Violation::HandedToNobody);
        }
    }
    if status.state.is_final() && !owners.serves(status.lives_at) {
        return Err(Violation::OverButNotServed);
    }
    Ok(())
}

/// Whether the rows on `side` may be deleted: they are not served and cannot be any more without being copied anew.
pub fn check_deletion(side: Side, owners: Owners) -> Result<(), Violation> {
    let gone = match owners.on(side).map(|row| (row.state, row.ours)) {
        // It imports, and was not handed over to.
        Some((OwnerState::Importing, true)) => !owners.handed_over(side.other()),
        // It has handed over, and who received serves.
        Some((OwnerState::Moved, true)) => owners.serves(side.other()),
        None => true,
        Some(_) => false,
    };
    if gone {
        Ok(())
    } else {
        Err(Violation::DeletesWhatIsServed)
    }
}

/// "Every state has an exit": a move that is not over has something under way, or waits for an operator who can say
/// how it goes on.
pub fn has_exit(machine: &Machine) -> bool {
    let waits_for_operator = machine.status.paused || machine.doing == Some(Effect::AwaitSwitch);
    let state = machine.status.state;
    state.is_final() || machine.doing.is_some() || waits_for_operator && state != MoveState::Fencing
}
