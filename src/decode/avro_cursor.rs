//! The bytes of one datum, front to back, by Avro's binary encoding.

use crate::decode::avro_schema::{AvroType, Union};
use crate::decode::columns::utf8;
use crate::decode::fault::Fault;
use crate::decode::varint::{self, NoNumber};

/// Reads one datum.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    #[cold]
    fn short(&self) -> Fault {
        Fault::row(format!("malformed Avro: the row ends at byte {} in the middle of a value", self.bytes.len()))
    }

    #[cold]
    fn wrong(&self, what: &str) -> Fault {
        Fault::row(format!("malformed Avro: {what} before byte {}", self.at))
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    #[inline]
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        match self.bytes.get(self.at..).and_then(|rest| rest.get(..count)) {
            Some(taken) => {
                self.at += count;
                Ok(taken)
            }
            None => Err(self.short()),
        }
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        match self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>()) {
            Some(taken) => {
                self.at += N;
                Ok(*taken)
            }
            None => Err(self.short()),
        }
    }

    #[inline]
    pub(crate) fn boolean(&mut self) -> Result<bool, Fault> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(self.wrong("a boolean that is neither 0 nor 1")),
        }
    }

    /// A `long`: zig-zag, seven bits a byte.
    #[inline]
    pub(crate) fn long(&mut self) -> Result<i64, Fault> {
        match varint::read(self.bytes, &mut self.at) {
            Ok(value) => Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed())),
            Err(none) => Err(self.no_number(none)),
        }
    }

    #[cold]
    fn no_number(&self, none: NoNumber) -> Fault {
        match none {
            NoNumber::Short => self.short(),
            NoNumber::Long => self.wrong("a number of more than 64 bits"),
        }
    }

    #[inline]
    pub(crate) fn int(&mut self) -> Result<i32, Fault> {
        let value = self.long()?;
        i32::try_from(value).map_err(|_| self.wrong("an int of more than 32 bits"))
    }

    /// The bytes of a `bytes` or `string`.
    #[inline]
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.long()?;
        match usize::try_from(length) {
            Ok(length) => self.take(length),
            Err(_) => Err(self.wrong("a negative length")),
        }
    }

    /// The characters of a `string`.
    #[inline]
    pub(crate) fn text(&mut self) -> Result<&'a str, Fault> {
        utf8(self.bytes()?)
    }

    /// The index of the branch of a union of two.
    #[inline]
    pub(crate) fn either(&mut self) -> Result<usize, Fault> {
        match self.bytes.get(self.at) {
            Some(byte) if *byte == 0 || *byte == 2 => {
                self.at += 1;
                Ok(usize::from(*byte >> 1))
            }
            _ => self.index(2),
        }
    }

    /// The index of a union's branch or an enum's symbol, of which there are `count`.
    #[inline]
    pub(crate) fn index(&mut self, count: usize) -> Result<usize, Fault> {
        let index = self.long()?;
        match usize::try_from(index) {
            Ok(index) if index < count => Ok(index),
            _ => Err(self.wrong(&format!("choice {index} of {count}"))),
        }
    }

    /// The number of items in the next block of an array or map; 0 at its end.
    pub(crate) fn block(&mut self) -> Result<usize, Fault> {
        let mut count = self.long()?;
        if count < 0 {
            self.long()?; // how many bytes, for those who skip
            count = count.checked_neg().unwrap_or(i64::MAX);
        }
        match usize::try_from(count) {
            // Every item has a byte at least: a count alone must not keep us busy.
            Ok(count) if count <= self.left() => Ok(count),
            _ => Err(self.wrong("a block of more items than bytes are left")),
        }
    }

    /// Checks that nothing is left.
    pub(crate) fn end(&self) -> Result<(), Fault> {
        match self.left() {
            0 => Ok(()),
            left => Err(Fault::row(format!("malformed Avro: {left} bytes more than the schema has fields for"))),
        }
    }

    /// The bytes of any value, which are looked into.
    pub(crate) fn slice(&mut self, kind: &AvroType) -> Result<&'a [u8], Fault> {
        let from = self.at;
        self.skip(kind)?;
        self.bytes.get(from..self.at).ok_or_else(|| self.short())
    }

    /// Reads any value; says whether it holds something: is neither null nor empty all the way down.
    pub(crate) fn skip(&mut self, kind: &AvroType) -> Result<bool, Fault> {
        match kind {
            AvroType::Null | AvroType::Fixed { size: 0, .. } => return Ok(false),
            AvroType::Boolean => drop(self.boolean()?),
            AvroType::Int | AvroType::Date | AvroType::TimeMillis => drop(self.int()?),
            AvroType::Long | AvroType::TimeMicros | AvroType::TimeNanos | AvroType::Timestamp { .. } => {
                self.long()?;
            }
            AvroType::Float => drop(self.array::<4>()?),
            AvroType::Double => drop(self.array::<8>()?),
            AvroType::String | AvroType::Uuid | AvroType::Moment(_) => drop(self.text()?),
            AvroType::Bytes | AvroType::Decimal { width: None, .. } | AvroType::ScaledDecimal(Some(_)) => {
                self.bytes()?;
            }
            AvroType::ScaledDecimal(None) => {
                self.int()?;
                self.bytes()?;
            }
            AvroType::Decimal { width: Some(size), .. } | AvroType::Fixed { size, .. } => drop(self.take(*size)?),
            AvroType::Enum(symbols) => drop(self.index(symbols.len())?),
            AvroType::Record(record) => {
                let mut holds = false;
                for (name, kind) in &record.fields {
                    holds |= self.skip(kind).map_err(|fault| fault.in_field(name))?;
                }
                return Ok(holds);
            }
            AvroType::Array(item) => {
                let mut holds = false;
                loop {
                    match self.block()? {
                        0 => return Ok(holds),
                        count => {
                            for _ in 0..count {
                                let before = self.at;
                                holds |= self.skip(item)?;
                                // Nor do the others take bytes: nothing limits how many they are said to be.
                                if self.at == before {
                                    break;
                                }
                            }
                        }
                    }
                }
            }
            AvroType::Map(value) => {
                let mut holds = false;
                loop {
                    match self.block()? {
                        0 => return Ok(holds),
                        count => {
                            for _ in 0..count {
                                self.text()?;
                                holds |= self.skip(value)?;
                            }
                        }
                    }
                }
            }
            AvroType::Union(branches) => {
                let index = self.index(branches.len())?;
                let branch = branches.get(index).ok_or_else(|| self.short())?;
                return match AvroType::union(branches) {
                    Union::Nothing => Ok(false),
                    _ => self.skip(&branch.kind),
                };
            }
        }
        Ok(true)
    }
}

/// What a value is behind the choices of unions; none where it is null, or malformed.
pub(crate) fn present<'t, 'a>(kind: &'t AvroType, value: &'a [u8]) -> Option<(&'t AvroType, &'a [u8])> {
    match kind {
        AvroType::Null => None,
        AvroType::Union(branches) => {
            let mut cursor = Cursor::new(value);
            let branch = branches.get(cursor.index(branches.len()).ok()?)?;
            present(&branch.kind, value.get(cursor.at..)?)
        }
        kind => Some((kind, value)),
    }
}
