//! All tables of a catalog.

use std::sync::Arc;

use super::Catalog;
use crate::error::{Error, ErrorKind, Result};
use crate::model::ids::TableName;

/// The most namespaces that a listing walks through.
const NAMESPACES_MAX: usize = 10_000;

/// All tables at or below a namespace, in order.
///
/// # Errors
/// What the catalog says; `Unsupported` for too many namespaces.
pub async fn tables_below(catalog: &Arc<dyn Catalog>, below: &[String]) -> Result<Vec<TableName>> {
    let mut open = vec![below.to_vec()];
    let mut tables = Vec::new();
    let mut seen = 0;
    while let Some(namespace) = open.pop() {
        seen += 1;
        if seen > NAMESPACES_MAX {
            return Err(Error::new(ErrorKind::Unsupported, format!("there are more than {NAMESPACES_MAX} namespaces"))
                .with_hint("list below one of them with --namespace"));
        }
        if !namespace.is_empty() {
            tables.extend(catalog.tables(&namespace).await?);
        }
        open.extend(catalog.namespaces(&namespace).await?);
    }
    tables.sort();
    Ok(tables)
}
