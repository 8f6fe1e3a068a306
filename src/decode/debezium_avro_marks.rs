//! The mark of values that were not sent, in Avro: see `debezium_marks`.

use memchr::memmem::Finder;

use crate::decode::avro_cursor::{Cursor, present};
use crate::decode::avro_schema::{AvroType, Record};
use crate::decode::debezium_marks::uuid_of;
use crate::decode::fault::Fault;

/// The mark, and what a record that has it somewhere holds.
#[derive(Debug)]
pub(crate) struct AvroMarks {
    text: Vec<u8>,
    uuid: String,
    /// What is looked for first: most rows have none.
    signs: Vec<Finder<'static>>,
}

/// An image without its marks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BlankedRecord {
    /// Its bytes, with null in their places: each field that could not be null has a union with it now, null first.
    pub(crate) bytes: Vec<u8>,
    /// Names of the fields that had one.
    pub(crate) names: Vec<String>,
}

impl AvroMarks {
    /// The marks of a connector whose `unavailable.value.placeholder` is `text`.
    pub(crate) fn new(text: &str) -> Self {
        // A list of its bytes as numbers, alone or each behind the choice that it is not null.
        let numbers = |choice: &[u8]| -> Vec<u8> {
            text.bytes().flat_map(|byte| [choice, &zigzag(byte.cast_signed().into())].concat()).collect()
        };
        let uuid = uuid_of(text).to_string();
        let signs = [text.as_bytes().to_vec(), uuid.clone().into_bytes(), numbers(&[]), numbers(&[0]), numbers(&[2])];
        Self {
            text: text.as_bytes().to_vec(),
            uuid,
            signs: signs.iter().map(|sign| Finder::new(sign).into_owned()).collect(),
        }
    }

    /// The bytes of a record without the marks, where it has some among its own fields.
    ///
    /// # Errors
    /// A fault of the row where they are no such record.
    pub(crate) fn blank(&self, record: &Record, image: &[u8]) -> Result<Option<BlankedRecord>, Fault> {
        if !self.signs.iter().any(|sign| sign.find(image).is_some()) {
            return Ok(None);
        }
        let mut cursor = Cursor::new(image);
        let (mut bytes, mut names) = (Vec::with_capacity(image.len() + record.fields.len()), Vec::new());
        for (name, kind) in &record.fields {
            let value = cursor.slice(kind)?;
            let (null, is_union) = match kind {
                AvroType::Union(branches) => (branches.iter().position(|branch| branch.kind == AvroType::Null), true),
                _ => (Some(0), false),
            };
            match null {
                Some(null) if self.is_mark(kind, value) => {
                    names.push(name.clone());
                    bytes.extend(choice(null));
                }
                _ => {
                    if !is_union {
                        bytes.extend(choice(1));
                    }
                    bytes.extend(value);
                }
            }
        }
        Ok((!names.is_empty()).then_some(BlankedRecord { bytes, names }))
    }

    /// Whether a value is the mark: as a text or as bytes, as the only element of a list of either or of UUIDs, as its bytes in a
    /// list of numbers, as the only entry of a map.
    fn is_mark(&self, kind: &AvroType, value: &[u8]) -> bool {
        match present(kind, value) {
            Some((AvroType::Array(item), value)) => match self.elements(item, value).as_deref() {
                Some([only]) if self.is_in_list(item, only) => true,
                Some(elements) => {
                    let same =
                        |(element, byte): (&&[u8], &u8)| number(item, element) == Some(byte.cast_signed().into());
                    elements.len() == self.text.len() && elements.iter().zip(&self.text).all(same)
                }
                None => false,
            },
            Some((AvroType::Map(inner), value)) => {
                let mut cursor = Cursor::new(value);
                let one = cursor.block().is_ok_and(|count| count == 1)
                    && cursor.bytes().is_ok_and(|key| key == self.text)
                    && cursor.slice(inner).is_ok_and(|value| self.is_text(inner, value));
                one && cursor.block().is_ok_and(|count| count == 0)
            }
            Some((kind, value)) => self.is_text(kind, value),
            None => false,
        }
    }

    fn is_text(&self, kind: &AvroType, value: &[u8]) -> bool {
        text(kind, value).is_some_and(|text| text == self.text)
    }

    fn is_in_list(&self, item: &AvroType, element: &[u8]) -> bool {
        text(item, element).is_some_and(|text| text == self.text || text == self.uuid.as_bytes())
    }

    /// The elements of a list; none where they are more than those of a mark.
    fn elements<'a>(&self, item: &AvroType, value: &'a [u8]) -> Option<Vec<&'a [u8]>> {
        let (mut cursor, mut elements) = (Cursor::new(value), Vec::new());
        loop {
            let count = cursor.block().ok()?;
            if count == 0 {
                return Some(elements);
            }
            for _ in 0..count {
                if elements.len() == self.text.len().max(1) {
                    return None;
                }
                elements.push(cursor.slice(item).ok()?);
            }
        }
    }
}

/// The choice of a union's branch; below 64 it has one byte.
fn choice(index: usize) -> Vec<u8> {
    zigzag(i64::try_from(index).unwrap_or_default())
}

/// A number as Avro writes it.
fn zigzag(value: i64) -> Vec<u8> {
    let (mut left, mut bytes) = (((value << 1) ^ (value >> 63)).cast_unsigned(), Vec::new());
    loop {
        let [low, ..] = left.to_le_bytes();
        left >>= 7;
        if left == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// The bytes of a value that has a length.
fn text<'a>(kind: &AvroType, value: &'a [u8]) -> Option<&'a [u8]> {
    match present(kind, value)? {
        (
            AvroType::String
            | AvroType::Bytes
            | AvroType::Uuid
            | AvroType::Moment(_)
            | AvroType::Decimal { width: None, .. }
            | AvroType::ScaledDecimal(Some(_)),
            value,
        ) => Cursor::new(value).bytes().ok(),
        _ => None,
    }
}

fn number(kind: &AvroType, value: &[u8]) -> Option<i64> {
    match present(kind, value)? {
        (
            AvroType::Int
            | AvroType::Date
            | AvroType::TimeMillis
            | AvroType::Long
            | AvroType::TimeMicros
            | AvroType::TimeNanos
            | AvroType::Timestamp { .. },
            value,
        ) => Cursor::new(value).long().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::avro_schema::WriterSchema;

    const FIELDS: &str = r#"{"type":"record","name":"R","fields":[
        {"name":"text","type":"string"},
        {"name":"bytes","type":["null","bytes"]},
        {"name":"texts","type":[{"type":"array","items":["null","string"]},"null"]},
        {"name":"numbers","type":["null",{"type":"array","items":["null","int"]}]},
        {"name":"map","type":["null",{"type":"map","values":["null","string"]}]},
        {"name":"other","type":"string"}]}"#;

    fn record() -> std::sync::Arc<Record> {
        WriterSchema::parse(FIELDS, &[""; 0]).expect("valid").root
    }

    fn string(text: &str) -> Vec<u8> {
        [zigzag(i64::try_from(text.len()).expect("short")), text.as_bytes().to_vec()].concat()
    }

    #[test]
    fn the_marks_numbers_may_be_of_any_kind_that_is_one_in_avro() {
        let (marks, mark) = (
            AvroMarks::new("__ab"),
            [&[8][..], &"__ab".bytes().flat_map(|b| zigzag(b.into())).collect::<Vec<_>>(), &[0]].concat(),
        );
        for (base, logical) in [
            ("int", "none"),
            ("int", "date"),
            ("int", "time-millis"),
            ("long", "none"),
            ("long", "time-micros"),
            ("long", "timestamp-millis"),
            ("long", "local-timestamp-nanos"),
        ] {
            let item = format!(r#"{{"type":"{base}","logicalType":"{logical}"}}"#);
            let text = format!(
                r#"{{"type":"record","name":"R","fields":[{{"name":"v","type":{{"type":"array","items":{item}}}}}]}}"#
            );
            let record = WriterSchema::parse(&text, &[""; 0]).expect("valid").root;
            let blanked = marks.blank(&record, &mark).expect("valid").map(|blanked| blanked.names);
            assert_eq!(blanked, Some(vec!["v".to_owned()]), "{base} {logical}");
        }
    }

    #[test]
    fn each_form_of_the_mark_is_blanked_and_nothing_else() {
        let marks = AvroMarks::new("__ab");
        let uuid = uuid_of("__ab").to_string();
        let numbers: Vec<u8> = "__ab".bytes().flat_map(|byte| [vec![2], zigzag(byte.into())].concat()).collect();
        let list = |element: &str| [vec![0, 2, 2], string(element), vec![0]].concat();
        let parts = |mark: &str, element: &str| {
            [
                string(mark),
                [vec![2], string(mark)].concat(),
                list(element),
                [vec![2, 8], numbers.clone(), vec![0]].concat(),
                [vec![2, 2], string(mark), vec![2], string(mark), vec![0]].concat(),
                string("x __ab"),
            ]
        };
        for element in ["__ab", &uuid] {
            let blanked = marks.blank(&record(), &parts("__ab", element).concat()).expect("valid").expect("has some");
            assert_eq!(blanked.names, ["text", "bytes", "texts", "numbers", "map"]);
            assert_eq!(blanked.bytes, [vec![0, 0, 2, 0, 0, 2], string("x __ab")].concat());
        }
        let near = parts("__abc", "x __ab");
        let blanked = marks.blank(&record(), &near.concat()).expect("valid").expect("the numbers are left");
        assert_eq!(blanked.names, ["numbers"]);
        let two = [vec![0, 4, 2], string("__ab"), vec![2], string("__ab"), vec![0]].concat();
        let rest = [string("__ab"), vec![0], two.clone(), vec![0, 0], string("")];
        let blanked = marks.blank(&record(), &rest.concat()).expect("valid").expect("the text");
        assert_eq!(
            (blanked.names, blanked.bytes),
            (vec!["text".to_owned()], [vec![0, 0], two, vec![0, 0, 2, 0]].concat())
        );
        assert_eq!(marks.blank(&record(), &[string("a"), vec![0, 2, 0, 0], string("b")].concat()), Ok(None));
        assert!(marks.blank(&record(), &string("__ab")).is_err());
    }
}
