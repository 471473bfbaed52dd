"""Django through the router: models on the storefront's tables without migrations, transactions, cursors on the server.

The checks run on two kinds of connection, as Django's two ways of sending parameters differ: written into the text by the client
(the default), and bound by the server, from Django's own pool.
"""

import contextlib
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from io import StringIO

import django
from django.conf import settings
from django.core.management import call_command

from checks import Checks, Failure, Fleet, documented, expect

RUN = os.urandom(4).hex()
FLEET = Fleet(sys.argv[1])
A, B = int(FLEET.a), int(FLEET.b)


def databases():
    """What docs/drivers.md shows, and what the checks vary of it."""
    shown = {}
    exec(documented("django")["settings"], shown)
    shown = shown["DATABASES"]
    plain = shown["default"]
    user = FLEET.tenant_role_url.split("//")[1].split(":")[0]
    return shown | {
        "limited": plain | {"OPTIONS": {"options": "-c statement_timeout=250"}},
        "store": plain | {"USER": user},
        "serializable": plain | {"OPTIONS": {"isolation_level": 4}},
    }


settings.configure(DATABASES=databases(), USE_TZ=True, DEFAULT_AUTO_FIELD="django.db.models.BigAutoField")
django.setup()

from django.db import (  # noqa: E402  (models need the settings)
    DatabaseError, DataError, IntegrityError, OperationalError, ProgrammingError, connections, models, transaction)
from django.db.models import Count, F, Func, Q  # noqa: E402
from django.db.utils import InternalError  # noqa: E402


class Owned(models.Model):
    """Rows of a tenant. Ids are unique in the whole fleet, so that `id` alone can be the key; the guard fills both in."""

    id = models.BigIntegerField(primary_key=True, db_default=Func(function="tenantry.next_id"))
    tenant_id = models.BigIntegerField(db_default=Func(function="tenantry.tenant"), editable=False)

    class Meta:
        abstract = True
        app_label = "storefront"


class Store(Owned):
    name = models.TextField()
    email = models.TextField()
    metafields = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta(Owned.Meta):
        managed = False
        db_table = "stores"


class Order(Owned):
    store = models.ForeignKey(Store, models.DO_NOTHING, related_name="orders")
    number = models.BigIntegerField()
    email = models.TextField()
    currency = models.TextField(default="EUR")
    subtotal = models.BigIntegerField(default=1000)
    total = models.BigIntegerField(default=1190)

    class Meta(Owned.Meta):
        managed = False
        db_table = "orders"


class Event(models.Model):
    """The key as the table has it."""

    pk = models.CompositePrimaryKey("tenant_id", "id")
    tenant_id = models.BigIntegerField(db_default=Func(function="tenantry.tenant"), editable=False)
    id = models.BigIntegerField(db_default=Func(function="tenantry.next_id"))
    kind = models.TextField()
    subject = models.TextField(default="")

    class Meta:
        app_label = "storefront"
        managed = False
        db_table = "events"


class Target:
    """One of the databases of the settings."""

    def __init__(self, using):
        self.using = using

    @property
    def connection(self):
        return connections[self.using]

    def address(self, name):
        return f"{name}-{self.using}-{RUN}@example.com"

    def of(self, model):
        return model.objects.using(self.using)

    @contextlib.contextmanager
    def tenant(self, tenant):
        """A transaction for the tenant."""
        with transaction.atomic(using=self.using):
            self.scalar("SELECT set_config('tenantry.tenant', %s, true)", [str(tenant)])
            yield

    def scalar(self, text, parameters=None):
        with self.connection.cursor() as cursor:
            cursor.execute(text, parameters)
            return cursor.fetchone()[0]

    def tenants(self):
        return list(self.of(Store).values_list("tenant_id", flat=True).distinct())

    def make_orders(self, address, count):
        store = self.of(Store).create(name=address, email=address)
        for number in range(1, count + 1):
            store.orders.create(number=number, email=address)
        return store

    def expect_only_own(self, tenant, address, count):
        seen = self.of(Order).aggregate(own=Count("id", filter=Q(email=address)), foreign=Count("id", filter=~Q(tenant_id=tenant)))
        expect(seen, {"own": count, "foreign": 0}, "what the tenant sees")


def expect_error(kind, state, action):
    try:
        action()
    except DatabaseError as error:
        expect((type(error), error.__cause__.sqlstate), (kind, state), f"class and SQLSTATE of {error}")
        return
    raise Failure(f"no error {state}")


CHECKS = []


def check(name):
    return lambda body: CHECKS.append((name, body))


@check("two tenants over one connection see only their own orders")
def _(target):
    address = target.address("atomic")
    for tenant in (A, B):
        with target.tenant(tenant):
            store = target.make_orders(address, 2)
            expect({store.tenant_id} | {order.tenant_id for order in store.orders.all()}, {tenant})
    for tenant in (B, A, B):
        with transaction.atomic(using=target.using), target.connection.cursor() as cursor:
            cursor.execute(f"SET LOCAL tenantry.tenant = '{tenant}'")
            target.expect_only_own(tenant, address, 2)
    expect_error(ProgrammingError, "42704", lambda: target.of(Order).count())


@check("another tenant's rows can be neither written nor reached by their id")
def _(target):
    with target.tenant(A):
        store = target.make_orders(target.address("foreign"), 1)
    with target.tenant(B):
        expect(target.of(Store).filter(pk=store.pk).exists(), False)
        expect(target.of(Store).filter(pk=store.pk).update(name="taken"), 0)

        def foreign():
            with transaction.atomic(using=target.using):
                target.of(Store).create(tenant_id=A, name="x", email="x")

        expect_error(ProgrammingError, "42501", foreign)
        expect(target.tenants(), [B])


@check("one statement many times, for two tenants in turn")
def _(target):
    address = target.address("repeated")
    for _ in range(8):
        for tenant in (A, B):
            with target.tenant(tenant):
                target.make_orders(address, 1)
    for tenant in (A, B):
        with target.tenant(tenant):
            target.expect_only_own(tenant, address, 8)


@check("a unique violation undone by a savepoint, and get_or_create")
def _(target):
    address = target.address("savepoint")
    for tenant in (A, B):
        with target.tenant(tenant):
            store = target.make_orders(address, 1)

            def again():
                with transaction.atomic(using=target.using):
                    store.orders.create(number=1, email=address)

            expect_error(IntegrityError, "23505", again)
            order, created = store.orders.get_or_create(number=2, defaults={"email": address})
            expect((order.number, created), (2, True))
            expect(store.orders.get_or_create(number=2)[1], False)
            target.expect_only_own(tenant, address, 2)


@check("a failed transaction is rolled back and the connection goes on")
def _(target):
    address = target.address("error")

    def failing():
        with target.tenant(A):
            target.make_orders(address, 1)
            expect_error(DataError, "22012", lambda: target.scalar("SELECT 1 / %s", [0]))
            target.connection.needs_rollback = False
            target.scalar("SELECT 1")

    expect_error(InternalError, "25P02", failing)
    with target.tenant(A):
        target.expect_only_own(A, address, 0)
    unknown = "SELECT set_config('tenantry.tenant', 'no-such-store', false)"
    expect_error(DataError, "22023", lambda: target.scalar(unknown))
    expect_error(ProgrammingError, "42703", lambda: target.scalar("SELECT no_such_column"))
    expect(target.scalar("SELECT 1"), 1)


@check("a rollback leaves nothing behind, and what waits for the commit runs after it")
def _(target):
    address, ran = target.address("rollback"), []
    try:
        with target.tenant(B):
            target.make_orders(address, 1)
            transaction.on_commit(lambda: ran.append("rolled back"), using=target.using)
            raise Failure("on purpose")
    except Failure:
        pass
    with target.tenant(B):
        target.expect_only_own(B, address, 0)
        transaction.on_commit(lambda: ran.append("committed"), using=target.using)
    expect(ran, ["committed"])
    expect(target.scalar("SHOW tenantry.tenant"), "")


@check("a cursor on the server, inside a transaction and outside of one")
def _(target):
    address = target.address("cursor")
    with target.tenant(A):
        store = target.make_orders(address, 0)
        orders = [Order(store=store, number=number, email=address) for number in range(1000)]
        target.of(Order).bulk_create(orders, batch_size=400)
        numbers = []
        for order in target.of(Order).filter(email=address).order_by("number").iterator(chunk_size=100):
            numbers.append(order.number)
            if order.number % 250 == 0:
                expect(target.scalar("SELECT count(*) FROM pg_cursors WHERE name LIKE '%%django%%'") > 0, True, "cursor")
                expect(target.tenants(), [A])
        expect(numbers, list(range(1000)))
    # Outside, Django declares its cursors WITH HOLD, and the connection stays with its shard until they are discarded.
    target.scalar("SELECT set_config('tenantry.tenant', %s, false)", [str(A)])
    rows = target.of(Order).filter(email=address).iterator(chunk_size=100)
    expect({next(rows).tenant_id for _ in range(300)}, {A})
    expect(target.tenants(), [A])
    rows.close()
    with target.connection.cursor() as cursor:
        cursor.execute("DISCARD ALL")
    with target.tenant(B):
        expect(target.tenants(), [B])


@check("expressions, locks, upserts and many rows at once")
def _(target):
    address = target.address("orm")
    for tenant in (A, B):
        with target.tenant(tenant):
            store = target.make_orders(address, 3)
            target.of(Order).filter(store=store).update(total=F("total") + 10)
            locked = target.of(Order).select_for_update(skip_locked=True).filter(store=store)
            expect(sorted(locked.values_list("total", flat=True)), [1200] * 3)
            rows = [Order(store=store, number=number, email=address, total=5) for number in range(2, 6)]
            target.of(Order).bulk_create(rows, ignore_conflicts=True)
            counted = target.of(Order).filter(store=store).values("store__name").annotate(count=Count("id"))
            expect(list(counted), [{"store__name": address, "count": 5}])
            joined = target.of(Order).select_related("store").filter(store__name=address)
            expect({order.store.tenant_id for order in joined}, {tenant})
            expect(target.of(Order).filter(store=store, number__gte=4).delete()[0], 2)
            store.metafields = {"size": [1, 2]}
            store.save(update_fields=["metafields"])
            expect(target.of(Store).filter(pk=store.pk, metafields__contains={"size": [2]}).count(), 1)


@check("a composite key, with what the server made of it")
def _(target):
    for tenant in (A, B):
        with target.tenant(tenant):
            event = target.of(Event).create(kind="view", subject=target.address("key"))
            expect((event.tenant_id, event.pk), (tenant, (tenant, event.id)))
            expect(target.of(Event).get(pk=(tenant, event.id)).kind, "view")


@check("a statement is cancelled and the connection goes on")
def _(target):
    for tenant in (A, B):
        ended = threading.Event()

        def sleep():
            with target.tenant(tenant):
                # Looked up by the thread that asks: each thread has its own.
                driver = target.connection.connection

                def cancel_until_it_ends():
                    while not ended.wait(0.2):
                        driver.cancel_safe(timeout=5)

                canceller = threading.Thread(target=cancel_until_it_ends)
                canceller.start()
                try:
                    target.scalar("SELECT pg_sleep(30)")
                finally:
                    ended.set()
                    canceller.join()

        expect_error(OperationalError, "57014", sleep)
        with target.tenant(tenant):
            expect(target.tenants(), [tenant])


@check("COPY in and out by the driver's own cursor")
def _(target):
    address = target.address("copy")
    for tenant in (A, B):
        with target.tenant(tenant), target.connection.cursor() as cursor:
            with cursor.copy("COPY events (kind, subject) FROM STDIN") as copy:
                for _ in range(2000):
                    copy.write_row(("view", address))
            expect(target.of(Event).filter(subject=address).count(), 2000)
            with cursor.copy(f"COPY (SELECT tenant_id FROM events WHERE subject = '{address}') TO STDOUT") as copy:
                owners = [int(owner) for (owner,) in copy.rows()]
            expect((len(owners), set(owners)), (2000, {tenant}))


@check("tables are described")
def _(target):
    names = target.connection.introspection.table_names()
    expect({"stores", "orders", "events"} <= set(names), True, "tables")
    out = StringIO()
    # It reads one row of the table.
    with target.tenant(A):
        call_command("inspectdb", "orders", database=target.using, stdout=out)
    expect("class Orders(models.Model)" in out.getvalue(), True, out.getvalue())


@check("many threads for many tenants")
def _(target):
    address = target.address("threads")
    tenants = [int(tenant) for tenant in FLEET.tenants]

    def buy(number):
        try:
            with target.tenant(tenants[number % len(tenants)]):
                target.make_orders(address, 1)
        finally:
            # As the end of a request does: back into the pool, or closed.
            target.connection.close()

    with ThreadPoolExecutor(max_workers=8) as threads:
        list(threads.map(buy, range(100)))
    for tenant in tenants:
        with target.tenant(tenant):
            target.expect_only_own(tenant, address, 100 // len(tenants))


@check("the connection is looked at, closed and opened again between requests")
def _(target):
    for _ in range(3):
        with target.tenant(B):
            expect(target.tenants(), [B])
        expect(target.connection.is_usable(), True)
        target.connection.close_if_unusable_or_obsolete()
    target.connection.close()
    with target.tenant(A):
        expect(target.tenants(), [A])


def settings_checks():
    checks = Checks("django, settings")

    @checks("a tenant named in the options, and in the user")
    def _():
        for using in ("one_tenant", "one_tenant_by_user"):
            target = Target(using)
            expect(target.tenants(), [B], using)
            expect(target.scalar("SHOW tenantry.tenant"), FLEET.b)

    @checks("the role of a tenant sees its own and cannot act for another")
    def _():
        target = Target("store")
        expect(target.tenants(), [A])
        switch = "SELECT set_config('tenantry.tenant', %s, false)"
        expect_error(ProgrammingError, "42501", lambda: target.scalar(switch, [FLEET.b]))
        expect(target.tenants(), [A])

    @checks("a limit on the time of statements")
    def _():
        target = Target("limited")
        expect_error(OperationalError, "57014", lambda: target.scalar("SELECT pg_sleep(30)"))
        expect(target.scalar("SHOW statement_timeout"), "250ms")

    @checks("an isolation level for every transaction")
    def _():
        target = Target("serializable")
        for tenant in (A, B):
            with target.tenant(tenant):
                expect(target.scalar("SHOW transaction_isolation"), "serializable")
        plain = Target("default")
        with plain.tenant(A):
            expect(plain.scalar("SHOW transaction_isolation"), "read committed")

    return checks


for using in ("default", "pooled"):
    checks = Checks(f"django, {using}")
    checks.checks = CHECKS
    checks.run(Target(using))
settings_checks().run()
connections.close_all()
for using in connections:
    if getattr(connections[using], "pool", None):
        connections[using].close_pool()
