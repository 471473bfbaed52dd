"""asyncpg through the router, with its pool's reset query and its type introspection."""

import asyncio
import json
import os
import sys

import asyncpg

from checks import NEW_ORDER, NEW_STORE, SEEN, Checks, Failure, Fleet, documented, expect

check = Checks("asyncpg")
RUN = os.urandom(4).hex()
STORE = NEW_STORE.format("$1")
ORDER = NEW_ORDER.format("$1", "$2", "$3")
ORDERS_SEEN = SEEN.format("$1")


def email(name):
    return f"{name}-{RUN}@example.com"


async def bind(connection, tenant):
    await connection.execute(f"SET LOCAL tenantry.tenant = '{tenant}'")


async def make_orders(connection, address, count=1):
    store = await connection.fetchval(STORE, address)
    return [await connection.fetchrow(ORDER, store, number, address) for number in range(1, count + 1)]


async def expect_only_own(connection, tenant, address, count):
    row = await connection.fetchrow(ORDERS_SEEN, address)
    expect(tuple(row), ([int(tenant)], count), "what the tenant sees")


async def expect_error(state, action):
    try:
        await action
    except asyncpg.PostgresError as error:
        expect(error.sqlstate, state, f"SQLSTATE of {error}")
        return error
    raise Failure(f"no error {state}")


async def tenants_of(connection):
    return await connection.fetchval("SELECT array_agg(DISTINCT tenant_id) FROM stores")


@check("the documented URLs")
async def _(fleet):
    service, *named = documented("asyncpg")["urls"]
    connection = await asyncpg.connect(service)
    async with connection.transaction():
        await bind(connection, fleet.a)
        expect(await tenants_of(connection), [int(fleet.a)])
    await connection.close()
    expect(len(named) > 0, True, "URLs that name a tenant")
    for url in named:
        connection = await asyncpg.connect(url)
        expect(await tenants_of(connection), [int(fleet.b)], url)
        await connection.close()


@check("the role of a tenant sees its own and cannot act for another")
async def _(fleet):
    connection = await asyncpg.connect(fleet.tenant_role_url)
    expect(await tenants_of(connection), [int(fleet.a)])
    await expect_error("42501", connection.execute(f"SET tenantry.tenant = '{fleet.b}'"))
    expect(await tenants_of(connection), [int(fleet.a)])
    await connection.close()


@check("another tenant's rows can be neither written nor reached by their id")
async def _(fleet):
    connection = await asyncpg.connect(fleet.url)
    async with connection.transaction():
        await bind(connection, fleet.a)
        [order] = await make_orders(connection, email("foreign"))
    transaction = connection.transaction()
    await transaction.start()
    await bind(connection, fleet.b)
    expect(await connection.execute("UPDATE orders SET total = 0 WHERE id = $1", order["id"]), "UPDATE 0")
    expect(await connection.fetch("SELECT * FROM orders WHERE id = $1", order["id"]), [])
    foreign = "INSERT INTO stores (tenant_id, name, email) VALUES ($1, 'x', 'x')"
    await expect_error("42501", connection.execute(foreign, int(fleet.a)))
    await transaction.rollback()
    await connection.close()


@check("two tenants over one pooled connection by SET LOCAL see only their own orders")
async def _(fleet):
    address = email("set-local")
    async with asyncpg.create_pool(fleet.url, min_size=1, max_size=1) as pool:
        for tenant in (fleet.a, fleet.b, fleet.a):
            async with pool.acquire() as connection, connection.transaction():
                await bind(connection, tenant)
                for row in await make_orders(connection, address, 2):
                    expect(row["tenant_id"], int(tenant))
        for tenant, count in ((fleet.b, 2), (fleet.a, 4)):
            async with pool.acquire() as connection, connection.transaction():
                await bind(connection, tenant)
                await expect_only_own(connection, tenant, address, count)


@check("two tenants by parameters of set_config")
async def _(fleet):
    address = email("set-config")
    connection = await asyncpg.connect(fleet.url)
    for tenant in (fleet.a, fleet.b):
        async with connection.transaction():
            answer = await connection.fetchval("SELECT set_config('tenantry.tenant', $1, $2)", tenant, True)
            expect(answer, tenant, "answer of set_config")
            await make_orders(connection, address)
    for tenant in (fleet.a, fleet.b):
        async with connection.transaction():
            await connection.execute("SELECT set_config($1, $2, true)", "tenantry.tenant", tenant)
            expect(await connection.fetchval("SHOW tenantry.tenant"), tenant)
            expect(await connection.fetchval("SELECT current_setting('tenantry.tenant')"), tenant)
            await expect_only_own(connection, tenant, address, 1)
    await connection.close()


@check("a tenant's id as a number parameter")
async def _(fleet):
    connection = await asyncpg.connect(fleet.url)
    for tenant in (fleet.a, fleet.b):
        async with connection.transaction():
            await connection.execute("SELECT set_config('tenantry.tenant', $1::bigint::text, true)", int(tenant))
            expect(await connection.fetchval("SELECT DISTINCT tenant_id FROM stores"), int(tenant))
    await connection.close()


@check("the pool's reset takes a session's tenant and settings away")
async def _(fleet):
    async with asyncpg.create_pool(fleet.url, min_size=1, max_size=1) as pool:
        async with pool.acquire() as connection:
            await connection.execute(f"SET tenantry.tenant = '{fleet.a}'; SET timezone = 'Asia/Tokyo'")
            expect(await connection.fetchval("SELECT DISTINCT tenant_id FROM stores"), int(fleet.a))
        async with pool.acquire() as connection:
            expect(await connection.fetchval("SHOW tenantry.tenant"), "")
            expect(await connection.fetchval("SHOW timezone") != "Asia/Tokyo", True, "reset of the setting")
            await expect_error("42704", connection.fetch("SELECT * FROM stores"))


@check("a tenant named at connect stays through the pool's reset")
async def _(fleet):
    settings = {"tenantry.tenant": fleet.b}
    async with asyncpg.create_pool(fleet.url, min_size=1, max_size=1, server_settings=settings) as pool:
        for _ in range(3):
            async with pool.acquire() as connection:
                expect(await connection.fetchval("SHOW tenantry.tenant"), fleet.b)
                await connection.fetch("SELECT * FROM stores LIMIT 1")


@check("prepared statements follow their tenant from shard to shard")
async def _(fleet):
    address = email("prepared")
    connection = await asyncpg.connect(fleet.url)
    statement = None
    for tenant in (fleet.a, fleet.b, fleet.a, fleet.b):
        async with connection.transaction():
            await bind(connection, tenant)
            store = await connection.fetchval(STORE, address)
            statement = statement or await connection.prepare(ORDER)
            for number in range(3):
                expect((await statement.fetchrow(store, number, address))["tenant_id"], int(tenant))
    for tenant in (fleet.a, fleet.b):
        async with connection.transaction():
            await bind(connection, tenant)
            await expect_only_own(connection, tenant, address, 6)
    # More than the driver's cache holds: it closes the oldest.
    for number in range(250):
        expect(await connection.fetchval(f"SELECT {number} + $1::int", 1), number + 1)
    await connection.close()


@check("without a statement cache")
async def _(fleet):
    address = email("uncached")
    connection = await asyncpg.connect(fleet.url, statement_cache_size=0)
    for tenant in (fleet.a, fleet.b):
        async with connection.transaction():
            await bind(connection, tenant)
            await make_orders(connection, address, 2)
            await expect_only_own(connection, tenant, address, 2)
    await connection.close()


@check("an error ends the transaction, a rollback makes the connection usable")
async def _(fleet):
    address = email("error")
    connection = await asyncpg.connect(fleet.url)
    transaction = connection.transaction()
    await transaction.start()
    await bind(connection, fleet.a)
    await make_orders(connection, address)
    await expect_error("22012", connection.fetchval("SELECT 1 / $1::int", 0))
    await expect_error("25P02", connection.fetchval("SELECT 1"))
    await transaction.rollback()
    async with connection.transaction():
        await bind(connection, fleet.a)
        expect((await connection.fetchrow(ORDERS_SEEN, address))[1], 0)
    await expect_error("22023", connection.execute("SET tenantry.tenant = 'no-such-store'"))
    await expect_error("42704", connection.fetch("SELECT * FROM orders"))
    await expect_error("42P01", connection.fetch("SELECT * FROM no_such_table"))
    expect(await connection.fetchval("SELECT 1"), 1)
    await connection.close()


@check("nested transactions are savepoints and keep the tenant")
async def _(fleet):
    address = email("savepoint")
    connection = await asyncpg.connect(fleet.url)
    async with connection.transaction():
        await bind(connection, fleet.b)
        store = await connection.fetchval(STORE, address)
        await connection.fetchrow(ORDER, store, 1, address)
        try:
            async with connection.transaction():
                await connection.fetchrow(ORDER, store, 1, address)
            raise Failure("no unique violation")
        except asyncpg.UniqueViolationError:
            pass
        await connection.fetchrow(ORDER, store, 2, address)
        await expect_only_own(connection, fleet.b, address, 2)
    await connection.close()


@check("a rollback leaves nothing behind")
async def _(fleet):
    address = email("rollback")
    connection = await asyncpg.connect(fleet.url)
    transaction = connection.transaction(isolation="repeatable_read")
    await transaction.start()
    await bind(connection, fleet.a)
    await make_orders(connection, address)
    await transaction.rollback()
    expect(await connection.fetchval("SHOW tenantry.tenant"), "")
    async with connection.transaction(isolation="serializable", readonly=True, deferrable=True):
        await bind(connection, fleet.a)
        expect((await connection.fetchrow(ORDERS_SEEN, address))[1], 0)
        await expect_error("25006", connection.execute("DELETE FROM orders"))
    await connection.close()


@check("COPY in and out")
async def _(fleet):
    address = email("copy")
    columns = ["store_id", "number", "email", "currency", "subtotal", "total"]
    connection = await asyncpg.connect(fleet.url)
    for tenant in (fleet.a, fleet.b):
        async with connection.transaction():
            await bind(connection, tenant)
            store = await connection.fetchval(STORE, address)
            records = [(store, number, address, "EUR", 1, 2) for number in range(3000)]
            answer = await connection.copy_records_to_table("orders", records=records, columns=columns)
            expect(answer, "COPY 3000")
            await expect_only_own(connection, tenant, address, 3000)
    for tenant in (fleet.a, fleet.b):
        async with connection.transaction():
            await bind(connection, tenant)
            received = bytearray()

            async def collect(data):
                received.extend(data)

            query = "SELECT tenant_id, number FROM orders WHERE email = $1"
            await connection.copy_from_query(query, address, output=collect, format="csv")
            lines = received.decode().splitlines()
            expect((len(lines), {line.split(",")[0] for line in lines}), (3000, {tenant}))
    await connection.close()


@check("a COPY that fails leaves a usable connection")
async def _(fleet):
    connection = await asyncpg.connect(fleet.url)
    for tenant in (fleet.a, fleet.b):
        transaction = connection.transaction()
        await transaction.start()
        await bind(connection, tenant)
        error = await expect_error("23502", connection.copy_records_to_table(
            "stores", records=[("x", None)], columns=["name", "email"]))
        del error

        async def gives_up():
            yield ("half", "x")
            raise Failure("the client gives up")

        await transaction.rollback()
        try:
            async with connection.transaction():
                await bind(connection, tenant)
                await connection.copy_records_to_table("stores", records=gives_up(), columns=["name", "email"])
            raise Failure("the COPY succeeded")
        except Failure as failure:
            expect(str(failure), "the client gives up")
        expect(await connection.fetchval("SELECT 1"), 1)
    await connection.close()


@check("executemany, a pipeline in one transaction")
async def _(fleet):
    address = email("many")
    connection = await asyncpg.connect(fleet.url)
    async with connection.transaction():
        await bind(connection, fleet.b)
        store = await connection.fetchval(STORE, address)
        await connection.executemany(ORDER, [(store, number, address) for number in range(500)])
        await expect_only_own(connection, fleet.b, address, 500)
        rows = await connection.fetchmany(ORDER, [(store, number, address) for number in range(500, 510)])
        expect([row["tenant_id"] for row in rows], [int(fleet.b)] * 10)
    async with connection.transaction():
        await bind(connection, fleet.a)
        again = [(store, 1, address)]
        await expect_error("23503", connection.executemany(ORDER, again))
        try:
            await connection.execute("SELECT 1")
        except asyncpg.InFailedSQLTransactionError:
            pass
    expect(await connection.fetchval("SELECT 1"), 1)
    await connection.close()


@check("a cursor in pieces, with other statements in between")
async def _(fleet):
    connection = await asyncpg.connect(fleet.url)
    async with connection.transaction():
        await bind(connection, fleet.a)
        total = 0
        async for row in connection.cursor("SELECT * FROM generate_series(1, 1000)", prefetch=7):
            total += row[0]
            if row[0] % 100 == 0:
                expect(await connection.fetchval("SELECT 1"), 1)
        expect(total, 500500)
        cursor = await connection.cursor("SELECT * FROM generate_series(1, 10)")
        expect([row[0] for row in await cursor.fetch(2)], [1, 2])
        await cursor.forward(5)
        expect((await cursor.fetchrow())[0], 8)
    await connection.close()


@check("a statement that takes too long is cancelled and the connection goes on")
async def _(fleet):
    connection = await asyncpg.connect(fleet.url)
    for tenant in (fleet.a, fleet.b):
        try:
            async with connection.transaction():
                await bind(connection, tenant)
                await connection.fetchval("SELECT pg_sleep($1)", 30, timeout=0.3)
            raise Failure("no timeout")
        except asyncio.TimeoutError:
            pass
        async with connection.transaction():
            await bind(connection, tenant)
            expect(await connection.fetchval("SHOW tenantry.tenant"), tenant)
    await connection.close()


@check("types are introspected, with and without a tenant")
async def _(fleet):
    connection = await asyncpg.connect(fleet.url)
    await connection.set_type_codec(
        "jsonb", encoder=lambda value: b"\1" + json.dumps(value).encode(), decoder=lambda data: json.loads(data[1:]),
        schema="pg_catalog", format="binary")
    async with connection.transaction():
        await bind(connection, fleet.a)
        # A row type is unknown to the driver: it asks the catalog, with jit off meanwhile.
        row = await connection.fetchval("SELECT s FROM stores s LIMIT 1")
        expect((row["tenant_id"], row["settings"]), (int(fleet.a), {}))
        row = await connection.fetchrow(
            "SELECT $1::jsonb AS document, $2::text[] AS tags, $3::uuid AS id, $4::timestamptz IS NULL AS empty",
            {"size": [1, 2]}, ["a", "b"], "00000000-0000-0000-0000-000000000001", None)
        expect((row["document"], row["tags"], row["empty"]), ({"size": [1, 2]}, ["a", "b"], True))
    expect(await connection.fetchval("SHOW jit") in ("on", "off"), True)
    await connection.close()


@check("introspection does not change what the client sees of jit")
async def _(fleet):
    connection = await asyncpg.connect(fleet.url)
    before = await connection.fetchval("SHOW jit")
    async with connection.transaction():
        await bind(connection, fleet.b)
        await connection.fetch("SELECT o FROM orders o LIMIT 1")
    expect(await connection.fetchval("SHOW jit"), before)
    await connection.close()


@check("many tasks for many tenants share a small pool")
async def _(fleet):
    address = email("tasks")
    async with asyncpg.create_pool(fleet.url, min_size=4, max_size=4) as pool:

        async def buy(number):
            tenant = fleet.tenants[number % len(fleet.tenants)]
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute("SELECT set_config('tenantry.tenant', $1, true)", tenant)
                store = await connection.fetchval(STORE, address)
                expect((await connection.fetchrow(ORDER, store, number, address))["tenant_id"], int(tenant))

        await asyncio.gather(*(buy(number) for number in range(100)))
        for tenant in fleet.tenants:
            async with pool.acquire() as connection, connection.transaction():
                await bind(connection, tenant)
                await expect_only_own(connection, tenant, address, 100 // len(fleet.tenants))


asyncio.run(check.run_async(Fleet(sys.argv[1])))
