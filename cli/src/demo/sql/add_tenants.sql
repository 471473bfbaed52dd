-- Enters the demo's stores. $1 ids, $2 slugs, $3 plans, all of one length.
INSERT INTO tenantry.tenant (id, slug, plan, is_demo)
SELECT store.id, store.slug, store.plan, true
FROM unnest($1::bigint[], $2::text[], $3::text[]) AS store (id, slug, plan)
ORDER BY store.id
