-- Puts neighbouring variants into a cart. $1 cart id, $2 where in the catalogue (0 to 1), $3 how many.
INSERT INTO cart_lines (cart_id, variant_id, quantity)
SELECT $1::bigint, v.id, 1
FROM (
    SELECT id
    FROM variants
    WHERE id >= (SELECT floor(max(id) * $2::double precision)::bigint FROM variants)
    ORDER BY id
    LIMIT $3
) AS v
