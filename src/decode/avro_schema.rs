//! Avro schemas as writers declare them, read into what decoding needs: names resolved, logical types told apart.
//!
//! A logical type that its annotation does not fit (a decimal without precision, a UUID in 12 bytes) is ignored, as the
//! specification wants. Connect's converters write the names of its own logical types, and of Debezium's, beside Avro's: they are
//! heard first. Decimals of more than 38 digits are taken for their bytes. A type that contains itself is refused:
//! no table has columns for it.

use std::collections::HashMap;
use std::sync::Arc;

use iceberg::spec::PrimitiveType;
use serde_json::{Map, Value};

use crate::decode::connect_schema::{self, ANY_SCALE};
use crate::decode::fault::excerpt;
use crate::decode::scan::DEPTH_MAX;
use crate::error::{Context, Error, ErrorKind, Result};

/// Types that a schema may have once every name is replaced by what it stands for.
const WEIGHT_MAX: u64 = 100_000;

/// What a schema's text may weigh, in bytes.
const TEXT_BYTES_MAX: usize = 4 << 20;

/// What timestamps count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Millis,
    Micros,
    Nanos,
}

impl Unit {
    /// Digits after the second.
    pub(crate) fn digits(self) -> u32 {
        match self {
            Self::Millis => 3,
            Self::Micros => 6,
            Self::Nanos => 9,
        }
    }
}

/// One type. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum AvroType {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    /// An `int`: days.
    Date,
    /// An `int`.
    TimeMillis,
    /// A `long`.
    TimeMicros,
    /// A `long`; only Connect has it.
    TimeNanos,
    /// A `long`; with `zone` an instant, without it a local time.
    Timestamp {
        unit: Unit,
        zone: bool,
    },
    /// A `string`.
    Uuid,
    /// A `string` that is a date, a time or a timestamp; only Connect says so.
    Moment(PrimitiveType),
    /// Two's complement, in bytes of any length or of `width`.
    Decimal {
        precision: u32,
        scale: u32,
        width: Option<usize>,
    },
    /// A decimal of this scale, which no column has, or of a scale that each value says; only Connect has it.
    ScaledDecimal(Option<i32>),
    /// Bytes of one length; UUIDs with `uuid`, and durations among them.
    Fixed {
        size: usize,
        uuid: bool,
    },
    Enum(Arc<[String]>),
    Record(Arc<Record>),
    Array(Arc<AvroType>),
    Map(Arc<AvroType>),
    Union(Arc<[Branch]>),
}

/// A record's fields.
#[derive(Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) fields: Vec<(String, AvroType)>,
    /// Types in it, names replaced.
    weight: u64,
    /// Levels of it, names replaced.
    depth: usize,
}

impl Record {
    /// A record of these fields, whose names differ.
    pub(crate) fn new(fields: Vec<(String, AvroType)>) -> Self {
        // Counted here, once: a type may be named again and again, at every level.
        let weight = fields.iter().fold(1, |sum: u64, (_, kind)| sum.saturating_add(kind.weight()));
        let depth = 1 + fields.iter().map(|(_, kind)| kind.depth()).max().unwrap_or(0);
        Self { fields, weight, depth }
    }
}

/// One of a union's types.
#[derive(Debug, PartialEq)]
pub(crate) struct Branch {
    /// Its name: a named type's without namespace, else the type's word.
    pub(crate) name: String,
    pub(crate) kind: AvroType,
}

/// A union by what becomes of it.
pub(crate) enum Union<'a> {
    /// Nothing but null.
    Nothing,
    /// One type, beside null at index `null` where that is one of the branches.
    One { kind: &'a AvroType, null: Option<usize> },
    /// Several types.
    Several,
}

impl AvroType {
    /// What becomes of a union with these branches.
    pub(crate) fn union(branches: &[Branch]) -> Union<'_> {
        let null = branches.iter().position(|branch| branch.kind == Self::Null);
        let mut others = branches.iter().filter(|branch| branch.kind != Self::Null);
        match (others.next(), others.next()) {
            (None, _) => Union::Nothing,
            (Some(only), None) => Union::One { kind: &only.kind, null },
            _ => Union::Several,
        }
    }

    /// The word for people.
    pub(crate) fn word(&self) -> String {
        match self {
            Self::Null => "null",
            Self::Boolean => "boolean",
            Self::Int => "int",
            Self::Long => "long",
            Self::Float => "float",
            Self::Double => "double",
            Self::Bytes => "bytes",
            Self::String => "string",
            Self::Date => "date",
            Self::TimeMillis => "time-millis",
            Self::TimeMicros => "time-micros",
            Self::TimeNanos => "time-nanos",
            Self::Moment(kind) => return format!("text of a {kind}"),
            Self::ScaledDecimal(_) => "decimal of any scale",
            Self::Timestamp { unit, zone } => {
                let unit = match unit {
                    Unit::Millis => "millis",
                    Unit::Micros => "micros",
                    Unit::Nanos => "nanos",
                };
                return format!("{}timestamp-{unit}", if *zone { "" } else { "local-" });
            }
            Self::Uuid | Self::Fixed { uuid: true, .. } => "uuid",
            Self::Decimal { precision, scale, .. } => return format!("decimal({precision}, {scale})"),
            Self::Fixed { size, .. } => return format!("fixed({size})"),
            Self::Enum(_) => "enum",
            Self::Record(_) => "record",
            Self::Array(_) => "array",
            Self::Map(_) => "map",
            Self::Union(branches) => {
                let words: Vec<String> = branches.iter().map(|branch| branch.kind.word()).collect();
                return format!("union of {}", words.join(", "));
            }
        }
        .to_owned()
    }

    fn weight(&self) -> u64 {
        match self {
            Self::Record(record) => record.weight,
            Self::Array(inner) | Self::Map(inner) => inner.weight().saturating_add(1),
            Self::Union(branches) => branches.iter().fold(1, |sum, b| sum.saturating_add(b.kind.weight())),
            _ => 1,
        }
    }

    fn depth(&self) -> usize {
        match self {
            Self::Record(record) => record.depth,
            Self::Array(inner) | Self::Map(inner) => 1 + inner.depth(),
            Self::Union(branches) => 1 + branches.iter().map(|b| b.kind.depth()).max().unwrap_or(0),
            _ => 1,
        }
    }
}

/// The schema that rows were written with: a record.
#[derive(Debug, PartialEq)]
pub struct WriterSchema {
    pub(crate) root: Arc<Record>,
}

impl WriterSchema {
    /// Reads a schema; `named` are the texts of schemas whose types it names, each after those that it names itself.
    ///
    /// # Errors
    /// `Input` when a text is no Avro schema, the schema is no record, a type contains itself, or it is too large.
    pub fn parse(text: &str, named: &[impl AsRef<str>]) -> Result<Self> {
        let mut parser = Parser::default();
        for text in named {
            parser.text(text.as_ref())?;
        }
        match parser.text(text)? {
            AvroType::Record(root) => Ok(Self { root }),
            other => Err(wrong(format!("the schema is {}, not a record, and has no fields", other.word()))),
        }
    }
}

fn wrong(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Input, text)
}

/// A type by name; `None` while it is being read.
type Named = HashMap<String, Option<AvroType>>;

#[derive(Default)]
struct Parser {
    named: Named,
    depth: usize,
}

impl Parser {
    fn text(&mut self, text: &str) -> Result<AvroType> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(wrong(format!("the schema is larger than {TEXT_BYTES_MAX} bytes")));
        }
        let json: Value = serde_json::from_str(text).context(ErrorKind::Input, || "the schema is no JSON")?;
        let kind = self.kind(&json, "")?;
        if kind.weight() > WEIGHT_MAX {
            return Err(wrong(format!("the schema has more than {WEIGHT_MAX} fields, counting each use of a type")));
        }
        Ok(kind)
    }

    fn kind(&mut self, json: &Value, namespace: &str) -> Result<AvroType> {
        if self.depth == DEPTH_MAX {
            return Err(wrong(format!("nested deeper than {DEPTH_MAX} levels")));
        }
        self.depth += 1;
        let kind = match json {
            Value::String(name) => self.by_name(name, namespace),
            Value::Array(branches) => self.union(branches, namespace),
            Value::Object(object) => self.object(object, namespace),
            other => Err(wrong(format!("{} is no type", excerpt(&other.to_string())))),
        }?;
        self.depth -= 1;
        // Names hide levels.
        if matches!(kind, AvroType::Record(_)) && kind.depth() > DEPTH_MAX {
            return Err(wrong(format!("nested deeper than {DEPTH_MAX} levels")));
        }
        Ok(kind)
    }

    fn by_name(&self, name: &str, namespace: &str) -> Result<AvroType> {
        if let Some(kind) = primitive(name) {
            return Ok(kind);
        }
        let full = full_name(name, namespace);
        match self.named.get(&full).or_else(|| self.named.get(name)) {
            Some(Some(kind)) => Ok(kind.clone()),
            Some(None) => Err(wrong(format!("the type {full} contains itself, for which a table has no columns"))),
            None => Err(wrong(format!("there is no type {}", excerpt(&full)))),
        }
    }

    fn union(&mut self, branches: &[Value], namespace: &str) -> Result<AvroType> {
        let mut read: Vec<Branch> = Vec::with_capacity(branches.len());
        for json in branches {
            let kind = self.kind(json, namespace)?;
            if matches!(kind, AvroType::Union(_)) {
                return Err(wrong("a union holds a union"));
            }
            let full = branch_name(json);
            let short = full.rsplit('.').next().unwrap_or_default().to_owned();
            // Types of one name in two namespaces are told apart by their full names.
            let taken = read.iter().any(|held| held.name.eq_ignore_ascii_case(&short));
            let name = if taken { full.replace('.', "_") } else { short };
            if read.iter().any(|held| held.name.eq_ignore_ascii_case(&name)) {
                return Err(wrong(format!("a union holds {} twice", excerpt(&name))));
            }
            read.push(Branch { name, kind });
        }
        Ok(AvroType::Union(read.into()))
    }

    fn object(&mut self, object: &Map<String, Value>, namespace: &str) -> Result<AvroType> {
        match object.get("type") {
            Some(Value::String(word)) => match word.as_str() {
                "record" | "error" => self.record(object, namespace),
                "enum" => self.enumeration(object, namespace),
                "fixed" => self.fixed(object, namespace),
                "array" => Ok(AvroType::Array(Arc::new(self.kind(member(object, "items")?, namespace)?))),
                "map" => Ok(AvroType::Map(Arc::new(self.kind(member(object, "values")?, namespace)?))),
                name => Ok(annotated(self.by_name(name, namespace)?, object)),
            },
            // `{"type": {"type": "int", …}}`, as some writers wrap it.
            Some(inner) => Ok(annotated(self.kind(inner, namespace)?, object)),
            None => Err(wrong("a type says no `type`")),
        }
    }

    /// Notes a named type that begins; answers its name and the namespace within it.
    fn begin(&mut self, object: &Map<String, Value>, namespace: &str) -> Result<(String, String)> {
        let name = member(object, "name")?.as_str().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| wrong("the name of a type is no text"))?;
        let own = object.get("namespace").and_then(Value::as_str).unwrap_or(namespace);
        let full = full_name(name, own);
        let within = full.rsplit_once('.').map_or("", |(within, _)| within).to_owned();
        if self.named.insert(full.clone(), None).is_some() {
            return Err(wrong(format!("the type {full} is defined twice")));
        }
        Ok((full, within))
    }

    fn record(&mut self, object: &Map<String, Value>, namespace: &str) -> Result<AvroType> {
        let (name, within) = self.begin(object, namespace)?;
        let Value::Array(list) = member(object, "fields")? else {
            return Err(wrong(format!("the fields of {name} are no list")));
        };
        let mut fields = Vec::<(String, AvroType)>::with_capacity(list.len());
        let mut names = std::collections::HashSet::new();
        for field in list {
            let place = || format!("record {name}");
            let Value::Object(field) = field else { return Err(wrong("a field is no object").within(place())) };
            let own = member(field, "name").map_err(|e| e.within(place()))?.as_str().unwrap_or_default();
            if own.is_empty() || !names.insert(own) {
                return Err(wrong("a field has no name, or that of another").within(place()));
            }
            let place = || format!("field {own} of {name}");
            let kind =
                member(field, "type").and_then(|json| self.kind(json, &within)).map_err(|e| e.within(place()))?;
            // Some writers annotate the field instead of its type.
            let kind = annotated(kind, field);
            fields.push((own.to_owned(), kind));
        }
        let parts = fields.iter().map(|(name, kind)| (name.as_str(), kind));
        let kind = if name == ANY_SCALE && parts.eq([("scale", &AvroType::Int), ("value", &AvroType::Bytes)]) {
            AvroType::ScaledDecimal(None)
        } else {
            AvroType::Record(Arc::new(Record::new(fields)))
        };
        self.named.insert(name, Some(kind.clone()));
        Ok(kind)
    }

    fn enumeration(&mut self, object: &Map<String, Value>, namespace: &str) -> Result<AvroType> {
        let (name, _) = self.begin(object, namespace)?;
        let symbols = member(object, "symbols")?.as_array().map(Vec::as_slice).unwrap_or_default();
        let symbols: Option<Vec<String>> = symbols.iter().map(|s| s.as_str().map(str::to_owned)).collect();
        let symbols = symbols.filter(|symbols| !symbols.is_empty());
        let symbols = symbols.ok_or_else(|| wrong(format!("the symbols of {name} are no list of texts")))?;
        let kind = AvroType::Enum(symbols.into());
        self.named.insert(name, Some(kind.clone()));
        Ok(kind)
    }

    fn fixed(&mut self, object: &Map<String, Value>, namespace: &str) -> Result<AvroType> {
        let (name, _) = self.begin(object, namespace)?;
        let size = member(object, "size")?.as_u64().and_then(|size| i32::try_from(size).ok());
        let size = size.and_then(|size| usize::try_from(size).ok());
        let size = size.ok_or_else(|| wrong(format!("the size of {name} is no number of bytes")))?;
        let kind = annotated(AvroType::Fixed { size, uuid: false }, object);
        self.named.insert(name, Some(kind.clone()));
        Ok(kind)
    }
}

fn member<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a Value> {
    object.get(name).ok_or_else(|| wrong(format!("there is no `{name}`")))
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

fn primitive(word: &str) -> Option<AvroType> {
    Some(match word {
        "null" => AvroType::Null,
        "boolean" => AvroType::Boolean,
        "int" => AvroType::Int,
        "long" => AvroType::Long,
        "float" => AvroType::Float,
        "double" => AvroType::Double,
        "bytes" => AvroType::Bytes,
        "string" => AvroType::String,
        _ => return None,
    })
}

/// How a branch of a union is called: by its type's name, or its word.
fn branch_name(json: &Value) -> String {
    match json {
        Value::String(name) => name.clone(),
        Value::Object(object) => match (object.get("name"), object.get("type")) {
            (Some(Value::String(name)), _) => {
                full_name(name, object.get("namespace").and_then(Value::as_str).unwrap_or_default())
            }
            (_, Some(inner)) => branch_name(inner),
            _ => String::new(),
        },
        _ => String::new(),
    }
}

/// The type with the logical type that `object` gives it, where it is one of that type. Connect's converters say what Avro has no
/// word for beside it.
fn annotated(kind: AvroType, object: &Map<String, Value>) -> AvroType {
    let text = |key: &str| object.get(key).and_then(Value::as_str);
    let connect = |name| {
        let parameters = object.get("connect.parameters");
        let named = connect_schema::named(&kind, name, parameters)?;
        let own = decimal(object, None).filter(|own| same_scale(own, &named));
        Some(own.filter(|_| !connect_schema::says_digits(parameters)).unwrap_or(named))
    };
    if let Some(named) = text("connect.name").and_then(connect) {
        return named;
    }
    let Some(logical) = text("logicalType") else { return kind };
    let timestamp = |unit, zone| AvroType::Timestamp { unit, zone };
    match (&kind, logical) {
        (AvroType::Int, "date") => AvroType::Date,
        (AvroType::Int, "time-millis") => AvroType::TimeMillis,
        (AvroType::Long, "time-micros") => AvroType::TimeMicros,
        (AvroType::Long, "timestamp-millis") => timestamp(Unit::Millis, true),
        (AvroType::Long, "timestamp-micros") => timestamp(Unit::Micros, true),
        (AvroType::Long, "timestamp-nanos") => timestamp(Unit::Nanos, true),
        (AvroType::Long, "local-timestamp-millis") => timestamp(Unit::Millis, false),
        (AvroType::Long, "local-timestamp-micros") => timestamp(Unit::Micros, false),
        (AvroType::Long, "local-timestamp-nanos") => timestamp(Unit::Nanos, false),
        (AvroType::String, "uuid") => AvroType::Uuid,
        (AvroType::Fixed { size: 16, .. }, "uuid") => AvroType::Fixed { size: 16, uuid: true },
        (AvroType::Bytes, "decimal") => decimal(object, None).unwrap_or(kind),
        (AvroType::Fixed { size, .. }, "decimal") => decimal(object, Some(*size)).unwrap_or(kind),
        _ => kind,
    }
}

fn same_scale(one: &AvroType, other: &AvroType) -> bool {
    matches!((one, other), (AvroType::Decimal { scale, .. }, AvroType::Decimal { scale: other, .. }) if scale == other)
}

fn decimal(object: &Map<String, Value>, width: Option<usize>) -> Option<AvroType> {
    let number = |name: &str| object.get(name).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
    let precision = number("precision").filter(|digits| (1..=38).contains(digits))?;
    let scale = if object.contains_key("scale") { number("scale")? } else { 0 };
    (scale <= precision).then_some(AvroType::Decimal { precision, scale, width })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(kind: &str) -> AvroType {
        let text = format!(r#"{{"type":"record","name":"R","namespace":"x","fields":[{{"name":"f","type":{kind}}}]}}"#);
        WriterSchema::parse(&text, &[""; 0]).expect(kind).root.fields[0].1.clone()
    }

    fn refused(text: &str) -> String {
        let error = WriterSchema::parse(text, &[""; 0]).expect_err(text);
        assert_eq!(error.kind(), ErrorKind::Input);
        error.to_string()
    }

    /// A decimal of Connect's with these members of Avro's, and these parameters.
    fn connect(own: &str, parameters: &str) -> String {
        let name = "org.apache.kafka.connect.data.Decimal";
        format!(
            r#"{{"type":"bytes","logicalType":"decimal",{own},"connect.name":"{name}","connect.parameters":{parameters}}}"#
        )
    }

    #[test]
    fn logical_types_are_told_apart_and_ignored_where_they_do_not_fit() {
        for (kind, word) in [
            (r#"{"type":"int","logicalType":"date"}"#, "date"),
            (r#"{"type":"long","logicalType":"date"}"#, "long"),
            (r#"{"type":"long","logicalType":"timestamp-micros"}"#, "timestamp-micros"),
            (r#"{"type":"long","logicalType":"local-timestamp-nanos"}"#, "local-timestamp-nanos"),
            (r#"{"type":{"type":"long","logicalType":"time-micros"}}"#, "time-micros"),
            (r#"{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}"#, "decimal(9, 2)"),
            (r#"{"type":"bytes","logicalType":"decimal","precision":39,"scale":2}"#, "bytes"),
            (r#"{"type":"bytes","logicalType":"decimal","precision":2,"scale":3}"#, "bytes"),
            (r#"{"type":"bytes","logicalType":"decimal"}"#, "bytes"),
            (r#"{"type":"fixed","name":"D","size":4,"logicalType":"decimal","precision":9}"#, "decimal(9, 0)"),
            (r#"{"type":"fixed","name":"U","size":16,"logicalType":"uuid"}"#, "uuid"),
            (r#"{"type":"fixed","name":"U","size":12,"logicalType":"uuid"}"#, "fixed(12)"),
            (r#"{"type":"fixed","name":"P","size":12,"logicalType":"duration"}"#, "fixed(12)"),
            (&connect(r#""precision":12,"scale":2"#, r#"{"scale":"2"}"#), "decimal(12, 2)"),
            (&connect(r#""precision":12"#, r#"{"scale":"0"}"#), "decimal(12, 0)"),
            (
                &connect(r#""precision":12,"scale":2"#, r#"{"scale":"2","connect.decimal.precision":"9"}"#),
                "decimal(9, 2)",
            ),
            (&connect(r#""precision":12,"scale":3"#, r#"{"scale":"2"}"#), "decimal(38, 2)"),
            (&connect(r#""precision":64,"scale":2"#, r#"{"scale":"2"}"#), "decimal(38, 2)"),
            (r#"["null",{"type":"string","logicalType":"uuid"}]"#, "union of null, uuid"),
            (r#"{"type":"string","logicalType":"anything"}"#, "string"),
        ] {
            assert_eq!(field(kind).word(), word, "{kind}");
        }
    }

    #[test]
    fn names_are_resolved_within_namespaces_and_across_texts() {
        let address =
            r#"{"type":"record","name":"Address","namespace":"geo","fields":[{"name":"city","type":"string"}]}"#;
        let person = r#"{"type":"record","name":"P","namespace":"x","fields":[
            {"name":"home","type":"geo.Address"},
            {"name":"kind","type":{"type":"enum","name":"Kind","symbols":["A","B"]}},
            {"name":"other","type":["null","Kind"]}]}"#;
        let schema = WriterSchema::parse(person, &[address]).expect("known names");
        let words: Vec<String> = schema.root.fields.iter().map(|(_, kind)| kind.word()).collect();
        assert_eq!(words, ["record", "enum", "union of null, enum"]);
        assert!(refused(person).contains("field home of x.P: there is no type \"geo.Address\""));
    }

    #[test]
    fn what_no_table_can_hold_is_refused_with_its_place() {
        let list = r#"{"type":"record","name":"Node","fields":[{"name":"next","type":["null","Node"]}]}"#;
        assert_eq!(
            refused(list),
            "field next of Node: the type Node contains itself, for which a table has no columns"
        );
        assert!(refused("\"string\"").contains("the schema is string, not a record"));
        assert!(refused("{").contains("the schema is no JSON"));
        assert!(refused(&"[".repeat(100_000)).contains("the schema is no JSON"));
        // Each type names the one before it twice.
        let mut inner = r#"{"type":"record","name":"T0","fields":[{"name":"f","type":"int"}]}"#.to_owned();
        for level in 1..30 {
            inner = format!(
                r#"{{"type":"record","name":"T{level}","fields":[{{"name":"a","type":{inner}}},{{"name":"b","type":"T{}"}}]}}"#,
                level - 1
            );
        }
        assert!(refused(&inner).contains("more than 100000 fields") || refused(&inner).contains("nested deeper"));
    }

    #[test]
    fn branches_of_one_name_are_told_apart_by_their_namespaces() {
        let kind = field(
            r#"["null",{"type":"record","name":"a.R1","fields":[]},{"type":"record","name":"b.R1","fields":[]},"string"]"#,
        );
        let AvroType::Union(branches) = kind else { panic!("a union") };
        let names: Vec<&str> = branches.iter().map(|branch| branch.name.as_str()).collect();
        assert_eq!(names, ["null", "R1", "b_R1", "string"]);
    }
}
