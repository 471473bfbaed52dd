-- The stores of this shard. $1: a JSON array of them.
INSERT INTO demo_store (id, name, slug, trade, products, customers, orders)
SELECT id, name, slug, trade, products, customers, orders
FROM jsonb_to_recordset($1::jsonb)
    AS store (id bigint, name text, slug text, trade integer, products integer, customers integer, orders integer)
