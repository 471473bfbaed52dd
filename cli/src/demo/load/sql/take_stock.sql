-- Takes what is in a cart from stock, restocking what would run out. $1 cart id. The rows are locked in order of id.
WITH wanted AS (
    SELECT i.id, l.quantity
    FROM cart_lines l
    JOIN inventory i ON i.tenant_id = l.tenant_id AND i.variant_id = l.variant_id
    WHERE l.cart_id = $1
    ORDER BY i.id
    FOR UPDATE OF i
)
UPDATE inventory i
SET available = CASE WHEN i.available >= w.quantity THEN i.available ELSE i.available + 500 END - w.quantity,
    updated_at = now()
FROM wanted w
WHERE i.id = w.id
