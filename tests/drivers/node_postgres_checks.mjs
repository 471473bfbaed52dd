// node-postgres through the router, with its cursors and its COPY streams.

import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';

import pg from 'pg';
import Cursor from 'pg-cursor';
import { from as copyFrom, to as copyTo } from 'pg-copy-streams';

import { ORDER, SEEN, STORE, a, b, check, demo, documented, email, runChecks, tenantRoleUrl, url } from './checks.mjs';

const bind = (client, tenant) => client.query(`SET LOCAL tenantry.tenant = '${tenant}'`);

async function withClient(body, options = {}) {
  const client = new pg.Client({ connectionString: url, ...options });
  await client.connect();
  try {
    return await body(client);
  } finally {
    await client.end();
  }
}

async function inTransaction(client, tenant, body) {
  await client.query('BEGIN');
  try {
    await bind(client, tenant);
    const result = await body();
    await client.query('COMMIT');
    return result;
  } catch (error) {
    await client.query('ROLLBACK');
    throw error;
  }
}

async function makeOrders(client, address, count) {
  const store = (await client.query(STORE, [address])).rows[0].id;
  const owners = new Set();
  for (let number = 1; number <= count; number += 1) {
    owners.add((await client.query(ORDER, [store, number, address])).rows[0].tenant_id);
  }
  return { store, owners: [...owners] };
}

async function onlyOwn(client, tenant, address, count) {
  const { rows } = await client.query(SEEN, [address]);
  assert.deepEqual(rows, [{ tenants: [tenant], own: count }]);
}

const tenantsOf = async (client) =>
  (await client.query('SELECT DISTINCT tenant_id FROM stores')).rows.map((row) => row.tenant_id);

check('the documented URLs', async () => {
  const [service, ...named] = documented('node-postgres').urls;
  await withClient(
    (client) => inTransaction(client, a, async () => assert.deepEqual(await tenantsOf(client), [a])),
    { connectionString: service },
  );
  assert.ok(named.length > 0);
  for (const connectionString of named) {
    await withClient(async (client) => assert.deepEqual(await tenantsOf(client), [b]), { connectionString });
  }
});

check('the role of a tenant sees its own and cannot act for another', () =>
  withClient(
    async (client) => {
      assert.deepEqual(await tenantsOf(client), [a]);
      await assert.rejects(client.query(`SET tenantry.tenant = '${b}'`), { code: '42501' });
      assert.deepEqual(await tenantsOf(client), [a]);
    },
    { connectionString: tenantRoleUrl },
  ));

check("another tenant's rows can be neither written nor reached by their id", () =>
  withClient(async (client) => {
    const { store } = await inTransaction(client, a, () => makeOrders(client, email('foreign'), 1));
    await client.query('BEGIN');
    await bind(client, b);
    assert.equal((await client.query('SELECT FROM stores WHERE id = $1', [store])).rowCount, 0);
    assert.equal((await client.query("UPDATE stores SET name = 'taken' WHERE id = $1", [store])).rowCount, 0);
    const foreign = client.query("INSERT INTO stores (tenant_id, name, email) VALUES ($1, 'x', 'x')", [a]);
    await assert.rejects(foreign, { code: '42501' });
    await client.query('ROLLBACK');
  }));

check('a unique violation undone by a savepoint', () =>
  withClient(async (client) => {
    const address = email('savepoint');
    for (const tenant of [a, b]) {
      await inTransaction(client, tenant, async () => {
        const { store } = await makeOrders(client, address, 1);
        await client.query('SAVEPOINT again');
        await assert.rejects(client.query(ORDER, [store, 1, address]), { code: '23505', table: 'orders' });
        await client.query('ROLLBACK TO again');
        await client.query(ORDER, [store, 2, address]);
        await onlyOwn(client, tenant, address, 2);
      });
    }
  }));

check('two tenants over one pooled connection by SET LOCAL see only their own orders', async () => {
  const pool = new pg.Pool({ connectionString: url, max: 1 });
  const address = email('set-local');
  const borrowed = async (tenant, body) => {
    const client = await pool.connect();
    try {
      await inTransaction(client, tenant, () => body(client));
    } finally {
      client.release();
    }
  };
  for (const tenant of [a, b]) {
    await borrowed(tenant, async (client) => {
      assert.deepEqual((await makeOrders(client, address, 2)).owners, [tenant]);
    });
  }
  for (const tenant of [b, a, b]) {
    await borrowed(tenant, (client) => onlyOwn(client, tenant, address, 2));
  }
  await pool.end();
});

check('two tenants by parameters of set_config', () =>
  withClient(async (client) => {
    const address = email('set-config');
    for (const tenant of [a, b]) {
      await client.query('BEGIN');
      const answer = await client.query("SELECT set_config('tenantry.tenant', $1, $2) AS tenant", [tenant, true]);
      assert.deepEqual(answer.rows, [{ tenant }]);
      await makeOrders(client, address, 1);
      await client.query('COMMIT');
    }
    for (const tenant of [a, b]) {
      await client.query('BEGIN');
      await client.query('SELECT set_config($1, $2, true)', ['tenantry.tenant', tenant]);
      await onlyOwn(client, tenant, address, 1);
      await client.query('COMMIT');
    }
    assert.deepEqual((await client.query('SHOW tenantry.tenant')).rows, [{ 'tenantry.tenant': '' }]);
  }));

check('a tenant named at connect, in options or in the user name', async () => {
  await withClient(
    async (client) => {
      const { rows } = await client.query('SELECT DISTINCT tenant_id FROM stores');
      assert.deepEqual(rows, [{ tenant_id: a }]);
    },
    { options: `-c tenantry.tenant=${a}` },
  );
  const named = new URL(url);
  named.username = `${named.username}.${b}`;
  await withClient(
    async (client) => {
      const { rows } = await client.query('SELECT DISTINCT tenant_id FROM stores');
      assert.deepEqual(rows, [{ tenant_id: b }]);
    },
    { connectionString: named.href },
  );
});

check('named prepared statements follow their tenant from shard to shard', () =>
  withClient(async (client) => {
    const address = email('prepared');
    for (let round = 0; round < 3; round += 1) {
      for (const tenant of [a, b]) {
        await inTransaction(client, tenant, async () => {
          const store = (await client.query({ name: 'store', text: STORE, values: [address] })).rows[0].id;
          const order = await client.query({ name: 'order', text: ORDER, values: [store, round, address] });
          assert.equal(order.rows[0].tenant_id, tenant);
        });
      }
    }
    for (const tenant of [a, b]) {
      await inTransaction(client, tenant, () => onlyOwn(client, tenant, address, 3));
    }
  }));

check('queries queued without waiting are answered in order', () =>
  withClient(async (client) => {
    const address = email('queued');
    const results = await Promise.all(
      [a, b].flatMap((tenant) => [
        client.query('BEGIN'),
        bind(client, tenant),
        client.query(STORE, [address]),
        client.query('SELECT DISTINCT tenant_id FROM stores'),
        client.query('COMMIT'),
      ]),
    );
    assert.deepEqual([results[3].rows, results[8].rows], [[{ tenant_id: a }], [{ tenant_id: b }]]);
  }));

check('an error ends the transaction, a rollback makes the connection usable', () =>
  withClient(async (client) => {
    const address = email('error');
    await client.query('BEGIN');
    await bind(client, a);
    await makeOrders(client, address, 1);
    await assert.rejects(client.query('SELECT 1 / $1::int', [0]), { code: '22012' });
    await assert.rejects(client.query('SELECT 1'), { code: '25P02' });
    await client.query('ROLLBACK');
    await inTransaction(client, a, () => onlyOwn(client, a, address, 0));
    await assert.rejects(client.query("SET tenantry.tenant = 'no-such-store'"), { code: '22023' });
    await assert.rejects(client.query('SELECT * FROM orders'), (error) => {
      assert.equal(error.code, '42704');
      assert.equal(error.message, 'no tenant is bound');
      assert.ok(error.hint);
      return true;
    });
    await assert.rejects(client.query('SELEC 1'), { code: '42601' });
    await assert.rejects(client.query({ name: 'bad', text: 'SELECT no_such_column' }), { code: '42703' });
    assert.deepEqual((await client.query({ name: 'bad', text: 'SELECT 1 AS one' })).rows, [{ one: 1 }]);
  }));

check('a rollback leaves nothing behind', () =>
  withClient(async (client) => {
    const address = email('rollback');
    await client.query('BEGIN ISOLATION LEVEL REPEATABLE READ');
    await bind(client, b);
    await makeOrders(client, address, 1);
    await client.query('ROLLBACK');
    await inTransaction(client, b, () => onlyOwn(client, b, address, 0));
  }));

check('several statements in one string', () =>
  withClient(async (client) => {
    const results = await client.query(
      `BEGIN; SET LOCAL tenantry.tenant = '${a}'; SELECT DISTINCT tenant_id FROM stores; COMMIT; SELECT 2 AS two`,
    );
    assert.deepEqual(
      results.map((result) => result.command),
      ['BEGIN', 'SET', 'SELECT', 'COMMIT', 'SELECT'],
    );
    assert.deepEqual([results[2].rows, results[4].rows], [[{ tenant_id: a }], [{ two: 2 }]]);
  }));

check('a cursor in pieces', () =>
  withClient(async (client) => {
    await inTransaction(client, a, async () => {
      const cursor = client.query(new Cursor('SELECT * FROM generate_series(1, $1::int) AS n', [1000]));
      let total = 0;
      for (let rows = await cursor.read(7); rows.length > 0; rows = await cursor.read(7)) {
        for (const row of rows) total += row.n;
      }
      assert.equal(total, 500500);
      const left = client.query(new Cursor('SELECT * FROM generate_series(1, 100) AS n'));
      assert.equal((await left.read(3)).length, 3);
      await left.close();
      assert.deepEqual((await client.query('SELECT 1 AS one')).rows, [{ one: 1 }]);
    });
  }));

check('COPY in and out', () =>
  withClient(async (client) => {
    const address = email('copy');
    for (const tenant of [a, b]) {
      await inTransaction(client, tenant, async () => {
        const { store } = await makeOrders(client, address, 0);
        const lines = Array.from({ length: 3000 }, (_, number) => `${store}\t${number}\t${address}\tEUR\t1\t2\n`);
        const columns = '(store_id, number, email, currency, subtotal, total)';
        const stream = client.query(copyFrom(`COPY orders ${columns} FROM STDIN`));
        await pipeline(Readable.from(lines), stream);
        assert.equal(stream.rowCount, 3000);
      });
    }
    for (const tenant of [a, b]) {
      await inTransaction(client, tenant, async () => {
        await onlyOwn(client, tenant, address, 3000);
        const out = client.query(copyTo(`COPY (SELECT tenant_id FROM orders WHERE email = '${address}') TO STDOUT`));
        const chunks = [];
        for await (const chunk of out) chunks.push(chunk);
        const owners = Buffer.concat(chunks).toString().trim().split('\n');
        assert.deepEqual([owners.length, [...new Set(owners)]], [3000, [tenant]]);
      });
    }
  }));

check('a COPY that fails leaves a usable connection', () =>
  withClient(async (client) => {
    for (const tenant of [a, b]) {
      const rows = Readable.from(['no number\tx\tx\n']);
      const broken = inTransaction(client, tenant, () =>
        pipeline(rows, client.query(copyFrom('COPY stores (tenant_id, name, email) FROM STDIN'))),
      );
      await assert.rejects(broken, { code: '22P02' });
      assert.deepEqual((await client.query('SELECT 1 AS one')).rows, [{ one: 1 }]);
    }
  }));

check('large values in both directions', () =>
  withClient(async (client) => {
    const large = 'ä'.repeat(3_000_000);
    await client.query('BEGIN');
    await bind(client, b);
    const { rows } = await client.query(
      'INSERT INTO stores (name, email, metafields) VALUES ($1, $2, $3) RETURNING tenant_id, name, metafields',
      [large, 'x', { sizes: [1, 2] }],
    );
    assert.equal(rows[0].name.length, large.length);
    assert.deepEqual([rows[0].tenant_id, rows[0].metafields], [b, { sizes: [1, 2] }]);
    await client.query('ROLLBACK');
  }));

check('a statement is cancelled and the connection goes on', () =>
  withClient(async (client) => {
    for (const tenant of [a, b]) {
      await client.query('BEGIN');
      await bind(client, tenant);
      const sleeping = new pg.Query('SELECT pg_sleep(30)');
      const ended = new Promise((resolve, reject) => {
        sleeping.on('error', reject);
        sleeping.on('end', resolve);
      });
      client.query(sleeping);
      setTimeout(() => new pg.Client({ connectionString: url }).cancel(client, sleeping), 300);
      await assert.rejects(ended, { code: '57014' });
      await client.query('ROLLBACK');
      await inTransaction(client, tenant, async () => {
        assert.deepEqual((await client.query('SHOW tenantry.tenant')).rows, [{ 'tenantry.tenant': tenant }]);
      });
    }
  }));

check('a limit on the time of statements, given at connect', () =>
  withClient(
    async (client) => {
      await assert.rejects(client.query('SELECT pg_sleep(30)'), { code: '57014' });
      assert.deepEqual((await client.query('SHOW statement_timeout')).rows, [{ statement_timeout: '250ms' }]);
    },
    { statement_timeout: 250, application_name: 'storefront' },
  ));

check('many requests for many tenants share a small pool', async () => {
  const pool = new pg.Pool({ connectionString: url, max: 4 });
  const address = email('many');
  const ids = demo.tenants.map((tenant) => tenant.id);
  const request = async (number) => {
    const tenant = ids[number % ids.length];
    const client = await pool.connect();
    try {
      await inTransaction(client, tenant, async () => {
        assert.deepEqual((await makeOrders(client, address, 1)).owners, [tenant]);
      });
    } finally {
      client.release();
    }
  };
  await Promise.all(Array.from({ length: ids.length * 10 }, (_, number) => request(number)));
  for (const tenant of ids) {
    const client = await pool.connect();
    await inTransaction(client, tenant, () => onlyOwn(client, tenant, address, 10));
    client.release();
  }
  await pool.end();
});

await runChecks('node-postgres');
