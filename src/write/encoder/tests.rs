use std::io::Write;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::write::tests::{random_rows, wide};

#[test]
fn pieces_hold_what_was_written_and_none_is_longer_than_a_piece() {
    let bytes: Vec<u8> = (0..PIECE_BYTES * 5 / 2).map(|at| (at % 251) as u8).collect();
    for chunk in [1000, PIECE_BYTES, bytes.len()] {
        let mut pieces = Pieces::default();
        bytes.chunks(chunk).for_each(|chunk| pieces.write_all(chunk).expect("in memory"));
        let taken = pieces.take();
        assert_eq!(taken.iter().map(Bytes::len).collect::<Vec<_>>(), [PIECE_BYTES, PIECE_BYTES, PIECE_BYTES / 2]);
        assert_eq!(taken.concat(), bytes);
        assert!(pieces.take().is_empty());
    }
}

/// The file of `batches`, written one after the other.
fn encoded(shape: &FileShape, batches: &[RecordBatch], concurrency: usize) -> Vec<u8> {
    let properties = shape.properties(&batches[0]).expect("properties");
    let work = async {
        let env = Env::system();
        let mut encoder = Encoder::new(shape, properties, concurrency).expect("encoder");
        let mut pieces = Vec::new();
        for batch in batches {
            encoder = encoder.write(&env, vec![batch.clone()]).await.expect("written");
            pieces.extend(encoder.take());
        }
        let encoded = encoder.finish(&env).await.expect("finished");
        pieces.extend(encoded.ready);
        let file = pieces.concat();
        assert_eq!(file.len() as u64, encoded.bytes);
        file
    };
    tokio::runtime::Runtime::new().expect("runtime").block_on(work)
}

#[test]
fn columns_side_by_side_give_the_bytes_that_the_library_gives() {
    for row_group_bytes in [1, 3_000, 20_000, 1 << 30] {
        let mut layout = wide();
        layout.properties.row_group_bytes = row_group_bytes;
        let mut rng = StdRng::seed_from_u64(row_group_bytes as u64);
        let batches: Vec<RecordBatch> = [1, 700, 0, 900, 30].map(|rows| random_rows(&layout, rows, &mut rng)).into();
        let shape = FileShape::new(layout).expect("shape");
        let options = ArrowWriterOptions::new()
            .with_properties(shape.properties(&batches[0]).expect("properties"))
            .with_skip_arrow_metadata(true)
            .with_parquet_schema(shape.parquet.clone());
        let mut writer =
            ArrowWriter::try_new_with_options(Vec::new(), Arc::clone(&shape.schema), options).expect("writer");
        batches.iter().for_each(|batch| writer.write(batch).expect("written"));
        let expected = writer.into_inner().expect("file");
        for concurrency in [1, 2, 64] {
            assert!(
                encoded(&shape, &batches, concurrency) == expected,
                "{row_group_bytes} bytes, {concurrency} at a time"
            );
        }
    }
}

#[test]
fn a_row_group_takes_no_more_rows_than_fit_whatever_comes_at_once() {
    let mut layout = wide();
    layout.properties.row_group_bytes = 20_000;
    let mut rng = StdRng::seed_from_u64(3);
    let batches: Vec<RecordBatch> = (0..40).map(|_| random_rows(&layout, 100, &mut rng)).collect();
    let shape = FileShape::new(layout).expect("shape");
    let work = async {
        let properties = shape.properties(&batches[0]).expect("properties");
        let encoder = Encoder::new(&shape, properties, 1).expect("encoder");
        let env = Env::system();
        encoder.write(&env, batches).await.expect("written").finish(&env).await.expect("finished").footer
    };
    let footer = tokio::runtime::Runtime::new().expect("runtime").block_on(work);
    let rows: Vec<i64> = footer.row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(rows.iter().sum::<i64>(), 4_000);
    let (last, full) = rows.split_last().expect("a row group");
    assert!(full.len() > 3 && full.iter().all(|rows| rows.abs_diff(full[0]) < full[0].unsigned_abs() / 4), "{rows:?}");
    assert!(*last <= full[0] * 5 / 4, "{rows:?}");
}

/// How it ends when `bad` is written after good rows.
fn ended(bad: impl Fn(&RecordBatch) -> RecordBatch) -> Result<Encoded> {
    let mut layout = wide();
    layout.properties.row_group_bytes = 1 << 30;
    let mut rng = StdRng::seed_from_u64(5);
    let good = random_rows(&layout, 100, &mut rng);
    let shape = FileShape::new(layout).expect("shape");
    let work = async {
        let env = Env::system();
        let properties = shape.properties(&good).expect("properties");
        let mut encoder = Encoder::new(&shape, properties, 2).expect("encoder");
        for batch in [good.clone(), bad(&good), good.clone(), good.clone()] {
            encoder = encoder.write(&env, vec![batch]).await?;
        }
        encoder.finish(&env).await
    };
    tokio::runtime::Runtime::new().expect("runtime").block_on(work)
}

#[test]
fn rows_that_do_not_fit_end_the_file_though_nobody_waited_for_them() {
    assert!(ended(RecordBatch::clone).is_ok());
    // Each column where the next one should be.
    let turned = |good: &RecordBatch| {
        let count = good.num_columns();
        let order: Vec<usize> = (0..count).map(|at| (at + 1) % count).collect();
        good.project(&order).expect("columns")
    };
    assert_eq!(ended(turned).err().map(|error| error.kind()), Some(ErrorKind::Internal));
}

#[test]
fn a_thread_that_is_lost_ends_the_file_and_nobody_waits_for_it() {
    let short = |good: &RecordBatch| good.project(&[0]).expect("a column");
    assert_eq!(ended(short).err().map(|error| error.kind()), Some(ErrorKind::Internal));
}

#[test]
fn no_column_lags_further_behind_than_a_piece_and_what_waits_is_counted() {
    let layout = wide();
    let mut rng = StdRng::seed_from_u64(7);
    let rows = random_rows(&layout, 200, &mut rng);
    let shape = FileShape::new(layout).expect("shape");
    let weight = pending::weight(&rows);
    // On one thread nothing is encoded before somebody waits.
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let env = Env::system();
        let properties = shape.properties(&rows).expect("properties");
        let mut encoder = Encoder::new(&shape, properties, 2).expect("encoder");
        for _ in 0..20 {
            encoder = encoder.write(&env, vec![rows.clone()]).await.expect("written");
            let queued = encoder.columns.as_ref().map_or(0, Columns::queued);
            assert!((weight..=2 * weight).contains(&queued), "{queued} of {weight}");
            assert!(encoder.memory() >= queued);
        }
        let columns = encoder.columns.as_ref().expect("open");
        columns.idle().await.expect("encoded");
        assert_eq!(columns.queued(), 0);
    });
}
