-- $1: a router that has not told for so many seconds counts for nothing now; $2: how many.
WITH told AS (
    SELECT l.tenant,
           max(l.shard) FILTER (WHERE l.at = r.at) AS shard_now,
           max(l.shard) AS shard,
           sum(l.transactions)::bigint AS transactions,
           sum(l.statements)::bigint AS statements,
           sum(l.errors)::bigint AS errors,
           sum(l.rows)::bigint AS rows,
           sum(l.busy_us)::bigint AS busy_us,
           sum(l.wait_us)::bigint AS wait_us,
           sum(l.received_bytes)::bigint AS received,
           sum(l.sent_bytes)::bigint AS sent,
           coalesce(sum(l.busy) FILTER (WHERE l.at = r.at AND r.at > now() - make_interval(secs => $1)), 0)::float8 AS busy
      FROM tenantry.tenant_load l
      JOIN tenantry.router_load r USING (router)
     GROUP BY l.tenant
     ORDER BY busy DESC, busy_us DESC, l.tenant
     LIMIT $2
)
SELECT told.tenant, t.slug, s.name, transactions, statements, errors, rows, busy_us, wait_us, received, sent, busy, h.since
  FROM told
  JOIN tenantry.tenant t ON t.id = told.tenant
  LEFT JOIN tenantry.shard s ON s.id = coalesce(told.shard_now, told.shard)
  LEFT JOIN tenantry.hot_tenant h ON h.tenant = told.tenant
 ORDER BY busy DESC, busy_us DESC, told.tenant
