//! What the step function acts upon: owner rows as the guard's functions change them, rows as sets of acknowledged
//! writes, the journal with its compare-and-set, and processes that die.

use std::time::Duration;

use jiff::Timestamp;
use tenantry_rebalancer::machine::invariants::{OwnerRow, OwnerState, Owners, check_deletion};
use tenantry_rebalancer::machine::{Effect, Event, Failure, Machine, Outcome, Remedy, Terms, step};
use tenantry_schema::catalog::moves::{MoveCommand, MoveStatus, Side};
use tenantry_schema::tenant::Epoch;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;
const TERMS: Terms = Terms {
    manual: false,
    probation: Duration::from_secs(1),
};
const SIDES: [Side; 2] = [Side::Source, Side::Destination];

/// How much of each kind of mischief one history has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Crashes, lost answers, failures, together.
    pub(crate) faults: u8,
    /// Processes that begin to lead after the first one.
    pub(crate) takeovers: u8,
    pub(crate) writes: u8,
    pub(crate) attempts: u32,
    pub(crate) commands: &'static [MoveCommand],
    pub(crate) expiries: u8,
    /// A broken guard: fences and hand-overs at any epoch.
    pub(crate) ignore_epochs: bool,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            faults: 0,
            takeovers: 0,
            writes: 2,
            attempts: 2,
            commands: &[],
            expiries: 0,
            ignore_epochs: false,
        }
    }
}

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Act {
    /// The effect under way takes place, and the process learns it.
    Run(usize),
    /// It takes place, and the answer is lost.
    Lose(usize),
    /// It fails; what was sent may be executed later.
    Fail(usize, Remedy),
    /// The process dies; what was sent may be executed later.
    Crash(usize),
    /// The effect takes place, and the process dies before it learns it.
    RunAndCrash(usize),
    /// A process leads from now on; another one that did may not know.
    Lead(usize),
    /// What a dead process had sent is executed.
    Late,
    /// A client writes through a router that believes the tenant is there.
    Write(Side),
    /// A deadline passes, and a router lifts the fence.
    Expire(Side),
    /// A router has met the forwarding address on this side and activates the other.
    Prove(Side),
    /// An operator.
    Ask(usize, MoveCommand),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Node {
    machine: Machine,
    version: u8,
    lease: u8,
}

/// Everything there is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) journal: MoveStatus,
    version: u8,
    lease: u8,
    rows: [Option<OwnerRow>; 2],
    /// Which of the acknowledged writes are there.
    data: [u8; 2],
    pub(crate) acked: u8,
    /// Of the fences that are in the log: side, epoch, what was written before.
    markers: Vec<(Side, Epoch, u8)>,
    slots: [bool; 2],
    nodes: [Option<Node>; 2],
    late: Option<Effect>,
    pub(crate) defect: Option<String>,
    faults: u8,
    takeovers: u8,
    commanded: bool,
    expiries: u8,
    ignore_epochs: bool,
}

fn at(side: Side) -> usize {
    match side {
        Side::Source => 0,
        Side::Destination => 1,
    }
}

fn failed(remedy: Remedy) -> Outcome {
    Outcome::Failed(Failure {
        remedy,
        reason: "a fault".to_owned(),
    })
}

impl World {
    pub(crate) fn new(ignore_epochs: bool) -> Self {
        let served = OwnerRow {
            state: OwnerState::Active,
            epoch: Epoch(1),
            ours: false,
        };
        let mut world = Self {
            journal: MoveStatus::planned(),
            version: 0,
            lease: 0,
            rows: [Some(served), None],
            data: [1, 0],
            acked: 1,
            markers: Vec::new(),
            slots: [false; 2],
            nodes: [None, None],
            late: None,
            defect: None,
            faults: 0,
            takeovers: 0,
            commanded: false,
            expiries: 0,
            ignore_epochs,
        };
        world.lead(0);
        world
    }

    pub(crate) fn owners(&self) -> Owners {
        Owners {
            source: self.rows[0],
            destination: self.rows[1],
        }
    }

    pub(crate) fn serves(&self, side: Side) -> bool {
        self.rows[at(side)].is_some_and(OwnerRow::serves)
    }

    pub(crate) fn has_all(&self, side: Side) -> bool {
        self.data[at(side)] & self.acked == self.acked
    }

    /// The processes that lead, or believe so.
    pub(crate) fn machines(&self) -> impl Iterator<Item = &Machine> {
        self.nodes.iter().flatten().map(|node| &node.machine)
    }

    /// Nothing is left but the tenant where it lives, and a forwarding address.
    pub(crate) fn is_clean(&self) -> bool {
        let left = self.journal.lives_at.other();
        let address = self.rows[at(left)].is_none_or(|row| row.state == OwnerState::Moved);
        self.serves(self.journal.lives_at)
            && address
            && self.data[at(left)] == 0
            && self.slots == [false; 2]
    }

    pub(crate) fn acts(&self, bounds: &Bounds, acts: &mut Vec<Act>) {
        let faulty = self.faults < bounds.faults;
        for (number, node) in self.nodes.iter().enumerate() {
            let Some(node) = node else {
                // The first process may come back as the other one's successor, too.
                let may = self.takeovers < bounds.takeovers && !self.journal.state.is_final();
                acts.extend(may.then_some(Act::Lead(number)));
                continue;
            };
            if let Some(effect) = node.machine.doing {
                let tired = matches!(effect, Effect::AwaitGate { .. })
                    && node.machine.status.attempts >= bounds.attempts;
                acts.extend((!tired).then_some(Act::Run(number)));
                if faulty {
                    acts.extend([
                        Act::Lose(number),
                        Act::Crash(number),
                        Act::RunAndCrash(number),
                    ]);
                    let remedies = [Remedy::Retry, Remedy::Restart, Remedy::GiveUp];
                    acts.extend(remedies.map(|remedy| Act::Fail(number, remedy)));
                }
            }
            if !self.commanded && node.machine.takes_commands() {
                let accepted =
                    |command: &&MoveCommand| node.machine.status.accepts(**command).is_ok();
                let commands = bounds.commands.iter().filter(accepted);
                acts.extend(commands.map(|command| Act::Ask(number, *command)));
            }
            // A paused move is not stuck: an operator is always there for it.
            if node.machine.status.paused && node.machine.takes_commands() {
                acts.push(Act::Ask(number, MoveCommand::Resume));
            }
        }
        acts.extend(self.late.map(|_| Act::Late));
        for side in SIDES {
            if self.acked.count_ones() < bounds.writes.into() {
                acts.extend(self.serves(side).then_some(Act::Write(side)));
            }
            if self.expiries < bounds.expiries {
                acts.push(Act::Expire(side));
            }
            acts.push(Act::Prove(side));
        }
    }

    pub(crate) fn act(&mut self, act: Act) {
        match act {
            Act::Run(number) => {
                if let Some((effect, outcome)) = self.run(number) {
                    self.learn(number, Event::Ended(effect, outcome));
                }
            }
            Act::Lose(number) => {
                self.faults += 1;
                if let Some((effect, _)) = self.run(number) {
                    self.learn(number, Event::Ended(effect, failed(Remedy::Retry)));
                }
            }
            Act::Fail(number, remedy) => {
                self.faults += 1;
                if let Some(effect) = self.doing(number) {
                    self.send_late(effect);
                    self.learn(number, Event::Ended(effect, failed(remedy)));
                }
            }
            Act::Crash(number) => {
                self.faults += 1;
                if let Some(effect) = self.doing(number) {
                    self.send_late(effect);
                }
                self.nodes[number] = None;
            }
            Act::RunAndCrash(number) => {
                self.faults += 1;
                self.run(number);
                self.nodes[number] = None;
            }
            Act::Lead(number) => {
                self.takeovers += 1;
                self.lead(number);
            }
            Act::Late => {
                if let Some(effect) = self.late.take() {
                    self.perform(effect);
                }
            }
            Act::Write(side) => {
                if self.serves(side) {
                    let write = 1 << self.acked.count_ones();
                    self.data[at(side)] |= write;
                    self.acked |= write;
                }
            }
            Act::Expire(side) => {
                if self.rows[at(side)].is_some_and(|row| row.state == OwnerState::Fenced) {
                    self.expiries += 1;
                    self.lift(side);
                }
            }
            Act::Prove(side) => self.prove(side),
            Act::Ask(number, command) => {
                self.commanded |= command != MoveCommand::Resume;
                self.learn(number, Event::Asked(command));
            }
        }
    }

    fn doing(&self, number: usize) -> Option<Effect> {
        self.nodes[number].as_ref()?.machine.doing
    }

    /// Loads the move and begins. Sessions of those who led before are ended; what they sent for owner rows may be under
    /// way.
    fn lead(&mut self, number: usize) {
        self.lease += 1;
        let machine = Machine::new(self.journal.clone(), TERMS);
        self.nodes[number] = Some(Node {
            machine,
            version: self.version,
            lease: self.lease,
        });
        if !self.journal.state.is_final() {
            self.learn(number, Event::Resumed);
        }
    }

    /// The answer arrives: the step is taken, and stored if it has to be.
    fn learn(&mut self, number: usize, event: Event) {
        let Some(mut node) = self.nodes[number].take() else {
            return;
        };
        let next = match step(&node.machine, &event, NOW) {
            Ok(step) => step.next,
            Err(illegal) => {
                self.defect = Some(illegal.to_string());
                return;
            }
        };
        let stored = next.stored();
        if stored != node.machine.stored() {
            // Compare-and-set: whoever was overtaken does nothing more.
            if (node.version, node.lease) != (self.version, self.lease) {
                return;
            }
            self.journal = stored;
            self.version += 1;
            node.version = self.version;
        }
        node.machine = next;
        if !node.machine.status.state.is_final() {
            self.nodes[number] = Some(node);
        }
    }

    /// Carries the effect of a process out, if it still can.
    fn run(&mut self, number: usize) -> Option<(Effect, Outcome)> {
        let node = self.nodes[number].as_ref()?;
        let effect = node.machine.doing?;
        // Its sessions were ended, and it opens no new ones: only what it had sent for owner rows counts.
        if node.lease < self.lease && !changes_owner(effect) {
            self.nodes[number] = None;
            return None;
        }
        if let Effect::Clean { side } = effect
            && let Err(violation) = check_deletion(side, self.owners())
        {
            self.defect = Some(violation.to_string());
        }
        Some((effect, self.perform(effect)))
    }

    fn send_late(&mut self, effect: Effect) {
        if changes_owner(effect) && self.late.is_none() {
            self.late = Some(effect);
        }
    }

    /// What an effect does to shards, as the guard's functions and the executor have it.
    fn perform(&mut self, effect: Effect) -> Outcome {
        match effect {
            Effect::PrepareDestination => return self.begin_import(),
            Effect::CreateSlot => self.slots[0] = true,
            Effect::PrepareReverse => self.slots[1] = true,
            Effect::Copy | Effect::CatchUp | Effect::Verify => self.data[1] |= self.data[0],
            Effect::AwaitGate { to } => {
                return match self.rows[at(to.other())] {
                    Some(row) if row.serves() => Outcome::Epoch(row.epoch),
                    _ => failed(Remedy::Retry),
                };
            }
            Effect::Fence { to, epoch } => return self.fence(to.other(), epoch),
            Effect::AwaitMarker { to, epoch } => {
                let marker = (to.other(), epoch);
                let found = self
                    .markers
                    .iter()
                    .find(|(side, at, _)| (*side, *at) == marker);
                match found {
                    Some((_, _, written)) => self.data[at(to)] |= written,
                    None => return failed(Remedy::Retry),
                }
            }
            Effect::HandOver { to, epoch } => return self.hand_over(to.other(), epoch),
            Effect::Activate { to, epoch } => return self.activate(to, epoch),
            Effect::Unfence { to } => return self.lift(to.other()),
            Effect::DropForward => self.slots[0] = false,
            Effect::DropObjects => self.slots = [false; 2],
            Effect::Clean { side } => {
                let warrant = |row: OwnerRow| row.ours && row.state == OwnerState::Moved;
                if !self.rows[at(side)].is_some_and(warrant) {
                    return failed(Remedy::GiveUp);
                }
                self.data[at(side)] = 0;
            }
            Effect::DropImport => {
                let warrant = |row: OwnerRow| row.ours && row.state == OwnerState::Importing;
                if self.rows[1].is_some_and(warrant) {
                    self.rows[1] = None;
                    self.data[1] = 0;
                }
            }
            _ => {}
        }
        Outcome::Done
    }

    fn begin_import(&mut self) -> Outcome {
        match self.rows[1] {
            None => {
                self.rows[1] = Some(OwnerRow {
                    state: OwnerState::Importing,
                    epoch: Epoch(1),
                    ours: true,
                });
            }
            Some(row) if row.ours && row.state == OwnerState::Importing => {}
            Some(_) => return failed(Remedy::GiveUp),
        }
        self.data[1] = 0;
        Outcome::Done
    }

    fn fence(&mut self, side: Side, epoch: Epoch) -> Outcome {
        match &mut self.rows[at(side)] {
            Some(row) if row.serves() && (row.epoch == epoch || self.ignore_epochs) => {
                row.state = OwnerState::Fenced;
                row.epoch = Epoch(epoch.0 + 1);
                row.ours = true;
                let marker = (side, row.epoch, self.data[at(side)]);
                self.markers.push(marker);
                Outcome::Epoch(marker.1)
            }
            _ => failed(Remedy::Retry),
        }
    }

    fn hand_over(&mut self, side: Side, epoch: Epoch) -> Outcome {
        match &mut self.rows[at(side)] {
            Some(row)
                if row.ours
                    && row.state == OwnerState::Fenced
                    && (row.epoch == epoch || self.ignore_epochs) =>
            {
                row.state = OwnerState::Moved;
                Outcome::Done
            }
            _ => failed(Remedy::Retry),
        }
    }

    fn activate(&mut self, side: Side, epoch: Epoch) -> Outcome {
        match &mut self.rows[at(side)] {
            Some(row) if row.ours && row.serves() && row.epoch == epoch => Outcome::Done,
            Some(row)
                if row.ours
                    && (row.state == OwnerState::Importing && row.epoch <= epoch
                        || row.state == OwnerState::Moved && row.epoch < epoch) =>
            {
                row.state = OwnerState::Active;
                row.epoch = epoch;
                Outcome::Done
            }
            _ => failed(Remedy::Retry),
        }
    }

    fn lift(&mut self, side: Side) -> Outcome {
        match &mut self.rows[at(side)] {
            Some(row) if row.ours && row.state == OwnerState::Moved => Outcome::Moved(row.epoch),
            Some(row) if matches!(row.state, OwnerState::Fenced | OwnerState::Active) => {
                if row.state == OwnerState::Fenced {
                    row.ours = false;
                }
                row.state = OwnerState::Active;
                row.epoch = Epoch(row.epoch.0 + 1);
                Outcome::Epoch(row.epoch)
            }
            _ => Outcome::Epoch(Epoch(0)),
        }
    }

    /// The forwarding address shows the proof of its epoch; the other side knows its hash.
    fn prove(&mut self, side: Side) {
        let handed_over = |row: &OwnerRow| row.ours && row.state == OwnerState::Moved;
        let Some(epoch) = self.rows[at(side)].filter(handed_over).map(|row| row.epoch) else {
            return;
        };
        self.activate(side.other(), epoch);
    }
}

fn changes_owner(effect: Effect) -> bool {
    matches!(
        effect,
        Effect::Fence { .. }
            | Effect::HandOver { .. }
            | Effect::Activate { .. }
            | Effect::Unfence { .. }
    )
}
