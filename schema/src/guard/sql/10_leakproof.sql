-- Operators that PostgreSQL may evaluate below a policy, and so use an index for. A function belongs here only if
-- nothing about its arguments shows except its result: no error, notice or side effect that depends on their values.
-- Reviewed in the sources of PostgreSQL 15 to 18:
--   ts_match_vq, ts_match_qv   walk a parsed query over a parsed vector; no error depends on either
--   jsonb containment, existence   compare parsed documents; the one error concerns the nesting depth, already
--                              bounded when the document was stored
--   array equality, containment, overlap   use the element type's equality; application roles cannot create types
--   range operators            errors concern types, never values
--   numeric comparison         a total order without an error path
-- Not here, and why:
--   LIKE and ILIKE             "pattern must not end with escape character" is raised only if a value matched the
--                              rest of the pattern: it would tell whether another tenant has such a value. Use ^@
--                              (starts_with), ranges or full-text search.
--   regular expressions, text @@ text, casts, arithmetic   errors depend on values
do $leakproof$
declare
    target record;
begin
    for target in
        select p.oid::pg_catalog.regprocedure as function
        from pg_catalog.pg_proc p
        where p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace
          and p.proleakproof is distinct from @leakproof@
          and p.proname in (
              'ts_match_vq', 'ts_match_qv',
              'jsonb_contains', 'jsonb_contained', 'jsonb_exists', 'jsonb_exists_any', 'jsonb_exists_all',
              'array_eq', 'array_ne', 'arraycontains', 'arraycontained', 'arrayoverlap',
              'range_contains', 'range_contained_by', 'range_overlaps', 'range_contains_elem', 'elem_contained_by_range',
              'range_before', 'range_after', 'range_adjacent', 'range_overleft', 'range_overright',
              'numeric_eq', 'numeric_ne', 'numeric_lt', 'numeric_le', 'numeric_gt', 'numeric_ge')
    loop
        execute format('alter function %s %s', target.function, case when @leakproof@ then 'leakproof' else 'not leakproof' end);
    end loop;

    -- What someone else marked and leaks.
    for target in
        select p.oid::pg_catalog.regprocedure as function
        from pg_catalog.pg_proc p
        where p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace and p.proleakproof
          and p.proname = any (tenantry.leaky_functions())
    loop
        execute format('alter function %s not leakproof', target.function);
    end loop;
end
$leakproof$;
