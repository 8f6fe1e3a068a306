//! JSON Schemas, read for what they say of columns.
//!
//! | JSON Schema | column |
//! |---|---|
//! | `boolean` | `boolean` |
//! | `integer`; with `connect.type` `int8` to `int32`, or format `int32` | `long`; `int` |
//! | `number`; with `connect.type` `float32`, or format `float` | `double`; `float` |
//! | `string`; with format `date`, `date-time`, `time`, `uuid` | `string`; `date`, `timestamptz`, `time`, `uuid` |
//! | `string` in base64 (`contentEncoding`), or with `connect.type` `bytes` | `binary` |
//! | Connect's `Decimal`, `Date`, `Time`, `Timestamp`, by their titles | `decimal(38, scale)`, `date`, `time`, `timestamptz` |
//! | `object` with `properties`; with `additionalProperties` alone | `struct`; `map<string, …>` |
//! | `array` with one schema of `items` | `list` |
//! | `oneOf`, `anyOf` or a list of types: null and one other | that, optional |
//!
//! A schema need not say what there is, and mostly says less than rows have: what it leaves open is inferred from the rows.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use iceberg::spec::{ListType, MapType, NestedField, NestedFieldRef, PrimitiveType, StructType, Type};
use serde_json::{Map, Value};

use crate::decode::observe::{Observed, Shape, StructShape};
use crate::decode::plan::{Kind, Plan, Reading, StructPlan};
use crate::decode::registry::{Registered, SchemaKind};
use crate::decode::scan::DEPTH_MAX;
use crate::decode::writers::Written;
use crate::error::{Context, Error, ErrorKind, Result};

/// Fields that a schema may have once every reference is replaced by what it stands for.
const WEIGHT_MAX: usize = 100_000;

/// The prefix of the titles of Kafka Connect's logical types.
const CONNECT: &str = "org.apache.kafka.connect.data.";

/// What a JSON Schema says of the columns of its rows.
#[derive(Debug, PartialEq)]
pub struct JsonSchema {
    fields: Vec<SaidField>,
    /// Whether values are written in another way than columns of their type are mostly.
    has_readings: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct SaidField {
    name: String,
    said: Said,
}

/// What is said of a value.
#[derive(Debug, Clone, PartialEq)]
struct Said {
    kind: SaidKind,
    /// Whether null, or nothing at all, is none of them.
    required: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum SaidKind {
    Primitive(PrimitiveType, Reading),
    Struct(Vec<SaidField>),
    List(Box<Said>),
    Map(Box<Said>),
}

impl Written for JsonSchema {
    const KIND: SchemaKind = SchemaKind::Json;

    fn read(registered: &Registered) -> Result<Self> {
        let named: Vec<(&str, &str)> =
            registered.named.iter().map(|named| (named.name.as_str(), named.text.as_str())).collect();
        Self::parse(&registered.text, &named)
    }
}

impl JsonSchema {
    /// Reads a schema; `named` are the names and texts of the documents that it refers to.
    ///
    /// # Errors
    /// `Input` when a text is no JSON, the rows are said to be no objects, or the schema is too large.
    pub fn parse(text: &str, named: &[(&str, &str)]) -> Result<Self> {
        let document =
            |text: &str| serde_json::from_str::<Value>(text).context(ErrorKind::Input, || "the schema is no JSON");
        let root = document(text)?;
        let mut documents = HashMap::new();
        for (name, text) in named {
            documents.insert((*name).to_owned(), document(text).map_err(|error| error.within((*name).to_owned()))?);
        }
        if let Some(id) = root.get("$id").and_then(Value::as_str) {
            documents.insert(id.trim_end_matches('#').to_owned(), root.clone());
        }
        let mut reader = Reader { documents: &documents, open: Vec::new(), weight: 0, has_readings: false };
        let said = reader.value(&root, Place { document: &root, depth: 0 })?;
        match said {
            Some(Said { kind: SaidKind::Struct(fields), .. }) => Ok(Self { fields, has_readings: reader.has_readings }),
            None => Ok(Self { fields: Vec::new(), has_readings: false }),
            Some(_) => Err(wrong("rows of the schema are no objects, and have no fields")),
        }
    }

    /// The columns of a new table, without ids (all 0).
    pub(crate) fn fields(&self) -> Vec<NestedFieldRef> {
        self.fields.iter().map(SaidField::field).collect()
    }

    /// What a table with the columns of `plan` lacks for rows of the schema.
    pub(crate) fn needs(&self, plan: &StructPlan) -> Observed {
        let mut needs = Observed::default();
        fields_need(&self.fields, plan, &mut needs);
        needs
    }

    /// Tells the columns of `plan` how their values are written; says whether that makes a difference.
    pub(crate) fn tell(&self, plan: &mut StructPlan) -> bool {
        if self.has_readings {
            fields_tell(&self.fields, plan);
        }
        self.has_readings
    }
}

fn wrong(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Input, text)
}

impl SaidField {
    fn field(&self) -> NestedFieldRef {
        Arc::new(NestedField::new(0, &self.name, self.said.kind.column(), self.said.required))
    }
}

impl SaidKind {
    fn column(&self) -> Type {
        match self {
            Self::Primitive(primitive, _) => Type::Primitive(primitive.clone()),
            Self::Struct(fields) => Type::Struct(StructType::new(fields.iter().map(SaidField::field).collect())),
            Self::List(item) => {
                Type::List(ListType::new(Arc::new(NestedField::list_element(0, item.kind.column(), item.required))))
            }
            Self::Map(value) => Type::Map(MapType::new(
                Arc::new(NestedField::map_key_element(0, Type::Primitive(PrimitiveType::String))),
                Arc::new(NestedField::map_value_element(0, value.kind.column(), value.required)),
            )),
        }
    }

    /// The same for a table that is to grow: what rows have beside it can be added.
    fn shape(&self) -> Shape {
        match self {
            Self::Struct(fields) => {
                let mut shape = StructShape::default();
                for field in fields {
                    shape.insert(&field.name, field.said.kind.shape());
                }
                Shape::Struct(shape)
            }
            Self::List(item) => Shape::List(Box::new(item.kind.shape())),
            other => Shape::Typed(Arc::new(other.column())),
        }
    }
}

fn fields_need(fields: &[SaidField], plan: &StructPlan, needs: &mut Observed) {
    for field in fields {
        match plan.find(&field.name).and_then(|index| plan.fields.get(index)) {
            Some(column) => value_needs(&field.said.kind, column, needs),
            None if plan.obstacle(&field.name).is_none() => {
                needs.added.entry(plan.id).or_default().insert(&field.name, field.said.kind.shape());
            }
            None => {}
        }
    }
}

fn value_needs(said: &SaidKind, column: &Plan, needs: &mut Observed) {
    use PrimitiveType::{Double, Float, Int, Long};
    match (said, &column.kind) {
        (SaidKind::Primitive(Long, _), Kind::Primitive(Int)) => needs.widen(column.id, Long),
        (SaidKind::Primitive(Double, _), Kind::Primitive(Float)) => needs.widen(column.id, Double),
        (SaidKind::Struct(fields), Kind::Struct(plan)) => fields_need(fields, plan, needs),
        (SaidKind::List(item), Kind::List(element)) => value_needs(&item.kind, element, needs),
        (SaidKind::Map(value), Kind::Map(_, plan)) => value_needs(&value.kind, plan, needs),
        _ => {}
    }
}

fn fields_tell(fields: &[SaidField], plan: &mut StructPlan) {
    for field in fields {
        if let Some(column) = plan.find(&field.name).and_then(|index| plan.fields.get_mut(index)) {
            value_tells(&field.said.kind, column);
        }
    }
}

fn value_tells(said: &SaidKind, column: &mut Plan) {
    match (said, &mut column.kind) {
        (SaidKind::Primitive(_, reading), Kind::Primitive(_)) => column.reading = *reading,
        (SaidKind::Struct(fields), Kind::Struct(plan)) => fields_tell(fields, plan),
        (SaidKind::List(item), Kind::List(element)) => value_tells(&item.kind, element),
        (SaidKind::Map(value), Kind::Map(_, plan)) => value_tells(&value.kind, plan),
        _ => {}
    }
}

/// Whether a schema is that of null.
fn is_null(schema: &Value) -> bool {
    schema.get("type").is_some_and(|kind| kind == "null")
}

/// Where a schema is read.
#[derive(Clone, Copy)]
struct Place<'a> {
    document: &'a Value,
    depth: usize,
}

struct Reader<'a> {
    documents: &'a HashMap<String, Value>,
    /// References that are being followed: what leads back to one of them is left open.
    open: Vec<*const Value>,
    weight: usize,
    has_readings: bool,
}

impl<'a> Reader<'a> {
    /// What a schema says of a value; `None` where it leaves that open.
    fn value(&mut self, schema: &'a Value, place: Place<'a>) -> Result<Option<Said>> {
        self.weight += 1;
        if self.weight > WEIGHT_MAX {
            return Err(wrong(format!(
                "the schema has more than {WEIGHT_MAX} fields, counting each use of a reference"
            )));
        }
        let Value::Object(object) = schema else { return Ok(None) };
        if place.depth >= DEPTH_MAX {
            return Ok(None);
        }
        let place = Place { depth: place.depth + 1, ..place };
        if let Some(to) = object.get("$ref").and_then(Value::as_str) {
            return self.reference(to, place);
        }
        let own = self.own(object, place)?;
        let said = match object.get("allOf") {
            Some(Value::Array(branches)) => self.all_of(own, branches, place)?,
            _ => own,
        };
        for word in ["oneOf", "anyOf"] {
            let Some(Value::Array(branches)) = object.get(word) else { continue };
            return match said {
                None | Some(Said { kind: SaidKind::Map(_), .. }) => self.one_of(branches, place),
                // What holds beside each of them is known; what only some of them say is left open.
                Some(said) => Ok(Some(Said { required: said.required && !branches.iter().any(is_null), ..said })),
            };
        }
        Ok(said)
    }

    /// What a schema says of a value by itself, without those that it is put together from.
    fn own(&mut self, object: &'a Map<String, Value>, place: Place<'a>) -> Result<Option<Said>> {
        let (kind, nullable) = match object.get("type") {
            Some(Value::String(word)) => (word.as_str(), false),
            Some(Value::Array(words)) => {
                let mut others = words.iter().filter_map(Value::as_str).filter(|word| *word != "null");
                match (others.next(), others.next()) {
                    (Some(word), None) => (word, words.iter().any(|word| word == "null")),
                    _ => return Ok(None),
                }
            }
            _ if object.contains_key("properties") => ("object", false),
            _ => (of_examples(object), false),
        };
        let kind = match kind {
            "object" => self.object(object, place)?,
            "array" => self.array(object, place)?,
            word => self.primitive(word, object),
        };
        Ok(kind.map(|kind| Said { kind, required: !nullable }))
    }

    fn reference(&mut self, to: &str, place: Place<'a>) -> Result<Option<Said>> {
        let (name, fragment) = to.split_once('#').unwrap_or((to, ""));
        let document = match name {
            "" => place.document,
            name => match self.documents.get(name).or_else(|| self.documents.get(name.rsplit('/').next()?)) {
                Some(document) => document,
                None => return Ok(None),
            },
        };
        let Some(target) = document.pointer(fragment) else { return Ok(None) };
        if self.open.contains(&std::ptr::from_ref(target)) {
            return Ok(None);
        }
        self.open.push(std::ptr::from_ref(target));
        let said = self.value(target, Place { document, ..place });
        self.open.pop();
        said
    }

    /// Schemas that all hold, beside what the value's own says: the fields of all of them. Those that say nothing of the
    /// type (`required`, `if`, a pattern) change nothing.
    fn all_of(&mut self, own: Option<Said>, branches: &'a [Value], place: Place<'a>) -> Result<Option<Said>> {
        let mut more = Vec::new();
        for branch in branches {
            more.extend(self.value(branch, place)?);
        }
        let is_struct = |said: &Said| matches!(said.kind, SaidKind::Struct(_));
        if !own.iter().chain(&more).all(is_struct) {
            let only = more.len() == 1 && !own.as_ref().is_some_and(is_struct);
            return Ok(if only { more.pop() } else { own });
        }
        let (mut fields, mut names, mut required) = (Vec::new(), HashSet::new(), true);
        for said in own.into_iter().chain(more) {
            required &= said.required;
            let SaidKind::Struct(more) = said.kind else { continue };
            fields.extend(more.into_iter().filter(|field| names.insert(field.name.clone())));
        }
        Ok((!fields.is_empty()).then_some(Said { kind: SaidKind::Struct(fields), required }))
    }

    /// One of several schemas, where null and one other are all that there are.
    fn one_of(&mut self, branches: &'a [Value], place: Place<'a>) -> Result<Option<Said>> {
        let nullable = branches.iter().any(is_null);
        let mut others = Vec::new();
        for branch in branches.iter().filter(|branch| !is_null(branch)) {
            others.push(self.value(branch, place)?);
        }
        let mut others = others.into_iter();
        match (others.next(), others.next()) {
            (Some(Some(only)), None) => Ok(Some(Said { required: only.required && !nullable, ..only })),
            _ => Ok(None),
        }
    }

    fn object(&mut self, object: &'a Map<String, Value>, place: Place<'a>) -> Result<Option<SaidKind>> {
        let Some(Value::Object(properties)) = object.get("properties") else {
            let Some(values @ Value::Object(_)) = object.get("additionalProperties") else { return Ok(None) };
            return Ok(self.value(values, place)?.map(|value| SaidKind::Map(Box::new(value))));
        };
        let required: BTreeSet<&str> = match object.get("required") {
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            _ => BTreeSet::new(),
        };
        let mut fields = Vec::new();
        for (name, schema) in properties {
            if let Some(said) = self.value(schema, place)? {
                let said = Said { required: said.required && required.contains(name.as_str()), ..said };
                // Connect's order of the fields; else as they are written.
                let index = schema.get("connect.index").and_then(Value::as_u64).unwrap_or(u64::MAX);
                fields.push((index, SaidField { name: name.clone(), said }));
            }
        }
        fields.sort_by_key(|(index, _)| *index);
        let fields: Vec<SaidField> = fields.into_iter().map(|(_, field)| field).collect();
        Ok((!fields.is_empty()).then_some(SaidKind::Struct(fields)))
    }

    fn array(&mut self, object: &'a Map<String, Value>, place: Place<'a>) -> Result<Option<SaidKind>> {
        let Some(items @ Value::Object(_)) = object.get("items") else { return Ok(None) };
        Ok(self.value(items, place)?.map(|item| SaidKind::List(Box::new(item))))
    }

    fn primitive(&mut self, word: &str, object: &Map<String, Value>) -> Option<SaidKind> {
        let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
        let (connect, format) = (text("connect.type"), text("format"));
        if let Some((kind, reading)) =
            text("title").strip_prefix(CONNECT).and_then(|title| logical(title, word, object))
        {
            self.has_readings |= reading != Reading::Plain;
            return Some(SaidKind::Primitive(kind, reading));
        }
        let kind = match (word, connect, format) {
            ("boolean", ..) => PrimitiveType::Boolean,
            ("integer", "int8" | "int16" | "int32", _) | ("integer", "", "int32") => PrimitiveType::Int,
            ("integer", ..) => PrimitiveType::Long,
            ("number", "float32", _) | ("number", "", "float") => PrimitiveType::Float,
            ("number", ..) => PrimitiveType::Double,
            ("string", "bytes", _) => PrimitiveType::Binary,
            ("string", ..) if text("contentEncoding") == "base64" => PrimitiveType::Binary,
            ("string", _, "date") => PrimitiveType::Date,
            ("string", _, "date-time") => PrimitiveType::Timestamptz,
            ("string", _, "time") => PrimitiveType::Time,
            ("string", _, "uuid") => PrimitiveType::Uuid,
            ("string", ..) => PrimitiveType::String,
            _ => return None,
        };
        Some(SaidKind::Primitive(kind, Reading::Plain))
    }
}

/// One of Kafka Connect's logical types, and how its converter writes values of it.
fn logical(title: &str, word: &str, object: &Map<String, Value>) -> Option<(PrimitiveType, Reading)> {
    Some(match (title, word) {
        ("Decimal", "number" | "string") => {
            let parameters = object.get("connect.parameters");
            let number = |name: &str| -> Option<u32> {
                let value = parameters?.get(name)?;
                value.as_str().map_or_else(|| value.as_u64()?.try_into().ok(), |text| text.parse().ok())
            };
            let precision =
                number("connect.decimal.precision").filter(|digits| (1..=38).contains(digits)).unwrap_or(38);
            // Without digits after the point that a column may have, an unscaled value says nothing; a number says itself.
            let scale = number("scale").or_else(|| (word == "number").then_some(0))?;
            if scale > precision {
                return None;
            }
            let reading = if word == "string" { Reading::Unscaled(scale) } else { Reading::Plain };
            (PrimitiveType::Decimal { precision, scale }, reading)
        }
        ("Date", "integer") => (PrimitiveType::Date, Reading::Days),
        ("Time", "integer") => (PrimitiveType::Time, Reading::TimeMillis),
        ("Timestamp", "integer") => (PrimitiveType::Timestamptz, Reading::Millis),
        _ => return None,
    })
}

/// The type of what a schema without one lists: all texts, or nothing that we know.
fn of_examples(object: &Map<String, Value>) -> &'static str {
    let texts = match (object.get("enum"), object.get("const")) {
        (Some(Value::Array(values)), _) => !values.is_empty() && values.iter().all(Value::is_string),
        (_, Some(value)) => value.is_string(),
        _ => false,
    };
    if texts { "string" } else { "" }
}

#[cfg(test)]
mod tests;
