"""SQLAlchemy 2 through the router, on its psycopg and its asyncpg dialect: the ORM, its pools, batches and reflection.

A check is written once, against the synchronous interface. For asyncpg it runs inside SQLAlchemy's own bridge, as the body of
`AsyncConnection.run_sync` does.
"""

import asyncio
import contextlib
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from sqlalchemy import (
    BigInteger, FetchedValue, ForeignKeyConstraint, Text, create_engine, event, func, insert, inspect, select, text, update)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert as upsert
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from sqlalchemy.util import greenlet_spawn

from checks import Checks, Failure, Fleet, documented, expect

RUN = os.urandom(4).hex()
ON_BOTH, ON_PSYCOPG, ON_ASYNCPG = [], [], []


def both(name):
    return lambda check: ON_BOTH.append((name, check))


class Base(DeclarativeBase):
    pass


class Owned(Base):
    """What every table of a tenant has; the guard's defaults fill it in."""

    __abstract__ = True
    tenant_id: Mapped[int] = mapped_column(BigInteger, FetchedValue(), primary_key=True)
    id: Mapped[int] = mapped_column(BigInteger, FetchedValue(), primary_key=True)


class Store(Owned):
    __tablename__ = "stores"
    name: Mapped[str] = mapped_column(Text)
    email: Mapped[str] = mapped_column(Text)
    metafields: Mapped[dict] = mapped_column(JSONB, FetchedValue())
    orders: Mapped[list["Order"]] = relationship(back_populates="store", order_by="Order.number")


class Customer(Owned):
    __tablename__ = "customers"
    store_id: Mapped[int] = mapped_column(BigInteger)
    email: Mapped[str] = mapped_column(Text)
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text), FetchedValue())


class Order(Owned):
    __tablename__ = "orders"
    __table_args__ = (ForeignKeyConstraint(["tenant_id", "store_id"], ["stores.tenant_id", "stores.id"]),)
    store_id: Mapped[int] = mapped_column(BigInteger)
    number: Mapped[int] = mapped_column(BigInteger)
    email: Mapped[str] = mapped_column(Text)
    currency: Mapped[str] = mapped_column(Text, default="EUR")
    subtotal: Mapped[int] = mapped_column(BigInteger, default=1000)
    total: Mapped[int] = mapped_column(BigInteger, default=1190)
    store: Mapped[Store] = relationship(back_populates="orders")


class Target:
    """One dialect: its engines, and the tenants of the fleet."""

    def __init__(self, fleet, dialect):
        self.fleet = fleet
        self.dialect = dialect
        self.a, self.b = int(fleet.a), int(fleet.b)

    @contextlib.contextmanager
    def engine(self, url=None, **options):
        url = on(self.dialect, url or self.fleet.url)
        options = {"pool_size": 1, "max_overflow": 0} | options
        if self.dialect == "asyncpg":
            engine = create_async_engine(url, **options).sync_engine
        else:
            engine = create_engine(url, **options)
        try:
            yield engine
        finally:
            engine.dispose()

    def address(self, name):
        return f"{name}-{self.dialect}-{RUN}@example.com"


def on(dialect, url):
    parts = urlsplit(url)
    return parts._replace(scheme=f"postgresql+{dialect}").geturl()


@contextlib.contextmanager
def of_tenant(engine, tenant):
    """A session of one transaction, for the tenant."""
    with Session(engine) as session, session.begin():
        session.execute(select(func.set_config("tenantry.tenant", str(tenant), True)))
        yield session


def new_store(address, orders=0):
    store = Store(name=address, email=address)
    store.orders = [Order(number=number, email=address) for number in range(1, orders + 1)]
    return store


def expect_only_own(session, tenant, address, count):
    mine = func.count().filter(Order.email == address)
    row = session.execute(select(func.array_agg(Order.tenant_id.distinct()), mine)).one()
    expect(tuple(row), ([tenant], count), "what the tenant sees")


def expect_error(state, action, kind=DBAPIError):
    try:
        action()
    except kind as error:
        expect(error.orig.sqlstate, state, f"SQLSTATE of {error.orig}")
        return error
    raise Failure(f"no error {state}")


def tenants_of(connection):
    return connection.execute(select(Store.tenant_id).distinct()).scalars().all()


@both("the documented URLs")
def _(target):
    urls = [url for url in documented("sqlalchemy")["urls"] if f"+{target.dialect}:" in url]
    service, *named = urls
    with target.engine(service) as engine, of_tenant(engine, target.a) as session:
        expect(tenants_of(session), [target.a])
    expect(len(named) > 0, True, "URLs that name a tenant")
    for url in named:
        with target.engine(url) as engine, engine.connect() as connection:
            expect(tenants_of(connection), [target.b], url)


@both("the role of a tenant sees its own and cannot act for another")
def _(target):
    with target.engine(target.fleet.tenant_role_url) as engine, engine.connect() as connection:
        expect(tenants_of(connection), [target.a])
        connection.rollback()
        expect_error("42501", lambda: connection.execute(select(func.set_config("tenantry.tenant", target.fleet.b, False))))
        connection.rollback()
        expect(tenants_of(connection), [target.a])


@both("two tenants over a pool of one connection see only their own orders")
def _(target):
    address = target.address("pool")
    with target.engine() as engine:
        for tenant in (target.a, target.b):
            with of_tenant(engine, tenant) as session:
                store = new_store(address, 2)
                session.add(store)
                session.flush()
                expect({order.tenant_id for order in store.orders}, {tenant})
        for tenant in (target.b, target.a, target.b):
            with engine.begin() as connection:
                connection.execute(text(f"SET LOCAL tenantry.tenant = '{tenant}'"))
                expect_only_own(connection, tenant, address, 2)
        with engine.connect() as connection:
            error = expect_error("42704", lambda: connection.execute(select(Order.id)))
            expect("no tenant is bound" in str(error.orig), True, "the text of the error")


@both("the tenant of a session, set as each of its transactions begins")
def _(target):
    address = target.address("event")

    class TenantSession(Session):
        pass

    @event.listens_for(TenantSession, "after_begin")
    def name_tenant(session, _transaction, connection):
        connection.execute(select(func.set_config("tenantry.tenant", session.info["tenant"], True)))

    with target.engine() as engine:
        for tenant in (target.a, target.b):
            with TenantSession(engine, info={"tenant": str(tenant)}) as session:
                session.add(new_store(address, 3))
                session.commit()
                store = session.scalars(select(Store).where(Store.name == address)).one()
                expect((store.tenant_id, [order.number for order in store.orders]), (tenant, [1, 2, 3]))
                session.commit()
                # Expired by the commit: read again, in a transaction of its own.
                store.email = f"new-{address}"
                session.commit()
                expect(store.email, f"new-{address}")


@both("another tenant's rows can be neither written nor reached by their id")
def _(target):
    with target.engine() as engine:
        with of_tenant(engine, target.a) as session:
            store = new_store(target.address("foreign"))
            session.add(store)
            session.flush()
            key = (store.tenant_id, store.id)
        with of_tenant(engine, target.b) as session:
            expect(session.get(Store, key), None)
            taken = session.execute(update(Store).where(Store.id == key[1]).values(name="taken"))
            expect(taken.rowcount, 0)
            with Session(session.connection(), join_transaction_mode="create_savepoint") as inner:
                inner.add(Store(tenant_id=target.a, name="x", email="x"))
                expect_error("42501", inner.flush)
                inner.rollback()
            expect(tenants_of(session), [target.b])


@both("one statement, more often than any threshold, for two tenants in turn")
def _(target):
    address = target.address("prepared")
    with target.engine() as engine:
        for _ in range(8):
            for tenant in (target.a, target.b):
                with of_tenant(engine, tenant) as session:
                    session.add(new_store(address, 1))
        for tenant in (target.a, target.b):
            with of_tenant(engine, tenant) as session:
                expect_only_own(session, tenant, address, 8)
        # More than the dialect keeps prepared.
        with of_tenant(engine, target.a) as session:
            for number in range(150):
                statement = text(f"SELECT {number} + CAST(:one AS integer)")
                expect(session.execute(statement, {"one": 1}).scalar(), number + 1)


@both("a unique violation undone by a savepoint")
def _(target):
    address = target.address("savepoint")
    with target.engine() as engine:
        for tenant in (target.a, target.b):
            with of_tenant(engine, tenant) as session:
                store = new_store(address, 1)
                session.add(store)
                session.flush()

                def again():
                    with session.begin_nested():
                        session.execute(insert(Order).values(store_id=store.id, number=1, email=address))

                expect_error("23505", again, IntegrityError)
                session.add(Order(store_id=store.id, number=2, email=address))
                session.flush()
                expect_only_own(session, tenant, address, 2)


@both("a failed transaction is rolled back and the connection goes on")
def _(target):
    address = target.address("error")
    with target.engine() as engine, engine.connect() as connection:
        bind = select(func.set_config("tenantry.tenant", target.fleet.a, True))
        connection.execute(bind)
        connection.execute(insert(Store).values(name=address, email="x"))
        expect_error("22012", lambda: connection.execute(text("SELECT 1 / CAST(:zero AS integer)"), {"zero": 0}))
        expect_error("25P02", lambda: connection.execute(text("SELECT 1")))
        connection.rollback()
        connection.execute(bind)
        expect(connection.execute(select(func.count()).where(Store.name == address)).scalar(), 0)
        connection.rollback()
        unknown = select(func.set_config("tenantry.tenant", "no-such-store", False))
        expect_error("22023", lambda: connection.execute(unknown))
        connection.rollback()
        expect_error("42703", lambda: connection.execute(text("SELECT no_such_column")))
        connection.rollback()
        expect(connection.execute(text("SELECT 1")).scalar(), 1)


@both("many rows of one insert, with what the server made of them, and an upsert")
def _(target):
    address = target.address("batch")
    with target.engine() as engine, of_tenant(engine, target.b) as session:
        store = new_store(address)
        session.add(store)
        session.flush()
        rows = [{"store_id": store.id, "number": number, "email": address} for number in range(2000)]
        orders = session.scalars(insert(Order).returning(Order, sort_by_parameter_order=True), rows).all()
        expect([order.number for order in orders], list(range(2000)))
        expect({order.tenant_id for order in orders}, {target.b})
        again = upsert(Order).values(store_id=store.id, number=7, email=address, currency="EUR", subtotal=5, total=5)
        changed = again.on_conflict_do_update(
            index_elements=["tenant_id", "store_id", "number"], set_={"total": again.excluded.total})
        expect(session.execute(changed.returning(Order.total)).scalar(), 5)
        expect_only_own(session, target.b, address, 2000)


@both("rows in pieces from a cursor on the server")
def _(target):
    numbers = text("SELECT n FROM generate_series(1, 1000) AS n")
    open_cursors = text("SELECT count(*) FROM pg_cursors WHERE name <> ''")
    with target.engine() as engine, engine.begin() as connection:
        connection.execute(select(func.set_config("tenantry.tenant", target.fleet.a, True)))
        total = 0
        with connection.execution_options(stream_results=True).execute(numbers) as rows:
            for part in rows.partitions(100):
                total += sum(row.n for row in part)
                expect(tenants_of(connection), [target.a])
                expect(connection.execute(open_cursors).scalar() > 0, True, "a cursor on the server")
        expect(total, 500500)


@both("tables are described before any tenant is named")
def _(target):
    with target.engine() as engine:
        found = inspect(engine)
        expect({"stores", "orders", "customers"} <= set(found.get_table_names()), True, "tables")
        expect([column["name"] for column in found.get_columns("orders")][:3], ["tenant_id", "id", "store_id"])
        expect(found.get_pk_constraint("orders")["constrained_columns"], ["tenant_id", "id"])
        expect({key["referred_table"] for key in found.get_foreign_keys("orders")} >= {"stores"}, True, "foreign keys")
        expect(len(found.get_indexes("orders")) > 0, True, "indexes")


@both("isolation levels, a read-only transaction, and autocommit")
def _(target):
    with target.engine() as engine:
        read_only = {"isolation_level": "SERIALIZABLE", "postgresql_readonly": True}
        with engine.connect().execution_options(**read_only) as connection:
            connection.execute(select(func.set_config("tenantry.tenant", target.fleet.a, True)))
            expect(connection.execute(text("SHOW transaction_isolation")).scalar(), "serializable")
            expect_error("25006", lambda: connection.execute(insert(Store).values(name="x", email="x")))
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"SET tenantry.tenant = '{target.b}'"))
            expect(tenants_of(connection), [target.b])
            connection.execute(text("RESET tenantry.tenant"))
        with engine.connect() as connection:
            expect(connection.execute(text("SHOW transaction_isolation")).scalar(), "read committed")


@both("arrays, jsonb, and a pool that asks before it lends")
def _(target):
    with target.engine(pool_pre_ping=True) as engine:
        for tenant in (target.a, target.b):
            with of_tenant(engine, tenant) as session:
                store = new_store(target.address("types"))
                store.metafields = {"size": [1, 2]}
                session.add(store)
                session.flush()
                customer = Customer(store_id=store.id, email=store.name, tags=["a", "b"])
                session.add(customer)
                session.flush()
                session.expire_all()
                expect((store.metafields, customer.tags), ({"size": [1, 2]}, ["a", "b"]))
                found = select(Store.id).where(Store.metafields.contains({"size": [2]}), Store.id == store.id)
                expect(session.scalars(found).all(), [store.id])


@both("a limit on the time of statements, given at connect")
def _(target):
    limits = {"psycopg": {"options": "-c statement_timeout=250"},
              "asyncpg": {"server_settings": {"statement_timeout": "250"}}}
    with target.engine(connect_args=limits[target.dialect]) as engine, engine.connect() as connection:
        expect_error("57014", lambda: connection.execute(text("SELECT pg_sleep(30)")))
        connection.rollback()
        expect(connection.execute(text("SHOW statement_timeout")).scalar(), "250ms")


def psycopg_only(name):
    return lambda check: ON_PSYCOPG.append((name, check))


def asyncpg_only(name):
    return lambda check: ON_ASYNCPG.append((name, check))


@psycopg_only("a statement is cancelled and the connection goes on")
def _(target):
    with target.engine() as engine, engine.connect() as connection:
        for tenant in (target.a, target.b):
            bind = select(func.set_config("tenantry.tenant", str(tenant), True))
            connection.execute(bind)
            driver = connection.connection.driver_connection
            ended = threading.Event()

            def cancel_until_it_ends():
                while not ended.wait(0.2):
                    driver.cancel_safe(timeout=5)

            canceller = threading.Thread(target=cancel_until_it_ends)
            canceller.start()
            try:
                expect_error("57014", lambda: connection.execute(text("SELECT pg_sleep(30)")))
            finally:
                ended.set()
                canceller.join()
            connection.rollback()
            connection.execute(bind)
            expect(tenants_of(connection), [tenant])
            connection.rollback()


@psycopg_only("COPY in and out by the driver's own cursor")
def _(target):
    address = target.address("copy")
    with target.engine() as engine:
        for tenant in (target.a, target.b):
            with of_tenant(engine, tenant) as session:
                with session.connection().connection.cursor() as cursor:
                    with cursor.copy("COPY events (kind, subject) FROM STDIN") as copy:
                        for _ in range(2000):
                            copy.write_row(("view", address))
                    with cursor.copy("COPY (SELECT tenant_id FROM events WHERE subject = %s) TO STDOUT", [address]) as copy:
                        owners = [int(owner) for (owner,) in copy.rows()]
                expect((len(owners), set(owners)), (2000, {tenant}))


@psycopg_only("prepared at once, by the dialect's setting")
def _(target):
    with target.engine(connect_args={"prepare_threshold": 0}) as engine:
        for tenant in (target.a, target.b, target.a):
            with of_tenant(engine, tenant) as session:
                expect(tenants_of(session), [tenant])


@psycopg_only("many threads for many tenants share a small pool")
def _(target):
    address = target.address("threads")
    tenants = [int(tenant) for tenant in target.fleet.tenants]
    with target.engine(pool_size=4) as engine, ThreadPoolExecutor(max_workers=8) as threads:

        def buy(number):
            with of_tenant(engine, tenants[number % len(tenants)]) as session:
                session.add(new_store(address, 1))

        list(threads.map(buy, range(100)))
        for tenant in tenants:
            with of_tenant(engine, tenant) as session:
                expect_only_own(session, tenant, address, 100 // len(tenants))


@asyncpg_only("a statement that takes too long is cancelled and the pool goes on")
async def _(target):
    engine = create_async_engine(on("asyncpg", target.fleet.url), pool_size=1, max_overflow=0)
    for tenant in (target.a, target.b):
        bind = select(func.set_config("tenantry.tenant", str(tenant), True))
        try:
            async with engine.connect() as connection:
                await connection.execute(bind)
                await asyncio.wait_for(connection.execute(text("SELECT pg_sleep(30)")), 0.3)
            raise Failure("no timeout")
        except asyncio.TimeoutError:
            pass
        async with engine.connect() as connection:
            await connection.execute(bind)
            expect(await connection.run_sync(tenants_of), [tenant])
    await engine.dispose()


@asyncpg_only("COPY in and out by the driver's own connection")
async def _(target):
    address = target.address("copy")
    engine = create_async_engine(on("asyncpg", target.fleet.url), pool_size=1, max_overflow=0)
    for tenant in (target.a, target.b):
        async with engine.begin() as connection:
            await connection.execute(select(func.set_config("tenantry.tenant", str(tenant), True)))
            driver = (await connection.get_raw_connection()).driver_connection
            records = [("view", address)] * 2000
            await driver.copy_records_to_table("events", records=records, columns=["kind", "subject"])
            received = bytearray()

            async def collect(data):
                received.extend(data)

            query = "SELECT tenant_id FROM events WHERE subject = $1"
            await driver.copy_from_query(query, address, output=collect)
            owners = received.decode().split()
            expect((len(owners), set(owners)), (2000, {str(tenant)}))
    await engine.dispose()


@asyncpg_only("many tasks for many tenants share a small pool")
async def _(target):
    address = target.address("tasks")
    tenants = [int(tenant) for tenant in target.fleet.tenants]
    engine = create_async_engine(on("asyncpg", target.fleet.url), pool_size=4, max_overflow=0)

    async def buy(number):
        async with AsyncSession(engine) as session, session.begin():
            await session.execute(select(func.set_config("tenantry.tenant", str(tenants[number % len(tenants)]), True)))
            session.add(new_store(address, 1))

    await asyncio.gather(*(buy(number) for number in range(100)))
    for tenant in tenants:
        async with AsyncSession(engine) as session, session.begin():
            await session.execute(select(func.set_config("tenantry.tenant", str(tenant), True)))
            await session.run_sync(expect_only_own, tenant, address, 100 // len(tenants))
    await engine.dispose()


@asyncpg_only("a tenant among the settings of the connection")
async def _(target):
    settings = {"server_settings": {"tenantry.tenant": target.fleet.b}}
    engine = create_async_engine(on("asyncpg", target.fleet.url), connect_args=settings, pool_size=1, max_overflow=0)
    for _ in range(2):
        async with engine.connect() as connection:
            expect(await connection.run_sync(tenants_of), [target.b])
    await engine.dispose()


@asyncpg_only("without the dialect's cache of statements")
async def _(target):
    engine = create_async_engine(on("asyncpg", target.fleet.url), connect_args={"prepared_statement_cache_size": 0})
    for tenant in (target.a, target.b, target.a):
        async with engine.begin() as connection:
            await connection.execute(select(func.set_config("tenantry.tenant", str(tenant), True)))
            expect(await connection.run_sync(tenants_of), [tenant])
    await engine.dispose()


def in_bridge(check):
    return lambda target: greenlet_spawn(check, target)


def main(fleet):
    checks = Checks("sqlalchemy, psycopg")
    checks.checks = ON_BOTH + ON_PSYCOPG
    checks.run(Target(fleet, "psycopg"))
    checks = Checks("sqlalchemy, asyncpg")
    checks.checks = [(name, in_bridge(check)) for name, check in ON_BOTH] + ON_ASYNCPG
    asyncio.run(checks.run_async(Target(fleet, "asyncpg")))


main(Fleet(sys.argv[1]))
