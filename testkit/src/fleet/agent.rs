//! What a test's fleet needs of a shard agent: owner rows for provisioning tenants.

use std::time::Duration;

use tenantry_schema::catalog::Catalog;
use tenantry_schema::shard::ShardId;
use tokio_postgres::{Client, Config};
use tokio_util::sync::CancellationToken;

const POLL: Duration = Duration::from_millis(20);

/// Gives provisioning tenants their owner rows until it is stopped.
pub(super) async fn run(
    catalog: Catalog,
    admins: Vec<(ShardId, Config)>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let key = catalog.settings().await?.tenant_key;
    let mut sessions: Vec<(ShardId, Client)> = Vec::new();
    for (id, config) in &admins {
        sessions.push((*id, super::shard::open(config).await?));
    }
    let statement = format!(
        "INSERT INTO tenantry.owner (tenant_id, state, epoch) VALUES ($1::text::{}, 'active', $2) ON CONFLICT DO NOTHING",
        key.sql_type()
    );
    let work = async {
        loop {
            for (id, client) in &sessions {
                let tenants = catalog.provisioning_on(*id).await?;
                for tenant in &tenants {
                    let name = tenant.id.display(key).to_string();
                    let epoch = i64::try_from(tenant.epoch.0)?;
                    client.execute(&statement, &[&name, &epoch]).await?;
                }
                let ids: Vec<_> = tenants.iter().map(|tenant| tenant.id).collect();
                if !ids.is_empty() {
                    catalog.activate_tenants(&ids).await?;
                }
            }
            tokio::time::sleep(POLL).await;
        }
    };
    stop.run_until_cancelled(work).await.unwrap_or(Ok(()))
}
