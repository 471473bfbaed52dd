-- Every tenant with what is known of its weight and what stands in a move's way.
SELECT t.id, t.slug, t.state, t.isolation, p.shard, p.reason, m.bytes, coalesce(m.busy, 0)::float8,
       EXISTS (SELECT FROM tenantry.move v WHERE v.tenant = t.id AND v.finished_at IS NULL)
  FROM tenantry.tenant t
  LEFT JOIN tenantry.pin p ON p.tenant = t.id
  LEFT JOIN tenantry.tenant_measure m ON m.tenant = t.id
 WHERE t.state <> 'erased'
