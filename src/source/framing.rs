//! Bytes into rows: one a line.
//!
//! A line ends with LF or CR LF. Lines of white space alone are no rows unless it is told that they are, and empty ones
//! never are, but both count in the numbering; a byte order mark at the start is dropped; a line that is too long is refused in bounded memory. Whether bytes are UTF-8 is the decoder's
//! business.

use std::mem;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use memchr::{memchr, memchr_iter};

use crate::model::batch::{RawBatch, RawRow, Reject, Stage};
use crate::model::checkpoint::Range;
use crate::model::ids::PartitionId;

/// How rows are put together into batches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Bytes at which a batch is closed.
    pub(super) batch_bytes: usize,
    /// Rows at which a batch is closed.
    pub(super) batch_rows: usize,
    /// The longest row.
    pub(super) row_bytes_max: usize,
    /// Lines at the beginning that are no rows.
    pub(super) skip_lines: u64,
    /// Whether the line after these is no row either, but names the values of rows.
    pub(super) header: bool,
    /// Whether lines of white space alone are rows: with a blank mark between values they hold some.
    pub(super) blank_rows: bool,
}

impl Sizes {
    /// The largest row whatever is configured: a batch and one more row must be addressable with 32 bits.
    const ROW_LIMIT: usize = 1 << 30;

    /// Batches of about 1 MiB or 8,192 rows.
    pub(super) fn new(row_bytes_max: u64) -> Self {
        let row_bytes_max = usize::try_from(row_bytes_max).unwrap_or(usize::MAX).min(Self::ROW_LIMIT);
        Self { batch_bytes: 1 << 20, batch_rows: 8_192, row_bytes_max, skip_lines: 0, header: false, blank_rows: false }
    }

    /// The last line at the beginning that is no row.
    fn before(&self) -> u64 {
        self.skip_lines.saturating_add(u64::from(self.header))
    }

    /// Whether a line, without its end, is no row.
    fn is_blank(&self, line: &[u8]) -> bool {
        // Most lines begin with something; only the others are looked at whole.
        line.first().is_none_or(|first| !self.blank_rows && first.is_ascii_whitespace() && line.trim_ascii().is_empty())
    }
}

/// Consecutive rows.
#[derive(Debug, Default)]
pub(super) struct Cut {
    pub(super) data: Bytes,
    pub(super) rows: Vec<RawRow>,
    pub(super) refused: Vec<Refused>,
    /// The line that names the values, as far as there is one.
    pub(super) header: Option<Bytes>,
    /// The number of the last line that is dealt with in this cut or before it.
    pub(super) through: u64,
}

impl Cut {
    /// The rows as a batch of this range.
    pub(super) fn into_batch(self, partition: PartitionId, origin: Arc<str>, range: Range) -> RawBatch {
        let rejects = self.refused.into_iter().map(|refused| Reject {
            origin: origin.clone(),
            number: refused.number,
            stage: Stage::Source,
            field: String::new(),
            reason: refused.reason,
            raw: refused.raw,
        });
        let rejects = rejects.collect();
        RawBatch {
            partition,
            range,
            origin,
            data: self.data,
            rows: self.rows,
            rejects,
            header: self.header,
            skipped: 0,
        }
    }
}

/// A line that cannot be a row.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) number: u64,
    pub(super) reason: String,
    pub(super) raw: Bytes,
}

/// The line that is being collected.
#[derive(Debug, Default)]
enum Line {
    /// An ordinary one: its bytes end the buffer.
    #[default]
    Kept,
    /// One that is too long: its beginning and its length so far.
    Long { head: Vec<u8>, length: u64 },
    /// What follows a last line that was given without its newline.
    Tail { head: Vec<u8> },
}

/// What becomes of the line that names the values of a file's rows. It is gathered on its own: a reader that goes on within the
/// file passes over it among the lines that were dealt with, and needs it all the same.
#[derive(Debug)]
enum Header {
    /// There is none.
    None,
    /// So many lines come before it.
    Ahead(u64),
    /// Its bytes so far.
    Begun(Vec<u8>),
    /// All of it.
    Whole(Bytes),
}

impl Header {
    fn of(sizes: &Sizes) -> Self {
        match (sizes.header, sizes.skip_lines) {
            (false, _) => Self::None,
            (true, 0) => Self::Begun(Vec::new()),
            (true, before) => Self::Ahead(before),
        }
    }

    /// Takes the next bytes of the stream. One of more than `most` bytes is none.
    fn feed(&mut self, mut input: &[u8], most: usize) {
        while let Self::Ahead(before) = self {
            let Some(newline) = memchr(b'\n', input) else { return };
            input = &input[newline + 1..];
            *self = if *before > 1 { Self::Ahead(*before - 1) } else { Self::Begun(Vec::new()) };
        }
        let Self::Begun(bytes) = self else { return };
        let newline = memchr(b'\n', input);
        let piece = &input[..newline.unwrap_or(input.len())];
        // A byte order mark and a carriage return are not counted.
        if bytes.len() + piece.len() > most + BYTE_ORDER_MARK.len() + 1 {
            *self = Self::None;
            return;
        }
        bytes.extend_from_slice(piece);
        if newline.is_some() {
            *self = Self::Whole(Bytes::copy_from_slice(bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes)));
        }
    }
}

/// Cuts a stream of bytes into rows.
#[derive(Debug)]
pub(super) struct Framer {
    sizes: Sizes,
    header: Header,
    buffer: Vec<u8>,
    line_start: usize,
    line: Line,
    rows: Vec<RawRow>,
    refused: Vec<Refused>,
    refused_bytes: usize,
    /// Lines dealt with so far.
    row: u64,
    /// Bytes of the last batch.
    room: usize,
    /// `row` at the last cut.
    cut_at: u64,
    /// Lines up to this number were dealt with by an earlier reader.
    skip: u64,
    /// Whether bytes of a line to be skipped have been seen without its end.
    skipping: bool,
    /// Whether the next line is the stream's first.
    first: bool,
}

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

impl Framer {
    /// A framer at the start of a stream whose first `skip` lines are to be passed over.
    pub(super) fn skipping(sizes: Sizes, skip: u64) -> Self {
        Self { skip, cut_at: skip, ..Self::numbering(sizes, 0) }
    }

    /// A framer of a stream whose first line has the number after `row`.
    pub(super) fn numbering(sizes: Sizes, row: u64) -> Self {
        Self {
            header: Header::of(&sizes),
            sizes,
            buffer: vec![],
            line_start: 0,
            line: Line::Kept,
            rows: vec![],
            refused: vec![],
            refused_bytes: 0,
            room: 0,
            row,
            cut_at: row,
            skip: 0,
            skipping: false,
            first: true,
        }
    }

    /// As `feed`, without copying more than the first batch: the others share `input`'s memory.
    pub(super) fn feed_shared(&mut self, mut input: Bytes, cuts: &mut Vec<Cut>) {
        self.header.feed(&input, self.sizes.row_bytes_max);
        while !input.is_empty() {
            let own = !self.buffer.is_empty() || !matches!(self.line, Line::Kept) || self.first || self.row < self.skip;
            let taken = if own { self.feed_until_cut(&input, cuts) } else { self.share(&input, cuts) };
            input.advance(taken);
        }
    }

    /// Cuts one batch out of `input`, which begins with a line; says how far it went. What is no whole line is copied.
    fn share(&mut self, input: &Bytes, cuts: &mut Vec<Cut>) -> usize {
        let mut line_start = 0;
        for newline in memchr_iter(b'\n', input) {
            self.take_row(input, line_start, newline);
            line_start = newline + 1;
            if line_start + self.refused_bytes >= self.sizes.batch_bytes || self.has_rows_enough() {
                break;
            }
        }
        if line_start == 0 {
            return self.feed_until_cut(input, cuts);
        }
        let cut = self.cut_from(input.slice(..line_start));
        cuts.push(cut);
        line_start
    }

    /// Takes the next bytes; finished batches go to `cuts`.
    pub(super) fn feed(&mut self, mut input: &[u8], cuts: &mut Vec<Cut>) {
        self.header.feed(input, self.sizes.row_bytes_max);
        while !input.is_empty() {
            let taken = self.feed_until_cut(input, cuts);
            input = &input[taken..];
        }
    }

    /// Takes bytes until a batch is full; says how many.
    fn feed_until_cut(&mut self, input: &[u8], cuts: &mut Vec<Cut>) -> usize {
        let whole = input.len();
        let mut input = input;
        while !input.is_empty() {
            let newline = memchr(b'\n', input);
            let (piece, rest) = newline.map_or((input, &[][..]), |at| (&input[..at], &input[at + 1..]));
            if self.row < self.skip {
                self.row += u64::from(newline.is_some());
                self.skipping = newline.is_none();
                self.first = false;
            } else {
                self.collect(piece);
                if newline.is_some() {
                    self.end_line();
                    if self.buffer.len() + self.refused_bytes >= self.sizes.batch_bytes || self.has_rows_enough() {
                        cuts.extend(self.cut());
                        return whole - rest.len();
                    }
                }
            }
            input = rest;
        }
        whole
    }

    /// The rows since the last cut, if any line was dealt with.
    pub(super) fn cut(&mut self) -> Option<Cut> {
        if self.row <= self.cut_at {
            return None;
        }
        let rest = self.buffer.split_off(self.line_start);
        let data = mem::replace(&mut self.buffer, rest);
        self.line_start = 0;
        Some(self.cut_from(data.into()))
    }

    fn cut_from(&mut self, data: Bytes) -> Cut {
        self.room = data.len().min(self.sizes.batch_bytes);
        self.refused_bytes = 0;
        self.cut_at = self.row;
        let header = match &self.header {
            Header::Whole(line) => Some(line.clone()),
            _ => None,
        };
        Cut { data, rows: mem::take(&mut self.rows), refused: mem::take(&mut self.refused), header, through: self.row }
    }

    /// Takes a last line without newline for a row; bytes that follow after all are refused, not lost in silence.
    pub(super) fn finish_line(&mut self) {
        let begun = match &self.line {
            Line::Kept => self.buffer.len() > self.line_start,
            Line::Long { .. } => true,
            Line::Tail { .. } => false,
        };
        if begun {
            self.end_line();
            self.line = Line::Tail { head: vec![] };
        }
    }

    /// Ends the stream: the last rows, and what followed a line that had been given already.
    pub(super) fn finish(&mut self) -> Option<Cut> {
        self.finish_line();
        if matches!(self.line, Line::Tail { .. }) {
            self.end_line();
        }
        self.rest()
    }

    /// Ends the stream early: the rows before, and one refusal for whatever would have come.
    pub(super) fn abandon(&mut self, reason: String) -> Option<Cut> {
        let mut head = match mem::take(&mut self.line) {
            Line::Kept => self.buffer.split_off(self.line_start),
            Line::Long { head, .. } | Line::Tail { head } => head,
        };
        head.truncate(Reject::RAW_MAX);
        self.refuse(self.row.max(self.skip) + 1, reason, head);
        self.rest()
    }

    fn rest(&mut self) -> Option<Cut> {
        let refused = mem::take(&mut self.refused);
        let mut cut = self.cut();
        if cut.is_none() && !refused.is_empty() {
            cut = Some(Cut { through: self.row.max(self.skip), ..Cut::default() });
        }
        if let Some(cut) = &mut cut {
            cut.refused = refused;
        }
        cut
    }

    /// At the stream's end: whether all lines to be skipped were there. The last of them may lack its newline: it was given
    /// as the stream's last line then.
    pub(super) fn has_skipped(&mut self) -> bool {
        if self.skipping && self.row + 1 == self.skip {
            self.row += 1;
            self.skipping = false;
            self.line = Line::Tail { head: vec![] };
        }
        self.row >= self.skip
    }

    /// Lines dealt with so far.
    pub(super) fn row(&self) -> u64 {
        self.row
    }

    fn has_rows_enough(&self) -> bool {
        self.rows.len() + self.refused.len() >= self.sizes.batch_rows
    }

    fn collect(&mut self, piece: &[u8]) {
        match &mut self.line {
            Line::Kept => {
                let held = self.buffer.len() - self.line_start;
                // A byte order mark and a carriage return are not counted.
                if held + piece.len() > self.sizes.row_bytes_max + BYTE_ORDER_MARK.len() + 1 {
                    let mut head = self.buffer.split_off(self.line_start);
                    head.truncate(Reject::RAW_MAX);
                    extend_head(&mut head, piece);
                    self.line = Line::Long { head, length: (held as u64).saturating_add(piece.len() as u64) };
                } else {
                    if self.buffer.is_empty() {
                        // As much as the last batch and a little more: a small file does not hold a large buffer.
                        self.buffer.reserve(self.room + self.room / 16 + piece.len());
                    }
                    self.buffer.extend_from_slice(piece);
                }
            }
            Line::Long { head, length } => {
                extend_head(head, piece);
                *length = length.saturating_add(piece.len() as u64);
            }
            Line::Tail { head } => extend_head(head, piece),
        }
    }

    fn end_line(&mut self) {
        let first = mem::take(&mut self.first);
        match mem::take(&mut self.line) {
            Line::Kept => {
                let buffer = mem::take(&mut self.buffer);
                let marked = first && buffer[self.line_start..].starts_with(BYTE_ORDER_MARK);
                let start = self.line_start + if marked { BYTE_ORDER_MARK.len() } else { 0 };
                let kept = self.take_row(&buffer, start, buffer.len());
                self.buffer = buffer;
                if kept {
                    self.buffer.push(b'\n');
                    self.line_start = self.buffer.len();
                } else {
                    self.buffer.truncate(self.line_start);
                }
            }
            Line::Long { head, length } => {
                self.row += 1;
                if self.row > self.sizes.before() {
                    self.refuse_long(length, head);
                }
            }
            Line::Tail { head } => {
                if !self.sizes.is_blank(head.strip_suffix(b"\r").unwrap_or(&head)) {
                    let reason = "the file's last line went on after it had been read".to_owned();
                    self.refuse(self.row, reason, head);
                }
            }
        }
    }

    /// Takes the line at `start..end` of `data`; says whether it is a row.
    fn take_row(&mut self, data: &[u8], start: usize, end: usize) -> bool {
        self.row += 1;
        if self.row <= self.sizes.before() {
            return false;
        }
        let line = &data[start..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > self.sizes.row_bytes_max {
            self.refuse_long(line.len() as u64, line[..line.len().min(Reject::RAW_MAX)].to_vec());
            return false;
        }
        let blank = self.sizes.is_blank(line);
        match (u32::try_from(start), u32::try_from(start + line.len())) {
            (Ok(start), Ok(end)) if !blank => {
                self.rows.push(RawRow { start, end, number: self.row, ..RawRow::default() });
                true
            }
            _ => false,
        }
    }

    fn refuse_long(&mut self, length: u64, head: Vec<u8>) {
        let most = self.sizes.row_bytes_max;
        self.refuse(self.row, format!("the row has {length} bytes, more than row_bytes_max = {most}"), head);
    }

    fn refuse(&mut self, number: u64, reason: String, head: Vec<u8>) {
        self.refused_bytes += head.len();
        self.refused.push(Refused { number, reason, raw: head.into() });
    }
}

fn extend_head(head: &mut Vec<u8>, piece: &[u8]) {
    let room = Reject::RAW_MAX.saturating_sub(head.len());
    head.extend_from_slice(&piece[..piece.len().min(room)]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sizes(row_bytes_max: usize) -> Sizes {
        Sizes { batch_bytes: 64, batch_rows: 4, row_bytes_max, skip_lines: 0, header: false, blank_rows: false }
    }

    type Numbered = Vec<(u64, String)>;

    /// The rows and the refusals.
    fn frame(framer: &mut Framer, pieces: &[&[u8]]) -> (Numbered, Numbered) {
        let mut cuts = vec![];
        for (number, piece) in pieces.iter().enumerate() {
            if number % 2 == 0 {
                framer.feed_shared(Bytes::copy_from_slice(piece), &mut cuts);
            } else {
                framer.feed(piece, &mut cuts);
            }
        }
        cuts.extend(framer.finish());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let rows = cuts.iter().flat_map(|cut| {
            cut.rows.iter().map(|row| (row.number, text(&cut.data[row.start as usize..row.end as usize])))
        });
        let refused = cuts.iter().flat_map(|cut| cut.refused.iter().map(|r| (r.number, r.reason.clone())));
        (rows.collect(), refused.collect())
    }

    fn numbered(rows: &[(u64, &str)]) -> Numbered {
        rows.iter().map(|(number, text)| (*number, (*text).to_owned())).collect()
    }

    #[test]
    fn lines_at_the_beginning_that_are_no_rows_count_in_the_numbering() {
        let sizes = Sizes { skip_lines: 2, ..sizes(100) };
        let framed = |framer: &mut Framer| frame(framer, &[b"id,name\nunits", b"\n1,a\n2,b\n"]).0;
        let rows = vec![(3, "1,a".to_owned()), (4, "2,b".to_owned())];
        assert_eq!(framed(&mut Framer::numbering(sizes, 0)), rows);
        // A reader that goes on within the file skips no more for it.
        assert_eq!(framed(&mut Framer::skipping(sizes, 3)), rows[1..]);
    }

    #[test]
    fn the_line_that_names_the_values_is_found_wherever_reading_goes_on_and_however_bytes_come() {
        let file = b"\xef\xbb\xbfnote\nid,name\r\n1,a\n2,b\n3,c\n4,d\n5,e\n6,f\n7,g\n8,h";
        for size in 1..file.len() {
            for skip in 0..9 {
                let mut framer = Framer::skipping(Sizes { skip_lines: 1, header: true, ..sizes(100) }, skip);
                let mut cuts = vec![];
                for (number, piece) in file.chunks(size).enumerate() {
                    if number % 2 == 0 {
                        framer.feed_shared(Bytes::copy_from_slice(piece), &mut cuts);
                    } else {
                        framer.feed(piece, &mut cuts);
                    }
                }
                cuts.extend(framer.finish());
                let numbers: Vec<u64> = cuts.iter().flat_map(|cut| cut.rows.iter().map(|row| row.number)).collect();
                assert_eq!(numbers, (skip.max(2) + 1..=10).collect::<Vec<_>>(), "{size} {skip}");
                let named = |cut: &Cut| cut.rows.is_empty() || cut.header.as_deref() == Some(b"id,name\r");
                assert!(cuts.iter().all(named), "{size} {skip}: {cuts:?}");
            }
        }
        let header = |row_bytes_max, file: &[u8]| {
            let mut framer = Framer::skipping(Sizes { header: true, ..sizes(row_bytes_max) }, 0);
            framer.feed(file, &mut vec![]);
            let cut = framer.finish().unwrap_or_default();
            (cut.header.map(|line| line.to_vec()), cut.rows.len(), cut.refused.len())
        };
        assert_eq!(header(9, b"\xef\xbb\xbfa\n1"), (Some(b"a".to_vec()), 1, 0));
        assert_eq!(header(9, b"\n1\n"), (Some(vec![]), 1, 0));
        assert_eq!(header(9, b"a,b"), (None, 0, 0));
        assert_eq!(header(9, b"01234567890123\n1\n"), (None, 1, 0), "one that is too long names nothing");
    }

    #[test]
    fn blank_lines_carriage_returns_and_a_byte_order_mark_are_no_part_of_rows() {
        let (rows, refused) =
            frame(&mut Framer::skipping(sizes(9), 0), &[b"\xef\xbb", b"\xbfa\r\n\r\n  \n\nb\r", b"\nc"]);
        assert_eq!((rows, refused), (numbered(&[(1, "a"), (5, "b"), (6, "c")]), vec![]));
    }

    #[test]
    fn lines_of_white_space_are_rows_where_it_stands_between_values() {
        let blank_rows = || Sizes { blank_rows: true, ..sizes(9) };
        let (rows, refused) =
            frame(&mut Framer::skipping(blank_rows(), 0), &[b"\xef\xbb\xbf\r\n\t\t\r\n\n", b"  \n\r\n\t"]);
        assert_eq!((rows, refused), (numbered(&[(2, "\t\t"), (4, "  "), (6, "\t")]), vec![]));
        // What follows a line that was given already is not lost in silence either.
        let mut framer = Framer::skipping(blank_rows(), 0);
        framer.feed(b"a\tb", &mut vec![]);
        framer.finish_line();
        assert_eq!(framer.cut().expect("a row").rows.len(), 1);
        assert_eq!(frame(&mut framer, &[b"\t", b"\r\n"]).1.len(), 1);
    }

    #[test]
    fn a_row_of_the_longest_length_passes_and_one_byte_more_is_refused() {
        let (rows, refused) = frame(&mut Framer::skipping(sizes(3), 0), &[b"abc\r\nabcd\nabcdefghijklmn\nab\n"]);
        assert_eq!(rows, numbered(&[(1, "abc"), (4, "ab")]));
        let reason = |n| format!("the row has {n} bytes, more than row_bytes_max = 3");
        assert_eq!(refused, [(2, reason(4)), (3, reason(14))]);
    }

    #[test]
    fn a_row_without_end_is_held_in_bounded_memory() {
        let mut framer = Framer::skipping(sizes(1_000), 0);
        for _ in 0..1_000 {
            framer.feed_shared(Bytes::from_static(&[b'x'; 10_000]), &mut vec![]);
            let head = if let Line::Long { head, .. } = &framer.line { head.capacity() } else { 0 };
            assert!(framer.buffer.capacity() + head <= 2 * Reject::RAW_MAX + 10_000);
        }
        assert_eq!(framer.finish().expect("a refusal").refused[0].raw.len(), Reject::RAW_MAX);
    }

    #[test]
    fn later_batches_of_plain_bytes_share_their_memory() {
        let input = Bytes::from("0123456789\n".repeat(30));
        let mut cuts = vec![];
        Framer::skipping(sizes(100), 0).feed_shared(input.clone(), &mut cuts);
        let shared = cuts.iter().filter(|cut| input.as_ptr_range().contains(&cut.data.as_ptr())).count();
        assert_eq!((cuts.len(), shared), (8, 7));
        assert_eq!(cuts.iter().map(|cut| cut.rows.len()).sum::<usize>(), 30);
    }

    #[test]
    fn a_last_line_that_goes_on_later_is_refused_with_what_came() {
        let mut framer = Framer::skipping(sizes(9), 0);
        let mut cuts = vec![];
        framer.feed(b"a\nb", &mut cuts);
        framer.finish_line();
        assert_eq!(framer.cut().expect("rows").through, 2);
        let (rows, refused) = frame(&mut framer, &[b"x\nc\n"]);
        assert_eq!(rows, numbered(&[(3, "c")]));
        assert_eq!(refused, numbered(&[(2, "the file's last line went on after it had been read")]));
    }

    #[test]
    fn a_last_line_that_only_gets_its_newline_later_is_one_row() {
        let mut framer = Framer::skipping(sizes(9), 0);
        framer.feed(b"a", &mut vec![]);
        framer.finish_line();
        assert_eq!(framer.cut().expect("a row").rows.len(), 1);
        assert_eq!(frame(&mut framer, &[b"\r", b"\nb"]), (numbered(&[(2, "b")]), vec![]));
    }

    #[test]
    fn a_last_line_without_newline_counts_as_skipped() {
        let mut framer = Framer::skipping(sizes(9), 2);
        framer.feed(b"a\nb", &mut vec![]);
        assert!(framer.has_skipped());
        assert_eq!(frame(&mut framer, &[b"\nc"]), (numbered(&[(3, "c")]), vec![]));
        let mut framer = Framer::skipping(sizes(9), 3);
        framer.feed(b"a\nb", &mut vec![]);
        assert!(!framer.has_skipped());
    }

    proptest! {
        #[test]
        fn rows_do_not_depend_on_how_the_bytes_arrive(
            lines in prop::collection::vec("[a-z]{0,12}\r?", 0..40),
            chunk in 1_usize..300,
            skip in 0_usize..50,
            ended: bool,
        ) {
            let mut input = lines.join("\n");
            if ended && !lines.is_empty() {
                input.push('\n');
            }
            let skip = skip.min(lines.len().saturating_sub(1));
            let pieces: Vec<&[u8]> = input.as_bytes().chunks(chunk).collect();
            let (rows, refused) = frame(&mut Framer::skipping(sizes(8), skip as u64), &pieces);
            let lines: Vec<(u64, String)> = (1..).zip(lines.iter().map(|l| l.strip_suffix('\r').unwrap_or(l).to_owned())).collect();
            let expected: Vec<_> =
                lines.iter().skip(skip).filter(|(_, l)| !l.is_empty() && l.len() <= 8).cloned().collect();
            prop_assert_eq!(rows, expected);
            prop_assert_eq!(refused.len(), lines.iter().skip(skip).filter(|(_, l)| l.len() > 8).count());
        }
    }
}
