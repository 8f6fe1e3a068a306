#![cfg(test)]

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use parquet::basic::{Compression, Encoding, Repetition};
use parquet::column::writer::ColumnCloseResult;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaDataReader};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type as ParquetType;

use super::*;
use crate::env::SystemClock;
use crate::storage::StorageOptions;

/// A Parquet file of required longs, one page with a checksum for each column, whatever the footer says of its codec. The crate
/// writes no checksums.
pub(crate) fn checked(columns: &[(i32, &str)], values: &[i64], codec: Compression) -> Vec<u8> {
    let field = |(id, name): &(i32, &str)| {
        let field = ParquetType::primitive_type_builder(name, PhysicalType::INT64);
        Arc::new(field.with_repetition(Repetition::REQUIRED).with_id(Some(*id)).build().expect("valid"))
    };
    let root = ParquetType::group_type_builder("table").with_fields(columns.iter().map(field).collect());
    let mut bytes = Vec::new();
    let root = Arc::new(root.build().expect("valid"));
    let mut writer = SerializedFileWriter::new(&mut bytes, root, Arc::default()).expect("opens");
    let schema = writer.schema_descr().clone();
    let mut group = writer.next_row_group().expect("opens");
    let chunk = page(values);
    let length = i64::try_from(chunk.len()).expect("small");
    for column in 0..columns.len() {
        let metadata = ColumnChunkMetaData::builder(schema.column(column))
            .set_compression(codec)
            .set_encodings(vec![Encoding::PLAIN])
            .set_total_compressed_size(length)
            .set_total_uncompressed_size(length)
            .set_num_values(i64::try_from(values.len()).expect("small"))
            .set_data_page_offset(0)
            .build()
            .expect("valid");
        let close = ColumnCloseResult {
            bytes_written: chunk.len() as u64,
            rows_written: values.len() as u64,
            metadata,
            bloom_filter: None,
            column_index: None,
            offset_index: None,
        };
        group.append_column(&Bytes::from(chunk.clone()), close).expect("in memory");
    }
    group.close().expect("in memory");
    writer.close().expect("in memory");
    bytes
}

/// A page in Thrift's compact protocol (parquet.thrift, `PageHeader`) and its values.
fn page(values: &[i64]) -> Vec<u8> {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut sum = flate2::Crc::new();
    sum.update(&data);
    let (size, count) = (i32::try_from(data.len()).expect("small"), i32::try_from(values.len()).expect("small"));
    let mut bytes = Vec::new();
    // A data page, its size twice, its checksum; within: how many values, plain, and levels that it has none of.
    for value in [0, size, size, sum.sum().cast_signed()] {
        int(&mut bytes, value);
    }
    bytes.push(0x1c);
    for value in [count, 0, 3, 3] {
        int(&mut bytes, value);
    }
    bytes.extend([0, 0]);
    bytes.extend(data);
    bytes
}

/// The next field of a structure, an integer.
fn int(bytes: &mut Vec<u8>, value: i32) {
    bytes.push(0x15);
    let mut rest = ((value << 1) ^ (value >> 31)).cast_unsigned();
    while rest >= 0x80 {
        bytes.push(rest.to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    bytes.push(rest.to_le_bytes()[0]);
}

/// Flips a bit of the last value of a file's column.
pub(crate) fn flip(bytes: &mut [u8], column: usize) {
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&Bytes::copy_from_slice(bytes)).expect("a footer");
    let (start, length) = metadata.row_group(0).column(column).byte_range();
    bytes[usize::try_from(start + length - 1).expect("small")] ^= 1;
}

/// The rows of a file's first column, as far as it can be read.
async fn read(bytes: &[u8]) -> Result<Vec<i64>> {
    let env = Env::simulated(Arc::new(SystemClock), 3);
    let storage = Storage::new(StorageOptions::default(), env.clone());
    storage.write("memory:///t/f", Bytes::copy_from_slice(bytes)).await.expect("writable");
    let file = ParquetFile::open(&storage, "memory:///t/f", bytes.len() as u64).await?;
    let mut values = Vec::new();
    for group in 0..file.row_groups() {
        let mut group = file.row_group(group, 1 << 30).await?;
        while let Some(batch) = group.next(&env, Ok).await? {
            values.extend_from_slice(batch.column(0).as_primitive::<Int64Type>().values());
        }
    }
    Ok(values)
}

#[tokio::test]
async fn a_bit_that_flipped_in_a_page_with_a_checksum_is_found_and_file_and_column_are_named() {
    let values: Vec<i64> = (0..500).collect();
    let bytes = checked(&[(1, "n"), (2, "m")], &values, Compression::UNCOMPRESSED);
    assert_eq!(read(&bytes).await.expect("whole"), values);
    for (column, name) in [(0, "column \"n\""), (1, "column \"m\"")] {
        let mut bytes = bytes.clone();
        flip(&mut bytes, column);
        let refused = read(&bytes).await.expect_err("a bit flipped");
        let said = refused.to_string();
        assert_eq!(refused.kind(), ErrorKind::Corrupt, "{said}");
        assert!(said.contains("memory:///t/f") && said.contains(name) && said.contains("checksum"), "{said}");
    }
}

#[tokio::test]
async fn a_codec_that_is_not_read_is_refused_by_file_and_column_before_a_page_is() {
    let lzo = checked(&[(1, "n"), (2, "m")], &[1, 2], Compression::LZO);
    // One that the format does not have: the footer is not understood, and names no column.
    let mut newer = lzo.clone();
    let of_m = [0x19, 0x18, 1, b'm', 0x15, 6]; // the path in the schema, and the codec
    let at = newer.windows(6).position(|bytes| bytes == of_m).expect("the column's metadata");
    newer[at + 5] = 60;
    for (bytes, words) in [(lzo, ["column \"n\"", "LZO"]), (newer, ["CompressionCodec 30", "cannot be read"])] {
        let refused = read(&bytes).await.expect_err("not read");
        let said = refused.to_string();
        assert_eq!(refused.kind(), ErrorKind::Unsupported, "{said}");
        assert!(said.contains("memory:///t/f") && words.iter().all(|word| said.contains(word)), "{said}");
    }
}

#[tokio::test]
async fn a_file_that_is_replaced_between_its_footer_and_its_rows_is_not_mixed_with_the_other() {
    let columns = [(1, "n"), (2, "m")];
    let file = |value| Bytes::from(checked(&columns, &vec![value; 600_000], Compression::UNCOMPRESSED));
    let before = file(0);
    assert!(before.len() as u64 > WHOLE_MAX, "read in pieces");
    let after = (1..).map(file).find(|other| other.len() == before.len()).expect("another of the same size");
    let env = Env::simulated(Arc::new(SystemClock), 3);
    let storage = Storage::new(StorageOptions::default(), env.clone());
    let location = "memory:///t/f";
    storage.write(location, before.clone()).await.expect("writable");
    let file = ParquetFile::open(&storage, location, before.len() as u64).await.expect("a footer");
    drop(file.row_group(0, 1 << 30).await.expect("it is the same still"));
    storage.write(location, after).await.expect("writable");
    let refused = file.row_group(0, 1 << 30).await.expect_err("replaced");
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    assert_eq!(refused.to_string(), "memory:///t/f was replaced while it was read");
}
