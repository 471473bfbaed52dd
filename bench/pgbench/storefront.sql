-- One shopper's visit to a store, for pgbench through the router:
--   pgbench -n -M simple|extended|prepared -f storefront.sql -D tenants=N 'postgresql://shop:…@…/shop'
-- Works on the demo's data: tenants 1 to N, each with a store, products in stock and prices. The tenant is set by
-- set_config because in the extended and prepared modes pgbench makes parameters of its variables, which SET does not take.
\set tenant random(1, :tenants)
\set pick random(1, 1000000)
\set quantity random(1, 3)
BEGIN;
SELECT set_config('tenantry.tenant', :tenant::text, true);

-- Browse: the newest products.
SELECT s.id AS store, count(p.id) AS products
FROM stores s LEFT JOIN products p ON p.store_id = s.id AND p.status = 'active'
GROUP BY s.id ORDER BY s.id LIMIT 1 \gset
SELECT id, title FROM products WHERE store_id = :store AND status = 'active' ORDER BY published_at DESC, id DESC LIMIT 12;

-- Look at one of its variants.
SELECT v.id AS variant
FROM variants v JOIN prices r ON r.variant_id = v.id AND r.min_quantity = 1
ORDER BY v.id OFFSET :pick % (SELECT count(*) FROM prices WHERE min_quantity = 1) LIMIT 1 \gset

-- Buy it.
UPDATE stores SET next_order_number = next_order_number + 1 WHERE id = :store RETURNING next_order_number AS number \gset
INSERT INTO orders (store_id, number, email, currency, subtotal, total)
SELECT :store, :number, 'pgbench@example.com', currency, amount * :quantity, amount * :quantity
FROM prices WHERE variant_id = :variant AND min_quantity = 1 ORDER BY id LIMIT 1
RETURNING id AS order_id \gset
INSERT INTO order_lines (order_id, variant_id, title, quantity, unit_price)
SELECT id, :variant, 'pgbench', :quantity, subtotal / :quantity FROM orders WHERE id = :order_id;
INSERT INTO events (kind, subject, subject_id) VALUES ('order', 'pgbench', :order_id);
COMMIT;
