//! What a move may not leave behind, on both shards.

use anyhow::Context as _;
use tenantry_testkit::FleetShard;

use crate::moves::bed::Bed;
use crate::moves::ledger;

/// What was found, in words; nothing is what should be.
pub(super) async fn look(bed: &Bed) -> anyhow::Result<Vec<String>> {
    let home = bed.home().await?;
    let tenant = bed.fleet.id_text(bed.tenant);
    let mut found = Vec::new();
    for shard in bed.fleet.shards() {
        let is_home = shard.id() == home;
        found.extend(objects(shard).await?);
        let admin = shard.admin().await?;
        let select = format!("SELECT state FROM tenantry.owner WHERE tenant_id = {tenant}");
        let state = admin.query_opt(&select, &[]).await?;
        let state = state.map_or("absent".to_owned(), |row| row.get::<_, String>(0));
        let is_right = match state.as_str() {
            "active" => is_home,
            "moved" | "absent" => !is_home,
            _ => false,
        };
        if !is_right {
            let what = if is_home { "its home" } else { "not its home" };
            found.push(format!("owner row {state} on {}, {what}", shard.name()));
        }
        let (rows, _) = ledger::contents(&admin, &tenant).await?;
        if !is_home && rows > 0 {
            found.push(format!("{rows} rows on {}", shard.name()));
        }
    }
    Ok(found)
}

async fn objects(shard: &FleetShard) -> anyhow::Result<Vec<String>> {
    let admin = shard.admin().await?;
    let select = "SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE database = current_database() \
                  UNION ALL SELECT 'publication ' || pubname FROM pg_publication WHERE pubname LIKE 'tenantry_move_%' \
                  UNION ALL SELECT 'progress of ' || move_id FROM tenantry.move_progress \
                  UNION ALL SELECT DISTINCT 'chunks of ' || move_id FROM tenantry.move_chunk";
    let rows = admin.query(select, &[]).await.context("cannot look")?;
    Ok(rows
        .iter()
        .map(|row| format!("{} on {}", row.get::<_, String>(0), shard.name()))
        .collect())
}
