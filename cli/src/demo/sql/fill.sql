-- Writes the rows of the stores in demo_store. Ids count from 1 in each store; what the store itself creates later
-- gets its ids from tenantry.next_id(), which are larger. Amounts are minor units of the store's currency.

INSERT INTO stores (tenant_id, id, name, email, currency, locale, timezone, next_order_number, metafields, created_at)
SELECT s.id, 1, s.name, 'hello@' || s.slug || '.example',
       (ARRAY['EUR', 'EUR', 'EUR', 'GBP', 'SEK'])[1 + pg_temp.roll(s.id, 0, 1, 5)],
       'en', 'UTC', 1001 + s.orders, jsonb_build_object('trade', t.name),
       date_trunc('day', now()) - interval '200 days' - pg_temp.roll(s.id, 0, 2, 900) * interval '1 day'
FROM demo_store s
JOIN demo_trade t ON t.number = s.trade;

INSERT INTO collections (tenant_id, id, store_id, handle, title, sort_order)
SELECT s.id, c.n, 1, trim(BOTH '-' FROM regexp_replace(lower(c.title), '[^a-z0-9]+', '-', 'g')), c.title,
       CASE c.n WHEN 1 THEN 'manual' WHEN 2 THEN 'newest' WHEN 3 THEN 'price' ELSE 'title' END
FROM demo_store s
JOIN demo_trade t ON t.number = s.trade
CROSS JOIN LATERAL unnest(t.collections) WITH ORDINALITY AS c (title, n);

-- Each store walks through kinds and things from a place of its own; once through, titles get a number.
INSERT INTO products (tenant_id, id, store_id, handle, title, description, vendor, product_type, tags, status,
                      metafields, published_at, created_at)
SELECT s.id, p.n, 1,
       trim(BOTH '-' FROM regexp_replace(lower(w.title), '[^a-z0-9]+', '-', 'g')), w.title,
       format('%s by %s. %s', w.title, s.name,
              (ARRAY['Made in small batches.', 'A favourite since the first day.', 'Ships within two days.',
                     'Picked by hand.', 'Back by popular demand.'])[1 + pg_temp.roll(s.id, p.n, 11, 5)]),
       s.name, w.thing,
       ARRAY[lower(w.kind)] || CASE WHEN pg_temp.roll(s.id, p.n, 12, 6) = 0 THEN ARRAY['sale'] ELSE '{}' END,
       CASE WHEN pg_temp.roll(s.id, p.n, 13, 20) = 0 THEN 'draft' ELSE 'active' END,
       jsonb_build_object('rating', 30 + pg_temp.roll(s.id, p.n, 14, 21), 'gift', pg_temp.roll(s.id, p.n, 15, 4) = 0),
       w.published_at, w.published_at
FROM demo_store s
JOIN demo_trade t ON t.number = s.trade
CROSS JOIN LATERAL generate_series(1, s.products) AS p (n)
CROSS JOIN LATERAL (
    SELECT t.kinds[1 + (p.n + s.id) % cardinality(t.kinds)] AS kind,
           t.things[1 + (p.n / cardinality(t.kinds) + s.id) % cardinality(t.things)] AS thing,
           p.n / (cardinality(t.kinds) * cardinality(t.things)) AS round
) AS pick
CROSS JOIN LATERAL (
    SELECT pick.kind, pick.thing,
           pick.kind || ' ' || pick.thing || CASE WHEN pick.round > 0 THEN ' No. ' || pick.round + 1 ELSE '' END AS title,
           date_trunc('day', now()) - (1 + pg_temp.roll(s.id, p.n, 16, 190)) * interval '1 day' AS published_at
) AS w;

INSERT INTO collection_products (tenant_id, id, collection_id, product_id, position)
SELECT s.id, p.n, 1 + pg_temp.roll(s.id, p.n, 21, cardinality(t.collections)), p.n, p.n
FROM demo_store s
JOIN demo_trade t ON t.number = s.trade
CROSS JOIN LATERAL generate_series(1, s.products) AS p (n);

-- A variant for each choice; the larger the choice the dearer, prices end in 90.
CREATE TEMP TABLE demo_variant ON COMMIT DROP AS
SELECT s.id AS tenant_id, (p.n - 1) * cardinality(t.choices) + c.n AS id, p.n AS product_id, c.n AS position,
       c.title, t.option, upper(left(t.name, 3)) || '-' || lpad(p.n::text, 5, '0') || '-' || c.n AS sku,
       (t.price_min + pg_temp.roll(s.id, p.n, 31, t.price_max - t.price_min)) * (c.n + 1) / 200 * 100 + 90 AS amount,
       st.currency
FROM demo_store s
JOIN demo_trade t ON t.number = s.trade
JOIN stores st ON st.tenant_id = s.id AND st.id = 1
CROSS JOIN LATERAL generate_series(1, s.products) AS p (n)
CROSS JOIN LATERAL unnest(t.choices) WITH ORDINALITY AS c (title, n);
CREATE UNIQUE INDEX ON demo_variant (tenant_id, id);
ANALYZE demo_variant;

INSERT INTO variants (tenant_id, id, product_id, sku, title, options, position, weight_grams)
SELECT v.tenant_id, v.id, v.product_id, v.sku, v.title, jsonb_build_object(v.option, v.title), v.position,
       50 + pg_temp.roll(v.tenant_id, v.id, 32, 2000)
FROM demo_variant v;

INSERT INTO prices (tenant_id, id, variant_id, currency, amount, compare_at)
SELECT v.tenant_id, v.id, v.id, v.currency, v.amount,
       CASE WHEN pg_temp.roll(v.tenant_id, v.product_id, 12, 6) = 0 THEN v.amount + v.amount / 4 END
FROM demo_variant v;

INSERT INTO inventory (tenant_id, id, variant_id, available)
SELECT v.tenant_id, v.id, v.id, 20 + pg_temp.roll(v.tenant_id, v.id, 33, 480)
FROM demo_variant v;

INSERT INTO customers (tenant_id, id, store_id, email, name, accepts_marketing, addresses, created_at)
SELECT s.id, c.n, 1, lower(who.first_name || '.' || who.last_name) || c.n || '@mail.example',
       who.first_name || ' ' || who.last_name, pg_temp.roll(s.id, c.n, 43, 3) = 0,
       jsonb_build_array(jsonb_build_object('city', who.city, 'country', who.country)),
       date_trunc('day', now()) - (1 + pg_temp.roll(s.id, c.n, 44, 190)) * interval '1 day'
FROM demo_store s
CROSS JOIN demo_people d
CROSS JOIN LATERAL generate_series(1, s.customers) AS c (n)
CROSS JOIN LATERAL (
    SELECT d.first_names[1 + pg_temp.roll(s.id, c.n, 41, cardinality(d.first_names))] AS first_name,
           d.last_names[1 + pg_temp.roll(s.id, c.n, 42, cardinality(d.last_names))] AS last_name,
           d.cities[1 + pg_temp.roll(s.id, c.n, 45, cardinality(d.cities))] AS city,
           d.countries[1 + pg_temp.roll(s.id, c.n, 45, cardinality(d.cities))] AS country
) AS who;

INSERT INTO carts (tenant_id, id, store_id, customer_id, token, currency, status, created_at, updated_at)
SELECT s.id, c.n, 1, CASE WHEN pg_temp.roll(s.id, c.n, 51, 3) > 0 THEN 1 + pg_temp.roll(s.id, c.n, 52, s.customers) END,
       md5(s.id || '/' || c.n)::uuid, st.currency,
       CASE WHEN pg_temp.roll(s.id, c.n, 53, 4) = 0 THEN 'open' ELSE 'abandoned' END, at.moment, at.moment
FROM demo_store s
JOIN stores st ON st.tenant_id = s.id AND st.id = 1
CROSS JOIN LATERAL generate_series(1, greatest(s.orders / 4, 2)) AS c (n)
CROSS JOIN LATERAL (
    SELECT date_trunc('day', now()) - pg_temp.roll(s.id, c.n, 54, 86400 * 30) * interval '1 second' AS moment
) AS at;

-- Favourites sell more: the square of an even draw lands near the first variants.
INSERT INTO cart_lines (tenant_id, id, cart_id, variant_id, quantity, created_at)
SELECT DISTINCT ON (c.tenant_id, c.id, v.id)
       c.tenant_id, c.id * 4 + l.n, c.id, v.id, 1 + pg_temp.roll(c.tenant_id, c.id * 4 + l.n, 62, 3), c.created_at
FROM demo_store s
JOIN carts c ON c.tenant_id = s.id
JOIN demo_trade t ON t.number = s.trade
CROSS JOIN LATERAL generate_series(1, 1 + pg_temp.roll(s.id, c.id, 61, 3)) AS l (n)
JOIN demo_variant v ON v.tenant_id = s.id
    AND v.id = 1 + (s.products * cardinality(t.choices)
                    * (pg_temp.roll(s.id, c.id * 4 + l.n, 63, 1000) / 1000.0) ^ 2)::bigint % (s.products * cardinality(t.choices));

CREATE TEMP TABLE demo_line ON COMMIT DROP AS
SELECT s.id AS tenant_id, o.n * 4 + l.n AS id, o.n AS order_id, v.id AS variant_id, v.product_id, v.title, v.sku, v.amount,
       1 + pg_temp.roll(s.id, o.n * 4 + l.n, 72, 2) AS quantity
FROM demo_store s
JOIN demo_trade t ON t.number = s.trade
CROSS JOIN LATERAL generate_series(1, s.orders) AS o (n)
CROSS JOIN LATERAL generate_series(1, 1 + pg_temp.roll(s.id, o.n, 71, 3)) AS l (n)
JOIN demo_variant v ON v.tenant_id = s.id
    AND v.id = 1 + (s.products * cardinality(t.choices)
                    * (pg_temp.roll(s.id, o.n * 4 + l.n, 73, 1000) / 1000.0) ^ 2)::bigint % (s.products * cardinality(t.choices));

-- Half a year of orders, numbered in the order they were placed; the last two weeks are still open.
INSERT INTO orders (tenant_id, id, store_id, customer_id, number, email, currency, status, financial_status,
                    fulfilment_status, subtotal, tax, shipping, total, shipping_address, placed_at, updated_at)
SELECT s.id, o.order_id, 1, c.id, 1000 + o.order_id, c.email, st.currency,
       CASE WHEN at.age < 14 THEN 'open' ELSE 'closed' END, 'paid',
       CASE WHEN at.age < 3 THEN 'unfulfilled' ELSE 'fulfilled' END,
       o.subtotal, o.subtotal / 6, o.shipping, o.subtotal + o.shipping, c.addresses -> 0, at.moment, at.moment
FROM demo_store s
JOIN stores st ON st.tenant_id = s.id AND st.id = 1
JOIN (
    SELECT tenant_id, order_id, sum(amount * quantity) AS subtotal,
           CASE WHEN sum(amount * quantity) >= 5000 THEN 0 ELSE 490 END AS shipping
    FROM demo_line
    GROUP BY tenant_id, order_id
) AS o ON o.tenant_id = s.id
JOIN customers c ON c.tenant_id = s.id AND c.id = 1 + pg_temp.roll(s.id, o.order_id, 81, s.customers)
CROSS JOIN LATERAL (
    SELECT (s.orders - o.order_id) * 180.0 / s.orders AS age,
           date_trunc('hour', now()) - (s.orders - o.order_id) * (interval '180 days' / s.orders) AS moment
) AS at;

INSERT INTO order_lines (tenant_id, id, order_id, variant_id, title, sku, quantity, unit_price, tax)
SELECT l.tenant_id, l.id, l.order_id, l.variant_id, p.title || ', ' || l.title, l.sku, l.quantity, l.amount,
       l.amount * l.quantity / 6
FROM demo_line l
JOIN products p ON p.tenant_id = l.tenant_id AND p.id = l.product_id;

INSERT INTO payments (tenant_id, id, order_id, provider, reference, kind, status, currency, amount, created_at)
SELECT o.tenant_id, o.id, o.id, CASE WHEN pg_temp.roll(o.tenant_id, o.id, 91, 4) = 0 THEN 'wallet' ELSE 'card' END,
       'pay_' || md5(o.tenant_id || '/' || o.id), 'sale', 'succeeded', o.currency, o.total, o.placed_at
FROM demo_store s
JOIN orders o ON o.tenant_id = s.id;

INSERT INTO events (tenant_id, id, kind, subject, subject_id, data, occurred_at)
SELECT o.tenant_id, o.id, 'order.placed', 'order', o.id, jsonb_build_object('total', o.total, 'currency', o.currency),
       o.placed_at
FROM demo_store s
JOIN orders o ON o.tenant_id = s.id;
