//! Why a move is not further: the answer in words.
//!
//! A pure function of what the catalog has, so that every answer can be tested. What the rebalancer tells of itself comes
//! first; the rest follows from the state.

use jiff::{SignedDuration, Timestamp};
use tenantry_schema::catalog::moves::{AskedCommand, Move, MoveState, SwitchPolicy};

/// A move tells of itself each second while it does anything; after this time nobody seems to be at it.
const SILENCE_MAX: SignedDuration = SignedDuration::from_secs(15);

/// What a move waits for, most telling first; empty while it simply works, and when it is over.
pub(super) fn reasons(
    of: &Move,
    commands: &[AskedCommand],
    ahead: usize,
    now: Timestamp,
) -> Vec<String> {
    let (status, progress) = (&of.status, &of.progress);
    if status.state.is_final() {
        return Vec::new();
    }
    let mut reasons = Vec::new();
    if status.paused {
        reasons.push(paused(of));
    }
    // Its own words, where it has some: it knows which session or server is meant.
    match &progress.waiting {
        Some(waiting) if status.state != MoveState::Probation => {
            reasons.push(format!("for {waiting}"));
        }
        _ => {}
    }
    if let Some(failure) = &progress.failure {
        let again = match progress.retry_at {
            Some(at) if at > now => format!(
                "; it is tried again in {} s",
                at.duration_since(now).as_secs().max(1)
            ),
            _ => String::new(),
        };
        reasons.push(format!("the last attempt failed: {failure}{again}"));
    }
    let is_told = progress.waiting.is_some() && status.state != MoveState::Probation;
    if !status.paused && !is_told {
        reasons.extend(by_state(of, ahead, now));
    }
    for command in commands.iter().filter(|command| command.taken_at.is_none()) {
        reasons.push(format!(
            "{} asked for `{}`, which is followed when the present step allows it",
            command.actor, command.command
        ));
    }
    let silence = now.duration_since(of.updated_at);
    let is_resting = status.paused || status.state == MoveState::Probation;
    if silence > SILENCE_MAX && !is_resting && (status.state != MoveState::Planned || ahead == 0) {
        reasons.push(format!(
            "nobody has worked on it for {} s: is a rebalancer running, and does it reach the catalog?",
            silence.as_secs()
        ));
    }
    reasons
}

/// Why the last command was not followed, if it was not.
pub(super) fn refusal(commands: &[AskedCommand]) -> Option<String> {
    let last = commands.last()?;
    let why = last.refusal.as_ref()?;
    Some(format!("`{}` was not followed: {why}", last.command))
}

fn paused(of: &Move) -> String {
    match (&of.status.error, of.status.state) {
        (Some(error), MoveState::Probation) => format!(
            "for an operator, because of a failure: {error}; `tenantry move reverse` goes back, `complete` accepts it, \
             `resume` tries again"
        ),
        (Some(error), _) => format!(
            "for an operator, because of a failure: {error}; `tenantry move resume` tries again, `cancel` gives up"
        ),
        (None, _) => {
            "for an operator, who has paused it: `tenantry move resume` lets it go on".to_owned()
        }
    }
}

fn by_state(of: &Move, ahead: usize, now: Timestamp) -> Option<String> {
    let (status, progress) = (&of.status, &of.progress);
    let doing = progress.doing.as_deref().unwrap_or_default();
    match (status.state, doing) {
        (MoveState::Planned, "") if ahead > 0 => Some(format!(
            "for its turn: its shards have other moves to work on ({ahead})"
        )),
        (MoveState::Planned, "") => Some("for a rebalancer to take it up".to_owned()),
        (_, "create_slot") => Some(
            "for every transaction that writes on the source's server, of any tenant, to end: PostgreSQL begins a \
             replication slot between them"
                .to_owned(),
        ),
        (_, "prepare_reverse") => Some(
            "for every transaction that writes on the destination's server to end: the way back needs a slot there"
                .to_owned(),
        ),
        (_, "await_switch") if of.policy.switch == SwitchPolicy::Manual => {
            Some("for `tenantry move switch`: the cutover was left to an operator".to_owned())
        }
        (_, "await_gate") => Some(match progress.lag_ms {
            Some(lag) => format!(
                "for a good moment to cut over: the stream has to stay close behind (it is {lag:.0} ms behind) and no \
                 transaction of the tenant may have been open for long"
            ),
            None => "for a good moment to cut over: the stream has to stay close behind and no transaction of the \
                     tenant may have been open for long"
                .to_owned(),
        }),
        (_, "catch_up") => progress.lag_bytes.map(|lag| {
            format!(
                "for what was written since the copy began: {} are left",
                tenantry_rebalancer::plan::bytes_in_words(lag)
            )
        }),
        (MoveState::Probation, _) => status.probation_until.map(|until| {
            let left = until.duration_since(now).as_secs().max(0);
            format!(
                "for the end of its probation in {left} s, so that `tenantry move reverse` can go back; `complete` ends it now"
            )
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;
    use tenantry_schema::catalog::moves::{
        LeaseEpoch, MoveCommand, MoveId, MoveKind, MoveNames, MovePolicy, MoveProgress, MoveStatus,
    };
    use tenantry_schema::shard::ShardId;
    use tenantry_schema::tenant::{Epoch, TenantId};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn planned() -> Move {
        let id = MoveId::random();
        Move {
            id,
            tenant: TenantId::from_bigint(1).unwrap(),
            source: ShardId::new(1).unwrap(),
            destination: ShardId::new(2).unwrap(),
            kind: MoveKind::Move,
            reason: None,
            actor: "cli:anna".to_owned(),
            batch: None,
            policy: MovePolicy::default(),
            names: MoveNames::of(id),
            source_epoch: Epoch(1),
            status: MoveStatus::planned(),
            progress: MoveProgress::default(),
            version: 1,
            lease: LeaseEpoch(0),
            created_at: at(0),
            updated_at: at(0),
            finished_at: None,
        }
    }

    /// The answer 5 s after the move told of itself last.
    fn told(of: &Move, ahead: usize) -> String {
        reasons(of, &[], ahead, at(5)).join("\n")
    }

    fn doing(state: MoveState, doing: &str) -> Move {
        let mut of = planned();
        of.status.state = state;
        of.progress.doing = Some(doing.to_owned());
        of
    }

    #[test]
    fn a_planned_move_waits_for_its_turn_or_for_a_rebalancer() {
        insta::assert_snapshot!(told(&planned(), 2), @"for its turn: its shards have other moves to work on (2)");
        insta::assert_snapshot!(told(&planned(), 0), @"for a rebalancer to take it up");
        let late = reasons(&planned(), &[], 0, at(60)).join("\n");
        insta::assert_snapshot!(late, @r"
        for a rebalancer to take it up
        nobody has worked on it for 60 s: is a rebalancer running, and does it reach the catalog?
        ");
    }

    #[test]
    fn what_the_rebalancer_tells_comes_first() {
        let mut of = doing(MoveState::Prepared, "create_slot");
        insta::assert_snapshot!(told(&of, 0), @"for every transaction that writes on the source's server, of any tenant, to end: PostgreSQL begins a replication slot between them");
        of.progress.waiting = Some("the transaction of process 4711".to_owned());
        of.progress.failure = Some("the source does not answer".to_owned());
        of.progress.retry_at = Some(at(9));
        insta::assert_snapshot!(told(&of, 0), @r"
        for the transaction of process 4711
        the last attempt failed: the source does not answer; it is tried again in 4 s
        ");
    }

    #[test]
    fn operators_are_told_what_they_can_do() {
        let mut of = doing(MoveState::Ready, "await_switch");
        of.policy.switch = SwitchPolicy::Manual;
        insta::assert_snapshot!(told(&of, 0), @"for `tenantry move switch`: the cutover was left to an operator");
        of.status.paused = true;
        insta::assert_snapshot!(told(&of, 0), @"for an operator, who has paused it: `tenantry move resume` lets it go on");
        let mut of = doing(MoveState::Probation, "await_probation");
        of.status.probation_until = Some(at(605));
        insta::assert_snapshot!(told(&of, 0), @"for the end of its probation in 600 s, so that `tenantry move reverse` can go back; `complete` ends it now");
        of.status.paused = true;
        of.status.error = Some("3 rows differ".to_owned());
        insta::assert_snapshot!(told(&of, 0), @"for an operator, because of a failure: 3 rows differ; `tenantry move reverse` goes back, `complete` accepts it, `resume` tries again");
    }

    #[test]
    fn commands_are_told_of_until_they_are_taken_or_refused() {
        let mut of = doing(MoveState::Copying, "copy");
        assert_eq!(told(&of, 0), "");
        let mut asked = AskedCommand {
            id: 1,
            of: of.id,
            command: MoveCommand::Pause,
            actor: "cli:anna".to_owned(),
            at: at(1),
            taken_at: None,
            refusal: None,
        };
        insta::assert_snapshot!(reasons(&of, std::slice::from_ref(&asked), 0, at(5)).join("\n"), @"cli:anna asked for `pause`, which is followed when the present step allows it");
        asked.taken_at = Some(at(2));
        asked.refusal = Some("the move is over".to_owned());
        let asked = [asked];
        assert_eq!(reasons(&of, &asked, 0, at(5)), Vec::<String>::new());
        insta::assert_snapshot!(refusal(&asked).unwrap(), @"`pause` was not followed: the move is over");
        of.status.state = MoveState::Done;
        of.progress.waiting = Some("nothing".to_owned());
        assert_eq!(told(&of, 0), "", "{}", json!(of.status));
    }
}
