//! One shopper's connection and the transactions on it.
//!
//! Statements are prepared once and used for whichever store comes next: the same text serves every tenant, because the
//! tenant is bound beside it and not written into it.

use rand::RngExt;
use rand::rngs::StdRng;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, NoTls, Row, Statement};

use super::market::Market;
use super::traffic::Action;

/// A connection to the router.
pub(super) struct Session {
    client: Client,
    statements: Statements,
}

impl Session {
    /// Connects as the service role.
    pub(super) async fn open(market: &Market) -> Result<Self, Error> {
        let (client, connection) = market.config().connect(NoTls).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection lost");
            }
        });
        Ok(Self {
            client,
            statements: Statements::default(),
        })
    }

    /// True once the connection is lost.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// One transaction as `store`.
    pub(super) async fn transact(
        &mut self,
        store: &str,
        action: Action,
        market: &Market,
        rng: &mut StdRng,
    ) -> Result<(), Error> {
        let begin = format!("BEGIN; SET LOCAL tenantry.tenant = '{store}'");
        let done = match self.client.batch_execute(&begin).await {
            Ok(()) => self.act(action, market, rng).await,
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => self.client.batch_execute("COMMIT").await,
            Err(error) => {
                // Should this fail too, the connection is lost, which the first error already tells.
                let _ = self.client.batch_execute("ROLLBACK").await;
                Err(error)
            }
        }
    }

    async fn act(
        &mut self,
        action: Action,
        market: &Market,
        rng: &mut StdRng,
    ) -> Result<(), Error> {
        match action {
            Action::Browse => self.browse(rng).await,
            Action::Search => self.search(market.term(rng)).await,
            Action::Cart => self.fill_cart(rng).await.map(|_| ()),
            Action::Checkout => self.check_out(rng).await,
        }
    }

    /// A collection's page, then one of its products.
    async fn browse(&mut self, rng: &mut StdRng) -> Result<(), Error> {
        let collection = rng.random_range(1..=4_i64);
        let page = self.query(Sql::Collection, &[&collection]).await?;
        if page.is_empty() {
            return Ok(());
        }
        let product: i64 = page[rng.random_range(0..page.len())].get(0);
        self.query(Sql::Product, &[&product]).await.map(|_| ())
    }

    async fn search(&mut self, term: &str) -> Result<(), Error> {
        self.query(Sql::Search, &[&term]).await.map(|_| ())
    }

    /// A new cart with a few things in it; answers its id.
    async fn fill_cart(&mut self, rng: &mut StdRng) -> Result<i64, Error> {
        let cart = self.query(Sql::NewCart, &[]).await?;
        let cart: i64 = cart.first().map_or(0, |row| row.get(0));
        let place: f64 = rng.random();
        let lines = rng.random_range(1..=3_i64);
        self.query(Sql::FillCart, &[&cart, &place, &lines]).await?;
        Ok(cart)
    }

    /// A cart turned into a paid order. Inventory rows are taken in order of id, so that shoppers never deadlock;
    /// what runs out is restocked, or a long run would end in refusals.
    async fn check_out(&mut self, rng: &mut StdRng) -> Result<(), Error> {
        let cart = self.fill_cart(rng).await?;
        self.query(Sql::TakeStock, &[&cart]).await?;
        let order = self.query(Sql::PlaceOrder, &[&cart]).await?;
        let order: i64 = order.first().map_or(0, |row| row.get(0));
        self.query(Sql::Pay, &[&order]).await?;
        self.query(Sql::RecordEvent, &[&order]).await.map(|_| ())
    }

    async fn query(
        &mut self,
        sql: Sql,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        let statement = self.statements.prepared(&self.client, sql).await?;
        self.client.query(&statement, parameters).await
    }
}

/// The statements of the load, each in a file of its own.
#[derive(Clone, Copy)]
enum Sql {
    Collection,
    Product,
    Search,
    NewCart,
    FillCart,
    TakeStock,
    PlaceOrder,
    Pay,
    RecordEvent,
}

const SQL: [&str; 9] = [
    include_str!("sql/collection.sql"),
    include_str!("sql/product.sql"),
    include_str!("sql/search.sql"),
    include_str!("sql/new_cart.sql"),
    include_str!("sql/fill_cart.sql"),
    include_str!("sql/take_stock.sql"),
    include_str!("sql/place_order.sql"),
    include_str!("sql/pay.sql"),
    include_str!("sql/record_event.sql"),
];

/// Prepared at first use, inside the transaction that needs them.
#[derive(Default)]
struct Statements {
    prepared: [Option<Statement>; SQL.len()],
}

impl Statements {
    async fn prepared(&mut self, client: &Client, sql: Sql) -> Result<Statement, Error> {
        let slot = &mut self.prepared[sql as usize];
        if let Some(statement) = slot {
            return Ok(statement.clone());
        }
        let statement = client.prepare(SQL[sql as usize]).await?;
        *slot = Some(statement.clone());
        Ok(statement)
    }
}
