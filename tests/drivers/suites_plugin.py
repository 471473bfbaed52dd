"""What both runs of a driver's own tests are started with: the database is the one under test.

asyncpg's tests name the database `postgres` in some places; a shard's database has another name.
"""

import os


def pytest_configure(config):
    try:
        from asyncpg import _testbase
    except ImportError:
        return
    original = _testbase.ClusterTestCase.get_connection_spec.__func__

    def get_connection_spec(cls, kwargs={}):
        spec = original(cls, kwargs)
        if spec.get("database") == "postgres":
            spec["database"] = os.environ["PGDATABASE"]
        return spec

    _testbase.ClusterTestCase.get_connection_spec = classmethod(get_connection_spec)
