//! How a process shows itself to the services that it calls over gRPC: a token, a certificate, and whom it trusts.
//!
//! What can fail: a file that cannot be read. A call then ends with what to do; files are read again as they are needed, so that what is
//! rotated is in force within minutes, without a restart.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

/// How long a token that was read is used before its file is looked at again.
const TOKEN_AGE: Duration = Duration::from_secs(5);
/// How long a connection with TLS is used before one with the files of then replaces it.
pub const TLS_AGE: Duration = Duration::from_mins(10);

/// Section `[client]`: how this service shows itself to others. Empty: it shows nothing, and trusts what the system trusts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Client {
    /// A file that holds the bearer token, and nothing else.
    pub token_file: PathBuf,
    /// Authorities whose services are trusted, PEM, instead of the system's.
    pub ca_file: PathBuf,
    /// The certificate that is shown, and its chain, PEM.
    pub certificate_file: PathBuf,
    /// Its private key, PEM.
    pub key_file: PathBuf,
}

/// A channel whose calls carry the token.
pub type Authorized = InterceptedService<Channel, Bearer>;

/// An address that cannot be called.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// It is no address.
    #[error("{0:?} is not an address such as http://127.0.0.1:7101")]
    Address(String),
    /// A file of section `[client]`.
    #[error("{0}")]
    File(String),
    /// What is in the files.
    #[error("the files of [client] cannot be used for TLS: {0}")]
    Tls(#[source] tonic::transport::Error),
}

impl Client {
    /// What is wrong with the section.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let given = |path: &PathBuf| !path.as_os_str().is_empty();
        if given(&self.certificate_file) == given(&self.key_file) {
            return Vec::new();
        }
        vec!["client.certificate_file and client.key_file go together: give both or none".to_owned()]
    }

    /// Where a call of this address begins: with TLS for `https://`.
    ///
    /// # Errors
    /// [`AddressError`].
    pub fn endpoint(&self, url: &str) -> Result<Endpoint, AddressError> {
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| AddressError::Address(url.to_owned()))?;
        if endpoint.uri().scheme_str() == Some("https") {
            endpoint.tls_config(self.tls()?).map_err(AddressError::Tls)
        } else {
            Ok(endpoint)
        }
    }

    fn tls(&self) -> Result<ClientTlsConfig, AddressError> {
        let mut tls = ClientTlsConfig::new();
        tls = if self.ca_file.as_os_str().is_empty() {
            tls.with_enabled_roots()
        } else {
            tls.ca_certificate(Certificate::from_pem(read(&self.ca_file)?))
        };
        if !self.certificate_file.as_os_str().is_empty() {
            tls = tls.identity(Identity::from_pem(read(&self.certificate_file)?, read(&self.key_file)?));
        }
        Ok(tls)
    }

    /// What puts the token into calls.
    #[must_use]
    pub fn bearer(&self) -> Bearer {
        let file = (!self.token_file.as_os_str().is_empty()).then(|| self.token_file.clone());
        Bearer(Arc::new(TokenFile { file, last: Mutex::default() }))
    }
}

fn read(file: &PathBuf) -> Result<Vec<u8>, AddressError> {
    std::fs::read(file).map_err(|error| AddressError::File(format!("{} cannot be read: {error}", file.display())))
}

/// Puts the token of a file into every call; nothing where there is no file. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Bearer(Arc<TokenFile>);

struct TokenFile {
    file: Option<PathBuf>,
    last: Mutex<Option<(Instant, MetadataValue<Ascii>)>>,
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bearer").field(&self.0.file).finish()
    }
}

impl Bearer {
    /// A channel whose calls carry the token.
    #[must_use]
    pub fn on(&self, channel: Channel) -> Authorized {
        InterceptedService::new(channel, self.clone())
    }

    fn token(&self) -> Result<Option<MetadataValue<Ascii>>, Status> {
        let Some(file) = &self.0.file else { return Ok(None) };
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, token)) = last.as_ref().filter(|(at, _)| at.elapsed() < TOKEN_AGE) {
            return Ok(Some(token.clone()));
        }
        let wrong = |why: String| Status::unauthenticated(format!("the token file {}: {why}", file.display()));
        let text = std::fs::read_to_string(file).map_err(|error| wrong(format!("cannot be read: {error}")))?;
        let mut token = MetadataValue::try_from(format!("Bearer {}", text.trim())).map_err(|_| wrong("holds no token".into()))?;
        token.set_sensitive(true);
        *last = Some((Instant::now(), token.clone()));
        Ok(Some(token))
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = self.token()? {
            request.metadata_mut().insert("authorization", token);
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(client: &Client) -> Result<Option<String>, Status> {
        let request = client.bearer().call(Request::new(()))?;
        Ok(request.metadata().get("authorization").map(|token| token.to_str().unwrap().to_owned()))
    }

    #[test]
    fn a_token_is_read_from_its_file_and_shown_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let client = Client { token_file: file.clone(), ..Client::default() };
        assert!(shown(&client).unwrap_err().message().contains("cannot be read"));
        std::fs::write(&file, "sesame\n").unwrap();
        assert_eq!(shown(&client).unwrap().as_deref(), Some("Bearer sesame"));
        assert!(!format!("{:?}", client.bearer()).contains("sesame"));
        std::fs::write(&file, "two\nlines").unwrap();
        assert!(shown(&client).unwrap_err().message().contains("holds no token"));
        assert_eq!(shown(&Client::default()).unwrap(), None);
    }

    #[test]
    fn an_address_and_its_files_are_checked() {
        let client = Client { ca_file: "/nowhere/ca.pem".into(), ..Client::default() };
        assert!(client.endpoint("http://127.0.0.1:7101").is_ok());
        assert!(matches!(client.endpoint("not an address"), Err(AddressError::Address(_))));
        assert!(client.endpoint("https://127.0.0.1:7101").unwrap_err().to_string().contains("/nowhere/ca.pem cannot be read"));
        let half = Client { key_file: "k".into(), ..Client::default() };
        assert!(client.problems().is_empty() && half.problems().len() == 1);
    }
}
