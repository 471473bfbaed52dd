// What the Node.js drivers' checks share: where the fleet is, whose orders are made, one line per check.

import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';

export const demo = JSON.parse(readFileSync(process.argv[2], 'utf8'));
export const url = demo.urls.service;
// A role of one tenant, which can act for no other: tenant a's.
export const tenantRoleUrl = demo.urls.tenant;
// Two tenants, on two shards: one connection of the client is served by two servers.
export const a = demo.tenants[0].id;
export const b = demo.tenants.find((tenant) => tenant.shard !== demo.tenants[0].shard).id;

// What docs/drivers.md tells a driver's users to connect with: documented.py wrote it for this run.
export const documented = (driver) => JSON.parse(readFileSync(process.argv[3], 'utf8'))[driver];

export const STORE = "INSERT INTO stores (name, email) VALUES ($1, 'shop@example.com') RETURNING id";
export const ORDER =
  'INSERT INTO orders (store_id, number, email, currency, subtotal, total)' +
  " VALUES ($1, $2, $3, 'EUR', 1000, 1190) RETURNING id, tenant_id";
// All orders that are visible must be the tenant's; those of this run are told by their address.
export const SEEN =
  'SELECT array_agg(DISTINCT tenant_id)::text[] AS tenants, count(*) FILTER (WHERE email = $1)::int AS own FROM orders';

const run = randomBytes(4).toString('hex');
export const email = (name) => `${name}-${run}@example.com`;

const checks = [];
export const check = (name, body) => checks.push([name, body]);

// Runs the checks in the order they are written.
export async function runChecks(driver) {
  for (const [name, body] of checks) {
    try {
      await body();
      console.log(`ok      ${driver}: ${name}`);
    } catch (error) {
      const place = /_checks\.mjs:(\d+)/.exec(error.stack ?? '')?.[1] ?? '';
      const text = String(error.message ?? error).replace(/\s+/g, ' ');
      console.log(`FAILED  ${driver}: ${name}: line ${place} ${error.code ?? error.name}: ${text}`);
    }
  }
}
