//! Servers whose certificates are of an authority of their own: a schema registry, and the token server of a Kafka source.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use frazil::env::Env;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::components::{scratch, value};
use crate::daemon::Daemon;
use crate::kafka::{create, here};

/// An authority with a server's certificate and a client's, in a folder: `ca.crt`, `server.crt`, `server.key`, `client.crt` …
fn authority(folder: &Path) {
    fs::create_dir_all(folder).expect("make the authority's folder");
    fs::write(folder.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").expect("write the names");
    let own = folder.file_name().expect("a name").to_string_lossy().into_owned();
    openssl(folder, &format!("req -x509 -newkey rsa:2048 -nodes -days 3 -subj /CN={own} -keyout ca.key -out ca.crt"));
    for name in ["server", "client"] {
        openssl(folder, &format!("req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        let signed = format!("-in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile names -out {name}.crt");
        openssl(folder, &format!("x509 -req -days 3 {signed}"));
    }
}

fn openssl(folder: &Path, words: &str) {
    let output = Command::new("openssl").args(words.split(' ')).current_dir(folder).output().expect("run openssl");
    assert!(output.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Connections by TLS alone; who fails at it is not let in.
struct Door {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for Door {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, at)) = self.listener.accept().await else { continue };
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, at);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A registry of two subjects that also gives tokens, by TLS with the authority's certificate; where `asks`, for whoever has one
/// of the authority too. Its port.
fn serve(authority: &Path, asks: bool) -> u16 {
    let certificates = |name: &str| {
        let found = CertificateDer::pem_file_iter(authority.join(name)).expect("a file of certificates");
        found.collect::<Result<Vec<_>, _>>().expect("certificates")
    };
    let builder = if asks {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates("ca.crt"));
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().expect("a verifier");
        ServerConfig::builder().with_client_cert_verifier(verifier)
    } else {
        ServerConfig::builder().with_no_client_auth()
    };
    let key = PrivateKeyDer::from_pem_file(authority.join("server.key")).expect("a key");
    let config = builder.with_single_cert(certificates("server.crt"), key).expect("a server's certificate");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("for the runtime");
    let port = listener.local_addr().expect("an address").port();
    let token = token();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            let router = Router::new()
                .route("/subjects", get(async || Json(json!(["a", "b"]))))
                .route("/token", post(async move || Json(token)));
            let door = Door { listener, acceptor: TlsAcceptor::from(Arc::new(config)) };
            axum::serve(door, router).await.expect("serves");
        });
    });
    port
}

/// What a token server answers: an unsigned token for an hour.
fn token() -> Value {
    let now = Env::system().now_ms() / 1_000;
    let claims = json!({ "sub": "frazil", "iat": now, "exp": now + 3_600 }).to_string();
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let token = format!("{}.{}.", part(r#"{"alg":"none"}"#), part(&claims));
    json!({ "access_token": token, "token_type": "Bearer", "expires_in": 3_600 })
}

/// What `frazil check --connect` says of a configuration, and whether all is well.
fn checked(folder: &Path, config: &str) -> (bool, String) {
    let daemon = Daemon::configured(folder, &format!("{}\n{config}", here(folder)));
    let output = daemon.command(&["check", "--connect"]).output().expect("run frazil");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), said)
}

fn file(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

#[test]
fn a_registry_of_a_private_authority_is_asked_once_that_is_trusted_and_shown_who_we_are() {
    let folder = scratch(&format!("registry-tls-{}", std::process::id()));
    let (own, other) = (folder.join("own"), folder.join("other"));
    authority(&own);
    authority(&other);
    let (open, asking) = (serve(&own, false), serve(&own, true));
    let says = |port: u16, more: &str| {
        checked(&folder, &format!("[registry.schemas]\nurl = \"https://localhost:{port}\"\n{more}"))
    };
    let trusts = |authority: &Path| format!("ca = {:?}\n", file(authority, "ca.crt"));
    let shows = |authority: &Path| {
        format!("certificate = {:?}\nkey = {:?}\n", file(authority, "client.crt"), file(authority, "client.key"))
    };
    let refused = [
        (open, String::new(), "with registry.schemas.ca"),
        (open, trusts(&other), "with registry.schemas.ca"),
        (asking, trusts(&own), "set registry.schemas.certificate and registry.schemas.key"),
        (asking, trusts(&own) + &shows(&other), "set registry.schemas.certificate and registry.schemas.key"),
    ];
    for (port, more, hint) in refused {
        let (well, said) = says(port, &more);
        assert!(!well && said.contains("registry schemas: no answer") && said.contains(hint), "{more}: {said}");
    }
    for (port, more) in [(open, trusts(&own)), (asking, trusts(&own) + &shows(&own))] {
        let (well, said) = says(port, &more);
        assert!(well && said.contains("registry.schemas: answers, has 2 subjects"), "{more}: {said}");
    }
    // A key of another certificate.
    let pair = format!("certificate = {:?}\nkey = {:?}\n", file(&own, "client.crt"), file(&own, "server.key"));
    let (well, said) = says(asking, &(trusts(&own) + &pair));
    assert!(!well && said.contains("`certificate` is that of `key`") && !said.contains("PRIVATE KEY"), "{said}");
}

#[test]
fn a_token_server_is_trusted_by_the_authority_that_the_source_names() {
    let folder = scratch(&format!("token-tls-{}", std::process::id()));
    let (own, topic) = (folder.join("own"), format!("token-tls-{}", std::process::id()));
    authority(&own);
    create(&topic, 1);
    let brokers = fs::read_to_string(value("KAFKA_CA")).expect("the brokers' authority");
    let both = folder.join("both.crt");
    let private = fs::read_to_string(own.join("ca.crt")).expect("our authority");
    fs::write(&both, brokers + &private).expect("write both");
    let port = serve(&own, false);
    let says = |ca: &str| {
        let config = format!(
            r#"
            [source.rows]
            type = "kafka"
            brokers = ["{brokers}"]
            group = "{topic}"
            topics = ["{topic}"]
            tls = {{ enabled = "on", ca = {ca:?} }}

            [source.rows.sasl]
            mechanism = "OAUTHBEARER"
            token_uri = "https://localhost:{port}/token"
            client_id = "frazil"
            client_secret = "t0ken-secret"
            "#,
            brokers = value("KAFKA_TLS_BROKERS"),
        );
        checked(&folder, &config).1
    };
    let said = says(value("KAFKA_CA"));
    assert!(said.contains("OAuth2 token from https://localhost") && said.contains("with tls.ca"), "{said}");
    assert!(!said.contains("t0ken-secret"), "{said}");
    let said = says(&both.display().to_string());
    assert!(said.contains("source.rows: answers"), "{said}");
}
