//! A session whose tenant moves: it waits while the tenant is held, asks the guard before each transaction, is counted
//! while it has one, and says when the guard has turned it away.
//!
//! A tenant that stays where it is costs one load per transaction and one each time its session is looked at within one.

use std::future::poll_fn;
use std::sync::Arc;

use tenantry_schema::tenant::TenantId;
use tokio::time::Instant;

use super::super::Turned;
use super::Connection;
use super::sockets::client_gone;
use super::waiting::Unavailable;
use crate::error::Refusal;
use crate::holds::{Alert, InFlight, TenantMove, TenantRefusal, follow};
use crate::pool::Lease;

/// What a session minds while its tenant moves.
#[derive(Debug)]
pub(crate) struct Moving {
    of: Arc<TenantMove>,
    /// Its transaction, counted.
    in_flight: Option<InFlight>,
    /// Since when its transaction has been kept from beginning, and how many requests it had had answered then.
    kept_since: Option<(Instant, u32)>,
}

impl Moving {
    /// Its transaction is over, and nothing is open on a server.
    pub(super) fn end_transaction(&mut self) {
        self.in_flight = None;
    }
}

impl Connection {
    /// Between transactions: does the tenant move?
    pub(super) fn heed_moves(&mut self, tenant: Option<TenantId>) {
        let alert = self.router.holds.alert();
        if !alert.is_quiet() || self.moving.is_some() || self.session.keeps_messages() {
            self.heed_alert(alert, tenant);
        }
    }

    #[cold]
    fn heed_alert(&mut self, alert: Alert, tenant: Option<TenantId>) {
        self.session.set_keeps_messages(!alert.is_quiet());
        self.session.set_pauses(false);
        let of = tenant.and_then(|tenant| self.router.holds.of(tenant));
        self.session
            .set_probes(of.as_ref().is_some_and(|of| of.is_probed()));
        match (of, &mut self.moving) {
            (None, moving) => *moving = None,
            (Some(of), Some(moving)) if Arc::ptr_eq(&of, &moving.of) => moving.end_transaction(),
            (Some(of), moving) => {
                let kept_since = moving.take().and_then(|moving| moving.kept_since);
                *moving = Some(Box::new(Moving {
                    of,
                    in_flight: None,
                    kept_since,
                }));
            }
        }
    }

    /// In a transaction, or between those of a pipeline, which stops there once the tenant is held. One that began
    /// before it was known that the tenant moves is counted from here.
    pub(super) fn heed_hold(&mut self) {
        if self.router.holds.alert().some_move() {
            self.heed_hold_now();
        }
    }

    #[cold]
    fn heed_hold_now(&mut self) {
        let tenant = self.session.tenant();
        let Some(of) = tenant.and_then(|tenant| self.router.holds.of(tenant)) else {
            return;
        };
        if of.is_held() {
            self.session.set_pauses(true);
        }
        let counted = self
            .moving
            .as_ref()
            .is_some_and(|moving| moving.in_flight.is_some() && Arc::ptr_eq(&moving.of, &of));
        if !counted {
            let in_flight = Some(of.count());
            self.moving = Some(Box::new(Moving {
                of,
                in_flight,
                kept_since: None,
            }));
        }
    }

    /// A session with a connection begins a transaction of a tenant that moves: the guard is asked first. If the tenant is
    /// held, the connection is given up, or kept where it must be, until that is over.
    /// Answers whether the guard was asked.
    pub(super) async fn enter(&mut self, lease: &mut Option<Lease>) -> Result<bool, Unavailable> {
        let entered = match &mut self.moving {
            Some(moving) => {
                moving.in_flight = moving.of.enter();
                moving.in_flight.is_some()
            }
            // Over since it was looked.
            None => true,
        };
        if entered {
            if let Some(server) = lease.as_mut().and_then(Lease::server) {
                self.session.ask_guard(&mut server.link);
            }
            return Ok(true);
        }
        if let Some(lease) = self.release(lease) {
            self.give_up(lease).await;
        }
        self.pass_hold().await?;
        Ok(false)
    }

    /// Waits while the tenant is held.
    pub(super) async fn pass_hold(&mut self) -> Result<(), Unavailable> {
        let answered = self.session.progress().0;
        let Some(moving) = self.moving.as_mut().filter(|moving| moving.of.is_held()) else {
            return Ok(());
        };
        let since = match moving.kept_since {
            Some((since, at)) if at == answered => since,
            _ => Instant::now(),
        };
        moving.kept_since = Some((since, answered));
        let of = Arc::clone(&moving.of);
        let limit = self.router.config().timeouts.query_wait;
        let tenant = self.tenant_text().unwrap_or_default();
        // What the session has answered already must not wait, nor the wait last for a client that is gone.
        let mut output = std::mem::take(&mut self.session.output);
        let owed = output.len();
        let slot = Arc::clone(&self.slot);
        let queued = slot.queue();
        self.meter.waits();
        let mut called = self.called.clone();
        let passed = tokio::select! {
            biased;
            () = poll_fn(|cx| called.poll_killed(cx)) => Err(Unavailable::Killed),
            passed = of.pass(since, limit) => passed.map_err(|held| Unavailable::Refused(Refusal::Held {
                tenant,
                waited: held.0,
            })),
            () = queued.cancelled() => Err(Refusal::Canceled.into()),
            () = client_gone(&mut self.stream, &mut self.input, &mut output, &self.bells.client) => {
                Err(Unavailable::ClientGone)
            }
        };
        drop(queued);
        self.meter.sent(owed - output.len());
        self.session.note_sent(owed - output.len());
        self.session.output = output;
        self.router.metrics.held(passed?);
        self.meter.refused();
        Ok(())
    }

    /// The guard has turned the session's transaction away: whoever is first looks where the tenant is, and all wait.
    pub(super) fn heed_turn(&mut self) {
        match self.session.take_turned() {
            None => {}
            Some(Turned::Away(met)) => self.turned_away(*met),
            Some(Turned::Canceled) => {
                self.session
                    .acquire_failed(&Refusal::Canceled, &mut self.input);
            }
        }
    }

    #[cold]
    fn turned_away(&mut self, met: TenantRefusal) {
        let (tenant, shard) = (self.session.tenant(), self.session.held());
        if let (Some(tenant), Some(shard)) = (tenant, shard) {
            self.router.metrics.replayed();
            let limit = self.router.config().timeouts.query_wait;
            let holds = &self.router.holds;
            if holds.meet_fence(tenant, shard, &met, limit, Instant::now()) {
                let router = Arc::clone(&self.router);
                tokio::spawn(follow(router, tenant, shard, met, limit));
            }
        }
        if let Some(moving) = &mut self.moving {
            moving.end_transaction();
        }
    }

    /// Nothing came of the transaction that was opened for the client's message.
    pub(super) fn leave(&mut self, lease: &mut Option<Lease>) {
        if let Some(server) = lease.as_mut().and_then(Lease::server) {
            self.session.leave(&mut server.link);
        }
    }
}
