-- A product's page: its variants with price and stock. $1 product id.
SELECT p.title, p.description, p.metafields, v.id, v.title, v.options, pr.amount, pr.compare_at, pr.currency, i.available
FROM products p
JOIN variants v ON v.tenant_id = p.tenant_id AND v.product_id = p.id
JOIN prices pr ON pr.tenant_id = v.tenant_id AND pr.variant_id = v.id
JOIN inventory i ON i.tenant_id = v.tenant_id AND i.variant_id = v.id
WHERE p.id = $1
ORDER BY v.position
