-- A page of a collection, cheapest variant's price with each product. $1 collection id.
SELECT p.id, p.handle, p.title, min(pr.amount) AS amount, min(pr.currency) AS currency
FROM collection_products cp
JOIN products p ON p.tenant_id = cp.tenant_id AND p.id = cp.product_id AND p.status = 'active'
JOIN variants v ON v.tenant_id = p.tenant_id AND v.product_id = p.id
JOIN prices pr ON pr.tenant_id = v.tenant_id AND pr.variant_id = v.id
WHERE cp.collection_id = $1
GROUP BY p.id, p.handle, p.title, cp.position
ORDER BY cp.position
LIMIT 24
