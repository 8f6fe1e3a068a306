//! Small Avro values as JSON, by the schema that is written with them. The `apache-avro` crate (0.21) panics over
//! a named fixed type that is a UUID and is referred to again: every event of the sink has one.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};

/// A schema or a value that is nested deeper is none of ours.
const DEPTH_MAX: u32 = 64;
/// As many values may be in the fewest bytes.
const VALUES_MIN: usize = 4_096;

/// A value that is being read.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    /// Schemas by their full names.
    known: BTreeMap<String, Value>,
    /// Values that may still come: most take bytes, and those that take none are few.
    left: usize,
}

fn broken(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("an Avro value {what}"))
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, known: BTreeMap::new(), left: bytes.len().saturating_mul(4).saturating_add(VALUES_MIN) }
    }

    /// The next value of this schema. Bytes and fixed values are hexadecimal text.
    ///
    /// # Errors
    /// `Corrupt` when it ends early, has more values than its bytes can hold, or the schema is none.
    pub(super) fn value(&mut self, schema: &Value) -> Result<Value> {
        self.of(schema, "", DEPTH_MAX)
    }

    fn of(&mut self, schema: &Value, space: &str, depth: u32) -> Result<Value> {
        let below = depth.checked_sub(1).ok_or_else(|| broken("is nested too deep"))?;
        self.left = self.left.checked_sub(1).ok_or_else(|| broken("has more values than its bytes can hold"))?;
        match schema {
            Value::String(kind) => match self.plain(kind)? {
                Some(value) => Ok(value),
                None => {
                    let full = full_name(kind, space);
                    let named = self.known.get(&full).or_else(|| self.known.get(kind)).cloned();
                    let named = named.ok_or_else(|| broken("is of a type that was not defined"))?;
                    self.complex(&named, space, below)
                }
            },
            Value::Array(branches) => {
                let at = usize::try_from(self.long()?).ok();
                let branch =
                    at.and_then(|at| branches.get(at)).ok_or_else(|| broken("is of no branch of its union"))?;
                self.of(branch, space, below)
            }
            schema => self.complex(schema, space, below),
        }
    }

    fn complex(&mut self, schema: &Value, space: &str, depth: u32) -> Result<Value> {
        let kind = schema.get("type").ok_or_else(|| broken("has a schema without a type"))?;
        let own = schema.get("namespace").and_then(Value::as_str).unwrap_or(space);
        let Value::String(kind) = kind else { return self.of(kind, own, depth) };
        let mut inner = own.to_owned();
        if let (Some(name), "record" | "fixed" | "enum") = (schema.get("name").and_then(Value::as_str), kind.as_str()) {
            let full = full_name(name, own);
            inner = full.rsplit_once('.').map_or("", |(space, _)| space).to_owned();
            self.known.insert(full, schema.clone());
        }
        match kind.as_str() {
            "record" => {
                let fields = schema.get("fields").and_then(Value::as_array).ok_or_else(|| broken("has no fields"))?;
                let mut record = Map::new();
                for field in fields {
                    let name = field.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
                    let kind = field.get("type").ok_or_else(|| broken("has a field without a type"))?;
                    record.insert(name, self.of(kind, &inner, depth)?);
                }
                Ok(Value::Object(record))
            }
            "fixed" => {
                let size = schema.get("size").and_then(Value::as_u64).and_then(|size| usize::try_from(size).ok());
                self.hex(size.ok_or_else(|| broken("is fixed at no size"))?)
            }
            "enum" => {
                let at = usize::try_from(self.long()?).ok();
                let symbols = schema.get("symbols").and_then(Value::as_array);
                at.and_then(|at| symbols?.get(at).cloned()).ok_or_else(|| broken("is no symbol of its enum"))
            }
            "array" | "map" => {
                let items = schema.get("items").or(schema.get("values"));
                let items = items.ok_or_else(|| broken("has a list of nothing"))?;
                self.list(items, kind == "map", &inner, depth)
            }
            other => match self.plain(other)? {
                Some(value) => Ok(value),
                None => self.of(&Value::String(other.to_owned()), &inner, depth),
            },
        }
    }

    fn list(&mut self, items: &Value, keyed: bool, space: &str, depth: u32) -> Result<Value> {
        let mut all = Vec::new();
        loop {
            let mut count = self.long()?;
            if count == 0 {
                return Ok(Value::Array(all));
            }
            if count < 0 {
                self.long()?; // bytes of the block
                count = count.saturating_neg();
            }
            for _ in 0..count {
                if keyed {
                    self.plain("string")?;
                }
                if self.rest.is_empty() {
                    return Err(broken("ends early"));
                }
                all.push(self.of(items, space, depth)?);
            }
        }
    }

    /// A value of a primitive type; nothing for a name that is none.
    fn plain(&mut self, kind: &str) -> Result<Option<Value>> {
        Ok(Some(match kind {
            "null" => Value::Null,
            "boolean" => Value::Bool(self.take(1)? != [0]),
            "int" | "long" => self.long()?.into(),
            "float" => self.hex(4)?,
            "double" => self.hex(8)?,
            "bytes" => {
                let size = self.size()?;
                self.hex(size)?
            }
            "string" => {
                let size = self.size()?;
                String::from_utf8_lossy(self.take(size)?).into_owned().into()
            }
            _ => return Ok(None),
        }))
    }

    fn size(&mut self) -> Result<usize> {
        usize::try_from(self.long()?).map_err(|_| broken("is of no size"))
    }

    fn take(&mut self, size: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(size).ok_or_else(|| broken("ends early"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn hex(&mut self, size: usize) -> Result<Value> {
        Ok(self.take(size)?.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into())
    }

    fn long(&mut self) -> Result<i64> {
        let mut bits = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?.first().copied().unwrap_or_default();
            bits |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let sign = (bits & 1).wrapping_neg();
                return Ok(i64::from_ne_bytes(((bits >> 1) ^ sign).to_ne_bytes()));
            }
        }
        Err(broken("has a number that does not end"))
    }
}

fn full_name(name: &str, space: &str) -> String {
    if name.contains('.') || space.is_empty() { name.to_owned() } else { format!("{space}.{name}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_that_take_no_bytes_do_not_fill_the_memory() {
        // 1,000,000 items, and a byte behind them.
        let bytes = [0x80, 0x89, 0x7a, 0];
        for items in [json!("null"), json!({"type": "record", "name": "e", "fields": []})] {
            let error = Reader::new(&bytes).value(&json!({"type": "array", "items": items})).expect_err("too many");
            assert!(error.to_string().contains("more values"), "{error}");
        }
        // Records of two records each, sixteen deep.
        let mut kind = json!({"type": "record", "name": "r0", "fields": []});
        for depth in 1..16 {
            let fields = json!([{"name": "a", "type": kind}, {"name": "b", "type": format!("r{}", depth - 1)}]);
            kind = json!({"type": "record", "name": format!("r{depth}"), "fields": fields});
        }
        assert!(Reader::new(&[]).value(&kind).is_err());
    }
}
