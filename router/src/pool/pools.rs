//! The pools of all shards, made on first use and replaced when a shard's address changes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tenantry_schema::guard::role;
use tenantry_schema::secrets::{Password, RolePasswords, SecretsFile};
use tenantry_schema::shard::{Shard, ShardAddress, ShardId};

use super::gate::Gates;
use super::{Pool, PoolLimits};
use crate::activity::Activity;
use crate::error::Refusal;
use crate::server::ServerLogin;
use crate::tls::Shards;

/// All pools of this router.
#[derive(Debug)]
pub(crate) struct Pools {
    secrets_file: PathBuf,
    limits: Arc<ArcSwap<PoolLimits>>,
    statements_max: usize,
    activity: Arc<Activity>,
    tls: Arc<Shards>,
    pub(super) gates: Mutex<Gates>,
    pools: Mutex<HashMap<ShardId, (ShardAddress, Arc<Pool>)>>,
    /// When the secrets file was last written, as far as is known.
    secrets_written: Mutex<Option<SystemTime>>,
    /// Grows when pools are dropped, so that whoever keeps one can tell that it may be old.
    version: AtomicU64,
}

impl Pools {
    pub(crate) fn new(
        secrets_file: PathBuf,
        limits: PoolLimits,
        statements_max: usize,
        activity: Arc<Activity>,
        tls: Arc<Shards>,
    ) -> Self {
        Self {
            tls,
            limits: Arc::new(ArcSwap::from_pointee(limits)),
            statements_max,
            activity,
            gates: Mutex::default(),
            pools: Mutex::new(HashMap::new()),
            secrets_written: Mutex::new(written(&secrets_file)),
            secrets_file,
            version: AtomicU64::new(0),
        }
    }

    /// Changes when a pool may have been replaced: read it before asking for one.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The pool of a shard.
    pub(crate) fn pool(&self, shard: &Arc<Shard>) -> Result<Arc<Pool>, Refusal> {
        // Held while the secrets are read, so that a shard never has two pools.
        let mut pools = self.pools.lock();
        if let Some((address, pool)) = pools.get(&shard.id)
            && *address == shard.address
        {
            return Ok(Arc::clone(pool));
        }
        let login = self.login(shard)?;
        let pool = Arc::new(Pool::new(
            login,
            Arc::clone(&self.limits),
            self.gate(shard.id),
        ));
        let replaced = pools.insert(shard.id, (shard.address.clone(), Arc::clone(&pool)));
        drop(pools);
        if let Some((_, replaced)) = replaced {
            self.version.fetch_add(1, Ordering::Release);
            replaced.retire();
        }
        Ok(pool)
    }

    /// After a rotation of a shard's key or password, sessions get a new pool for it; connections
    /// of the old one serve until their leases end. Other shards notice nothing.
    /// Answers what the file says now if it has changed.
    pub(crate) fn renew_if_rotated(&self) -> Option<SecretsFile> {
        let now = written(&self.secrets_file);
        let mut known = self.secrets_written.lock();
        if now.is_none() || *known == now {
            return None;
        }
        let secrets = match SecretsFile::load(&self.secrets_file) {
            Ok(secrets) => secrets,
            Err(error) => {
                tracing::warn!(%error, "the secrets file has changed and cannot be read");
                return None;
            }
        };
        *known = now;
        let mut retired = Vec::new();
        self.pools.lock().retain(|_, (_, pool)| {
            let login = pool.login();
            let same = secrets.shard(login.shard.name.as_str()).is_some_and(|now| {
                now.passwords.app.expose() == login.password && now.guard.current == login.guard
            });
            if !same {
                tracing::info!(shard = %login.shard.name, "secrets have changed: opening new server connections");
                retired.push(Arc::clone(pool));
            }
            same
        });
        self.version.fetch_add(1, Ordering::Release);
        for pool in retired {
            pool.retire();
        }
        Some(secrets)
    }

    fn login(&self, shard: &Arc<Shard>) -> Result<ServerLogin, Refusal> {
        self.login_as(shard, role::APP, |passwords| &passwords.app)
    }

    /// How an operator's session logs in, which is no pool's.
    pub(crate) fn operator_login(&self, shard: &Arc<Shard>) -> Result<ServerLogin, Refusal> {
        self.login_as(shard, role::OPERATOR, |passwords| &passwords.operator)
    }

    /// The file is read each time, so that a shard added later is found in it.
    fn login_as(
        &self,
        shard: &Arc<Shard>,
        user: &str,
        password: fn(&RolePasswords) -> &Password,
    ) -> Result<ServerLogin, Refusal> {
        let refusal = |reason: String| Refusal::ShardDown {
            shard: shard.name.to_string(),
            reason,
        };
        let secrets =
            SecretsFile::load(&self.secrets_file).map_err(|error| refusal(error.to_string()))?;
        let secrets = secrets
            .shard(shard.name.as_str())
            .ok_or_else(|| refusal("the secrets file does not name this shard".to_owned()))?;
        Ok(ServerLogin {
            shard: Arc::clone(shard),
            user: user.to_owned(),
            password: password(&secrets.passwords).expose().to_owned(),
            guard: secrets.guard.current.clone(),
            tls: Arc::clone(&self.tls),
            statements_max: self.statements_max,
            activity: Arc::clone(&self.activity),
        })
    }

    /// Bounds of all pools from now on.
    pub(crate) fn set_limits(&self, limits: PoolLimits) {
        self.limits.store(Arc::new(limits));
        for pool in self.all() {
            pool.resize();
        }
    }

    pub(crate) fn all(&self) -> Vec<Arc<Pool>> {
        let pools = self.pools.lock();
        pools.values().map(|(_, pool)| Arc::clone(pool)).collect()
    }
}

fn written(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .ok()
}
