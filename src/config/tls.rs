//! What a client of HTTPS trusts and what it shows of itself, as a user may write it, and why TLS failed.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use reqwest::{Certificate, ClientBuilder, Identity};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{AlertDescription as Alert, CertificateError};

use crate::error::{Context, Error, ErrorKind, Result};

/// A file that was read with the configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct ReadFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it holds.
    pub bytes: Vec<u8>,
}

/// Without what it holds, which may be a key.
impl fmt::Debug for ReadFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.path.display(), self.bytes.len())
    }
}

/// Files of one client, in PEM.
#[derive(Debug, Clone, Default)]
pub struct ClientTls {
    /// Certificates to trust.
    pub ca: Option<ReadFile>,
    /// Whether the system's are trusted beside them; without any they are.
    pub system: bool,
    /// Our own certificate, up to its authority.
    pub certificate: Option<ReadFile>,
    /// Its key.
    pub key: Option<ReadFile>,
}

impl ClientTls {
    /// Trusts the certificates in this file, and the system's.
    ///
    /// # Errors
    /// `Config` when it cannot be read.
    pub fn also_trusting(ca: &Path) -> Result<Self> {
        let bytes =
            std::fs::read(ca).context(ErrorKind::Config, || format!("the file {} cannot be read", ca.display()));
        let bytes = bytes.map_err(|error| error.with_hint(READABLE))?;
        Ok(Self { ca: Some(ReadFile { path: ca.to_owned(), bytes }), system: true, ..Self::default() })
    }

    /// What no client can use: the setting, what is wrong, and the way out.
    pub(crate) fn problems(&self) -> Vec<(&'static str, String, &'static str)> {
        let mut problems = Vec::new();
        for (setting, file) in [("ca", &self.ca), ("certificate", &self.certificate)] {
            if let Some(file) = file.as_ref().filter(|file| !holds_certificates(&file.bytes)) {
                let text = format!("the file {} holds no certificate", file.path.display());
                problems.push((setting, text, "name a file in PEM: it has lines that say BEGIN CERTIFICATE"));
            }
        }
        if let Some(file) = self.key.as_ref().filter(|file| PrivateKeyDer::from_pem_slice(&file.bytes).is_err()) {
            let locked = file.bytes.windows(LOCKED.len()).any(|part| part == LOCKED);
            let (what, hint) = if locked {
                ("a key that is locked with a password", "`openssl pkey -in KEY -out OTHER` writes it without one")
            } else {
                ("no private key", "name a file in PEM: it has a line that says BEGIN PRIVATE KEY")
            };
            problems.push(("key", format!("the file {} holds {what}", file.path.display()), hint));
        }
        problems
    }

    /// A client that does as these files say.
    ///
    /// # Errors
    /// `Config` when it cannot be made of them.
    pub fn client(&self, mut builder: ClientBuilder) -> Result<reqwest::Client> {
        if let Some((_, text, hint)) = self.problems().into_iter().next() {
            return Err(Error::new(ErrorKind::Config, text).with_hint(hint));
        }
        // What they say of a key's file might quote it.
        let unusable = |file: &ReadFile| {
            let text = format!("what the file {} holds cannot be used", file.path.display());
            Error::new(ErrorKind::Config, text).with_hint("check it with `openssl x509 -in FILE -text`")
        };
        if let Some(ca) = &self.ca {
            builder = builder.tls_built_in_root_certs(self.system);
            for certificate in Certificate::from_pem_bundle(&ca.bytes).map_err(|_| unusable(ca))? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        if let (Some(certificate), Some(key)) = (&self.certificate, &self.key) {
            let both = [key.bytes.as_slice(), b"\n", &certificate.bytes].concat();
            builder = builder.identity(Identity::from_pem(&both).map_err(|_| unusable(certificate))?);
        }
        let made = builder.build().context(ErrorKind::Config, || "set up the HTTP client");
        made.map_err(|error| match (&self.ca, &self.certificate) {
            (None, None) => error,
            _ => error
                .with_hint("check that `ca` is an authority's certificate, and that `certificate` is that of `key`"),
        })
    }
}

/// How a key begins that has a password.
const LOCKED: &[u8] = b"ENCRYPTED";

/// What to do about a file that is not there.
pub(crate) const READABLE: &str = "let the user that runs frazil read it, or name another file";

fn holds_certificates(bytes: &[u8]) -> bool {
    let mut found = CertificateDer::pem_slice_iter(bytes).peekable();
    found.peek().is_some() && found.all(|one| one.is_ok())
}

/// What to do where it is for TLS that a request has no answer; the settings have names that begin with `prefix`.
pub fn tls_hint(error: &reqwest::Error, prefix: &str) -> Option<String> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(at) = next {
        if let Some(tls) = at.downcast_ref() {
            return Some(meaning(tls, prefix));
        }
        // What an I/O error wraps is not its source, but that one's.
        let within = at.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = within.map(|own| own as &(dyn StdError + 'static)).or_else(|| at.source());
    }
    None
}

fn meaning(error: &rustls::Error, prefix: &str) -> String {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => format!(
            "its certificate is signed by nobody who is trusted here: name the authority's certificate (PEM) with {prefix}ca"
        ),
        rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
            | CertificateError::NotValidForName
            | CertificateError::NotValidForNameContext { .. },
        ) => "its certificate has expired, is not valid yet, or is of another host name than the URL says".to_owned(),
        rustls::Error::InvalidCertificate(_) => {
            format!("its certificate must be signed by an authority in {prefix}ca, and be no authority's own")
        }
        rustls::Error::AlertReceived(
            Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::HandshakeFailure
            | Alert::UnknownCA
            | Alert::CertificateUnknown,
        ) => format!("it wants a certificate of ours, or another one: set {prefix}certificate and {prefix}key"),
        _ => format!("check {prefix}ca, and that this port speaks TLS"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Option<ReadFile> {
        Some(ReadFile { path: "/etc/x.pem".into(), bytes: text.into() })
    }

    fn pem(kind: &str) -> String {
        format!("some text\n-----BEGIN {kind}-----\nMAMCAQU=\n-----END {kind}-----\n")
    }

    #[test]
    fn a_file_that_holds_something_else_is_told_with_its_setting() {
        let told = |ca: &str, certificate: &str, key: &str| {
            let own = ClientTls { ca: file(ca), certificate: file(certificate), key: file(key), system: false };
            own.problems().into_iter().map(|(setting, text, _)| format!("{setting}: {text}")).collect::<Vec<_>>()
        };
        let (certificate, key) = (pem("CERTIFICATE"), pem("PRIVATE KEY"));
        assert!(told(&certificate, &certificate.repeat(2), &key).is_empty());
        assert_eq!(
            told(&key, "", &certificate),
            [
                "ca: the file /etc/x.pem holds no certificate",
                "certificate: the file /etc/x.pem holds no certificate",
                "key: the file /etc/x.pem holds no private key",
            ]
        );
        assert_eq!(
            told(&certificate, &certificate, &pem("ENCRYPTED PRIVATE KEY")),
            ["key: the file /etc/x.pem holds a key that is locked with a password"]
        );
        let damaged = certificate.replace("MAMCAQU=", "%%%");
        assert_eq!(told(&damaged, &certificate, &key), ["ca: the file /etc/x.pem holds no certificate"]);
    }

    #[test]
    fn what_a_file_holds_is_not_shown() {
        let own = ClientTls { key: file("hunter2"), ..ClientTls::default() };
        assert!(format!("{own:?}").contains("/etc/x.pem (7 bytes)"), "{own:?}");
        // DER that is none: what cannot be made of it is told without it.
        let own = ClientTls { ca: file(&pem("CERTIFICATE")), ..ClientTls::default() };
        let error = own.client(reqwest::Client::builder()).expect_err("no certificate");
        assert!(error.kind() == ErrorKind::Config && error.hint().is_some(), "{error}");
    }
}
