-- $1: who asks for the policy's moves. Tenants that are hot, that have a shard of their own, or that move to one.
WITH watched AS (
    SELECT tenant FROM tenantry.hot_tenant
    UNION
    SELECT tenant FROM tenantry.pin WHERE reason = 'isolate'
    UNION
    SELECT tenant FROM tenantry.move WHERE finished_at IS NULL AND kind = 'isolate'
)
SELECT t.id, t.slug, t.state, t.isolation, p.shard, p.reason, p.created_at, h.since, h.evidence,
       (SELECT max(e.at) FROM tenantry.heat_event e WHERE e.tenant = t.id AND e.state = 'cold'),
       m.bytes,
       EXISTS (SELECT FROM tenantry.move v WHERE v.tenant = t.id AND v.finished_at IS NULL),
       (SELECT max(v.finished_at) FROM tenantry.move v WHERE v.tenant = t.id),
       coalesce((SELECT v.actor = $1 FROM tenantry.move v
                  WHERE v.tenant = t.id AND v.kind = 'isolate'
                  ORDER BY v.created_at DESC LIMIT 1), false)
  FROM watched w
  JOIN tenantry.tenant t ON t.id = w.tenant
  LEFT JOIN tenantry.pin p ON p.tenant = t.id
  LEFT JOIN tenantry.hot_tenant h ON h.tenant = t.id
  LEFT JOIN tenantry.tenant_measure m ON m.tenant = t.id
 ORDER BY t.id
