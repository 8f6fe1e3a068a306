//! Compressed bytes into plain ones, piece by piece: gzip and zstd with any number of members or frames.
//!
//! What a file is decides its first bytes; a name that promises compression is held to it.

use std::io::{self, BufRead, Read};

use bytes::{Buf, Bytes};
use flate2::bufread::MultiGzDecoder;
use zstd::stream::raw::{Decoder as ZstdDecoder, InBuffer, Operation, OutBuffer};

/// How a file's bytes are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// What unpacking gave.
#[derive(Debug)]
pub(super) enum Piece {
    /// So many bytes at the start of the room.
    Filled(usize),
    /// Plain bytes, as they came.
    Whole(Bytes),
    /// More input is needed.
    Starved,
    /// The input has ended, and well.
    End,
}

/// Unpacks one file.
pub(super) struct Inflate {
    named: Packing,
    state: State,
    input: Input,
}

enum State {
    Undecided,
    Plain,
    Gzip(Box<MultiGzDecoder<Input>>),
    Zstd {
        decoder: Box<ZstdDecoder<'static>>,
        /// Whether the input so far ends with a frame.
        whole: bool,
        /// Whether the decoder may hold bytes that did not fit into the room.
        full: bool,
    },
}

/// What is there of the packed bytes.
#[derive(Debug, Default)]
struct Input {
    bytes: Bytes,
    ended: bool,
}

impl Read for Input {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.len().min(room.len());
        self.bytes.copy_to_slice(&mut room[..count]);
        Ok(count)
    }
}

impl BufRead for Input {
    /// "Would block" until bytes come or the end is known, which decoders bear without losing their state.
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.bytes.is_empty() && !self.ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(&self.bytes)
    }

    fn consume(&mut self, count: usize) {
        self.bytes.advance(count.min(self.bytes.len()));
    }
}

impl Input {
    fn push(&mut self, bytes: Bytes) {
        self.bytes = if self.bytes.is_empty() { bytes } else { [&self.bytes[..], &bytes[..]].concat().into() };
    }
}

impl Packing {
    fn of_name(name: &str) -> Self {
        let ends = |suffix: &str| {
            name.len() >= suffix.len()
                && name.as_bytes()[name.len() - suffix.len()..].eq_ignore_ascii_case(suffix.as_bytes())
        };
        if ends(".gz") || ends(".gzip") {
            Self::Gzip
        } else if ends(".zst") || ends(".zstd") {
            Self::Zstd
        } else {
            Self::Plain
        }
    }

    /// What begins with `head`; `None` while that is too short to say. Skippable frames may precede zstd's own.
    fn of_head(head: &[u8], ended: bool) -> Option<Self> {
        let frame = |first: &[u8]| -> Option<bool> {
            let zstd = [0x28, 0xb5, 0x2f, 0xfd];
            let skippable = first[0] & 0xf0 == 0x50 && [0x2a, 0x4d, 0x18].iter().zip(&first[1..]).all(|(a, b)| a == b);
            match zstd.starts_with(first) || skippable {
                true if first.len() == zstd.len() => Some(true),
                true if !ended => None,
                _ => Some(false),
            }
        };
        match head {
            [] => ended.then_some(Self::Plain),
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x1f] if !ended => None,
            _ => frame(&head[..head.len().min(4)]).map(|zstd| if zstd { Self::Zstd } else { Self::Plain }),
        }
    }
}

impl Inflate {
    /// Unpacks what a file of this name holds.
    pub(super) fn new(name: &str) -> Self {
        Self { named: Packing::of_name(name), state: State::Undecided, input: Input::default() }
    }

    /// Whether the file is compressed, as far as known.
    pub(super) fn is_packed(&self) -> bool {
        matches!(self.state, State::Gzip(_) | State::Zstd { .. })
    }

    /// Adds the next packed bytes.
    pub(super) fn push(&mut self, bytes: Bytes) {
        match &mut self.state {
            State::Gzip(decoder) => decoder.get_mut().push(bytes),
            _ => self.input.push(bytes),
        }
    }

    /// Says that no more bytes come.
    pub(super) fn end(&mut self) {
        match &mut self.state {
            State::Gzip(decoder) => decoder.get_mut().ended = true,
            _ => self.input.ended = true,
        }
    }

    /// The next plain bytes, unpacked into `room` (which is not empty) where they are packed.
    ///
    /// # Errors
    /// What is wrong with the packed bytes, as a sentence.
    pub(super) fn pull(&mut self, room: &mut [u8]) -> Result<Piece, String> {
        if matches!(self.state, State::Undecided) && !self.decide()? {
            return Ok(Piece::Starved);
        }
        match &mut self.state {
            State::Undecided => Ok(Piece::Starved),
            State::Plain if self.input.bytes.is_empty() => {
                Ok(if self.input.ended { Piece::End } else { Piece::Starved })
            }
            State::Plain => Ok(Piece::Whole(std::mem::take(&mut self.input.bytes))),
            State::Gzip(decoder) => match decoder.read(room) {
                Ok(0) => Ok(Piece::End),
                Ok(count) => Ok(Piece::Filled(count)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Piece::Starved),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err("the gzip stream is cut off".to_owned()),
                Err(e) => Err(format!("the gzip stream is damaged: {e}")),
            },
            State::Zstd { decoder, whole, full } => unpack_zstd(decoder, &mut self.input, whole, full, room),
        }
    }

    /// Decides from the first bytes what the file is; says whether it could.
    fn decide(&mut self) -> Result<bool, String> {
        let Some(found) = Packing::of_head(&self.input.bytes, self.input.ended) else { return Ok(false) };
        let empty = self.input.bytes.is_empty();
        self.state = match found {
            Packing::Plain if self.named == Packing::Plain || empty => State::Plain,
            Packing::Plain => {
                let promised = if self.named == Packing::Gzip { "gzip" } else { "zstd" };
                return Err(format!("the file is named as {promised} and is not"));
            }
            Packing::Gzip => State::Gzip(Box::new(MultiGzDecoder::new(std::mem::take(&mut self.input)))),
            Packing::Zstd => {
                let decoder = ZstdDecoder::new().map_err(|e| format!("no zstd decoder: {e}"))?;
                State::Zstd { decoder: Box::new(decoder), whole: true, full: false }
            }
        };
        Ok(true)
    }
}

fn unpack_zstd(
    decoder: &mut ZstdDecoder<'static>,
    input: &mut Input,
    whole: &mut bool,
    full: &mut bool,
    room: &mut [u8],
) -> Result<Piece, String> {
    loop {
        if input.bytes.is_empty() && !*full {
            return match (input.ended, *whole) {
                (false, _) => Ok(Piece::Starved),
                (true, true) => Ok(Piece::End),
                (true, false) => Err("the zstd stream is cut off".to_owned()),
            };
        }
        let mut source = InBuffer::around(&input.bytes);
        let mut target = OutBuffer::around(&mut *room);
        let left = decoder.run(&mut source, &mut target).map_err(|e| format!("the zstd stream is damaged: {e}"))?;
        let (consumed, filled) = (source.pos(), target.pos());
        input.consume(consumed);
        *whole = left == 0;
        *full = filled == room.len() && left != 0;
        if filled > 0 {
            return Ok(Piece::Filled(filled));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        encoder.write_all(text).expect("to memory");
        encoder.finish().expect("to memory")
    }

    fn unpack(name: &str, packed: &[u8], chunk: usize, room: usize) -> (Vec<u8>, Result<(), String>) {
        let (mut inflate, mut plain, mut room) = (Inflate::new(name), vec![], vec![0; room]);
        let mut chunks = packed.chunks(chunk);
        loop {
            match inflate.pull(&mut room) {
                Ok(Piece::Filled(count)) => plain.extend_from_slice(&room[..count]),
                Ok(Piece::Whole(bytes)) => plain.extend_from_slice(&bytes),
                Ok(Piece::Starved) => match chunks.next() {
                    Some(chunk) => inflate.push(Bytes::copy_from_slice(chunk)),
                    None => inflate.end(),
                },
                Ok(Piece::End) => return (plain, Ok(())),
                Err(reason) => return (plain, Err(reason)),
            }
        }
    }

    proptest! {
        #[test]
        fn any_members_in_any_pieces_unpack_to_the_whole(
            members in prop::collection::vec(prop::collection::vec(prop::sample::select(b"ab\n".to_vec()), 0..3_000), 1..4),
            chunk in 1_usize..400,
            room in 1_usize..500,
            kind in 0..3,
        ) {
            let pack = |text: &Vec<u8>| match kind {
                0 => gzip(text),
                1 => zstd::encode_all(&text[..], 1).expect("to memory"),
                _ => text.clone(),
            };
            let packed: Vec<u8> = members.iter().flat_map(pack).collect();
            let (plain, end) = unpack("a.ndjson", &packed, chunk, room);
            prop_assert_eq!(end, Ok(()));
            prop_assert_eq!(plain, members.concat());
        }

        #[test]
        fn a_cut_off_stream_gives_a_prefix_and_says_so(cut in 1_usize..200, kind: bool, chunk in 1_usize..100) {
            let text: Vec<u8> = (0_u32..4_000).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
            let packed = if kind { gzip(&text) } else { zstd::encode_all(&text[..], 1).expect("to memory") };
            let (plain, end) = unpack("a", &packed[..packed.len() - cut], chunk, 512);
            prop_assert!(text.starts_with(&plain));
            prop_assert!(end.expect_err("cut off").contains("cut off"));
        }
    }

    #[test]
    fn skippable_frames_are_passed_over() {
        let mut packed = vec![0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9];
        packed.extend(zstd::encode_all(&b"x"[..], 1).expect("to memory"));
        assert_eq!(unpack("a.zst", &packed, 1, 8), (b"x".to_vec(), Ok(())));
    }

    #[test]
    fn a_name_that_promises_compression_is_held_to_it_unless_the_file_is_empty() {
        assert_eq!(unpack("a.GZ", b"{}", 8, 8), (vec![], Err("the file is named as gzip and is not".into())));
        assert_eq!(unpack("a.zst", b"", 8, 8), (vec![], Ok(())));
    }

    #[test]
    fn damage_in_the_middle_is_an_error() {
        let mut packed = gzip(&[b'a'; 9_000]);
        let end = packed.len() - 6;
        packed[end] ^= 1;
        assert!(unpack("a", &packed, 16, 64).1.expect_err("damaged").contains("damaged"));
    }
}
