//! Creating a table, or adopting the one that is there: the same outcomes as a commit, resolved by looking.

use std::time::Duration;

use iceberg::spec::Schema;

use crate::catalog::{Catalog, CreateTable, Outcome};
use crate::env::Env;
use crate::error::{Directive, Error, ErrorKind, Result};
use crate::model::table::TableState;

const WAIT_MIN: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(20);
/// Refusals in a row that a look does not explain.
const REFUSALS_MAX: u32 = 5;

/// The table `wanted`, created when it is missing. Field ids are those of the answer, never of the request.
///
/// # Errors
/// `Conflict` when a table of that name is there that lacks a wanted column; a refusal that looking does not explain.
pub async fn create_or_adopt(env: &Env, catalog: &dyn Catalog, wanted: &CreateTable) -> Result<TableState> {
    let (mut attempt, mut refusals) = (0_u32, 0_u32);
    loop {
        match catalog.load(&wanted.name).await {
            Ok(state) => return adopt(wanted, state),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.directive() == Directive::Retry => {
                tracing::warn!(table = %wanted.name, "waiting: {error}");
                env.sleep(env.backoff(WAIT_MIN, WAIT_MAX, attempt).max(error.wait().unwrap_or_default())).await;
                attempt = attempt.saturating_add(1);
                continue;
            }
            Err(error) => return Err(error),
        }
        let outcome = catalog.create(wanted).await;
        refusals = if matches!(outcome, Outcome::Refused(_)) { refusals.saturating_add(1) } else { 0 };
        let wait = match outcome {
            Outcome::Committed(state) => return adopt(wanted, *state),
            Outcome::Refused(error) if error.kind() != ErrorKind::Conflict || refusals > REFUSALS_MAX => {
                return Err(error.within(format!("create table {}", wanted.name)));
            }
            Outcome::Throttled(at_least) => at_least,
            Outcome::Refused(error) | Outcome::NotSent(error) | Outcome::Unknown(error) => {
                tracing::warn!(table = %wanted.name, "creation to be looked at: {error}");
                error.wait().unwrap_or_default()
            }
        };
        env.sleep(env.backoff(WAIT_MIN, WAIT_MAX, attempt).max(wait)).await;
        attempt = attempt.saturating_add(1);
    }
}

/// Whether rows for `wanted` may go into the table that is there: every wanted column, by name, with a type it may hold.
fn adopt(wanted: &CreateTable, state: TableState) -> Result<TableState> {
    let held: &Schema = state.metadata.current_schema();
    for field in wanted.schema.as_struct().fields() {
        let fits = held.field_by_name(&field.name).is_some_and(|theirs| {
            theirs.field_type == field.field_type
                || !field.field_type.is_primitive()
                || widened(&theirs.field_type, &field.field_type)
        });
        if !fits {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("table {} is there, without a column {} of type {}", wanted.name, field.name, field.field_type),
            )
            .with_hint(
                "name another table, add the column, or leave `create.columns` out to take the table as it is",
            ));
        }
    }
    Ok(state)
}

fn widened(held: &iceberg::spec::Type, wanted: &iceberg::spec::Type) -> bool {
    use iceberg::spec::{PrimitiveType as P, Type};
    match (wanted, held) {
        (
            Type::Primitive(P::Decimal { precision: p, scale: s }),
            Type::Primitive(P::Decimal { precision: q, scale: t }),
        ) => s == t && p <= q,
        (Type::Primitive(a), Type::Primitive(b)) => matches!((a, b), (P::Int, P::Long) | (P::Float, P::Double)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use iceberg::spec::{FormatVersion, NestedField, PrimitiveType, SortOrder, Type, UnboundPartitionSpec};

    use super::*;
    use crate::catalog::faulty::{Fault, FaultyCatalog};
    use crate::catalog::memory::MemoryCatalog;
    use crate::env::virtual_time::{on_virtual_time, simulated};

    fn wanted() -> CreateTable {
        let n = Arc::new(NestedField::optional(1, "n", Type::Primitive(PrimitiveType::Long)));
        CreateTable {
            name: "ns.t".parse().expect("valid"),
            location: None,
            schema: Schema::builder().with_fields([n]).build().expect("valid"),
            spec: UnboundPartitionSpec::default(),
            sort_order: SortOrder::unsorted_order(),
            format_version: FormatVersion::V2,
            properties: HashMap::new(),
        }
    }

    /// A server that retried by itself answers that the table exists, after a catalog that was throttled for long.
    #[test]
    fn a_table_that_the_server_has_made_in_the_end_is_adopted_however_long_it_was_waited_for() {
        on_virtual_time(async {
            let env = simulated(1);
            let truth = Arc::new(MemoryCatalog::new(env.clone(), "memory:///wh"));
            let catalog = FaultyCatalog::new(truth, env.clone(), 0);
            catalog.script([vec![Fault::Throttled; 10], vec![Fault::LyingNo]].concat());
            let made = create_or_adopt(&env, &catalog, &wanted()).await.expect("adopted");
            assert_eq!(made.name, wanted().name);
        });
    }

    #[test]
    fn a_server_that_asks_to_wait_is_not_asked_again_before() {
        on_virtual_time(async {
            let env = simulated(1);
            let truth = Arc::new(MemoryCatalog::new(env.clone(), "memory:///wh"));
            let catalog = FaultyCatalog::new(truth, env.clone(), 0);
            catalog.script([Fault::Busy]);
            let begun = env.now_ms();
            create_or_adopt(&env, &catalog, &wanted()).await.expect("created");
            assert!(env.now_ms() - begun >= 30_000, "{}", env.now_ms() - begun);
        });
    }
}
