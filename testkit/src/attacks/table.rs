//! The table of attacks. Adding a way is adding a line.

use super::{Attack, Expect, Reach, Step};

const ALL: &str = "SELECT * FROM customers";
const COUNT_VICTIM: &str = "SELECT count(*) FROM customers WHERE tenant_id = '{victim}'";

/// Insufficient privilege, and what PostgreSQL or the router says to statements they do not run for a tenant.
const DENIED: &[&str] = &["42501", "0A000"];
/// A binding that does not hold: refused as forged, or already when it is set.
const FORGED: &[&str] = &["42501", "42704", "22023", "28000", "0A000"];

/// Every known way.
#[must_use]
pub fn table() -> Vec<Attack> {
    [
        reading(),
        oracles(),
        writing(),
        forging(),
        copying(),
        reaching_out(),
        router_only(),
    ]
    .concat()
}

fn query(sql: &str) -> Step {
    Step::Query(sql.to_owned())
}

fn victim(sql: &str, expected: &str) -> Step {
    Step::Victim(sql.to_owned(), expected.to_owned())
}

fn extended(sql: &str, parameters: &[&str]) -> Step {
    Step::Extended(
        sql.to_owned(),
        parameters.iter().map(ToString::to_string).collect(),
    )
}

fn call(function: &str, arguments: &[&str]) -> Step {
    Step::Call(
        function.to_owned(),
        arguments.iter().map(ToString::to_string).collect(),
    )
}

fn attack(name: &'static str, steps: impl Into<Vec<Step>>, expect: Expect) -> Attack {
    Attack {
        name,
        reach: Reach::Everywhere,
        steps: steps.into(),
        expect,
    }
}

/// One simple query each, all with the same expectation.
fn each<const N: usize>(expect: &Expect, lines: [(&'static str, &str); N]) -> Vec<Attack> {
    lines
        .map(|(name, sql)| attack(name, [query(sql)], expect.clone()))
        .into()
}

fn denied() -> Expect {
    Expect::Refused(DENIED)
}

fn forged() -> Expect {
    Expect::Forged(FORGED)
}

/// Rows of others, by whatever reads rows.
fn reading() -> Vec<Attack> {
    let harmless = each(
        &Expect::Harmless,
        [
            ("read: no condition", ALL),
            ("read: table command", "TABLE customers"),
            (
                "read: true or",
                "SELECT * FROM customers WHERE tenant_id = '{victim}' OR true",
            ),
            (
                "read: set operation",
                "SELECT email FROM customers UNION ALL SELECT email FROM orders UNION ALL SELECT title FROM products",
            ),
            (
                "read: lateral",
                "SELECT c.* FROM stores s, LATERAL (SELECT * FROM customers) c",
            ),
            (
                "read: anti join",
                "SELECT * FROM customers c WHERE NOT EXISTS (SELECT FROM stores s WHERE s.tenant_id = c.tenant_id)",
            ),
            (
                "read: outer join",
                "SELECT c.* FROM (SELECT 1) x LEFT JOIN customers c ON true FULL JOIN orders o ON false",
            ),
            (
                "read: recursion",
                "WITH RECURSIVE r AS (SELECT id, email FROM customers UNION SELECT c.id, c.email FROM customers c, r) SELECT * FROM r",
            ),
            (
                "read: row as json",
                "SELECT row_to_json(c), to_jsonb(o) FROM customers c, orders o",
            ),
            (
                "read: returning",
                "UPDATE customers SET phone = phone RETURNING *",
            ),
            (
                "read: by physical address",
                "SELECT * FROM customers WHERE ctid = ANY (ARRAY(SELECT format('(%s,%s)', p, i)::tid FROM generate_series(0, 9) p, generate_series(1, 50) i))",
            ),
            (
                "read: sample",
                "SELECT * FROM customers TABLESAMPLE system (100)",
            ),
            (
                "read: sample bernoulli",
                "SELECT * FROM products TABLESAMPLE bernoulli (100)",
            ),
            ("read: copy out", "COPY customers TO STDOUT"),
            (
                "read: copy query out",
                "COPY (SELECT * FROM customers) TO STDOUT",
            ),
            (
                "read: query_to_xml",
                "SELECT query_to_xml('SELECT * FROM customers', true, false, '')",
            ),
            (
                "read: table_to_xml",
                "SELECT table_to_xml('customers', true, false, '')",
            ),
            (
                "read: schema_to_xml",
                "SELECT schema_to_xml('public', true, false, '')",
            ),
            (
                "read: database_to_xml",
                "SELECT database_to_xml(true, false, '')",
            ),
            (
                "read: ts_stat",
                "SELECT * FROM ts_stat('SELECT search FROM products')",
            ),
            (
                "read: statistics",
                "SELECT * FROM pg_stats WHERE schemaname = 'public'",
            ),
            (
                "read: extended statistics",
                "SELECT * FROM pg_stats_ext, pg_stats_ext_exprs",
            ),
            (
                "read: prepared statements of the connection",
                "SELECT * FROM pg_prepared_statements",
            ),
            (
                "read: cursors of the connection",
                "SELECT * FROM pg_cursors",
            ),
            (
                "read: memory of the connection",
                "SELECT * FROM pg_listening_channels()",
            ),
            ("read: error texts", "SELECT email::integer FROM customers"),
            (
                "read: error texts in a condition",
                "SELECT FROM customers WHERE email::integer = 1",
            ),
            (
                "read: explain analyze",
                "EXPLAIN (ANALYZE, VERBOSE, BUFFERS) SELECT * FROM customers WHERE email LIKE '%'",
            ),
            (
                "read: role defaults",
                "SELECT * FROM pg_db_role_setting, pg_roles",
            ),
        ],
    );
    let nothing = each(
        &Expect::Nothing,
        [
            (
                "read: the victim's id",
                "SELECT * FROM customers WHERE tenant_id = '{victim}'",
            ),
            (
                "read: the victim's row",
                "SELECT * FROM customers WHERE id = {row}",
            ),
            (
                "read: everyone else",
                "SELECT * FROM customers WHERE tenant_id <> '{attacker}'",
            ),
            (
                "read: for update",
                "SELECT * FROM orders WHERE tenant_id = '{victim}' FOR UPDATE SKIP LOCKED",
            ),
        ],
    );
    let refused = each(
        &denied(),
        [
            (
                "read: row security off",
                "SET row_security = off; SELECT * FROM customers",
            ),
            ("read: raw statistics", "SELECT * FROM pg_statistic"),
            (
                "read: raw extended statistics",
                "SELECT * FROM pg_statistic_ext_data",
            ),
            ("read: guard keys", "SELECT * FROM tenantry.guard_key"),
            ("read: owners", "SELECT * FROM tenantry.owner"),
            (
                "read: an owner through the guard",
                "SELECT tenantry.refuse_tenant('{victim}')",
            ),
            ("read: namespace secret", "SELECT * FROM tenantry.shard"),
            (
                "read: last copying tenant",
                "SELECT * FROM tenantry.copying_low",
            ),
            (
                "read: unsigned roles",
                "SELECT * FROM tenantry.unsigned_role",
            ),
            ("read: password hashes", "SELECT * FROM pg_authid"),
            ("read: server files", "SELECT pg_read_file('PG_VERSION')"),
            ("read: server directories", "SELECT pg_ls_dir('.')"),
            ("read: user mappings", "SELECT * FROM pg_user_mapping"),
            (
                "read: become the owner",
                "SET ROLE tenantry_owner; SELECT * FROM customers",
            ),
            (
                "read: become the agent",
                "SET ROLE tenantry_agent; SELECT * FROM customers",
            ),
            (
                "read: become the operator",
                "SET SESSION AUTHORIZATION tenantry_operator; SELECT * FROM customers",
            ),
            (
                "read: become superuser",
                "SET SESSION AUTHORIZATION postgres; SELECT * FROM customers",
            ),
            (
                "read: become by set_config",
                "SELECT set_config('role', 'tenantry_agent', false)",
            ),
            (
                "read: as the copying role",
                "SET ROLE tenantry_copy; SELECT * FROM customers",
            ),
            (
                "read: copy out as the copying role",
                "SET ROLE tenantry_copy; COPY customers TO STDOUT",
            ),
            (
                "read: view with the owner's rights",
                "CREATE VIEW leak AS SELECT * FROM customers",
            ),
            (
                "read: function with the owner's rights",
                "CREATE FUNCTION leak() RETURNS SETOF customers LANGUAGE sql SECURITY DEFINER AS 'SELECT * FROM customers'",
            ),
            (
                "read: operator of one's own",
                "CREATE OPERATOR public.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = int8ne)",
            ),
            (
                "read: logical slot",
                "SELECT pg_create_logical_replication_slot('x', 'test_decoding')",
            ),
            ("read: publication", "CREATE PUBLICATION p FOR ALL TABLES"),
        ],
    );
    [harmless, nothing, refused].concat()
}

/// One bit at a time: errors and counts that depend on another tenant's rows.
fn oracles() -> Vec<Attack> {
    let shows_zero = each(
        &Expect::Shows("0".to_owned()),
        [
            // LIKE fails on a trailing backslash only when a row matches what precedes it.
            (
                "oracle: like with a trailing escape",
                r"SELECT count(*) FROM customers WHERE email LIKE 'first@quicksilver\'",
            ),
            (
                "oracle: ilike with a trailing escape",
                r"SELECT count(*) FROM customers WHERE email ILIKE 'FIRST@quicksilver\'",
            ),
            (
                "oracle: division by zero",
                "SELECT count(*) FROM customers WHERE 1 / (position('quicksilver' in email) - 7) = 1",
            ),
            (
                "oracle: full text",
                "SELECT count(*) FROM products WHERE search @@ to_tsquery('simple', 'quicksilver:*')",
            ),
            (
                "oracle: jsonb",
                r#"SELECT count(*) FROM customers WHERE metafields ? 'note' AND name ^@ 'quick'"#,
            ),
            (
                "oracle: arrays",
                "SELECT count(*) FROM products WHERE tags && ARRAY(SELECT 'quicksilver' || '-heron')",
            ),
            (
                "oracle: prefix",
                "SELECT count(*) FROM customers WHERE email ^@ 'first@quick'",
            ),
            ("oracle: count of the victim", COUNT_VICTIM),
        ],
    );
    let refused = vec![
        attack(
            "oracle: unique violation",
            [query(
                "INSERT INTO customers (tenant_id, id, store_id, email) VALUES ('{victim}', {row}, 1, 'x')",
            )],
            denied(),
        ),
        attack(
            "oracle: conflict on the victim's row",
            [query(
                "INSERT INTO customers (tenant_id, id, store_id, email) VALUES ('{victim}', {row}, 1, 'x') ON CONFLICT DO NOTHING",
            )],
            denied(),
        ),
        attack(
            "oracle: unique violation as the copying role",
            [query(
                "SET ROLE tenantry_copy; INSERT INTO customers (tenant_id, id, store_id, email) VALUES ('{victim}', {row}, 1, 'x')",
            )],
            denied(),
        ),
        attack(
            "oracle: foreign key to the victim's row",
            [query(
                "INSERT INTO orders (store_id, customer_id, number, email, currency, subtotal, total) SELECT id, {row}, 2, '', 'EUR', 1, 1 FROM stores",
            )],
            Expect::Refused(&["23503"]),
        ),
    ];
    [shows_zero, refused].concat()
}

/// Rows of others, changed.
fn writing() -> Vec<Attack> {
    let nothing = each(
        &Expect::Nothing,
        [
            (
                "write: update the victim",
                "UPDATE customers SET name = 'x' WHERE tenant_id = '{victim}'",
            ),
            (
                "write: update the victim's row",
                "UPDATE customers SET name = 'x' WHERE id = {row}",
            ),
            (
                "write: delete the victim",
                "DELETE FROM customers WHERE tenant_id = '{victim}'",
            ),
            (
                "write: delete through a join",
                "DELETE FROM orders o USING stores s WHERE o.tenant_id = '{victim}'",
            ),
        ],
    );
    let refused = each(
        &denied(),
        [
            (
                "write: insert for the victim",
                "INSERT INTO stores (tenant_id, name, email) VALUES ('{victim}', 'x', 'x')",
            ),
            (
                "write: give a row to the victim",
                "UPDATE stores SET tenant_id = '{victim}'",
            ),
            (
                "write: upsert the victim's row",
                "INSERT INTO customers (tenant_id, id, store_id, email) VALUES ('{victim}', {row}, 1, 'x') ON CONFLICT (tenant_id, id) DO UPDATE SET name = 'x'",
            ),
            (
                "write: merge",
                "MERGE INTO stores s USING (SELECT 1) x ON false WHEN NOT MATCHED THEN INSERT (tenant_id, name, email) VALUES ('{victim}', 'x', 'x')",
            ),
            ("write: truncate", "TRUNCATE events"),
            ("write: truncate cascade", "TRUNCATE stores CASCADE"),
            ("write: drop", "DROP TABLE customers CASCADE"),
            (
                "write: switch row security off",
                "ALTER TABLE customers DISABLE ROW LEVEL SECURITY",
            ),
            (
                "write: a policy of one's own",
                "CREATE POLICY mine ON customers USING (true)",
            ),
            (
                "write: drop the policy",
                "DROP POLICY tenantry_guard ON customers",
            ),
            (
                "write: disable triggers",
                "ALTER TABLE customers DISABLE TRIGGER ALL",
            ),
            (
                "write: as a replica",
                "SET session_replication_role = replica",
            ),
            ("write: an index", "CREATE INDEX ON customers (email)"),
            ("write: a table", "CREATE TABLE public.mine (id bigint)"),
            ("write: a schema", "CREATE SCHEMA mine"),
            (
                "write: a temporary table that shadows",
                "CREATE TEMPORARY TABLE customers (LIKE public.customers)",
            ),
            (
                "write: a temporary function",
                "CREATE FUNCTION pg_temp.f() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
            ),
            (
                "write: a temporary view",
                "CREATE TEMPORARY VIEW customers AS SELECT 1",
            ),
            (
                "write: owner rows",
                "UPDATE tenantry.owner SET state = 'moved', moved_to = 1 WHERE tenant_id = '{victim}'",
            ),
            (
                "write: a key of one's own",
                "INSERT INTO tenantry.guard_key (version, inner_block, outer_block) VALUES (99, decode(repeat('36', 64), 'hex'), decode(repeat('5c', 64), 'hex'))",
            ),
            (
                "write: leave the signature out",
                "INSERT INTO tenantry.unsigned_role VALUES (current_user, 'mine')",
            ),
            ("write: sequences", "SELECT setval('tenantry.id_clock', 1)"),
            (
                "write: the copying tenant",
                "SELECT setval('tenantry.copying_low', 1)",
            ),
            ("write: grant", "GRANT tenantry_copy TO tenantry_operator"),
            ("write: a role", "CREATE ROLE mine SUPERUSER"),
            ("write: the own role", "ALTER ROLE tenantry_app BYPASSRLS"),
            (
                "write: the database",
                "ALTER DATABASE template1 SET search_path = 'x'",
            ),
            ("write: load code", "LOAD '/tmp/code.so'"),
            ("write: run a program", "COPY customers TO PROGRAM 'cat'"),
            ("write: server files", "COPY customers TO '/tmp/customers'"),
        ],
    );
    // Behind a router it may share an implicit transaction with the bind, where it is refused before its privileges are
    // looked at.
    let settings = attack(
        "write: system settings",
        [query("ALTER SYSTEM SET fsync = off")],
        Expect::Refused(&["42501", "25001"]),
    );
    [nothing, refused, vec![settings]].concat()
}

/// Naming another tenant: every way to write the setting, and values that look right.
fn forging() -> Vec<Attack> {
    let then_read = |name, sql: &str| attack(name, [query(sql), query(ALL)], forged());
    let mut attacks: Vec<Attack> = [
        ("forge: set", "SET tenantry.tenant = '{victim}'"),
        ("forge: set session to", "SET SESSION tenantry.tenant TO '{victim}'"),
        ("forge: quoted name", r#"SET "tenantry"."tenant" = '{victim}'"#),
        ("forge: name in capitals", "SET TENANTRY.Tenant TO '{victim}'"),
        ("forge: unicode name", r#"SET U&"ten\0061ntry"."TENANT" = '{victim}'"#),
        ("forge: comment inside the name", "SET tenantry/* */./**/tenant = '{victim}'"),
        ("forge: escape string", r"SET tenantry.tenant = E'{victim}\072\061'"),
        ("forge: set_config", "SELECT set_config('tenantry.tenant', '{victim}', false)"),
        ("forge: set_config in an expression", "SELECT length(set_config('tenan' || 'try.tenant', '{victim}', false)) FROM stores"),
        ("forge: set_config qualified", "SELECT pg_catalog.set_config('tenantry.tenant', '{victim}', false)"),
        ("forge: set_config in xml", "SELECT query_to_xml('SELECT set_config(''tenantry.tenant'', ''{victim}'', false)', true, false, '')"),
        ("forge: do block", "DO $$ BEGIN PERFORM set_config('tenantry.tenant', '{victim}', false); END $$"),
        ("forge: do block with a string", "DO LANGUAGE plpgsql 'BEGIN EXECUTE ''SET tenantry.tenant = 1''; END'"),
        ("forge: prepared", "PREPARE s AS SELECT set_config('tenantry.tenant', '{victim}', false); EXECUTE s"),
        ("forge: explain analyze", "EXPLAIN ANALYZE SELECT set_config('tenantry.tenant', '{victim}', false)"),
        ("forge: second statement", "SELECT 1; SET tenantry.tenant = '{victim}'"),
        ("forge: after a comment", "/* /* ' */ */ SET tenantry.tenant = '{victim}' -- '"),
        ("forge: replay from another connection", "SELECT set_config('tenantry.tenant', '{stolen}', false)"),
        ("forge: replay by set", "SET tenantry.tenant = '{stolen}'"),
        ("forge: own signature, other id", "SELECT set_config('tenantry.tenant', '{victim}:1:' || split_part(current_setting('tenantry.tenant'), ':', 3), false)"),
        ("forge: empty signature", "SELECT set_config('tenantry.tenant', '{victim}:1:', false)"),
        ("forge: no version", "SELECT set_config('tenantry.tenant', '{victim}::' || repeat('0', 64), false)"),
        ("forge: version 0", "SELECT set_config('tenantry.tenant', '{victim}:0:' || repeat('0', 64), false)"),
        ("forge: unknown version", "SELECT set_config('tenantry.tenant', '{victim}:2147483647:' || repeat('0', 64), false)"),
        ("forge: version that overflows", "SELECT set_config('tenantry.tenant', '{victim}:99999999999999999999:00', false)"),
        ("forge: signature of zeros", "SELECT set_config('tenantry.tenant', '{victim}:1:' || repeat('0', 64), false)"),
        ("forge: null signature", "SELECT set_config('tenantry.tenant', '{victim}:1:' || NULL, false)"),
        ("forge: no id", "SELECT set_config('tenantry.tenant', ':1:' || split_part(current_setting('tenantry.tenant'), ':', 3), false)"),
        ("forge: unkeyed hash", "SELECT set_config('tenantry.tenant', '{victim}:1:' || encode(sha256(convert_to(tenantry.backend_identity() || ':{victim}', 'UTF8')), 'hex'), false)"),
        ("forge: very long value", "SELECT set_config('tenantry.tenant', '{victim}:1:' || repeat('0', 1000000), false)"),
    ]
    .into_iter()
    .map(|(name, sql)| then_read(name, sql))
    .collect();
    attacks.extend([
        attack(
            "forge: set local",
            [query("BEGIN"), query("SET LOCAL tenantry.tenant = '{victim}'"), query(ALL)],
            forged(),
        ),
        attack(
            "forge: in the statement that reads",
            [query("SELECT set_config('tenantry.tenant', '{victim}', true), c.* FROM customers c WHERE tenant_id = '{victim}'")],
            Expect::Harmless,
        ),
        attack(
            "forge: before the statement reads",
            [query("WITH s AS MATERIALIZED (SELECT set_config('tenantry.tenant', '{victim}', true)) SELECT c.* FROM s, LATERAL (SELECT * FROM customers WHERE set_config IS NOT NULL) c")],
            Expect::Harmless,
        ),
        attack(
            "forge: savepoint and back",
            [
                query("BEGIN"),
                query("SAVEPOINT a"),
                query("SELECT set_config('tenantry.tenant', '{stolen}', false)"),
                query("ROLLBACK TO a"),
                query(COUNT_VICTIM),
            ],
            Expect::Shows("0".to_owned()),
        ),
        attack(
            "forge: cursor across a rebind",
            [
                query("BEGIN"),
                query("DECLARE c CURSOR FOR SELECT * FROM customers"),
                query("SELECT set_config('tenantry.tenant', '{stolen}', false)"),
                query("FETCH ALL FROM c"),
            ],
            forged(),
        ),
        attack(
            "forge: cursor WITH HOLD across a rebind",
            [
                query("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT * FROM customers; COMMIT"),
                query("SELECT set_config('tenantry.tenant', '{stolen}', false)"),
                query("FETCH ALL FROM c"),
            ],
            Expect::Harmless,
        ),
        attack(
            "forge: prepared statement across a rebind",
            [
                query("PREPARE p AS SELECT * FROM customers"),
                query("EXECUTE p"),
                query("SELECT set_config('tenantry.tenant', '{victim}', false)"),
                query("EXECUTE p"),
            ],
            forged(),
        ),
        attack(
            "forge: extended protocol set",
            [extended("SET tenantry.tenant = '{victim}'", &[]), extended(ALL, &[])],
            forged(),
        ),
        attack(
            "forge: extended protocol set_config",
            [
                extended("SELECT set_config($1, $2, $3::boolean)", &["tenantry.tenant", "{victim}", "false"]),
                extended(ALL, &[]),
            ],
            forged(),
        ),
        attack(
            "forge: name as a parameter in an expression",
            [
                extended("SELECT length(set_config($1 || 'tenant', $2, false))", &["tenantry.", "{stolen}"]),
                extended(ALL, &[]),
            ],
            forged(),
        ),
        attack(
            "forge: function call message",
            [
                call("pg_catalog.set_config(text,text,boolean)", &["tenantry.tenant", "{victim}", "f"]),
                query(ALL),
            ],
            forged(),
        ),
        attack(
            "forge: startup options",
            [
                Step::Login(vec![("options".to_owned(), "-c tenantry.tenant={victim}".to_owned())]),
                query(ALL),
            ],
            forged(),
        ),
        attack(
            "forge: startup parameter",
            [
                Step::Login(vec![("tenantry.tenant".to_owned(), "{victim}".to_owned())]),
                query(ALL),
            ],
            forged(),
        ),
        attack(
            "forge: pg_settings",
            [
                query("UPDATE pg_settings SET setting = '{victim}' WHERE name = 'tenantry.tenant'"),
                query(COUNT_VICTIM),
            ],
            Expect::Shows("0".to_owned()),
        ),
        attack("forge: reset", [query("RESET tenantry.tenant"), query(ALL)], Expect::Harmless),
        attack("forge: reset all", [query("RESET ALL"), query(ALL)], Expect::Harmless),
        attack("forge: discard all", [query("DISCARD ALL"), query(ALL)], Expect::Harmless),
        attack(
            "forge: search path with another pg_catalog",
            [query("SET search_path = tenantry, public, pg_catalog"), query(COUNT_VICTIM)],
            Expect::Shows("0".to_owned()),
        ),
    ]);
    attacks.extend(encodings());
    attacks
}

/// Bytes that a reader of ASCII and a reader of the client's encoding split differently: the second byte of a
/// character is a backslash or a quote.
fn encodings() -> Vec<Attack> {
    let tail: &[u8] = b"', set_config('tenantry.tenant', '1', false); SELECT * FROM customers; --'";
    [
        (
            "forge: backslash inside an SJIS character",
            "SJIS",
            b"SELECT E'\x95\x5c".as_slice(),
        ),
        (
            "forge: backslash inside a GBK character",
            "GBK",
            b"SELECT E'\xbf\x5c".as_slice(),
        ),
        (
            "forge: backslash inside a BIG5 character",
            "BIG5",
            b"SELECT E'\xa5\x5c".as_slice(),
        ),
        (
            "forge: quote after half a GBK character",
            "GBK",
            b"SELECT '\xbf".as_slice(),
        ),
        (
            "forge: half a UTF-8 character",
            "UTF8",
            b"SELECT '\xc3".as_slice(),
        ),
    ]
    .into_iter()
    .map(|(name, encoding, head)| {
        attack(
            name,
            [
                Step::Query(format!("SET client_encoding = '{encoding}'")),
                Step::Bytes([head, tail].concat()),
                query("SET client_encoding = 'UTF8'"),
            ],
            Expect::Refused(&[
                "42501", "42704", "0A000", "22023", "22021", "22P05", "42601",
            ]),
        )
    })
    .collect()
}

/// COPY FROM, which PostgreSQL does not combine with row-level security, and the role that stands in.
fn copying() -> Vec<Attack> {
    let row = "{victim}\t7\t1\tmine@example.com\n";
    let copy = "COPY customers (tenant_id, id, store_id, email) FROM STDIN";
    let copy_step = |sql: &str| Step::Copy(sql.to_owned(), row.to_owned());
    vec![
        attack("copy: rows of the victim", [copy_step(copy)], denied()),
        attack(
            "copy: rows of the victim as the copying role",
            [query("SET ROLE tenantry_copy"), copy_step(copy)],
            denied(),
        ),
        attack(
            "copy: rows of the victim after a forged binding",
            [
                query("SET ROLE tenantry_copy"),
                query("SELECT set_config('tenantry.tenant', '{victim}:1:00', false)"),
                copy_step(copy),
            ],
            denied(),
        ),
        attack(
            "copy: binding rewritten within the statement",
            [query(
                "SET ROLE tenantry_copy; INSERT INTO customers (tenant_id, id, store_id, email)
                 SELECT '{victim}', 7, 1, set_config('tenantry.tenant', '{victim}:1:00', false)",
            )],
            denied(),
        ),
        attack(
            "copy: change rows as the copying role",
            [query(
                "SET ROLE tenantry_copy; UPDATE customers SET name = 'x'",
            )],
            denied(),
        ),
        attack(
            "copy: return rows as the copying role",
            [query(
                "SET ROLE tenantry_copy; INSERT INTO stores (name, email) VALUES ('x', 'x') RETURNING *",
            )],
            denied(),
        ),
        attack(
            "copy: the guard's tables as the copying role",
            [query(
                "SET ROLE tenantry_copy; INSERT INTO tenantry.unsigned_role VALUES ('tenantry_app', 'x')",
            )],
            denied(),
        ),
        attack(
            "copy: the trigger's memory",
            [query(
                "SET ROLE tenantry_copy; SELECT setval('tenantry.copying_low', 1)",
            )],
            denied(),
        ),
        attack(
            "copy: from a file",
            [query("COPY customers FROM '/etc/passwd'")],
            denied(),
        ),
        attack(
            "copy: from a program",
            [query("COPY customers FROM PROGRAM 'id'")],
            denied(),
        ),
    ]
}

/// What belongs to the server and not to a table.
fn reaching_out() -> Vec<Attack> {
    let mut attacks = each(
        &denied(),
        [
            ("reach: activity", "SELECT * FROM pg_stat_activity"),
            (
                "reach: activity function",
                "SELECT * FROM pg_stat_get_activity(NULL)",
            ),
            (
                "reach: activity of a backend",
                "SELECT pg_stat_get_backend_activity(1)",
            ),
            ("reach: progress", "SELECT * FROM pg_stat_progress_copy"),
            ("reach: locks", "SELECT * FROM pg_locks"),
            ("reach: blockers", "SELECT pg_blocking_pids({pid})"),
            ("reach: cancel", "SELECT pg_cancel_backend({pid})"),
            ("reach: terminate", "SELECT pg_terminate_backend({pid})"),
            ("reach: advisory lock", "SELECT pg_advisory_lock(1)"),
            (
                "reach: advisory lock of the guard",
                "SELECT pg_advisory_xact_lock(1952804449, 1)",
            ),
            ("reach: try advisory lock", "SELECT pg_try_advisory_lock(1)"),
            (
                "reach: shared advisory lock",
                "SELECT pg_advisory_lock_shared(1)",
            ),
            ("reach: advisory unlock", "SELECT pg_advisory_unlock(1)"),
            (
                "reach: emit a message",
                "SELECT pg_logical_emit_message(true, 'tenantry.fence', '{}')",
            ),
            ("reach: notify", "SELECT pg_notify('orders', 'x')"),
            ("reach: large objects", "SELECT lo_create(1)"),
            (
                "reach: large object from bytes",
                "SELECT lo_from_bytea(0, 'x')",
            ),
            ("reach: large object in", "SELECT lo_import('/etc/passwd')"),
            (
                "reach: fence the victim",
                "SELECT tenantry.fence('{victim}', gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 1, '1 h')",
            ),
            (
                "reach: unfence",
                "SELECT tenantry.unfence('{victim}', gen_random_uuid())",
            ),
            (
                "reach: hand the victim over",
                "SELECT tenantry.hand_over('{victim}', gen_random_uuid(), 1, 1::smallint)",
            ),
            (
                "reach: import the victim",
                "SELECT tenantry.begin_import('{victim}', gen_random_uuid(), 1)",
            ),
            (
                "reach: activate the victim",
                "SELECT tenantry.activate('{victim}', gen_random_uuid(), 9)",
            ),
            (
                "reach: choose the proof of a move",
                "SELECT tenantry.expect_proof('{victim}', gen_random_uuid(), '')",
            ),
            (
                "reach: remove the victim's forwarding address",
                "SELECT tenantry.drop_moved('{victim}', gen_random_uuid())",
            ),
            ("read: moves", "SELECT * FROM tenantry.move_progress"),
            ("read: copied keys", "SELECT * FROM tenantry.move_chunk"),
            (
                "reach: lock the victim",
                "SELECT tenantry.begin_owner_change('{victim}')",
            ),
            (
                "reach: uncover",
                "SELECT tenantry.cover_reference('customers')",
            ),
            ("reach: findings", "SELECT * FROM tenantry.findings()"),
            ("reach: reload", "SELECT pg_reload_conf()"),
            ("reach: reset statistics", "SELECT pg_stat_reset()"),
            ("reach: switch the log", "SELECT pg_switch_wal()"),
            ("reach: checkpoint", "CHECKPOINT"),
            (
                "reach: prepared transactions",
                "SELECT * FROM pg_prepared_xacts",
            ),
            (
                "reach: replication slots",
                "SELECT * FROM pg_replication_slots",
            ),
        ],
    );
    attacks.extend([
        attack(
            "reach: terminate by function call message",
            [call(
                "pg_catalog.pg_terminate_backend(integer,bigint)",
                &["{pid}", "0"],
            )],
            denied(),
        ),
        attack(
            "reach: the victim's advisory lock",
            [
                query("SELECT tenantry.pg_advisory_lock(7), tenantry.pg_advisory_lock(7, 7)"),
                victim("SELECT tenantry.pg_try_advisory_lock(7)", "t"),
                victim("SELECT tenantry.pg_try_advisory_lock(7, 7)", "t"),
            ],
            Expect::Harmless,
        ),
        attack(
            "reach: channel names of the victim",
            [query(
                "SELECT tenantry.channel('orders') = ANY (ARRAY(SELECT pg_listening_channels()))",
            )],
            Expect::Shows("f".to_owned()),
        ),
        attack(
            "reach: the id lock, by a read-only transaction",
            [
                query("BEGIN READ ONLY"),
                query("SELECT tenantry.next_id()"),
                victim("SELECT tenantry.next_id() > 0", "t"),
            ],
            Expect::Refused(&["25006"]),
        ),
        attack(
            "reach: the id lock, by an open transaction",
            [
                query("BEGIN"),
                query("SELECT tenantry.next_id()"),
                victim("SELECT tenantry.next_id() > 0", "t"),
            ],
            Expect::Harmless,
        ),
        attack(
            "reach: the id lock, by a timeout",
            [
                query("SET statement_timeout = '20ms'"),
                query("SELECT count(tenantry.next_id()) FROM generate_series(1, 100000000)"),
                victim("SELECT tenantry.next_id() > 0", "t"),
            ],
            Expect::Refused(&["57014"]),
        ),
        attack(
            "reach: someone else's fence",
            [query("SELECT tenantry.unfence_expired(gen_random_uuid())")],
            Expect::Shows("f".to_owned()),
        ),
        attack(
            "reach: drop what the role owns",
            [
                query("BEGIN"),
                query("DROP OWNED BY CURRENT_USER CASCADE"),
                query("COMMIT"),
            ],
            Expect::Harmless,
        ),
        attack(
            "reach: prepared transaction",
            [query(
                "BEGIN; SELECT tenantry.tenant(); PREPARE TRANSACTION 'x'",
            )],
            Expect::Refused(&["55000", "0A000", "42501"]),
        ),
    ]);
    attacks
}

/// What no grant governs. At a shard these succeed, which is why its address and passwords are the routers' alone.
fn router_only() -> Vec<Attack> {
    [
        (
            "router: lock a table",
            "BEGIN; LOCK TABLE customers IN ACCESS EXCLUSIVE MODE",
        ),
        (
            "router: the role's password",
            "ALTER ROLE CURRENT_USER PASSWORD 'mine'",
        ),
        (
            "router: the role's defaults",
            "ALTER ROLE CURRENT_USER SET search_path = 'mine'",
        ),
        (
            "router: the user's defaults",
            "ALTER USER tenantry_app SET statement_timeout = 1",
        ),
    ]
    .into_iter()
    .map(|(name, sql)| Attack {
        reach: Reach::Router,
        ..attack(name, [query(sql)], denied())
    })
    .collect()
}
