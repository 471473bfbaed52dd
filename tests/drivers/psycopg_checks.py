"""psycopg 3, synchronous and asynchronous, through the router."""

import asyncio
import os
import sys
import threading

import psycopg
from psycopg import pq, sql
from psycopg.rows import dict_row
from psycopg.types.composite import CompositeInfo
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from checks import NEW_ORDER, NEW_STORE, SEEN, Checks, Failure, Fleet, documented, expect

check = Checks("psycopg")
RUN = os.urandom(4).hex()
STORE = NEW_STORE.format("%s")
ORDER = NEW_ORDER.format("%s", "%s", "%s")
ORDERS_SEEN = SEEN.format("%s")


def bind(connection, tenant):
    connection.execute(sql.SQL("SET LOCAL tenantry.tenant = {}").format(sql.Literal(tenant)))


def email(name):
    return f"{name}-{RUN}@example.com"


def make_orders(connection, address, count=1):
    store = connection.execute(STORE, [address]).fetchone()[0]
    return [connection.execute(ORDER, [store, number, address]).fetchone() for number in range(1, count + 1)]


def expect_only_own(connection, tenant, address, count):
    row = connection.execute(ORDERS_SEEN, [address]).fetchone()
    expect(row, ([int(tenant)], count), "what the tenant sees")


def expect_error(state, action):
    try:
        action()
    except psycopg.Error as error:
        expect(error.sqlstate, state, f"SQLSTATE of {error}")
        return error
    raise Failure(f"no error {state}")


def tenants_of(connection):
    return connection.execute("SELECT array_agg(DISTINCT tenant_id) FROM stores").fetchone()[0]


@check("the documented URLs")
def _(fleet):
    service, *named = documented("psycopg")["urls"]
    with psycopg.connect(service) as connection:
        bind(connection, fleet.a)
        expect(tenants_of(connection), [int(fleet.a)])
    expect(len(named) > 0, True, "URLs that name a tenant")
    for url in named:
        with psycopg.connect(url) as connection:
            expect(tenants_of(connection), [int(fleet.b)], url)


@check("the role of a tenant sees its own and cannot act for another")
def _(fleet):
    with psycopg.connect(fleet.tenant_role_url, autocommit=True) as connection:
        expect(tenants_of(connection), [int(fleet.a)])
        expect_error("42501", lambda: connection.execute(sql.SQL("SET tenantry.tenant = {}").format(fleet.b)))
        expect(tenants_of(connection), [int(fleet.a)])


@check("two tenants over one pooled connection by SET LOCAL see only their own orders")
def _(fleet):
    address = email("set-local")
    with ConnectionPool(fleet.url, min_size=1, max_size=1) as pool:
        for tenant in (fleet.a, fleet.b):
            with pool.connection() as connection:
                bind(connection, tenant)
                for _, owner in make_orders(connection, address, 2):
                    expect(owner, int(tenant))
        for tenant in (fleet.b, fleet.a, fleet.b):
            with pool.connection() as connection:
                bind(connection, tenant)
                expect_only_own(connection, tenant, address, 2)


@check("two tenants by parameters of set_config")
def _(fleet):
    address = email("set-config")
    with psycopg.connect(fleet.url) as connection:
        for tenant in (fleet.a, fleet.b, fleet.slug_a):
            with connection.transaction():
                row = connection.execute("SELECT set_config('tenantry.tenant', %s, %s)", [tenant, True]).fetchone()
                canonical = fleet.a if tenant == fleet.slug_a else tenant
                expect(row, (canonical,), "answer of set_config")
                make_orders(connection, address)
        for tenant, count in ((fleet.a, 2), (fleet.b, 1)):
            with connection.transaction():
                connection.execute("SELECT set_config(%s, %s, true)", ["tenantry.tenant", tenant])
                expect(connection.execute("SHOW tenantry.tenant").fetchone(), (tenant,))
                expect_only_own(connection, tenant, address, count)


@check("a session's tenant lasts until it is reset")
def _(fleet):
    with psycopg.connect(fleet.url, autocommit=True) as connection:
        connection.execute(sql.SQL("SET tenantry.tenant = {}").format(sql.Literal(fleet.a)))
        expect(connection.execute("SELECT array_agg(DISTINCT tenant_id) FROM stores").fetchone(), ([int(fleet.a)],))
        connection.execute("RESET tenantry.tenant")
        error = expect_error("42704", lambda: connection.execute("SELECT * FROM stores"))
        expect(error.diag.message_primary, "no tenant is bound")
        if not error.diag.message_hint:
            raise Failure("the error has no hint")


@check("prepared statements follow their tenant from shard to shard")
def _(fleet):
    address = email("prepared")
    with psycopg.connect(fleet.url, prepare_threshold=0) as connection:
        for _ in range(4):
            for tenant in (fleet.a, fleet.b):
                with connection.transaction():
                    bind(connection, tenant)
                    make_orders(connection, address)
        for tenant in (fleet.a, fleet.b):
            with connection.transaction():
                bind(connection, tenant)
                expect_only_own(connection, tenant, address, 4)
        # More statements than psycopg keeps: it deallocates the oldest.
        for number in range(150):
            with connection.transaction():
                expect(connection.execute(f"SELECT {number} + %s", [1], prepare=True).fetchone(), (number + 1,))


@check("one statement past the driver's threshold, for two tenants in turn")
def _(fleet):
    with psycopg.connect(fleet.url) as connection:
        for _ in range(10):
            for tenant in (fleet.a, fleet.b):
                with connection.transaction():
                    bind(connection, tenant)
                    expect(tenants_of(connection), [int(tenant)])


@check("SQL PREPARE, EXECUTE and DEALLOCATE")
def _(fleet):
    with psycopg.connect(fleet.url, autocommit=True) as connection:
        connection.execute("PREPARE plus (int) AS SELECT $1 + 1")
        for tenant in (fleet.a, fleet.b):
            with connection.transaction():
                bind(connection, tenant)
                expect(connection.execute("EXECUTE plus(41)").fetchone(), (42,))
        connection.execute("DEALLOCATE plus")
        expect_error("26000", lambda: connection.execute("EXECUTE plus(1)"))


@check("an error ends the transaction, a rollback makes the connection usable")
def _(fleet):
    address = email("error")
    with psycopg.connect(fleet.url) as connection:
        bind(connection, fleet.a)
        make_orders(connection, address)
        expect_error("22012", lambda: connection.execute("SELECT 1 / 0"))
        expect_error("25P02", lambda: connection.execute("SELECT 1"))
        expect(connection.info.transaction_status, pq.TransactionStatus.INERROR)
        connection.rollback()
        expect(connection.info.transaction_status, pq.TransactionStatus.IDLE)
        bind(connection, fleet.b)
        expect(connection.execute(ORDERS_SEEN, [address]).fetchone()[1], 0)
        connection.rollback()
        expect_error("42704", lambda: connection.execute("SELECT * FROM orders"))
        connection.rollback()
        expect_error("22023", lambda: bind(connection, "no-such-store"))
        connection.rollback()
        expect(connection.execute("SELECT 1").fetchone(), (1,))


@check("a savepoint keeps the rest of the transaction and its tenant")
def _(fleet):
    address = email("savepoint")
    with psycopg.connect(fleet.url) as connection:
        with connection.transaction():
            bind(connection, fleet.b)
            store = connection.execute(STORE, [address]).fetchone()[0]
            connection.execute(ORDER, [store, 1, address])
            try:
                with connection.transaction():
                    connection.execute(ORDER, [store, 1, address])
                raise Failure("no unique violation")
            except psycopg.errors.UniqueViolation:
                pass
            connection.execute(ORDER, [store, 2, address])
            expect_only_own(connection, fleet.b, address, 2)


@check("a rollback leaves nothing behind")
def _(fleet):
    address = email("rollback")
    with psycopg.connect(fleet.url) as connection:
        with connection.transaction(force_rollback=True):
            bind(connection, fleet.a)
            make_orders(connection, address)
        with connection.transaction():
            expect(connection.execute("SHOW tenantry.tenant").fetchone(), ("",))
            bind(connection, fleet.a)
            expect(connection.execute(ORDERS_SEEN, [address]).fetchone()[1], 0)


@check("another tenant's rows can be neither written nor reached by its id")
def _(fleet):
    with psycopg.connect(fleet.url) as connection:
        with connection.transaction():
            bind(connection, fleet.a)
            [(order, _)] = make_orders(connection, email("foreign"))
        with connection.transaction():
            bind(connection, fleet.b)
            gone = connection.execute("UPDATE orders SET total = 0 WHERE id = %s", [order])
            expect(gone.rowcount, 0)
            expect_error("42501", lambda: connection.execute(
                "INSERT INTO stores (tenant_id, name, email) VALUES (%s, 'x', 'x')", [int(fleet.a)]))
            raise psycopg.Rollback


@check("COPY in, in text and binary, and out")
def _(fleet):
    address = email("copy")
    columns = "(store_id, number, email, currency, subtotal, total)"
    with psycopg.connect(fleet.url) as connection:
        for tenant in (fleet.a, fleet.b):
            with connection.transaction():
                bind(connection, tenant)
                store = connection.execute(STORE, [address]).fetchone()[0]
                with connection.cursor() as cursor:
                    with cursor.copy(f"COPY orders {columns} FROM STDIN") as copy:
                        for number in range(1, 2001):
                            copy.write_row((store, number, address, "EUR", 1, 2))
                    expect(cursor.rowcount, 2000)
                    with cursor.copy(f"COPY orders {columns} FROM STDIN (FORMAT binary)") as copy:
                        copy.set_types(["int8", "int8", "text", "text", "int8", "int8"])
                        copy.write_row((store, 2001, address, "EUR", 1, 2))
                expect_only_own(connection, tenant, address, 2001)
        for tenant in (fleet.a, fleet.b):
            with connection.transaction(), connection.cursor() as cursor:
                bind(connection, tenant)
                query = sql.SQL("COPY (SELECT tenant_id, number FROM orders WHERE email = {}) TO STDOUT")
                with cursor.copy(query.format(sql.Literal(address))) as copy:
                    copy.set_types(["int8", "int8"])
                    rows = list(copy.rows())
                expect(len(rows), 2001)
                expect({owner for owner, _ in rows}, {int(tenant)})


@check("a COPY that fails on either side leaves a usable connection")
def _(fleet):
    with psycopg.connect(fleet.url) as connection:
        for tenant in (fleet.a, fleet.b):
            bind(connection, tenant)
            try:
                with connection.cursor().copy("COPY stores (name, email) FROM STDIN") as copy:
                    copy.write_row(("half", "x"))
                    raise Failure("the client gives up")
            except (psycopg.errors.QueryCanceled, Failure):
                pass
            connection.rollback()
            bind(connection, tenant)
            with_bad_row = connection.cursor()

            def broken():
                with with_bad_row.copy("COPY stores (tenant_id, name, email) FROM STDIN") as copy:
                    copy.write("no number\tx\tx\n")

            expect_error("22P02", broken)
            connection.rollback()
        expect(connection.execute("SELECT 1").fetchone(), (1,))


@check("COPY cannot write for another tenant")
def _(fleet):
    with psycopg.connect(fleet.url) as connection:
        bind(connection, fleet.b)

        def foreign():
            with connection.cursor().copy("COPY stores (tenant_id, name, email) FROM STDIN") as copy:
                copy.write_row((fleet.a, "x", "x"))

        expect_error("42501", foreign)


@check("a pipeline of two transactions for two tenants")
def _(fleet):
    address = email("pipeline")
    with psycopg.connect(fleet.url, autocommit=True) as connection:
        with connection.pipeline() as pipeline:
            stores = []
            for tenant in (fleet.a, fleet.b):
                with connection.transaction():
                    bind(connection, tenant)
                    stores.append(connection.execute(STORE, [address]))
            pipeline.sync()
            stores = [cursor.fetchone()[0] for cursor in stores]
            seen = []
            for tenant, store in zip((fleet.a, fleet.b), stores):
                with connection.transaction():
                    bind(connection, tenant)
                    for number in range(50):
                        connection.execute(ORDER, [store, number, address])
                    seen.append(connection.execute(ORDERS_SEEN, [address]))
            pipeline.sync()
            for tenant, cursor in zip((fleet.a, fleet.b), seen):
                expect(cursor.fetchone(), ([int(tenant)], 50))


@check("an error in a pipeline aborts what follows up to the next sync")
def _(fleet):
    with psycopg.connect(fleet.url, autocommit=True) as connection:
        with connection.pipeline() as pipeline:
            connection.execute("SELECT 1")
            broken = connection.execute("SELECT 1 / 0")
            skipped = connection.execute("SELECT 2")
            try:
                pipeline.sync()
                raise Failure("no error at the sync")
            except psycopg.errors.DivisionByZero:
                pass
            del broken
            expect_error(None, skipped.fetchone)
            expect(connection.execute("SELECT 3").fetchone(), (3,))


@check("a unique violation in a pipeline, and what was sent before and after it")
def _(fleet):
    address = email("pipeline-error")
    with psycopg.connect(fleet.url) as connection:
        for tenant in (fleet.a, fleet.b):
            with connection.transaction():
                bind(connection, tenant)
                store = connection.execute(STORE, [address]).fetchone()[0]
            try:
                with connection.transaction(), connection.pipeline():
                    bind(connection, tenant)
                    for number in (1, 2, 1, 3):
                        connection.execute(ORDER, [store, number, address])
                raise Failure("no unique violation")
            except psycopg.errors.UniqueViolation:
                pass
            expect(connection.info.transaction_status, pq.TransactionStatus.IDLE)
            with connection.pipeline() as pipeline, connection.transaction():
                bind(connection, tenant)
                made = [connection.execute(ORDER, [store, number, address]) for number in (1, 2)]
                pipeline.sync()
                expect({cursor.fetchone()[1] for cursor in made}, {int(tenant)})
                try:
                    with connection.transaction():
                        connection.execute(ORDER, [store, 1, address])
                        pipeline.sync()
                    raise Failure("no unique violation at the savepoint")
                except psycopg.errors.UniqueViolation:
                    pass
                seen = connection.execute(ORDERS_SEEN, [address])
                expect(seen.fetchone(), ([int(tenant)], 2), "what the tenant sees after the savepoint")


@check("errors in a pipeline without a transaction undo their own batch only")
def _(fleet):
    address = email("pipeline-batches")
    with psycopg.connect(fleet.url, autocommit=True) as connection:
        for tenant in (fleet.a, fleet.b):
            connection.execute(sql.SQL("SET tenantry.tenant = {}").format(tenant))
            with connection.pipeline() as pipeline:
                failed = 0
                for broken in (False, True, False, True, False):
                    try:
                        connection.execute(STORE, [address])
                        if broken:
                            connection.execute("SELECT 1 / %s", [0])
                        pipeline.sync()
                    except psycopg.errors.DivisionByZero:
                        failed += 1
                expect(failed, 2)
            row = connection.execute("SELECT array_agg(DISTINCT tenant_id), count(*) FROM stores WHERE name = %s", [address])
            expect(row.fetchone(), ([int(tenant)], 3))


@check("executemany, with and without results")
def _(fleet):
    address = email("many")
    with psycopg.connect(fleet.url) as connection:
        bind(connection, fleet.b)
        store = connection.execute(STORE, [address]).fetchone()[0]
        cursor = connection.cursor()
        cursor.executemany(ORDER, [(store, number, address) for number in range(300)], returning=True)
        owners = set()
        while True:
            owners.add(cursor.fetchone()[1])
            if not cursor.nextset():
                break
        expect(owners, {int(fleet.b)})
        expect_only_own(connection, fleet.b, address, 300)


@check("a cursor on the server, in pieces, with other statements in between")
def _(fleet):
    with psycopg.connect(fleet.url) as connection:
        bind(connection, fleet.a)
        with connection.cursor(name="numbers") as cursor:
            cursor.itersize = 100
            cursor.execute("SELECT * FROM generate_series(1, 1000)")
            expect([row[0] for row in cursor.fetchmany(3)], [1, 2, 3])
            expect(connection.execute("SELECT 1").fetchone(), (1,))
            expect(sum(row[0] for row in cursor), 500500 - 6)
        connection.commit()
        with connection.cursor(name="held", withhold=True) as cursor:
            cursor.execute("SELECT * FROM generate_series(1, 10)")
            expect(cursor.fetchone(), (1,))
            connection.commit()
            expect(cursor.fetchone(), (2,))


@check("rows as they stream in, one at a time")
def _(fleet):
    with psycopg.connect(fleet.url, autocommit=True) as connection:
        total = 0
        for (number,) in connection.cursor().stream("SELECT generate_series(1, %s)", [5000]):
            total += number
        expect(total, 5000 * 5001 // 2)


@check("binary results, arrays, jsonb and large values")
def _(fleet):
    with psycopg.connect(fleet.url, row_factory=dict_row) as connection:
        bind(connection, fleet.a)
        large = "ä" * 2_000_000
        row = connection.cursor(binary=True).execute(
            "INSERT INTO customers (store_id, email, name, tags, metafields)"
            " SELECT id, %s, %s, %s, %s FROM stores LIMIT 1 RETURNING tenant_id, name, tags, metafields, created_at",
            [email("types"), large, ["a", "b"], Jsonb({"size": [1, 2]})],
        ).fetchone()
        expect((row["tenant_id"], row["name"] == large, row["tags"], row["metafields"]),
               (int(fleet.a), True, ["a", "b"], {"size": [1, 2]}))
        connection.rollback()


@check("a statement is cancelled and the connection goes on")
def _(fleet):
    with psycopg.connect(fleet.url) as connection:
        for tenant in (fleet.a, fleet.b):
            bind(connection, tenant)
            watch = threading.Timer(0.3, lambda: connection.cancel_safe(timeout=5))
            watch.start()
            expect_error("57014", lambda: connection.execute("SELECT pg_sleep(30)"))
            watch.join()
            connection.rollback()
            bind(connection, tenant)
            expect(connection.execute("SHOW tenantry.tenant").fetchone(), (tenant,))
            connection.rollback()


@check("an asynchronous task that is cancelled ends its statement, and the pool goes on")
def _(fleet):
    async def sleep(pool, tenant):
        async with pool.connection() as connection:
            await connection.execute("SELECT set_config('tenantry.tenant', %s, true)", [tenant])
            await connection.execute("SELECT pg_sleep(30)")

    async def all_of_them():
        async with AsyncConnectionPool(fleet.url, min_size=1, max_size=1) as pool:
            for tenant in (fleet.a, fleet.b):
                try:
                    await asyncio.wait_for(sleep(pool, tenant), 0.3)
                    raise Failure("no timeout")
                except asyncio.TimeoutError:
                    pass
                async with pool.connection() as connection:
                    await connection.execute("SELECT set_config('tenantry.tenant', %s, true)", [tenant])
                    row = await (await connection.execute("SELECT array_agg(DISTINCT tenant_id) FROM stores")).fetchone()
                    expect(row, ([int(tenant)],))

    asyncio.run(all_of_them())


@check("isolation level, read only, and what the driver asks at connect")
def _(fleet):
    with psycopg.connect(fleet.url) as connection:
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        connection.read_only = True
        with connection.transaction():
            bind(connection, fleet.a)
            expect(connection.execute("SHOW transaction_isolation").fetchone(), ("serializable",))
            expect_error("25006", lambda: connection.execute(STORE, ["x"]))
            raise psycopg.Rollback
        expect(connection.info.encoding, "utf-8")
        expect(connection.info.parameter_status("standard_conforming_strings"), "on")
        if connection.info.server_version < 150000:
            raise Failure(f"server version {connection.info.server_version}")


@check("types are looked up in the catalog before any tenant is named")
def _(fleet):
    with psycopg.connect(fleet.url, autocommit=True) as connection:
        for _ in range(5):
            info = CompositeInfo.fetch(connection, "stores")
            expect((info.name, info.field_names[:3]), ("stores", ("tenant_id", "id", "name")))
        oid = connection.execute("SELECT 'orders'::regclass::oid").fetchone()[0]
        for _ in range(5):
            row = connection.execute("SELECT relname FROM pg_class WHERE oid = %s", [oid]).fetchone()
            expect(row, ("orders",), "the table of one oid")


@check("settings of a session follow it from shard to shard")
def _(fleet):
    with psycopg.connect(fleet.url, autocommit=True, options="-c statement_timeout=54321") as connection:
        connection.execute("SET timezone = 'Asia/Tokyo'")
        connection.execute("SET extra_float_digits = 3")
        connection.execute("SELECT set_config('application_name', %s, false)", ["storefront"])
        for tenant in (fleet.a, fleet.b):
            with connection.transaction():
                bind(connection, tenant)
                row = connection.execute(
                    "SELECT current_setting('timezone'), current_setting('extra_float_digits'),"
                    " current_setting('application_name'), current_setting('statement_timeout')").fetchone()
                expect(row, ("Asia/Tokyo", "3", "storefront", "54321ms"))
        expect(connection.info.parameter_status("TimeZone"), "Asia/Tokyo")
    with psycopg.connect(fleet.url, autocommit=True) as connection:
        expect(connection.execute("SHOW timezone").fetchone() != ("Asia/Tokyo",), True, "a setting of an earlier client")


@check("several results of one string, and an error among them")
def _(fleet):
    with psycopg.connect(fleet.url, autocommit=True) as connection:
        cursor = connection.execute(
            f"BEGIN; SET LOCAL tenantry.tenant = '{fleet.a}'; SELECT DISTINCT tenant_id FROM stores; COMMIT; SELECT 2")
        messages = [cursor.statusmessage]
        while cursor.nextset():
            messages.append(cursor.statusmessage)
            if cursor.statusmessage == "SELECT 1" and len(messages) == 3:
                expect(cursor.fetchone(), (int(fleet.a),))
        expect(messages, ["BEGIN", "SET", "SELECT 1", "COMMIT", "SELECT 1"])
        expect_error("22012", lambda: connection.execute("SELECT 1; SELECT 1 / 0; SELECT 2"))
        expect(connection.execute("SELECT 1").fetchone(), (1,))


@check("many tasks for many tenants share a small asynchronous pool")
def _(fleet):
    address = email("async")

    async def buy(pool, number):
        tenant = fleet.tenants[number % len(fleet.tenants)]
        async with pool.connection() as connection, connection.transaction():
            await connection.execute("SELECT set_config('tenantry.tenant', %s, true)", [tenant])
            store = (await (await connection.execute(STORE, [address])).fetchone())[0]
            row = await (await connection.execute(ORDER, [store, number, address])).fetchone()
            expect(row[1], int(tenant))

    async def all_of_them():
        async with AsyncConnectionPool(fleet.url, min_size=4, max_size=4) as pool:
            await asyncio.gather(*(buy(pool, number) for number in range(100)))
            for tenant in fleet.tenants:
                async with pool.connection() as connection:
                    await connection.execute("SELECT set_config('tenantry.tenant', %s, true)", [tenant])
                    row = await (await connection.execute(ORDERS_SEEN, [address])).fetchone()
                    expect(row, ([int(tenant)], 100 // len(fleet.tenants)))

    asyncio.run(all_of_them())


check.run(Fleet(sys.argv[1]))
