-- Adds an order to the store's timeline. $1 order id.
INSERT INTO events (kind, subject, subject_id, data)
SELECT 'order.placed', 'order', o.id, jsonb_build_object('total', o.total, 'currency', o.currency)
FROM orders o
WHERE o.id = $1
