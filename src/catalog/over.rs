//! A catalog in front of another, for tests: what it does not say itself, the inner one does.
#![cfg(test)]

/// `impl Catalog` for a type with a field `inner`, given `load`, `commit` and `create`; all else is the inner catalog's.
macro_rules! catalog_over_inner {
    ($name:ident { $($own:tt)* }) => {
        #[async_trait::async_trait]
        impl $crate::catalog::Catalog for $name {
            $($own)*

            async fn register(&self, table: &TableName, metadata_location: &str) -> Outcome {
                self.inner.register(table, metadata_location).await
            }

            async fn rename(&self, from: &TableName, to: &TableName) -> Result<()> {
                self.inner.rename(from, to).await
            }

            async fn drop_table(&self, table: &TableName) -> Result<()> {
                self.inner.drop_table(table).await
            }

            async fn namespaces(&self, parent: &[String]) -> Result<Vec<Vec<String>>> {
                self.inner.namespaces(parent).await
            }

            async fn create_namespace(
                &self,
                namespace: &[String],
                properties: &std::collections::BTreeMap<String, String>,
            ) -> Result<()> {
                self.inner.create_namespace(namespace, properties).await
            }

            async fn drop_namespace(&self, namespace: &[String]) -> Result<()> {
                self.inner.drop_namespace(namespace).await
            }

            async fn tables(&self, namespace: &[String]) -> Result<Vec<TableName>> {
                self.inner.tables(namespace).await
            }

            async fn capabilities(&self) -> Result<$crate::catalog::Capabilities> {
                self.inner.capabilities().await
            }
        }
    };
}
pub(crate) use catalog_over_inner;
