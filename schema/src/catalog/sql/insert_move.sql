-- A planned move, its first event and its line in the audit trail.
WITH planned AS (
    INSERT INTO tenantry.move (id, tenant, source, destination, kind, reason, actor, batch, policy, names, source_epoch, state)
    VALUES ($1, $2::text::tenantry.tenant_key, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
    RETURNING *
), begun AS (
    INSERT INTO tenantry.move_event (move, to_state, detail)
    SELECT p.id, p.state, jsonb_build_object('kind', p.kind, 'reason', p.reason, 'actor', p.actor) FROM planned p
)
INSERT INTO tenantry.audit (actor, action, target_kind, target, after)
SELECT p.actor, 'move.create', 'move', p.id::text,
       jsonb_build_object('tenant', p.tenant, 'source', p.source, 'destination', p.destination, 'kind', p.kind,
                          'reason', p.reason, 'batch', p.batch, 'policy', p.policy)
  FROM planned p
