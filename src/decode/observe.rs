//! What rows hold that a schema has no place for, in the terms that evolution and inference work with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use iceberg::spec::{ListType, MapType, NestedField, NestedFieldRef, PrimitiveType, StructType, Type};

use crate::decode::fault::Fault;
use crate::decode::scan::{Kind, Number, Scanner};
use crate::decode::temporal;

/// Names that one object may add in one batch; further ones are not remembered.
pub const NAMES_MAX: usize = 10_000;

/// The longest name that becomes a column, in bytes.
pub const NAME_BYTES_MAX: usize = 256;

/// What the rows of a batch need from the schema beyond what it has. By field ids, so that no name is ambiguous.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// Unknown fields, by the field (a struct, or a list element or map value that is one) they appeared in; `None`
    /// for the row itself.
    pub added: BTreeMap<Option<i32>, StructShape>,
    /// Columns that need a wider type.
    pub widened: BTreeMap<i32, PrimitiveType>,
    /// Required columns of which a value was missing or null.
    pub relaxed: BTreeSet<i32>,
    /// Unknown fields with a value, as often as they appeared, that are not in the decoded rows.
    pub ignored: u64,
}

impl Observed {
    /// Whether nothing asks for a change of the schema.
    pub fn is_settled(&self) -> bool {
        self.added.is_empty() && self.widened.is_empty() && self.relaxed.is_empty()
    }

    /// Takes in what was observed elsewhere.
    pub fn merge(&mut self, other: Self) {
        for (parent, shape) in other.added {
            self.added.entry(parent).or_default().merge(shape);
        }
        for (id, wider) in other.widened {
            self.widen(id, wider);
        }
        self.relaxed.extend(other.relaxed);
        self.ignored += other.ignored;
    }

    /// Notes that a column needs at least that type.
    pub(crate) fn widen(&mut self, id: i32, wider: PrimitiveType) {
        let kept = self.widened.entry(id).or_insert_with(|| wider.clone());
        if let (PrimitiveType::Decimal { precision: old, .. }, PrimitiveType::Decimal { precision: new, .. }) =
            (&kept, &wider)
            && new > old
        {
            *kept = wider;
        }
    }

    /// Notes a row's unknown fields: struct, name and shape.
    pub(crate) fn add_all(&mut self, unknown: &mut Vec<(Option<i32>, String, Shape)>) {
        for (parent, name, shape) in unknown.drain(..) {
            self.added.entry(parent).or_default().insert(&name, shape);
        }
    }
}

/// The type that values without one suggest.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// Only nulls, empty objects and empty arrays: nothing is known.
    Unknown,
    /// Booleans.
    Boolean,
    /// Integers of 64 bits.
    Long,
    /// Integers of up to 38 digits.
    Huge,
    /// Numbers with a fraction or an exponent.
    Double,
    /// Strings that are all dates.
    Date,
    /// Strings that are all timestamps without a zone, or dates.
    Timestamp,
    /// Strings that are all timestamps with a zone.
    Timestamptz,
    /// Strings, or values without a common type: their JSON text.
    String,
    /// Objects.
    Struct(StructShape),
    /// Arrays of one kind of element.
    List(Box<Shape>),
    /// What a writer's schema says. Its fields have no ids of their own yet.
    Typed(Arc<Type>),
}

/// The fields that objects had, in the order of their first appearance.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StructShape {
    fields: Vec<(String, Shape)>,
    index: BTreeMap<String, usize>,
    /// Fields beyond [`NAMES_MAX`], as often as they appeared.
    pub left_out: u64,
}

impl StructShape {
    /// The fields that hold something, in the order of their first appearance.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &Shape)> {
        self.fields.iter().filter(|(_, shape)| shape.is_known()).map(|(name, shape)| (name.as_str(), shape))
    }

    /// The same without some fields.
    #[must_use]
    pub fn without(&self, unwanted: impl Fn(&str) -> bool) -> Self {
        let mut rest = Self { left_out: self.left_out, ..Self::default() };
        for (name, shape) in self.fields.iter().filter(|(name, _)| !unwanted(name)) {
            rest.insert(name, shape.clone());
        }
        rest
    }

    /// Takes in one more value of a field.
    pub(crate) fn insert(&mut self, name: &str, shape: Shape) {
        if let Some(at) = self.index.get(name) {
            if let Some((_, held)) = self.fields.get_mut(*at) {
                held.merge(shape);
            }
        } else if self.fields.len() < NAMES_MAX {
            self.index.insert(name.to_owned(), self.fields.len());
            self.fields.push((name.to_owned(), shape));
        } else {
            self.left_out += 1;
        }
    }

    /// Takes in the fields of other objects.
    pub fn merge(&mut self, other: Self) {
        for (name, shape) in other.fields {
            self.insert(&name, shape);
        }
        self.left_out += other.left_out;
    }

    /// The same with the fields that rows had beside those that are said. What is said of a field holds.
    #[must_use]
    pub(crate) fn with_seen(mut self, seen: Self) -> Self {
        for (name, shape) in seen.fields {
            match self.index.get(&name).and_then(|at| self.fields.get_mut(*at)) {
                Some((_, said)) => *said = std::mem::replace(said, Shape::Unknown).with_seen(shape),
                None => self.insert(&name, shape),
            }
        }
        self.left_out += seen.left_out;
        self
    }

    /// Reads the object that the scanner stands on.
    pub(crate) fn read(scanner: &mut Scanner<'_>) -> Result<Self, Fault> {
        let mut shape = Self::default();
        scanner.open()?;
        let mut first = true;
        while scanner.more(b'}', first)? {
            first = false;
            let name = scanner.key()?.unescape()?;
            if shape.index.contains_key(name.as_ref()) {
                return Err(Fault::value("duplicate key").in_field(&name));
            }
            let value = Shape::read(scanner).map_err(|fault| fault.in_field(&name))?;
            shape.insert(&name, value);
        }
        Ok(shape)
    }
}

impl Shape {
    /// Whether a type follows from it.
    pub fn is_known(&self) -> bool {
        match self {
            Self::Unknown => false,
            Self::Struct(shape) => shape.fields().next().is_some(),
            Self::List(element) => element.is_known(),
            _ => true,
        }
    }

    /// Reads the value that comes next.
    pub(crate) fn read(scanner: &mut Scanner<'_>) -> Result<Self, Fault> {
        Ok(match scanner.peek()? {
            Kind::Null => {
                scanner.null()?;
                Self::Unknown
            }
            Kind::Boolean => {
                scanner.boolean()?;
                Self::Boolean
            }
            Kind::Number => Self::of_number(scanner.number()?),
            Kind::String => Self::of_text(&scanner.string()?.unescape()?),
            Kind::Object => Self::Struct(StructShape::read(scanner)?),
            Kind::Array => {
                scanner.open()?;
                let (mut element, mut count) = (Self::Unknown, 0);
                while scanner.more(b']', count == 0)? {
                    element.merge(Self::read(scanner).map_err(|fault| fault.in_element(count))?);
                    count += 1;
                }
                Self::List(Box::new(element))
            }
        })
    }

    pub(crate) fn of_number(number: Number<'_>) -> Self {
        if number.integer {
            return match number.text.parse::<i64>() {
                Ok(_) => Self::Long,
                Err(_) if number.text.trim_start_matches('-').len() <= 38 => Self::Huge,
                Err(_) => Self::String,
            };
        }
        match number.text.parse::<f64>() {
            Ok(value) if value.is_finite() => Self::Double,
            _ => Self::String,
        }
    }

    pub(crate) fn of_text(text: &str) -> Self {
        // The shortest is a date; anything that does not begin like one is no candidate.
        if text.len() < 10 || text.len() > 40 || text.as_bytes().get(4) != Some(&b'-') {
            return Self::String;
        }
        if temporal::date(text).is_some() {
            return Self::Date;
        }
        match temporal::timestamp(text) {
            Some(stamp) if stamp.micros().is_none() => Self::String,
            Some(stamp) if stamp.zone => Self::Timestamptz,
            Some(_) => Self::Timestamp,
            None => Self::String,
        }
    }

    /// See [`StructShape::with_seen`].
    fn with_seen(self, seen: Self) -> Self {
        match (self, seen) {
            (Self::Unknown, seen) => seen,
            (Self::Struct(said), Self::Struct(seen)) => Self::Struct(said.with_seen(seen)),
            (Self::List(said), Self::List(seen)) => Self::List(Box::new(said.with_seen(*seen))),
            (said, _) => said,
        }
    }

    /// The shape of both values together: what neither of them would be refused by.
    pub fn merge(&mut self, other: Self) {
        if matches!(other, Self::Unknown) {
            return;
        }
        *self = match (std::mem::replace(self, Self::Unknown), other) {
            (Self::Unknown, other) => other,
            (Self::Struct(mut a), Self::Struct(b)) => {
                a.merge(b);
                Self::Struct(a)
            }
            (Self::List(mut a), Self::List(b)) => {
                a.merge(*b);
                Self::List(a)
            }
            (a, b) if a == b => a,
            (Self::Typed(a), Self::Typed(b)) => Self::Typed(Arc::new(both(&a, &b))),
            // What a schema says is so; what a value without one suggests is a guess, and fits or does not.
            (Self::Typed(said), _) | (_, Self::Typed(said)) => Self::Typed(said),
            (Self::Long, Self::Huge) | (Self::Huge, Self::Long) => Self::Huge,
            (Self::Double, Self::Long | Self::Huge) | (Self::Long | Self::Huge, Self::Double) => Self::Double,
            (Self::Date, Self::Timestamp) | (Self::Timestamp, Self::Date) => Self::Timestamp,
            _ => Self::String,
        };
    }

    /// The primitive type that it suggests; `None` for structs, lists and what is not known.
    pub fn primitive(&self) -> Option<PrimitiveType> {
        match self {
            Self::Boolean => Some(PrimitiveType::Boolean),
            Self::Long => Some(PrimitiveType::Long),
            Self::Huge => Some(PrimitiveType::Decimal { precision: 38, scale: 0 }),
            Self::Double => Some(PrimitiveType::Double),
            Self::Date => Some(PrimitiveType::Date),
            Self::Timestamp => Some(PrimitiveType::Timestamp),
            Self::Timestamptz => Some(PrimitiveType::Timestamptz),
            Self::String => Some(PrimitiveType::String),
            Self::Typed(kind) => kind.as_primitive_type().cloned(),
            Self::Unknown | Self::Struct(_) | Self::List(_) => None,
        }
    }
}

/// The type that takes the values of both, as far as there is one; else that of `a`, and the values of `b` do not fit.
fn both(a: &Type, b: &Type) -> Type {
    use PrimitiveType::{Decimal, Double, Float, Int, Long};
    match (a, b) {
        (Type::Primitive(Int), Type::Primitive(Long)) => Type::Primitive(Long),
        (Type::Primitive(Float), Type::Primitive(Double)) => Type::Primitive(Double),
        (Type::Primitive(Decimal { precision: a, scale }), Type::Primitive(Decimal { precision: b, scale: same }))
            if scale == same =>
        {
            Type::Primitive(Decimal { precision: *a.max(b), scale: *scale })
        }
        (Type::Struct(a), Type::Struct(b)) => {
            let merged = a.fields().iter().map(|field| match b.field_by_name(&field.name) {
                Some(other) => both_fields(field, other),
                None => relaxed(field),
            });
            let new = b.fields().iter().filter(|field| a.field_by_name(&field.name).is_none());
            Type::Struct(StructType::new(merged.chain(new.map(relaxed)).collect()))
        }
        (Type::List(a), Type::List(b)) => Type::List(ListType::new(both_fields(&a.element_field, &b.element_field))),
        (Type::Map(a), Type::Map(b)) => {
            Type::Map(MapType::new(Arc::clone(&a.key_field), both_fields(&a.value_field, &b.value_field)))
        }
        (a, _) => a.clone(),
    }
}

fn both_fields(a: &NestedFieldRef, b: &NestedFieldRef) -> NestedFieldRef {
    let mut field = NestedField::clone(a);
    field.required = a.required && b.required;
    *field.field_type = both(&a.field_type, &b.field_type);
    Arc::new(field)
}

fn relaxed(field: &NestedFieldRef) -> NestedFieldRef {
    let mut field = NestedField::clone(field);
    field.required = false;
    Arc::new(field)
}
