//! What a pipeline's first start makes, and what a later one must find as it was.
#![cfg(test)]

use iceberg::spec::{NullOrder, PartitionField, SortDirection, SortField, Transform};

use super::by_partition::log_of;
use super::tests::{World, config, pipeline_of};
use super::tombstones::row;
use super::*;
use crate::env::virtual_time::on_virtual_time;

#[test]
fn a_new_table_has_the_partitions_the_order_and_the_properties_that_its_pipeline_says() {
    on_virtual_time(async {
        let world = World::new(71);
        let mut config = config("shop.rows", None, 10);
        let create = &mut pipeline_of(&mut config).create;
        create.partition = vec!["day(event_time)".into(), "bucket(7, customer_id) as part".into()];
        create.sort = vec!["customer_id desc nulls first".into(), "hour(event_time) nulls last".into()];
        create.properties = [("write.parquet.compression-codec".to_owned(), "gzip".to_owned())].into();
        create.location = Some("memory:///elsewhere/rows".into());
        create.format_version = 3;
        world.run(&config, None).await;
        let made = world.state("shop.rows").await.metadata;
        let id = |name: &str| made.current_schema().field_by_name(name).expect("a column").id;
        let (time, customer) = (id("event_time"), id("customer_id"));
        let part = |source_id, field_id, name: &str, transform| PartitionField {
            source_id,
            field_id,
            name: name.into(),
            transform,
        };
        assert_eq!(
            made.default_partition_spec().fields(),
            [part(time, 1000, "event_time_day", Transform::Day), part(customer, 1001, "part", Transform::Bucket(7))]
        );
        let sort =
            |source_id, transform, direction, null_order| SortField { source_id, transform, direction, null_order };
        assert_eq!(
            made.default_sort_order().fields,
            [
                sort(customer, Transform::Identity, SortDirection::Descending, NullOrder::First),
                sort(time, Transform::Hour, SortDirection::Ascending, NullOrder::Last),
            ]
        );
        assert_eq!(made.properties().get("write.parquet.compression-codec").map(String::as_str), Some("gzip"));
        assert_eq!(made.location(), "memory:///elsewhere/rows");
        assert_eq!(made.format_version(), iceberg::spec::FormatVersion::V3);
    });
}

#[test]
fn a_checkpoint_of_another_source_halts_before_anything_is_read() {
    on_virtual_time(async {
        let world = World::new(72);
        let config = config("shop.rows", None, 1_000);
        let run = async |source: Option<Box<dyn Source>>| {
            let mut daemon = world.daemon(&config).await;
            if let Some(source) = source {
                daemon.pipelines[0].source = source;
            }
            daemon.run(CancellationToken::new()).await.remove(&PipelineName::new("p")).expect("ended")
        };
        let log = || Some(log_of(vec![vec![row(1)], vec![row(2)]]));
        run(log()).await.expect("it ends well");
        let (files, records) = (world.files("shop.rows").await, world.records("shop.rows").await);
        // The generated rows of `config`.
        let error = run(None).await.expect_err("another log");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(
            error.to_string().contains("its checkpoint is of source \"logs\", this one is \"replay:1\""),
            "{error}"
        );
        assert!(error.hint().is_some_and(|hint| hint.contains("frazil checkpoint set")), "{error:?}");
        assert_eq!(world.files("shop.rows").await, files);
        assert_eq!(world.records("shop.rows").await, records);
        // The one that it was goes on.
        run(log()).await.expect("it ends well");
    });
}
