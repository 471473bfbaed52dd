"""What the Python drivers' checks share: where the fleet is, whose orders are made, one line per check."""

import inspect
import json
import sys
import traceback


class Failure(Exception):
    """Something is not as it must be."""


def expect(actual, wanted, what="value"):
    if actual != wanted:
        raise Failure(f"{what} is {actual!r}, not {wanted!r}")


class Fleet:
    """A running demo, as its demo.json describes it."""

    def __init__(self, path):
        with open(path, encoding="utf-8") as file:
            demo = json.load(file)
        self.url = demo["urls"]["service"]
        tenants = demo["tenants"]
        self.tenants = [tenant["id"] for tenant in tenants]
        first = tenants[0]
        # Two tenants, on two shards: one connection of the client is served by two servers.
        self.a = first["id"]
        self.b = next(t["id"] for t in tenants[1:] if t["shard"] != first["shard"])
        self.slug_a = first["slug"]
        # A role of one tenant, which can act for no other: the first's.
        self.tenant_role_url = demo["urls"]["tenant"]


def documented(driver):
    """What docs/drivers.md tells its users to connect with: documented.py wrote it for this run."""
    with open(sys.argv[2], encoding="utf-8") as file:
        return json.load(file)[driver]


class Checks:
    """Runs the checks of one driver in the order they are written."""

    def __init__(self, driver):
        self.driver = driver
        self.checks = []

    def __call__(self, name):
        def register(check):
            self.checks.append((name, check))
            return check

        return register

    def _report(self, name, error):
        if error is None:
            print(f"ok      {self.driver}: {name}", flush=True)
            return
        place = next((f"{f.name}:{f.lineno} " for f in reversed(traceback.extract_tb(error.__traceback__))
                      if f.filename == sys.argv[0]), "")
        text = " ".join(str(error).split())
        print(f"FAILED  {self.driver}: {name}: {place}{type(error).__name__}: {text}", flush=True)

    def run(self, *arguments):
        for name, check in self.checks:
            try:
                check(*arguments)
                self._report(name, None)
            except Exception as error:  # every failure is a line of the report
                self._report(name, error)

    async def run_async(self, *arguments):
        for name, check in self.checks:
            try:
                outcome = check(*arguments)
                if inspect.isawaitable(outcome):
                    await outcome
                self._report(name, None)
            except Exception as error:  # every failure is a line of the report
                self._report(name, error)


# A store of its own for each run: numbers of orders are unique per store.
NEW_STORE = "INSERT INTO stores (name, email) VALUES ({0}, 'shop@example.com') RETURNING id"
NEW_ORDER = (
    "INSERT INTO orders (store_id, number, email, currency, subtotal, total)"
    " VALUES ({0}, {1}, {2}, 'EUR', 1000, 1190) RETURNING id, tenant_id"
)
# All orders that are visible must be the tenant's; those of this run are told by their address.
SEEN = "SELECT array_agg(DISTINCT tenant_id), count(*) FILTER (WHERE email = {0}) FROM orders"
