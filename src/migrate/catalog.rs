//! `iceberg.catalog.*` as a catalog and a store.

use crate::migrate::note::Fate;
use crate::migrate::translate::{Draft, text};

const PREFIX: &str = "iceberg.catalog.";
/// Properties that only the Java library needs.
const IDLE: [&str; 7] =
    ["io-impl", "cache-enabled", "cache.expiration-interval-ms", "client.factory", "clients", "name", "catalog-impl"];

impl Draft<'_> {
    /// `[catalog.lake]`, and `[store."s3://…"]` where the connector has properties of one. `uri` and `warehouse` of the command line
    /// have the say.
    pub(super) fn catalog(&mut self, uri: Option<&str>, warehouse: Option<&str>) {
        let own = |name: &str| format!("{PREFIX}{name}");
        let kind = self.connector.peek(&own("type"));
        let class = self.connector.peek(&own("catalog-impl"));
        let rest = kind.as_deref().is_some_and(|kind| kind.eq_ignore_ascii_case("rest"))
            || class.as_deref().is_some_and(|class| class.ends_with("RESTCatalog"));
        let (named, place) = (kind.map(|kind| (own("type"), kind)), class.map(|class| (own("catalog-impl"), class)));
        for (property, value) in named.into_iter().chain(place) {
            if rest || uri.is_some() {
                self.connector.taken(&property, "catalog.lake.type");
            } else {
                let hint = format!("{value} is no REST catalog: name its REST endpoint with --uri");
                self.connector.missing(&property, true, &hint);
            }
        }
        self.line("\n[catalog.lake]\ntype = \"rest\"");
        let found = self.connector.peek(&own("uri")).filter(|_| rest);
        match uri.map(str::to_owned).or(found) {
            Some(uri) => {
                let uri = self.url(&own("uri"), uri.trim_end_matches("/v1"));
                self.line(&format!("uri = {uri}"));
            }
            None => {
                self.line("uri = \"https://catalog.invalid\" # name the REST endpoint of the catalog");
                self.connector.missing(&own("uri"), true, "name the REST endpoint of the catalog with --uri");
            }
        }
        self.connector.taken(&own("uri"), "catalog.lake.uri");
        let found = self.connector.peek(&own("warehouse"));
        if let Some(warehouse) = warehouse.map(str::to_owned).or(found.clone()) {
            self.line(&format!("warehouse = {}", text(&warehouse)));
        }
        self.connector.taken(&own("warehouse"), "catalog.lake.warehouse");
        self.identity(&own);
        self.store(found.or(warehouse.map(str::to_owned)));
        for (property, rest, _) in self.connector.below(PREFIX) {
            match rest.as_str() {
                rest if IDLE.contains(&rest) => self.connector.say(&property, Fate::Idle("the Java library's own")),
                rest if rest.starts_with("rest.sig") || rest == "rest.signing-name" => {
                    let hint = "requests are not signed: use a catalog that takes a token or OAuth2";
                    self.connector.missing(&property, true, hint);
                }
                _ => self.connector.missing(&property, false, "see [catalog.NAME] and [store.\"URL\"]"),
            }
        }
    }

    fn identity(&mut self, own: &dyn Fn(&str) -> String) {
        let token = own("token");
        if self.connector.peek(&token).is_some() {
            let secret = self.secret("CATALOG_TOKEN", &token);
            self.line(&format!("token = {secret}"));
            self.connector.taken(&token, "catalog.lake.token");
        }
        if let Some(credential) = self.connector.peek(&own("credential")) {
            // Without a colon it is all secret.
            let id = credential.split_once(':').map_or("", |(id, _)| id).to_owned();
            let secret = self.secret("CATALOG_CLIENT_SECRET", &own("credential"));
            self.line(&format!("oauth2.client_id = {}\noauth2.client_secret = {secret}", text(&id)));
            let parts = [("oauth2-server-uri", "oauth2.server_uri"), ("scope", "oauth2.scope")];
            for (name, setting) in parts {
                if let Some(value) = self.connector.peek(&own(name)) {
                    let value = if name == "scope" { text(&value) } else { self.url(&own(name), &value) };
                    self.line(&format!("{setting} = {value}"));
                    self.connector.taken(&own(name), &format!("catalog.lake.{setting}"));
                }
            }
            for name in ["audience", "resource"] {
                if let Some(value) = self.connector.peek(&own(name)) {
                    self.line(&format!("oauth2.parameters.{name} = {}", text(&value)));
                    self.connector.taken(&own(name), "catalog.lake.oauth2.parameters");
                }
            }
            self.connector.taken(&own("credential"), "catalog.lake.oauth2");
        }
        let delegation = own("header.X-Iceberg-Access-Delegation");
        self.connector.taken(&delegation, "catalog.lake.vended_credentials");
        for (property, name, _) in self.connector.below(&own("header.")) {
            let variable =
                format!("CATALOG_HEADER_{}", name.to_uppercase().replace(|c: char| !c.is_alphanumeric(), "_"));
            let secret = self.secret(&variable, &property);
            self.line(&format!("headers.{} = {secret}", text(&name)));
            self.connector.taken(&property, "catalog.lake.headers");
        }
    }

    fn store(&mut self, warehouse: Option<String>) {
        let own = |name: &str| format!("{PREFIX}{name}");
        let plain = [("s3.endpoint", "endpoint"), ("s3.region", "region"), ("client.region", "region")];
        let secret = [
            ("s3.access-key-id", "access_key_id", "S3_ACCESS_KEY_ID"),
            ("s3.secret-access-key", "secret_access_key", "S3_SECRET_ACCESS_KEY"),
            ("s3.session-token", "token", "S3_SESSION_TOKEN"),
        ];
        let mut lines = Vec::new();
        for (name, option) in plain {
            if let Some(value) = self.connector.peek(&own(name)) {
                let line = format!("{option} = {}", self.url(&own(name), &value));
                if !lines.iter().any(|held: &String| held.starts_with(&format!("{option} "))) {
                    lines.push(line);
                }
                if option == "endpoint" && value.starts_with("http://") {
                    lines.push("allow_http = \"true\"".to_owned());
                }
                self.connector.taken(&own(name), "store.\"s3://\"");
            }
        }
        for (name, option, variable) in secret {
            if self.connector.peek(&own(name)).is_some() {
                lines.push(format!("{option} = {}", self.secret(variable, &own(name))));
                self.connector.taken(&own(name), "store.\"s3://\"");
            }
        }
        if let Some(value) = self.connector.peek(&own("s3.path-style-access")) {
            let hosted = !value.trim().eq_ignore_ascii_case("true");
            lines.push(format!("virtual_hosted_style_request = {}", text(&hosted.to_string())));
            self.connector.taken(&own("s3.path-style-access"), "store.\"s3://\"");
        }
        if lines.is_empty() {
            return;
        }
        let bucket = warehouse.filter(|place| place.starts_with("s3")).and_then(|place| {
            let rest = place.split_once("://")?.1.split('/').next()?.to_owned();
            Some(format!("s3://{rest}"))
        });
        let prefix = bucket.unwrap_or_else(|| "s3://".to_owned());
        self.line(&format!("\n[store.{}]", text(&prefix)));
        lines.iter().for_each(|line| self.line(line));
    }
}
