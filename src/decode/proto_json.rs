//! `google.protobuf.Struct`, `Value` and `ListValue` as the JSON that they stand for.

use std::fmt::Write;

use crate::decode::fault::Fault;
use crate::decode::proto_cursor::{BLOCK, Cursor, EIGHT, VARINT};
use crate::decode::proto_schema::Dynamic;
use crate::decode::scan::DEPTH_MAX;

/// Integers up to here are written without a point: a double holds each of them.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// Appends the JSON text of the message that is the rest of `cursor`.
pub(crate) fn write(dynamic: Dynamic, cursor: Cursor<'_>, out: &mut String) -> Result<(), Fault> {
    Writer { out, depth: 0 }.any(dynamic, cursor)
}

struct Writer<'o> {
    out: &'o mut String,
    /// Objects and arrays around what comes next.
    depth: usize,
}

impl Writer<'_> {
    fn any(&mut self, dynamic: Dynamic, cursor: Cursor<'_>) -> Result<(), Fault> {
        if dynamic == Dynamic::Value {
            return self.value(cursor);
        }
        if self.depth == DEPTH_MAX {
            return Err(Fault::value(format!("nested deeper than {DEPTH_MAX} levels")));
        }
        self.depth += 1;
        if dynamic == Dynamic::Struct {
            self.entries(cursor)?
        } else {
            self.items(cursor)?
        }
        self.depth -= 1;
        Ok(())
    }

    fn entries(&mut self, mut cursor: Cursor<'_>) -> Result<(), Fault> {
        self.out.push('{');
        let mut keys = Vec::new();
        while let Some((number, wire)) = cursor.tag()? {
            if number != 1 || wire != BLOCK {
                cursor.skip(number, wire)?;
                continue;
            }
            let (mut entry, mut key, mut value) = (cursor.within()?, "", Cursor::new(&[]));
            while let Some((number, wire)) = entry.tag()? {
                match (number, wire) {
                    (1, BLOCK) => key = entry.text()?,
                    (2, BLOCK) => value = entry.within()?,
                    _ => entry.skip(number, wire)?,
                }
            }
            if !keys.is_empty() {
                self.out.push(',');
            }
            keys.push(key);
            self.text(key);
            self.out.push(':');
            self.any(Dynamic::Value, value)?;
        }
        keys.sort_unstable();
        if keys.windows(2).any(|pair| pair.first() == pair.last()) {
            return Err(Fault::value("duplicate key"));
        }
        self.out.push('}');
        Ok(())
    }

    fn items(&mut self, mut cursor: Cursor<'_>) -> Result<(), Fault> {
        self.out.push('[');
        let mut first = true;
        while let Some((number, wire)) = cursor.tag()? {
            if number != 1 || wire != BLOCK {
                cursor.skip(number, wire)?;
                continue;
            }
            if !std::mem::take(&mut first) {
                self.out.push(',');
            }
            let value = cursor.within()?;
            self.any(Dynamic::Value, value)?;
        }
        self.out.push(']');
        Ok(())
    }

    /// Of several kinds that are there the last one counts.
    fn value(&mut self, mut cursor: Cursor<'_>) -> Result<(), Fault> {
        let start = self.out.len();
        self.out.push_str("null");
        while let Some((number, wire)) = cursor.tag()? {
            if !matches!(number, 1..=6) {
                cursor.skip(number, wire)?;
                continue;
            }
            self.out.truncate(start);
            match (number, wire) {
                (1, VARINT) => {
                    cursor.varint()?;
                    self.out.push_str("null");
                }
                (2, EIGHT) => self.number(f64::from_le_bytes(cursor.array()?)),
                (3, BLOCK) => self.text(cursor.text()?),
                (4, VARINT) => self.out.push_str(if cursor.varint()? == 0 { "false" } else { "true" }),
                (5, BLOCK) => self.any(Dynamic::Struct, cursor.within()?)?,
                (6, BLOCK) => self.any(Dynamic::List, cursor.within()?)?,
                _ => return Err(cursor.other_wire(wire, BLOCK)),
            }
        }
        Ok(())
    }

    #[allow(clippy::cast_possible_truncation)] // within what a double holds exactly
    fn number(&mut self, value: f64) {
        // A string takes everything.
        let _ = if value.is_infinite() {
            write!(self.out, "\"{}Infinity\"", if value < 0.0 { "-" } else { "" })
        } else if value.is_nan() {
            write!(self.out, "\"NaN\"")
        } else if value.trunc().to_bits() == value.to_bits() && value.abs() < WHOLE_MAX {
            write!(self.out, "{}", value as i64)
        } else {
            write!(self.out, "{}", serde_json::Value::from(value))
        };
    }

    fn text(&mut self, text: &str) {
        let quoted = serde_json::Value::String(text.to_owned()).to_string();
        self.out.push_str(&quoted);
    }
}
