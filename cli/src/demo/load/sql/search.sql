-- The best matches for what someone typed. $1 words.
SELECT p.id, p.handle, p.title, ts_rank(p.search, q.query) AS rank
FROM websearch_to_tsquery('simple', $1) AS q (query)
JOIN products p ON p.search @@ q.query
WHERE p.status = 'active'
ORDER BY rank DESC, p.id
LIMIT 20
