-- $1: the tenant; $2: its shard; $3: hot, or cold; $4: the evidence. Told twice, it is recorded once.
WITH what AS (
    SELECT t.id AS tenant, s.id AS shard
      FROM tenantry.tenant t, tenantry.shard s
     WHERE t.id = $1::text::tenantry.tenant_key AND s.id = $2
), heated AS (
    INSERT INTO tenantry.hot_tenant AS h (tenant, shard, evidence)
    SELECT tenant, shard, $4 FROM what WHERE $3
    ON CONFLICT (tenant) DO NOTHING
    RETURNING h.tenant
), cooled AS (
    DELETE FROM tenantry.hot_tenant h USING what w WHERE NOT $3 AND h.tenant = w.tenant
    RETURNING h.tenant
)
INSERT INTO tenantry.heat_event (tenant, shard, state, evidence)
SELECT w.tenant, w.shard, CASE WHEN $3 THEN 'hot' ELSE 'cold' END, $4
  FROM what w
 WHERE w.tenant IN (SELECT tenant FROM heated UNION ALL SELECT tenant FROM cooled)
