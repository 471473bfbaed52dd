-- The reference schema of a storefront platform: what the demo, the tests and the benchmarks run on.
--
-- Rows belong to a tenant and are keyed (tenant_id, id); every unique constraint and foreign key contains the tenant.
-- Ids come from tenantry.next_id(), so that a row keeps its id on whichever shard its tenant lives. Money is in minor
-- units of the row's currency. Row-level security, grants and the tenant column's default are the guard's work: it
-- covers every table that has the column.

-- One row per tenant in most fleets; a merchant with several shop fronts has several.
create table stores (
    tenant_id        bigint not null,
    id               bigint not null default tenantry.next_id(),
    name             text not null,
    email            text not null,
    currency         text not null default 'EUR' check (currency ~ '^[A-Z]{3}$'),
    locale           text not null default 'en',
    timezone         text not null default 'UTC',
    -- Taken by each order for its number: see orders.number.
    next_order_number bigint not null default 1001,
    settings         jsonb not null default '{}',
    metafields       jsonb not null default '{}',
    created_at       timestamptz not null default now(),
    updated_at       timestamptz not null default now(),
    primary key (tenant_id, id)
);

create table products (
    tenant_id    bigint not null,
    id           bigint not null default tenantry.next_id(),
    store_id     bigint not null,
    handle       text not null check (handle ~ '^[a-z0-9][a-z0-9-]*$'),
    title        text not null,
    description  text not null default '',
    vendor       text not null default '',
    product_type text not null default '',
    tags         text[] not null default '{}',
    status       text not null default 'draft' check (status in ('draft', 'active', 'archived')),
    metafields   jsonb not null default '{}',
    published_at timestamptz,
    created_at   timestamptz not null default now(),
    updated_at   timestamptz not null default now(),
    -- What shoppers search: title before vendor and type before description.
    search       tsvector generated always as (
        setweight(to_tsvector('simple', title), 'A')
        || setweight(to_tsvector('simple', vendor || ' ' || product_type), 'B')
        || setweight(to_tsvector('simple', description), 'C')) stored,
    primary key (tenant_id, id),
    foreign key (tenant_id, store_id) references stores on delete cascade,
    unique (tenant_id, store_id, handle)
);
create index products_newest on products (tenant_id, store_id, published_at desc, id desc) where status = 'active';
create index products_type on products (tenant_id, product_type, id);
create index products_updated on products (tenant_id, updated_at);
create index products_search on products using gin (search);
create index products_tags on products using gin (tags);
create index products_metafields on products using gin (metafields jsonb_path_ops);

-- What can be bought: a product in one size and colour.
create table variants (
    tenant_id    bigint not null,
    id           bigint not null default tenantry.next_id(),
    product_id   bigint not null,
    sku          text,
    barcode      text,
    title        text not null default 'Default',
    options      jsonb not null default '{}',
    position     integer not null default 1,
    weight_grams integer not null default 0 check (weight_grams >= 0),
    metafields   jsonb not null default '{}',
    created_at   timestamptz not null default now(),
    updated_at   timestamptz not null default now(),
    primary key (tenant_id, id),
    foreign key (tenant_id, product_id) references products on delete cascade,
    unique (tenant_id, sku)
);
create index variants_product on variants (tenant_id, product_id, position);
create index variants_barcode on variants (tenant_id, barcode) where barcode is not null;

create table collections (
    tenant_id   bigint not null,
    id          bigint not null default tenantry.next_id(),
    store_id    bigint not null,
    handle      text not null check (handle ~ '^[a-z0-9][a-z0-9-]*$'),
    title       text not null,
    description text not null default '',
    sort_order  text not null default 'manual' check (sort_order in ('manual', 'newest', 'price', 'title')),
    metafields  jsonb not null default '{}',
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now(),
    primary key (tenant_id, id),
    foreign key (tenant_id, store_id) references stores on delete cascade,
    unique (tenant_id, store_id, handle)
);

create table collection_products (
    tenant_id     bigint not null,
    id            bigint not null default tenantry.next_id(),
    collection_id bigint not null,
    product_id    bigint not null,
    position      integer not null default 0,
    primary key (tenant_id, id),
    foreign key (tenant_id, collection_id) references collections on delete cascade,
    foreign key (tenant_id, product_id) references products on delete cascade,
    unique (tenant_id, collection_id, product_id)
);
create index collection_products_order on collection_products (tenant_id, collection_id, position, product_id);
create index collection_products_product on collection_products (tenant_id, product_id);

-- A variant's price per currency, from a quantity on.
create table prices (
    tenant_id        bigint not null,
    id               bigint not null default tenantry.next_id(),
    variant_id       bigint not null,
    currency         text not null check (currency ~ '^[A-Z]{3}$'),
    min_quantity     integer not null default 1 check (min_quantity > 0),
    amount           bigint not null check (amount >= 0),
    compare_at       bigint check (compare_at >= amount),
    updated_at       timestamptz not null default now(),
    primary key (tenant_id, id),
    foreign key (tenant_id, variant_id) references variants on delete cascade,
    unique (tenant_id, variant_id, currency, min_quantity)
);

-- Stock per variant and location. Reserved is what carts at checkout hold; the checks are what stops a flash sale from
-- selling what is not there.
create table inventory (
    tenant_id  bigint not null,
    id         bigint not null default tenantry.next_id(),
    variant_id bigint not null,
    location   text not null default 'main',
    available  integer not null default 0 check (available >= 0),
    reserved   integer not null default 0 check (reserved >= 0),
    updated_at timestamptz not null default now(),
    primary key (tenant_id, id),
    foreign key (tenant_id, variant_id) references variants on delete cascade,
    unique (tenant_id, variant_id, location)
);

create table customers (
    tenant_id         bigint not null,
    id                bigint not null default tenantry.next_id(),
    store_id          bigint not null,
    email             text not null,
    name              text not null default '',
    phone             text,
    accepts_marketing boolean not null default false,
    addresses         jsonb not null default '[]',
    tags              text[] not null default '{}',
    metafields        jsonb not null default '{}',
    created_at        timestamptz not null default now(),
    updated_at        timestamptz not null default now(),
    primary key (tenant_id, id),
    foreign key (tenant_id, store_id) references stores on delete cascade
);
create unique index customers_email on customers (tenant_id, store_id, lower(email));
create index customers_newest on customers (tenant_id, created_at desc, id desc);
create index customers_tags on customers using gin (tags);

create table carts (
    tenant_id   bigint not null,
    id          bigint not null default tenantry.next_id(),
    store_id    bigint not null,
    customer_id bigint,
    -- What the shopper's browser holds.
    token       uuid not null default gen_random_uuid(),
    currency    text not null check (currency ~ '^[A-Z]{3}$'),
    status      text not null default 'open' check (status in ('open', 'checkout', 'ordered', 'abandoned')),
    metafields  jsonb not null default '{}',
    created_at  timestamptz not null default now(),
    updated_at  timestamptz not null default now(),
    primary key (tenant_id, id),
    foreign key (tenant_id, store_id) references stores on delete cascade,
    foreign key (tenant_id, customer_id) references customers on delete set null (customer_id),
    unique (tenant_id, token)
);
create index carts_customer on carts (tenant_id, customer_id) where customer_id is not null;
create index carts_stale on carts (tenant_id, updated_at) where status in ('open', 'checkout');

create table cart_lines (
    tenant_id  bigint not null,
    id         bigint not null default tenantry.next_id(),
    cart_id    bigint not null,
    variant_id bigint not null,
    quantity   integer not null check (quantity > 0),
    properties jsonb not null default '{}',
    created_at timestamptz not null default now(),
    primary key (tenant_id, id),
    foreign key (tenant_id, cart_id) references carts on delete cascade,
    foreign key (tenant_id, variant_id) references variants on delete cascade,
    unique (tenant_id, cart_id, variant_id)
);
create index cart_lines_variant on cart_lines (tenant_id, variant_id);

create table orders (
    tenant_id        bigint not null,
    id               bigint not null default tenantry.next_id(),
    store_id         bigint not null,
    customer_id      bigint,
    cart_id          bigint,
    -- What the merchant and the customer call it.
    number           bigint not null,
    email            text not null,
    currency         text not null check (currency ~ '^[A-Z]{3}$'),
    status           text not null default 'open' check (status in ('open', 'closed', 'cancelled')),
    financial_status text not null default 'pending'
                     check (financial_status in ('pending', 'authorized', 'paid', 'refunded', 'voided')),
    fulfilment_status text not null default 'unfulfilled'
                     check (fulfilment_status in ('unfulfilled', 'partial', 'fulfilled')),
    subtotal         bigint not null check (subtotal >= 0),
    tax              bigint not null default 0 check (tax >= 0),
    shipping         bigint not null default 0 check (shipping >= 0),
    total            bigint not null check (total >= 0),
    shipping_address jsonb not null default '{}',
    billing_address  jsonb not null default '{}',
    tags             text[] not null default '{}',
    metafields       jsonb not null default '{}',
    placed_at        timestamptz not null default now(),
    updated_at       timestamptz not null default now(),
    primary key (tenant_id, id),
    foreign key (tenant_id, store_id) references stores on delete cascade,
    foreign key (tenant_id, customer_id) references customers on delete set null (customer_id),
    foreign key (tenant_id, cart_id) references carts on delete set null (cart_id),
    unique (tenant_id, store_id, number)
);
create index orders_newest on orders (tenant_id, placed_at desc, id desc);
create index orders_customer on orders (tenant_id, customer_id, placed_at desc) where customer_id is not null;
create index orders_cart on orders (tenant_id, cart_id) where cart_id is not null;
create index orders_to_fulfil on orders (tenant_id, placed_at)
    where status = 'open' and fulfilment_status <> 'fulfilled';

-- A line repeats what the product was called and cost when it was ordered.
create table order_lines (
    tenant_id  bigint not null,
    id         bigint not null default tenantry.next_id(),
    order_id   bigint not null,
    variant_id bigint,
    title      text not null,
    sku        text,
    quantity   integer not null check (quantity > 0),
    unit_price bigint not null check (unit_price >= 0),
    tax        bigint not null default 0 check (tax >= 0),
    properties jsonb not null default '{}',
    primary key (tenant_id, id),
    foreign key (tenant_id, order_id) references orders on delete cascade,
    foreign key (tenant_id, variant_id) references variants on delete set null (variant_id)
);
create index order_lines_order on order_lines (tenant_id, order_id);
create index order_lines_variant on order_lines (tenant_id, variant_id) where variant_id is not null;

create table payments (
    tenant_id   bigint not null,
    id          bigint not null default tenantry.next_id(),
    order_id    bigint not null,
    provider    text not null,
    -- The provider's name for it: a webhook that arrives twice is stored once.
    reference   text not null,
    kind        text not null check (kind in ('authorization', 'capture', 'sale', 'refund', 'void')),
    status      text not null default 'pending' check (status in ('pending', 'succeeded', 'failed')),
    currency    text not null check (currency ~ '^[A-Z]{3}$'),
    amount      bigint not null check (amount >= 0),
    details     jsonb not null default '{}',
    created_at  timestamptz not null default now(),
    primary key (tenant_id, id),
    foreign key (tenant_id, order_id) references orders on delete cascade,
    unique (tenant_id, provider, reference)
);
create index payments_order on payments (tenant_id, order_id);

-- What happened in the shop, append-only: analytics, webhooks, the merchant's timeline.
create table events (
    tenant_id   bigint not null,
    id          bigint not null default tenantry.next_id(),
    kind        text not null,
    subject     text not null,
    subject_id  bigint,
    session     uuid,
    data        jsonb not null default '{}',
    occurred_at timestamptz not null default now(),
    primary key (tenant_id, id)
);
create index events_newest on events (tenant_id, occurred_at desc, id desc);
create index events_kind on events (tenant_id, kind, occurred_at desc);
create index events_subject on events (tenant_id, subject, subject_id) where subject_id is not null;
