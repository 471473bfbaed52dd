// postgres.js through the router: its pool, its named statements, what it sends without waiting, its COPY streams.

import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';

import postgres from 'postgres';

import { ORDER, SEEN, STORE, a, b, check, demo, documented, email, runChecks, tenantRoleUrl, url } from './checks.mjs';

async function withPool(options, body, address = url) {
  const sql = postgres(address, { onnotice: () => {}, ...options });
  try {
    return await body(sql);
  } finally {
    await sql.end({ timeout: 5 });
  }
}

// A transaction of the tenant.
const forTenant = (sql, tenant, body) =>
  sql.begin(async (transaction) => {
    await transaction`SELECT set_config('tenantry.tenant', ${tenant}, true)`;
    return body(transaction);
  });

// Numbers of orders are unique per store, and each call makes a store.
async function makeOrders(sql, address, count) {
  const [{ id }] = await sql.unsafe(STORE, [address]);
  const orders = Array.from({ length: count }, (_, number) => sql.unsafe(ORDER, [id, number, address], { prepare: true }));
  const owners = (await Promise.all(orders)).map(([order]) => order.tenant_id);
  return { store: id, owners: [...new Set(owners)] };
}

async function onlyOwn(sql, tenant, address, count) {
  assert.deepEqual([...(await sql.unsafe(SEEN, [address]))], [{ tenants: [tenant], own: count }]);
}

const tenantsOf = async (sql) => (await sql`SELECT DISTINCT tenant_id FROM stores`).map((row) => row.tenant_id);

// Once is not enough: a request that arrives before the statement has begun cancels nothing.
async function cancelUntilItEnds(query) {
  const again = setInterval(() => query.cancel(), 200);
  try {
    return await query;
  } finally {
    clearInterval(again);
  }
}

check('the documented URLs', async () => {
  const [service, ...named] = documented('postgres.js').urls;
  await withPool({ max: 1 }, (sql) => forTenant(sql, a, async (tx) => assert.deepEqual(await tenantsOf(tx), [a])), service);
  assert.ok(named.length > 0);
  for (const address of named) {
    await withPool({ max: 1 }, async (sql) => assert.deepEqual(await tenantsOf(sql), [b]), address);
  }
});

check('a tenant as a parameter of the connection', () =>
  withPool({ max: 2, connection: { 'tenantry.tenant': b } }, async (sql) => {
    const seen = await Promise.all([tenantsOf(sql), tenantsOf(sql), tenantsOf(sql)]);
    assert.deepEqual(seen, [[b], [b], [b]]);
  }));

check('the role of a tenant sees its own and cannot act for another', () =>
  withPool(
    { max: 1 },
    async (sql) => {
      assert.deepEqual(await tenantsOf(sql), [a]);
      await assert.rejects(sql`SELECT set_config('tenantry.tenant', ${b}, false)`, { code: '42501' });
      assert.deepEqual(await tenantsOf(sql), [a]);
    },
    tenantRoleUrl,
  ));

check('two tenants over a pool of one connection see only their own orders', () =>
  withPool({ max: 1 }, async (sql) => {
    const address = email('set-config');
    for (const tenant of [a, b]) {
      await forTenant(sql, tenant, async (tx) => assert.deepEqual((await makeOrders(tx, address, 2)).owners, [tenant]));
    }
    for (const tenant of [b, a, b]) {
      await sql.begin(async (tx) => {
        await tx.unsafe(`SET LOCAL tenantry.tenant = '${tenant}'`);
        await onlyOwn(tx, tenant, address, 2);
      });
    }
    await assert.rejects(sql`SELECT * FROM orders`, { code: '42704', message: 'no tenant is bound' });
  }));

check("another tenant's rows can be neither written nor reached by their id", () =>
  withPool({ max: 1 }, async (sql) => {
    const { store } = await forTenant(sql, a, (tx) => makeOrders(tx, email('foreign'), 1));
    await forTenant(sql, b, async (tx) => {
      assert.equal((await tx`SELECT * FROM stores WHERE id = ${store}`).length, 0);
      assert.equal((await tx`UPDATE stores SET name = 'taken' WHERE id = ${store}`).count, 0);
      const foreign = tx.savepoint((sp) => sp`INSERT INTO stores (tenant_id, name, email) VALUES (${a}, 'x', 'x')`);
      await assert.rejects(foreign, { code: '42501' });
    });
  }));

check('named prepared statements follow their tenant from shard to shard', () =>
  withPool({ max: 1 }, async (sql) => {
    const address = email('prepared');
    for (let round = 0; round < 4; round += 1) {
      for (const tenant of [a, b]) {
        await forTenant(sql, tenant, async (tx) => {
          const [{ id }] = await tx`INSERT INTO stores (name, email) VALUES (${address}, 'x') RETURNING id`;
          const [order] = await tx`
            INSERT INTO orders (store_id, number, email, currency, subtotal, total)
            VALUES (${id}, ${round}, ${address}, 'EUR', 1, 2) RETURNING tenant_id`;
          assert.equal(order.tenant_id, tenant);
        });
      }
    }
    for (const tenant of [a, b]) {
      await forTenant(sql, tenant, (tx) => onlyOwn(tx, tenant, address, 4));
    }
  }));

check('without named statements', () =>
  withPool({ max: 1, prepare: false, fetch_types: false }, async (sql) => {
    const address = email('unnamed');
    for (const tenant of [a, b, a]) {
      await forTenant(sql, tenant, (tx) => makeOrders(tx, address, 1));
    }
    await forTenant(sql, a, async (tx) => {
      const [seen] = await tx.unsafe(SEEN, [address]);
      // An array is text to a driver that was not told the types of arrays.
      assert.deepEqual({ ...seen }, { tenants: `{${a}}`, own: 2 });
    });
  }));

check('more statements than a server connection keeps', () =>
  withPool({ max: 1 }, async (sql) => {
    for (const tenant of [a, b]) {
      await forTenant(sql, tenant, async (tx) => {
        const numbers = Array.from({ length: 600 }, (_, number) => number);
        const rows = await Promise.all(numbers.map((n) => tx.unsafe(`SELECT ${n} + $1::int AS n`, [1], { prepare: true })));
        assert.deepEqual(rows.map(([row]) => row.n), numbers.map((n) => n + 1));
      });
    }
  }));

check('statements sent without waiting, for two tenants at once', () =>
  withPool({ max: 2 }, async (sql) => {
    const address = email('queued');
    await Promise.all(
      [a, b].map((tenant) =>
        sql.begin((tx) => [
          tx`SELECT set_config('tenantry.tenant', ${tenant}, true)`,
          tx.unsafe(STORE, [address]),
          tx`SELECT DISTINCT tenant_id FROM stores`,
        ]).then(([, , seen]) => assert.deepEqual([...seen], [{ tenant_id: tenant }])),
      ),
    );
  }));

check('a unique violation undone by a savepoint', () =>
  withPool({ max: 1 }, async (sql) => {
    const address = email('savepoint');
    for (const tenant of [a, b]) {
      await forTenant(sql, tenant, async (tx) => {
        const { store } = await makeOrders(tx, address, 1);
        const again = tx.savepoint((sp) => sp.unsafe(ORDER, [store, 0, address]));
        await assert.rejects(again, { code: '23505', table_name: 'orders' });
        await tx.unsafe(ORDER, [store, 1, address]);
        await onlyOwn(tx, tenant, address, 2);
      });
    }
  }));

check('a failed transaction is rolled back and the connection goes on', () =>
  withPool({ max: 1 }, async (sql) => {
    const address = email('error');
    const failing = forTenant(sql, a, async (tx) => {
      await makeOrders(tx, address, 1);
      await assert.rejects(tx`SELECT 1 / ${0}::int`, { code: '22012' });
      await assert.rejects(tx`SELECT 1`, { code: '25P02' });
    });
    await assert.rejects(failing, { code: '22012' });
    await forTenant(sql, a, (tx) => onlyOwn(tx, a, address, 0));
    const abandoned = forTenant(sql, b, async (tx) => {
      await makeOrders(tx, address, 1);
      throw new Error('changed its mind');
    });
    await assert.rejects(abandoned, { message: 'changed its mind' });
    await forTenant(sql, b, (tx) => onlyOwn(tx, b, address, 0));
    await assert.rejects(sql`SELECT set_config('tenantry.tenant', 'no-such-store', false)`, { code: '22023' });
    await assert.rejects(sql`SELECT no_such_column`, { code: '42703' });
    assert.deepEqual([...(await sql`SELECT 1 AS one`)], [{ one: 1 }]);
  }));

check('a statement is cancelled and the connection goes on', () =>
  withPool({ max: 1 }, async (sql) => {
    for (const tenant of [a, b]) {
      const sleeping = forTenant(sql, tenant, (tx) => cancelUntilItEnds(tx`SELECT pg_sleep(30)`));
      await assert.rejects(sleeping, { code: '57014' });
      await forTenant(sql, tenant, async (tx) => assert.deepEqual(await tenantsOf(tx), [tenant]));
    }
  }));

check('a limit on the time of statements, given at connect', () =>
  withPool({ max: 1, connection: { statement_timeout: 250 } }, async (sql) => {
    await assert.rejects(sql`SELECT pg_sleep(30)`, { code: '57014' });
    assert.deepEqual([...(await sql`SHOW statement_timeout`)], [{ statement_timeout: '250ms' }]);
  }));

check('COPY in and out', () =>
  withPool({ max: 1 }, async (sql) => {
    const address = email('copy');
    for (const tenant of [a, b]) {
      await forTenant(sql, tenant, async (tx) => {
        const { store } = await makeOrders(tx, address, 0);
        const lines = Array.from({ length: 3000 }, (_, number) => `${store}\t${number}\t${address}\tEUR\t1\t2\n`);
        const into = await tx`COPY orders (store_id, number, email, currency, subtotal, total) FROM STDIN`.writable();
        await pipeline(Readable.from(lines), into);
        await onlyOwn(tx, tenant, address, 3000);
        const chunks = [];
        const query = `COPY (SELECT tenant_id FROM orders WHERE email = '${address}') TO STDOUT`;
        for await (const chunk of await tx.unsafe(query).readable()) chunks.push(chunk);
        const owners = Buffer.concat(chunks).toString().trim().split('\n');
        assert.deepEqual([owners.length, [...new Set(owners)]], [3000, [tenant]]);
      });
    }
  }));

check('a COPY that the client gives up leaves a usable connection', () =>
  withPool({ max: 1 }, async (sql) => {
    const address = email('half');
    for (const tenant of [a, b]) {
      const broken = forTenant(sql, tenant, async (tx) => {
        const into = await tx`COPY stores (name, email) FROM STDIN`.writable();
        const halfway = async function* () {
          yield `${address}\tx\n`;
          throw new Error('changed its mind');
        };
        await pipeline(Readable.from(halfway()), into);
      });
      await assert.rejects(broken, { message: 'changed its mind' });
      await forTenant(sql, tenant, async (tx) => {
        assert.equal((await tx`SELECT FROM stores WHERE name = ${address}`).length, 0);
      });
    }
  }));

check('a cursor in pieces, and rows one at a time', () =>
  withPool({ max: 1 }, (sql) =>
    forTenant(sql, a, async (tx) => {
      let total = 0;
      for await (const rows of tx`SELECT * FROM generate_series(1, ${1000}::int) AS n`.cursor(7)) {
        for (const row of rows) total += row.n;
      }
      assert.equal(total, 500500);
      for await (const [row] of tx`SELECT * FROM generate_series(1, 100) AS n`.cursor()) {
        if (row.n === 3) break;
      }
      let count = 0;
      await tx`SELECT * FROM generate_series(1, 2000) AS n`.forEach(() => (count += 1));
      assert.equal(count, 2000);
    }),
  ));

check('several statements in one string', () =>
  withPool({ max: 1 }, async (sql) => {
    const results = await sql.unsafe(
      `BEGIN; SET LOCAL tenantry.tenant = '${a}'; SELECT DISTINCT tenant_id FROM stores; COMMIT; SELECT 2 AS two`,
    );
    // It counts a command without rows and the next one as one result.
    assert.deepEqual(results.flatMap((result) => [...result]), [{ tenant_id: a }, { two: 2 }]);
  }));

check('arrays, jsonb and large values; a statement described', () =>
  withPool({ max: 1 }, async (sql) => {
    const large = 'ä'.repeat(2_000_000);
    await forTenant(sql, b, async (tx) => {
      const [row] = await tx`
        INSERT INTO customers (store_id, email, name, tags, metafields)
        SELECT id, ${email('types')}, ${large}, ${['a', 'b']}, ${tx.json({ size: [1, 2] })} FROM stores LIMIT 1
        RETURNING tenant_id, name, tags, metafields`;
      assert.equal(row.name.length, large.length);
      assert.deepEqual([row.tenant_id, row.tags, row.metafields], [b, ['a', 'b'], { size: [1, 2] }]);
      const { columns } = await tx`SELECT id, name FROM stores WHERE id = ${1}`.describe();
      assert.deepEqual(columns.map((column) => column.name), ['id', 'name']);
    });
  }));

check('a connection reserved for a session', () =>
  withPool({ max: 2 }, async (sql) => {
    const reserved = await sql.reserve();
    await reserved.unsafe(`SET tenantry.tenant = '${a}'`);
    assert.deepEqual(await tenantsOf(reserved), [a]);
    await assert.rejects(sql`SELECT * FROM stores`, { code: '42704' });
    await reserved.unsafe('RESET tenantry.tenant');
    reserved.release();
  }));

check('many requests for many tenants share a small pool', () =>
  withPool({ max: 4 }, async (sql) => {
    const address = email('many');
    const ids = demo.tenants.map((tenant) => tenant.id);
    const request = (number) =>
      forTenant(sql, ids[number % ids.length], async (tx) => {
        assert.deepEqual((await makeOrders(tx, address, 1)).owners, [ids[number % ids.length]]);
      });
    await Promise.all(Array.from({ length: ids.length * 10 }, (_, number) => request(number)));
    for (const tenant of ids) {
      await forTenant(sql, tenant, (tx) => onlyOwn(tx, tenant, address, 10));
    }
  }));

await runChecks('postgres.js');
