//! `config show --resolved`: every setting that applies, secrets as `***`, each with its origin.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use crate::config::problem::{Place, dotted, key_text};
use crate::config::quantity::{show_bytes, show_millis, show_share_in};
use crate::config::reading::Value;
use crate::config::resolve::{Resolved, Scope, Setting};

/// Options of stores that are no secrets.
const OPEN_OPTIONS: &[&str] = &[
    "region",
    "endpoint",
    "bucket",
    "allow_http",
    "virtual_hosted_style_request",
    "skip_signature",
    "aws_region",
    "aws_endpoint",
    "aws_allow_http",
    "account_name",
    "container_name",
];

impl Resolved {
    /// The settings as a TOML document.
    pub fn to_toml(&self, scope: Scope) -> String {
        let mut sections: BTreeMap<&[String], Vec<(&str, &Setting)>> = BTreeMap::new();
        for (path, setting) in self.shown(scope) {
            match (path.split_last(), &setting.value) {
                (Some(_), Value::Secrets(_)) if path.first().is_some_and(|first| first == "store") => {
                    sections.entry(path).or_default().push(("", setting));
                }
                (Some((name, section)), _) => sections.entry(section).or_default().push((name, setting)),
                (None, _) => {}
            }
        }
        let mut text = String::new();
        for (section, settings) in sections {
            if !section.is_empty() {
                let _ = writeln!(text, "{}[{}]", if text.is_empty() { "" } else { "\n" }, dotted(section));
            }
            for (name, setting) in settings {
                if name.is_empty() {
                    store(&mut text, setting);
                } else {
                    line(&mut text, name, &value(&setting.value), setting);
                }
            }
        }
        text
    }

    /// The settings as JSON: by path, each with its value and origin.
    pub fn to_json(&self, scope: Scope) -> Json {
        let entries = self.shown(scope).map(|(path, setting)| {
            let store = path.first().is_some_and(|first| first == "store");
            (dotted(path), json!({ "value": json_value(&setting.value, store), "origin": setting.place.to_string() }))
        });
        Json::Object(entries.collect())
    }

    fn shown(&self, scope: Scope) -> impl Iterator<Item = (&Vec<String>, &Setting)> {
        self.settings.iter().filter(move |(_, setting)| scope == Scope::All || setting.place != Place::Default)
    }
}

fn json_value(value: &Value, store: bool) -> Json {
    match value {
        Value::Text(text) => json!(text),
        Value::File(file) => json!(file.path.display().to_string()),
        Value::Address(address) => json!(address.to_string()),
        Value::Flag(flag) => json!(flag),
        Value::Count(count) => json!(count),
        Value::Bytes(bytes) => json!(show_bytes(*bytes)),
        Value::Millis(millis) => json!(show_millis(*millis)),
        Value::Share(share, None) => json!(share),
        Value::Share(share, window) => json!(show_share_in(*share, *window)),
        Value::Secret(_) => json!("***"),
        Value::List(texts) => json!(texts),
        Value::Texts(texts) => json!(texts),
        Value::Secrets(secrets) => {
            let shown = |name: &String| store && OPEN_OPTIONS.contains(&name.as_str());
            let text = |(name, secret): (&String, &crate::config::Secret)| {
                (name.clone(), json!(if shown(name) { secret.expose() } else { "***" }))
            };
            Json::Object(secrets.iter().map(text).collect())
        }
    }
}

fn line(text: &mut String, name: &str, value: &str, setting: &Setting) {
    let start = format!("{} = {value}", key_text(name));
    let _ = writeln!(text, "{start:<48} # {}", setting.place);
}

fn store(text: &mut String, setting: &Setting) {
    let Value::Secrets(options) = &setting.value else { return };
    for (name, secret) in options {
        let shown = if OPEN_OPTIONS.contains(&name.as_str()) { quote(secret.expose()) } else { quote("***") };
        line(text, name, &shown, setting);
    }
}

fn value(value: &Value) -> String {
    match value {
        Value::Text(text) => quote(text),
        Value::File(file) => quote(&file.path.display().to_string()),
        Value::Address(address) => quote(&address.to_string()),
        Value::Flag(flag) => flag.to_string(),
        Value::Count(count) => count.to_string(),
        Value::Bytes(bytes) => quote(&show_bytes(*bytes)),
        Value::Millis(millis) => quote(&show_millis(*millis)),
        Value::Share(share, window) => quote(&show_share_in(*share, *window)),
        Value::Secret(_) => quote("***"),
        Value::List(texts) => format!("[{}]", texts.iter().map(|text| quote(text)).collect::<Vec<_>>().join(", ")),
        Value::Texts(texts) => table(texts.iter().map(|(name, text)| (name, quote(text)))),
        Value::Secrets(secrets) => table(secrets.keys().map(|name| (name, quote("***")))),
    }
}

fn table<'a>(entries: impl Iterator<Item = (&'a String, String)>) -> String {
    let entries: Vec<String> = entries.map(|(name, text)| format!("{} = {text}", key_text(name))).collect();
    if entries.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", entries.join(", ")) }
}

fn quote(text: &str) -> String {
    toml_edit::Value::from(text).to_string()
}
