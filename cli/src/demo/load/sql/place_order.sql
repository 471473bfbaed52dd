-- Turns a cart into an order with its lines. $1 cart id. The store's row gives the number, so numbers have no gaps.
WITH numbered AS (
    UPDATE stores s
    SET next_order_number = s.next_order_number + 1
    FROM carts c
    WHERE c.id = $1 AND s.tenant_id = c.tenant_id AND s.id = c.store_id
    RETURNING s.id AS store_id, s.next_order_number - 1 AS number, s.currency, s.name
), line AS (
    SELECT l.variant_id, l.quantity, p.title || ', ' || v.title AS title, v.sku, pr.amount
    FROM cart_lines l
    JOIN variants v ON v.tenant_id = l.tenant_id AND v.id = l.variant_id
    JOIN products p ON p.tenant_id = v.tenant_id AND p.id = v.product_id
    JOIN prices pr ON pr.tenant_id = v.tenant_id AND pr.variant_id = v.id AND pr.min_quantity = 1
    WHERE l.cart_id = $1
), placed AS (
    INSERT INTO orders (store_id, cart_id, number, email, currency, subtotal, tax, shipping, total)
    SELECT n.store_id, $1, n.number, 'guest' || n.number || '@mail.example', n.currency,
           t.subtotal, t.subtotal / 6, 490, t.subtotal + 490
    FROM numbered n
    CROSS JOIN (SELECT coalesce(sum(amount * quantity), 0)::bigint AS subtotal FROM line) AS t
    RETURNING id
), lines AS (
    INSERT INTO order_lines (order_id, variant_id, title, sku, quantity, unit_price, tax)
    SELECT o.id, l.variant_id, l.title, l.sku, l.quantity, l.amount, l.amount * l.quantity / 6
    FROM placed o
    CROSS JOIN line l
), closed AS (
    UPDATE carts
    SET status = 'ordered', updated_at = now()
    WHERE id = $1
)
SELECT id FROM placed
