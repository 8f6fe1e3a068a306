//! From a catalog's configuration to the catalog.

use std::sync::Arc;

use super::Catalog;
use super::documents::Resolver;
use super::embedded::EmbeddedCatalog;
use super::memory::MemoryCatalog;
use super::rest::RestCatalog;
use crate::config::CatalogConfig;
use crate::env::Env;
use crate::error::Result;

/// Opens or reaches the catalog that `config` names; `resolver` finds the store of a metadata document.
///
/// # Errors
/// As [`RestCatalog::connect`] and [`EmbeddedCatalog::open`].
pub async fn connect(config: &CatalogConfig, env: &Env, resolver: Resolver) -> Result<Arc<dyn Catalog>> {
    Ok(match config {
        CatalogConfig::Rest(rest) => Arc::new(RestCatalog::connect(rest, env).await?),
        CatalogConfig::Embedded { path, warehouse } => {
            Arc::new(EmbeddedCatalog::open(env, path, warehouse, resolver).await?)
        }
        CatalogConfig::Memory { warehouse } => Arc::new(MemoryCatalog::new(env.clone(), warehouse)),
    })
}
