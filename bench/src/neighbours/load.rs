//! Requests at random moments for many tenants, and clients that carry them out.
//!
//! Requests come when they come, whether or not those before have been answered: what waits in front of a busy client
//! counts from the moment it came. So nobody's slowness hides behind its own silence.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tenantry_testkit::{Login, RawClient, error_of};
use tokio::sync::{Mutex, mpsc};

/// Logins at a time.
const AT_ONCE: usize = 32;
/// Of each phase, what does not count: queues and estimates settle.
pub(crate) const SETTLING: Duration = Duration::from_secs(1);

/// Where tenants' clients connect.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    /// How each tenant logs in.
    pub(crate) logins: Vec<Login>,
}

/// The clients of each tenant.
#[derive(Debug)]
pub(crate) struct Clients(Vec<Vec<RawClient>>);

/// What one tenant got in a phase.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    /// From the moment it came to its answer, microseconds, of every request that came while it counts.
    pub(crate) took_us: Vec<u64>,
    pub(crate) errors: u64,
    /// Answered while it counts.
    pub(crate) answered: u64,
    /// Answered in each second of that.
    pub(crate) per_second: Vec<u64>,
}

impl Outcome {
    fn count(&mut self, since: Duration) {
        let second = usize::try_from(since.as_secs()).unwrap_or(usize::MAX);
        if self.per_second.len() <= second {
            self.per_second.resize(second + 1, 0);
        }
        self.per_second[second] += 1;
        self.answered += 1;
    }
}

/// One phase: a statement, how often each tenant asks for it, and for how long.
#[derive(Debug, Clone)]
pub(crate) struct Phase {
    pub(crate) statement: &'static str,
    pub(crate) per_second: Vec<f64>,
    pub(crate) length: Duration,
    pub(crate) seed: u64,
}

impl Clients {
    pub(crate) async fn connect(door: &Door, counts: &[usize]) -> anyhow::Result<Self> {
        let mut all = Vec::with_capacity(counts.len());
        for (login, count) in door.logins.iter().zip(counts) {
            let connecting = (0..*count).map(|_| RawClient::login(door.address, login));
            let clients = stream::iter(connecting).buffer_unordered(AT_ONCE);
            all.push(clients.try_collect().await.context("cannot connect")?);
        }
        Ok(Self(all))
    }

    /// Each client of the tenants named asks again as soon as it has its answer. Answers per tenant, of the time that
    /// counts.
    pub(crate) async fn flood(
        &mut self,
        tenants: &[usize],
        statement: &'static str,
        length: Duration,
    ) -> anyhow::Result<Vec<u64>> {
        let start = Instant::now();
        let (from, until) = (start + SETTLING, start + SETTLING + length);
        let mut running = Vec::new();
        for tenant in tenants {
            for mut client in self.0[*tenant].drain(..) {
                let tenant = *tenant;
                running.push(tokio::spawn(async move {
                    let mut answered = 0;
                    while Instant::now() < until {
                        client.query(statement).await?;
                        let now = Instant::now();
                        answered += u64::from(now >= from && now < until);
                    }
                    anyhow::Ok((tenant, client, answered))
                }));
            }
        }
        let mut answers = vec![0; self.0.len()];
        for one in running {
            let (tenant, client, answered) = one.await??;
            self.0[tenant].push(client);
            answers[tenant] += answered;
        }
        Ok(tenants.iter().map(|tenant| answers[*tenant]).collect())
    }

    /// Every tenant asks at its own rate.
    pub(crate) async fn run(&mut self, phase: &Phase) -> anyhow::Result<Vec<Outcome>> {
        let start = Instant::now();
        let (from, until) = (start + SETTLING, start + SETTLING + phase.length);
        let mut running = Vec::new();
        let mut queues = Vec::new();
        for (tenant, clients) in self.0.iter_mut().enumerate() {
            let (sender, receiver) = mpsc::unbounded_channel();
            queues.push(sender);
            let receiver = Arc::new(Mutex::new(receiver));
            for client in clients.drain(..) {
                let worker = Worker {
                    client,
                    statement: phase.statement,
                    requests: Arc::clone(&receiver),
                    from,
                    until,
                    outcome: Outcome::default(),
                };
                running.push(tokio::spawn(async move {
                    (tenant, Box::pin(worker.run()).await)
                }));
            }
        }
        let phase = phase.clone();
        // A thread of its own: it wakes within some ten microseconds, a timer of tokio's within a millisecond.
        let asking = thread::spawn(move || ask(&phase, until, &queues));
        let mut outcomes = vec![Outcome::default(); self.0.len()];
        for one in running {
            let (tenant, worker) = one.await?;
            let worker = worker?;
            self.0[tenant].push(worker.client);
            let outcome = &mut outcomes[tenant];
            outcome.took_us.extend(worker.outcome.took_us);
            outcome.errors += worker.outcome.errors;
            outcome.answered += worker.outcome.answered;
            let seconds = worker
                .outcome
                .per_second
                .len()
                .max(outcome.per_second.len());
            outcome.per_second.resize(seconds, 0);
            for (all, own) in outcome
                .per_second
                .iter_mut()
                .zip(&worker.outcome.per_second)
            {
                *all += own;
            }
        }
        if asking.join().is_err() {
            anyhow::bail!("the thread that asks has panicked");
        }
        Ok(outcomes)
    }
}

/// One client and what it was asked.
struct Worker {
    client: RawClient,
    statement: &'static str,
    requests: Arc<Mutex<mpsc::UnboundedReceiver<Instant>>>,
    from: Instant,
    until: Instant,
    outcome: Outcome,
}

impl Worker {
    async fn run(mut self) -> anyhow::Result<Self> {
        loop {
            let next = self.requests.lock().await.recv().await;
            let Some(came) = next else { return Ok(self) };
            // Those that nobody came to before the end have waited for at least that long.
            if Instant::now() < self.until {
                let answer = self.client.query(self.statement).await?;
                if error_of(&answer).is_some() {
                    self.outcome.errors += 1;
                    continue;
                }
                let now = Instant::now();
                if now >= self.from && now < self.until {
                    self.outcome.count(now - self.from);
                }
            }
            if came >= self.from {
                let took = u64::try_from(came.elapsed().as_micros()).unwrap_or(u64::MAX);
                self.outcome.took_us.push(took);
            }
        }
    }
}

/// Requests at random moments, all tenants' together, until the end.
fn ask(phase: &Phase, until: Instant, queues: &[mpsc::UnboundedSender<Instant>]) {
    let mut random = SmallRng::seed_from_u64(phase.seed);
    let all: f64 = phase.per_second.iter().sum();
    let mut next = Instant::now();
    loop {
        let uniform: f64 = random.random_range(f64::MIN_POSITIVE..1.0);
        next += Duration::from_secs_f64(-uniform.ln() / all);
        if next >= until {
            return;
        }
        wait_until(next);
        let tenant = pick(&phase.per_second, random.random_range(0.0..all));
        // Its clients may all have failed, which is told elsewhere.
        let _ = queues[tenant].send(Instant::now());
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a thread of its own, and it is time that is waited for"
)]
fn wait_until(moment: Instant) {
    thread::sleep(moment.saturating_duration_since(Instant::now()));
}

/// Whose request it is.
fn pick(per_second: &[f64], mut at: f64) -> usize {
    for (tenant, rate) in per_second.iter().enumerate() {
        if at < *rate {
            return tenant;
        }
        at -= rate;
    }
    per_second.len() - 1
}

#[cfg(test)]
mod tests {
    use super::pick;

    #[test]
    fn a_request_is_a_tenants_in_proportion() {
        let rates = [1.0, 0.0, 3.0];
        assert_eq!(pick(&rates, 0.5), 0);
        assert_eq!(pick(&rates, 1.5), 2);
        assert_eq!(pick(&rates, 3.99), 2);
        assert_eq!(pick(&rates, 4.0), 2);
    }
}
