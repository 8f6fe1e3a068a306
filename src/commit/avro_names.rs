//! Names in Avro schemas, checked without a regular expression.
//!
//! Reading a manifest parses the schema in its header, and the library checks each of its some forty names with a backtracking
//! matcher: a third of the time that a small manifest takes. What is accepted stays the same. Source: Avro 1.11
//! specification, "Names".

use apache_avro::error::{Details, Error};
use apache_avro::schema::Namespace;
use apache_avro::validator::{
    RecordFieldNameValidator, SchemaNameValidator, set_record_field_name_validator, set_schema_name_validator,
};

/// From now on this process checks names so. To be called before the first manifest is read; later calls change nothing.
pub fn install() {
    let _ = set_schema_name_validator(Box::new(Names));
    let _ = set_record_field_name_validator(Box::new(Names));
}

struct Names;

impl SchemaNameValidator for Names {
    fn validate(&self, name: &str) -> Result<(String, Namespace), Error> {
        let (namespace, short) = name.rsplit_once('.').map_or((None, name), |(before, last)| (Some(before), last));
        if !is_name(short) || !namespace.is_none_or(|before| before.is_empty() || before.split('.').all(is_name)) {
            return Err(Details::InvalidSchemaName(name.to_owned(), SchemaNameValidator::regex(self).as_str()).into());
        }
        Ok((short.to_owned(), namespace.map(str::to_owned)))
    }
}

impl RecordFieldNameValidator for Names {
    fn validate(&self, name: &str) -> Result<(), Error> {
        if is_name(name) { Ok(()) } else { Err(Details::FieldName(name.to_owned()).into()) }
    }
}

/// `[A-Za-z_][A-Za-z0-9_]*`
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.bytes().next().is_some_and(|first| plain(first) && !first.is_ascii_digit()) && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the library's own expressions say of a name.
    fn by_regex(name: &str) -> Option<(String, Option<String>)> {
        let found = SchemaNameValidator::regex(&Names).captures(name)?;
        let part = |name| found.name(name).map(|part| part.as_str().to_owned());
        Some((part("name")?, part("namespace")))
    }

    proptest::proptest! {
        #[test]
        fn names_are_accepted_as_the_library_accepts_them(name in "[aZ_9.é-]{0,7}") {
            proptest::prop_assert_eq!(SchemaNameValidator::validate(&Names, &name).ok(), by_regex(&name));
            let field = RecordFieldNameValidator::regex(&Names).is_match(&name);
            proptest::prop_assert_eq!(RecordFieldNameValidator::validate(&Names, &name).is_ok(), field);
        }
    }
}
