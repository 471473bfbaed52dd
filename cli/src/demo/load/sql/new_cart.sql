-- An empty cart in the store's currency.
INSERT INTO carts (store_id, currency)
SELECT s.id, s.currency
FROM stores s
ORDER BY s.id
LIMIT 1
RETURNING id
