-- Enters the demo's hostnames. $1 names, $2 tenant ids, $3 kinds, all of one length.
INSERT INTO tenantry.hostname (name, tenant, kind)
SELECT host.name, host.tenant, host.kind
FROM unnest($1::text[], $2::bigint[], $3::text[]) AS host (name, tenant, kind)
