-- $1: a router that has not told for so many seconds counts for nothing now; $2: tenants of each shard.
WITH live AS (
    SELECT r.router, r.at FROM tenantry.router_load r WHERE r.at > now() - make_interval(secs => $1)
), shards AS (
    SELECT l.shard, sum(l.busy)::float8 AS busy
      FROM tenantry.shard_load l JOIN live USING (router, at)
     GROUP BY l.shard
), tenants AS (
    SELECT l.shard, l.tenant, sum(l.busy)::float8 AS busy, sum(l.transactions_rate)::float8 AS transactions
      FROM tenantry.tenant_load l JOIN live USING (router, at)
     WHERE l.shard IS NOT NULL
     GROUP BY l.shard, l.tenant
), ranked AS (
    SELECT *, row_number() OVER (PARTITION BY shard ORDER BY busy DESC, tenant) AS place FROM tenants
)
SELECT s.id, coalesce(shards.busy, 0), ranked.tenant, ranked.busy, ranked.transactions
  FROM tenantry.shard s
  LEFT JOIN shards ON shards.shard = s.id
  LEFT JOIN ranked ON ranked.shard = s.id AND ranked.place <= $2
 ORDER BY s.id, ranked.place
