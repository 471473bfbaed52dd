-- $1: the rebalancing. Its plan, each with the newest of the moves that were begun for it.
SELECT p.ordinal, p.tenant, t.slug, p.source, p.destination, p.bytes, p.busy::float8, p.why, p.skipped,
       coalesce(m.attempts, 0), m.id, m.state, m.error, m.finished_at
  FROM tenantry.rebalance_move p
  JOIN tenantry.tenant t ON t.id = p.tenant
  LEFT JOIN LATERAL (
      SELECT count(*) OVER () AS attempts, v.id, v.state, v.error, v.finished_at
        FROM tenantry.move v
       WHERE v.batch = p.rebalance AND v.tenant = p.tenant AND v.destination = p.destination
       ORDER BY v.created_at DESC, v.id DESC
       LIMIT 1
  ) m ON true
 WHERE p.rebalance = $1
 ORDER BY p.ordinal
