use super::*;

fn header(kind: Kind) -> Header {
    Header { kind, values: 300, encoding: RLE_DICTIONARY, levels_encoding: RLE, unpacked: 70_000, packed: 5, crc: None }
}

#[test]
fn a_header_reads_as_it_was_written_and_no_beginning_of_it_does() {
    for kind in [Kind::Dictionary, Kind::V1, Kind::V2 { nulls: 7, levels: 3, compressed: false }] {
        let mut bytes = Vec::new();
        header(kind).write(b"hello", &mut bytes).expect("small");
        let (read, length) = Header::read(&bytes).expect("whole");
        assert_eq!((read, length), (Header { crc: Some(checksum(b"hello")), ..header(kind) }, bytes.len()));
        for end in 0..bytes.len() {
            assert_eq!(Header::read(&bytes[..end]), None);
        }
    }
}

#[test]
fn fields_that_are_not_known_are_passed_over_and_what_is_nested_too_deep_is_no_header() {
    let mut bytes = Vec::new();
    header(Kind::V1).write(b"hello", &mut bytes).expect("small");
    bytes.pop();
    // A list of truth values, a map, a struct in a struct, and a text, as fields 9 to 12 and more.
    bytes.extend([4 << 4 | 9, 2 << 4 | 1, 1, 0, 1 << 4 | 11, 1, 8 << 4 | 5, 1, b'x', 4]);
    bytes.extend([1 << 4 | 12, 1 << 4 | 12, 0, 0, 1 << 4 | 8, 2, b'h', b'i', 1 << 4 | 7]);
    bytes.extend([0; 8]);
    bytes.push(0);
    assert_eq!(Header::read(&bytes).map(|(_, length)| length), Some(bytes.len()));
    let deep: Vec<u8> = std::iter::repeat_n(9 << 4 | 12, 100_000).collect();
    assert_eq!(Header::read(&deep), None);
}

#[test]
fn a_page_is_held_against_its_checksum_and_its_chunk() {
    let mut chunk = Vec::new();
    header(Kind::V1).write(b"hello", &mut chunk).expect("small");
    let length = chunk.len();
    chunk.extend(b"hello");
    assert_eq!(pages(&chunk.clone().into()).expect("sound").len(), 1);
    assert!(pages(&chunk[..length + 4].to_vec().into()).expect_err("cut off").0.contains("beyond its column chunk"));
    chunk[length] ^= 1;
    assert!(pages(&chunk.into()).expect_err("flipped").0.contains("another checksum"));
    let lying = Header { packed: usize::MAX >> 1, crc: None, ..header(Kind::V1) };
    assert!(lying.write(b"", &mut Vec::new()).is_some());
}

proptest::proptest! {
    /// Whatever numbers they are: packed and unpacked they are the same, as runs and in groups.
    #[test]
    fn numbers_are_the_same_packed_and_unpacked(
        runs in proptest::collection::vec((0..1000_u32, 1..40_usize), 0..40),
        entries in 1..1000_u32,
    ) {
        let values: Vec<u32> =
            runs.iter().flat_map(|(value, count)| std::iter::repeat_n(value % entries, *count)).collect();
        let width = width_of(entries as usize);
        let mut body = vec![width as u8];
        pack(&values, width, &mut body);
        let mut out = Vec::new();
        indices(&body, values.len(), entries as usize, &mut out).expect("sound");
        proptest::prop_assert_eq!(&out, &values);
        if let Some(most) = values.iter().max() {
            proptest::prop_assert!(indices(&body, values.len(), *most as usize, &mut out).is_err());
            proptest::prop_assert!(indices(&body, values.len() + 8, entries as usize, &mut out).is_err());
        }
    }

    #[test]
    fn levels_are_the_same_written_and_read(runs in proptest::collection::vec((proptest::bool::ANY, 1..30_usize), 1..20)) {
        let mut levels = Levels::default();
        runs.iter().for_each(|(valid, count)| levels.push(*valid, *count));
        let mut bytes = Vec::new();
        levels.write(&mut bytes);
        proptest::prop_assert_eq!(Levels::read(&bytes, levels.rows), Some(levels));
    }

    /// No bytes make it panic, or take more than the limit.
    #[test]
    fn whatever_the_bytes_are_they_are_read_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = Header::read(&bytes);
        let _ = pages(&bytes.clone().into());
        let _ = indices(&bytes, 1 << 20, 10, &mut Vec::new());
        let _ = Levels::read(&bytes, 1 << 20);
        let header = Header { kind: Kind::V1, unpacked: 1 << 40, ..header(Kind::V1) };
        let mut codec = Codec::new(Compression::ZSTD(Default::default())).expect("known");
        let page = Page { header, body: bytes.into() };
        let refused = codec.opened(&page, true).expect_err("too large").0;
        proptest::prop_assert_eq!(refused, format!("a page of {} bytes", 1_u64 << 40));
    }
}
