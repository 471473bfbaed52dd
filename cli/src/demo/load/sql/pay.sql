-- Pays an order. $1 order id.
WITH paid AS (
    UPDATE orders
    SET financial_status = 'paid', updated_at = now()
    WHERE id = $1
    RETURNING id, currency, total
)
INSERT INTO payments (order_id, provider, reference, kind, status, currency, amount)
SELECT id, 'card', 'pay_' || id, 'sale', 'succeeded', currency, total
FROM paid
