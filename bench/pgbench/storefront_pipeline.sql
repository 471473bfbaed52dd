-- A whole transaction in one pipeline, for pgbench -M extended|prepared through the router: see storefront.sql.
\set tenant random(1, :tenants)
\startpipeline
BEGIN;
SELECT set_config('tenantry.tenant', :tenant::text, true);
INSERT INTO events (kind, subject) VALUES ('view', 'pgbench');
SELECT id, title FROM products WHERE status = 'active' ORDER BY published_at DESC, id DESC LIMIT 12;
COMMIT;
\endpipeline
