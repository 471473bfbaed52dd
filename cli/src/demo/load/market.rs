//! Where shopping happens: the stores that are open, and how popular each is.

use rand::RngExt;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Zipf};
use tenantry_schema::catalog::{Catalog, TenantPage};
use tenantry_schema::tenant::TenantState;

use super::super::descriptor::Descriptor;
use super::super::stores::Words;
use crate::exit::{Exit, Explain, Failure};

/// Exponent of the law stores are drawn by; their sizes have the same.
const ZIPF_EXPONENT: f64 = 1.0;

/// What every shopper knows.
pub(super) struct Market {
    config: tokio_postgres::Config,
    /// Ids of the active stores, the busiest first.
    stores: Vec<String>,
    popularity: Zipf<f64>,
    /// Words that occur in product titles.
    terms: Vec<String>,
}

impl Market {
    /// Reads the active stores from the catalog.
    pub(super) async fn open(descriptor: &Descriptor) -> Result<Self, Failure> {
        let catalog = Catalog::connect(&descriptor.urls.catalog).await?;
        let key = catalog.settings().await?.tenant_key;
        let mut stores = Vec::new();
        let mut page = TenantPage {
            after: None,
            state: Some(TenantState::Active),
            limit: TenantPage::LIMIT_MAX,
        };
        loop {
            let tenants = catalog.list_tenants(&page).await?;
            let Some(last) = tenants.last() else { break };
            page.after = Some(last.id);
            // Others may have been created since, and have no products.
            let demo = tenants.iter().filter(|tenant| tenant.is_demo);
            stores.extend(demo.map(|tenant| tenant.id.display(key).to_string()));
        }
        if stores.is_empty() {
            return Err(Failure::precondition("no store is active"));
        }
        let popularity = Zipf::new(stores.len() as f64, ZIPF_EXPONENT).map_err(|error| {
            Failure::new(Exit::Failed, format!("stores cannot be drawn: {error}"))
        })?;
        let config = descriptor
            .urls
            .service
            .parse()
            .explain(|| "the service URL of demo.json is malformed".to_owned())?;
        Ok(Self {
            config,
            stores,
            popularity,
            terms: Words::load()?.search_terms(),
        })
    }

    /// How to reach the router.
    pub(super) fn config(&self) -> &tokio_postgres::Config {
        &self.config
    }

    /// How many stores are open.
    pub(super) fn stores(&self) -> usize {
        self.stores.len()
    }

    /// The store someone visits next.
    pub(super) fn store(&self, rng: &mut StdRng) -> &str {
        let rank = self.popularity.sample(rng) as usize;
        &self.stores[rank.clamp(1, self.stores.len()) - 1]
    }

    /// A word someone searches for.
    pub(super) fn term(&self, rng: &mut StdRng) -> &str {
        &self.terms[rng.random_range(0..self.terms.len())]
    }
}
