//! A failing script made as small as it gets.

use super::generate::{CLIENTS, Script};
use super::play::{Difference, Stage};

/// Most runs spent on one script.
const RUNS_MAX: usize = 80;

/// Drops steps, then messages, as long as the two sides still differ.
pub(crate) async fn shrink(stage: &Stage, found: Difference) -> Difference {
    let mut best = found;
    let mut runs = 0;
    loop {
        let before = size(&best.script);
        let mut at = 0;
        while runs < RUNS_MAX {
            let Some(smaller) = without(&best.script, at) else {
                break;
            };
            runs += 1;
            match stage.compare(&smaller).await {
                Some(still) if size(&still.script) < size(&best.script) => best = still,
                _ => at += 1,
            }
        }
        if size(&best.script) == before || runs >= RUNS_MAX {
            return best;
        }
    }
}

fn size(script: &Script) -> usize {
    let messages: usize = script.steps.iter().map(|step| step.messages.len()).sum();
    script.steps.len() + messages
}

/// The script without its `at`th part: first whole steps, then single messages of steps that have several.
fn without(script: &Script, at: usize) -> Option<Script> {
    let mut smaller = script.clone();
    // The first step of each client stays: a name that a connection has seen is known there to the next client too.
    let steps = script.steps.len().saturating_sub(CLIENTS);
    if at < steps {
        smaller.steps.remove(CLIENTS + at);
        return Some(smaller);
    }
    let mut rest = at - steps;
    for step in &mut smaller.steps {
        // The last message ends the step: without it nobody would answer.
        let spare = step.messages.len() - 1;
        if rest < spare {
            step.messages.remove(rest);
            return Some(smaller);
        }
        rest -= spare;
    }
    None
}
