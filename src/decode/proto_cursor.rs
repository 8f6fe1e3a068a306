//! The bytes of one message, front to back, by Protobuf's wire format.

use crate::decode::columns::utf8;
use crate::decode::fault::Fault;
use crate::decode::varint::{self, NoNumber};

/// Groups within each other that are stepped over.
const GROUPS_MAX: usize = 64;

/// How values are cut.
pub(crate) const VARINT: u8 = 0;
pub(crate) const EIGHT: u8 = 1;
pub(crate) const BLOCK: u8 = 2;
pub(crate) const GROUP: u8 = 3;
pub(crate) const GROUP_END: u8 = 4;
pub(crate) const FOUR: u8 = 5;

/// Reads one message, or a part of it.
#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Where it stands: places are those within the row, also in a message within it.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    #[cold]
    fn short(&self) -> Fault {
        Fault::row(format!(
            "malformed Protobuf: the message ends at byte {} in the middle of a value",
            self.bytes.len()
        ))
    }

    #[cold]
    fn wrong(&self, what: &str) -> Fault {
        Fault::row(format!("malformed Protobuf: {what} before byte {}", self.at))
    }

    /// What was not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    pub(crate) fn is_done(&self) -> bool {
        self.at >= self.bytes.len()
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, Fault> {
        varint::read(self.bytes, &mut self.at).map_err(|none| self.no_number(none))
    }

    #[cold]
    fn no_number(&self, none: NoNumber) -> Fault {
        match none {
            NoNumber::Short => self.short(),
            NoNumber::Long => self.wrong("a number of more than 64 bits"),
        }
    }

    /// The next field's number and wire type; `None` at the end.
    #[inline]
    pub(crate) fn tag(&mut self) -> Result<Option<(u32, u8)>, Fault> {
        if self.is_done() {
            return Ok(None);
        }
        let tag = self.varint()?;
        self.cut(tag).map(Some)
    }

    /// A tag's field number and wire type.
    #[inline]
    pub(crate) fn cut(&self, tag: u64) -> Result<(u32, u8), Fault> {
        let wire = (tag & 7) as u8;
        match u32::try_from(tag >> 3) {
            Ok(number) if number > 0 && number < 1 << 29 && wire <= FOUR => Ok((number, wire)),
            _ => Err(self.wrong("no tag of a field")),
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

    /// The bytes of a value with a length.
    #[inline]
    pub(crate) fn block(&mut self) -> Result<&'a [u8], Fault> {
        Ok(self.within()?.rest())
    }

    /// The same, to be read on.
    #[inline]
    pub(crate) fn within(&mut self) -> Result<Self, Fault> {
        let length = self.varint()?;
        let end = usize::try_from(length).ok().and_then(|length| self.at.checked_add(length));
        match end.and_then(|end| Some((end, self.bytes.get(..end)?))) {
            Some((end, bytes)) => {
                let inner = Self { bytes, at: self.at };
                self.at = end;
                Ok(inner)
            }
            None => Err(self.short()),
        }
    }

    /// The characters of a text.
    #[inline]
    pub(crate) fn text(&mut self) -> Result<&'a str, Fault> {
        utf8(self.block()?)
    }

    /// What is between the beginning of a group, which was read, and its end.
    pub(crate) fn group(&mut self, number: u32) -> Result<Self, Fault> {
        let (start, mut open) = (self.at, vec![number]);
        loop {
            let before = self.at;
            match self.tag()? {
                None => return Err(self.short()),
                Some((number, GROUP)) if open.len() < GROUPS_MAX => open.push(number),
                Some((_, GROUP)) => return Err(self.wrong("too many groups within each other")),
                Some((number, GROUP_END)) => {
                    if open.pop() != Some(number) {
                        return Err(self.wrong("the end of a group that did not begin"));
                    }
                    if open.is_empty() {
                        return Ok(Self { bytes: self.bytes.get(..before).unwrap_or_default(), at: start });
                    }
                }
                Some((number, wire)) => self.skip(number, wire)?,
            }
        }
    }

    /// Steps over a value whose tag was read.
    pub(crate) fn skip(&mut self, number: u32, wire: u8) -> Result<(), Fault> {
        match wire {
            VARINT => drop(self.varint()?),
            EIGHT => drop(self.array::<8>()?),
            BLOCK => self.within().map(|_| ())?,
            GROUP => self.group(number).map(|_| ())?,
            FOUR => drop(self.array::<4>()?),
            _ => return Err(self.wrong("the end of a group that did not begin")),
        }
        Ok(())
    }

    /// Refuses a field that is written as its type is not.
    #[cold]
    pub(crate) fn other_wire(&self, wire: u8, expected: u8) -> Fault {
        let word = |wire| match wire {
            VARINT => "a varint",
            EIGHT => "8 bytes",
            BLOCK => "bytes with a length",
            GROUP => "a group",
            FOUR => "4 bytes",
            _ => "the end of a group",
        };
        self.wrong(&format!("{} where {} should be", word(wire), word(expected)))
    }

    /// Whether all of it can be cut into fields.
    pub(crate) fn cuts_into_fields(mut self) -> bool {
        loop {
            match self.tag() {
                Ok(None) => return true,
                Ok(Some((number, wire))) if self.skip(number, wire).is_ok() => {}
                _ => return false,
            }
        }
    }
}
