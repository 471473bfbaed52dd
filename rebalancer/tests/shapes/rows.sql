-- Rows of one tenant in the tables beside, and in some of the storefront.
SET search_path = public, pg_catalog;

INSERT INTO computed (tenant_id, n, payload)
SELECT :tenant, i, repeat('x', i % 50) FROM generate_series(1, 300) i;
INSERT INTO triggered (tenant_id, payload) SELECT :tenant, E'tab\tnewline\n\\N backslash \\ ' || i FROM generate_series(1, 200) i;
INSERT INTO "Order ""Lines"""
SELECT CASE WHEN i % 3 = 0 THEN NULL ELSE '' END, md5(i::text)::uuid, :tenant, CASE WHEN i % 7 = 0 THEN 'infinity' ELSE date '2026-01-01' + i END,
       i / 8.0, lpad((i % 10)::text, i % 6 + 1, 'k'), 'žluťoučký 🐎 ' || i
FROM generate_series(1, 250) i;
INSERT INTO "Other Schema"."Table" SELECT :tenant, k FROM unnest(ARRAY['', ' ', '''', '"', E'\\', E'a\nb', 'Ä', 'ä', 'z', E'\\N', 'NULL', ',', '{}']) k;
INSERT INTO by_index SELECT :tenant, :tenant * 1000 + i, 'code ' || i FROM generate_series(1, 200) i;
INSERT INTO profile VALUES (:tenant, '{"a": [1, 1.0, 1.00, null], "b": {"ü": "\u0041"}}');
INSERT INTO happenings
SELECT :tenant, timestamptz '2025-06-01' + i * interval '3 days 1.000001 s', i, 'event ' || i FROM generate_series(1, 180) i;
INSERT INTO tree SELECT :tenant, i, nullif(i / 2, 0) FROM generate_series(1, 200) i;
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
INSERT INTO egg SELECT :tenant, i, i FROM generate_series(1, 5) i;
INSERT INTO hen SELECT :tenant, i, i FROM generate_series(1, 5) i;
COMMIT;
INSERT INTO moods VALUES (:tenant, 'sad', 1), (:tenant, 'it''s ok', NULL), (:tenant, 'Great "news"', 7);
INSERT INTO mixed
SELECT :tenant, i, ARRAY['sad', NULL, 'Great "news"']::mood[], ARRAY[ROW(1, 'sad')::pair, ROW(NULL, NULL)::pair, NULL],
       ROW(i, 'it''s ok')::pair, CASE WHEN i % 2 = 0 THEN 'public.mixed'::regclass END, '{=r/tenantry_owner,tenantry_app=arwd/tenantry_owner}',
       CASE i % 4 WHEN 0 THEN NULL WHEN 1 THEN '' WHEN 2 THEN E'\\.' ELSE E'\\N\t\r\n' END
FROM generate_series(1, 120) i;
INSERT INTO large
SELECT :tenant, i, repeat(md5(i::text), 40000 / i), (SELECT string_agg(sha256((i * 1000000 + j)::text::bytea), '') FROM generate_series(1, 60000 / i) j)
FROM generate_series(1, 12) i;

WITH store AS (INSERT INTO stores (tenant_id, name, email) VALUES (:tenant, 'shop', 'shop@example.com') RETURNING id)
INSERT INTO products (tenant_id, store_id, handle, title, description, tags, status, metafields)
SELECT :tenant, id, 'thing-' || i, 'Thing ' || i, repeat('words and more words ', i % 40), ARRAY['a', 'b ' || i], 'active', jsonb_build_object('n', i, 'f', i / 3.0)
FROM store, generate_series(1, 250) i;
SET search_path = pg_catalog;
