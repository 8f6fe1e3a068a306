//! Many tables with many partitions, through the whole daemon: files that are open at once are bounded over all of them.
#![cfg(test)]

use super::by_partition::log_of;
use super::tests::{World, column, config, pipeline_of};
use super::*;
use crate::env::virtual_time::on_virtual_time;

const TABLES: usize = 200;
const PARTITIONS: usize = 4;
const OPEN_FILES: usize = 16;

/// Rows for every partition of every table.
fn rows() -> Vec<Option<String>> {
    let of = |table| (0..PARTITIONS).map(move |v| Some(format!("{{\"t\":\"t{table}\",\"v\":{v}}}")));
    (0..TABLES).flat_map(of).collect()
}

#[test]
fn files_open_at_once_are_bounded_over_all_tables_and_each_partition_has_one_file() {
    on_virtual_time(async {
        let world = World::new(61);
        let mut config = config("shop.{t}", Some("shop.t0"), 0);
        config.limits.tables = TABLES;
        config.limits.open_files = OPEN_FILES;
        let pipeline = pipeline_of(&mut config);
        pipeline.create.columns = vec![column("t", "string"), column("v", "int")];
        pipeline.create.partition = vec!["v".into()];
        pipeline.create.sort.clear();
        pipeline.commit.freshness = Duration::from_secs(600);
        let mut daemon = world.daemon(&config).await;
        // Each row is worth a file at once.
        daemon.pipelines[0].options.encode_bytes = 1;
        daemon.pipelines[0].source = log_of(vec![rows(), rows()]);
        let ended = daemon.run(CancellationToken::new()).await;
        assert!(ended.values().all(Result::is_ok), "{ended:?}");
        let most = usize::try_from(world.storage.counters().files_under_way().1).expect("few");
        assert!((OPEN_FILES / 2..=OPEN_FILES).contains(&most), "{most} files were open at once");
        for table in 0..TABLES {
            let table = format!("shop.t{table}");
            assert_eq!(world.files(&table).await.len(), PARTITIONS, "{table}");
            let rows: usize = world.read(&table).await.iter().map(arrow::array::RecordBatch::num_rows).sum();
            assert_eq!(rows, 2 * PARTITIONS, "{table}");
        }
    });
}
