//! A wrapped row taken apart: the texts of the fields that mean something, in one pass that also finds malformed JSON.

use crate::decode::fault::Fault;
use crate::decode::scan::{Kind, Scanner};

/// Fields of Connect's envelope, of a change event, and of what else comes on Debezium's topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Schema,
    Payload,
    Before,
    After,
    Source,
    Transaction,
    Message,
    Op,
    TsMs,
    Status,
    Id,
    EventCount,
    Ddl,
    TableChanges,
}

/// How many there are.
pub(crate) const PARTS: usize = 14;

const NAMES: [(&str, Part); PARTS] = [
    ("schema", Part::Schema),
    ("payload", Part::Payload),
    ("before", Part::Before),
    ("after", Part::After),
    ("source", Part::Source),
    ("transaction", Part::Transaction),
    ("message", Part::Message),
    ("op", Part::Op),
    ("ts_ms", Part::TsMs),
    ("status", Part::Status),
    ("id", Part::Id),
    ("event_count", Part::EventCount),
    ("ddl", Part::Ddl),
    ("tableChanges", Part::TableChanges),
];

/// A row's parts, as written.
#[derive(Debug, Default)]
pub(crate) struct Parts<'a> {
    pub(crate) held: [Option<&'a str>; PARTS],
    /// Whether its schema is that of the row before.
    pub(crate) same_schema: bool,
    /// Fields of an event that are none of these.
    pub(crate) others: usize,
}

/// What the field of that name is.
pub(crate) fn part_of(name: &str) -> Option<Part> {
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, part)| *part)
}

impl<'a> Parts<'a> {
    /// Takes a row apart. The schema `last` of the row before is recognised without a look into it. With `event` the payload
    /// is a change event, whose own parts are taken.
    ///
    /// # Errors
    /// A fault of the row when it is no object, malformed, or has a field twice.
    pub(crate) fn read(text: &'a str, last: Option<&str>, event: bool) -> Result<Self, Fault> {
        let mut parts = Self::default();
        let mut scanner = Scanner::new(text);
        match scanner.peek() {
            Ok(Kind::Object) => {}
            Err(_) if text.trim_ascii().is_empty() => return Err(Fault::row("the row is empty")),
            Err(fault) => return Err(fault),
            Ok(other) => return Err(Fault::row(format!("the row is {}, not an object", other.as_str()))),
        }
        parts.object(&mut scanner, last, event)?;
        scanner.end()?;
        Ok(parts)
    }

    fn object(&mut self, scanner: &mut Scanner<'a>, last: Option<&str>, event: bool) -> Result<(), Fault> {
        scanner.open()?;
        let mut first = true;
        while scanner.more(b'}', first)? {
            first = false;
            let key = scanner.key()?.unescape()?;
            let Some(part) = part_of(&key) else {
                scanner.skip()?;
                self.others += 1;
                continue;
            };
            if part == Part::Schema && last.is_some_and(|last| scanner.try_value(last)) {
                self.same_schema = true;
                continue;
            }
            let wrapped = event && part == Part::Payload && scanner.peek()? == Kind::Object;
            let held = self.held.get_mut(part as usize);
            if held.as_ref().is_some_and(|held| held.is_some()) {
                return Err(Fault::value("duplicate key").in_field(&key));
            }
            if wrapped {
                if let Some(held) = held {
                    *held = Some("{}");
                }
                self.event(scanner)?;
            } else {
                let value = scanner.skip()?;
                if let Some(held) = held {
                    *held = Some(value);
                }
            }
        }
        Ok(())
    }

    /// The parts of an event within an envelope. A schema or payload of its own is something else.
    fn event(&mut self, scanner: &mut Scanner<'a>) -> Result<(), Fault> {
        let mut inner = Self::default();
        inner.object(scanner, None, false)?;
        for (_, part) in NAMES.iter().skip(2) {
            if let (Some(to), Some(from)) = (self.held.get_mut(*part as usize), inner.held.get(*part as usize)) {
                *to = *from;
            }
        }
        self.others = inner.others;
        Ok(())
    }

    /// The text of a part that is there and not null.
    pub(crate) fn get(&self, part: Part) -> Option<&'a str> {
        self.held.get(part as usize).copied().flatten().filter(|text| *text != "null")
    }

    /// Whether a part is there, if only as null.
    pub(crate) fn has(&self, part: Part) -> bool {
        self.held.get(part as usize).copied().flatten().is_some()
    }

    /// Whether an event has nothing but a time.
    pub(crate) fn is_heartbeat(&self) -> bool {
        let known = NAMES.iter().skip(2).filter(|(_, part)| self.has(*part)).count();
        self.has(Part::TsMs) && known == 1 && self.others == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_taken_apart_with_its_envelope_and_without() {
        let event = r#"{"before":null,"after":{"id":1},"op":"c","ts_ms":5,"x":[{}]}"#;
        let bare = Parts::read(event, None, true).expect("valid");
        let text = format!(r#" {{"schema":{{"type":"struct"}}, "payload":{event}}} "#);
        let wrapped = Parts::read(&text, None, true).expect("valid");
        for parts in [&bare, &wrapped] {
            assert_eq!((parts.get(Part::After), parts.get(Part::Op)), (Some(r#"{"id":1}"#), Some("\"c\"")));
            assert!(parts.get(Part::Before).is_none() && parts.has(Part::Before) && !parts.has(Part::Source));
        }
        assert_eq!((bare.has(Part::Payload), wrapped.has(Part::Payload)), (false, true));
        let again = Parts::read(&text, wrapped.get(Part::Schema), true).expect("valid");
        assert!(again.same_schema && again.get(Part::After) == wrapped.get(Part::After));
        let plain = Parts::read(&text, None, false).expect("valid");
        assert_eq!((plain.get(Part::Payload), plain.get(Part::After)), (Some(event), None));
    }

    #[test]
    fn what_is_no_object_or_malformed_or_twice_there_is_refused() {
        for bad in ["", "[]", "{", r#"{"op":"c","op":"c"}"#, r#"{"payload":{"op":1,"op":1}}"#, r#"{"after":{"a":}}"#] {
            assert!(Parts::read(bad, None, true).is_err(), "{bad}");
        }
        assert!(Parts::read(r#"{"ts_ms":1}"#, None, true).expect("valid").is_heartbeat());
        assert!(!Parts::read(r#"{"ts_ms":1,"x":1}"#, None, true).expect("valid").is_heartbeat());
    }
}
