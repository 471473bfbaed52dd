-- $1: a table, or the root of partitions. All bytes with indexes and TOAST, and the blocks of the heap.
WITH leaves AS (
    SELECT relid::oid AS id FROM pg_catalog.pg_partition_tree($1::oid::pg_catalog.regclass) WHERE isleaf
), parts AS (
    SELECT id FROM leaves
    UNION
    SELECT $1::oid WHERE NOT EXISTS (SELECT FROM leaves)
)
SELECT coalesce(sum(pg_catalog.pg_total_relation_size(id)), 0)::float8,
       coalesce(sum(pg_catalog.pg_relation_size(id)), 0)::float8 / pg_catalog.current_setting('block_size')::float8
  FROM parts
