//! Sections `[access]` and `[tls]`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Role;

/// Section `[access]`: who may call this service's gRPC and HTTP servers. Empty: everybody, and then only loopback may be listened on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessSection {
    /// A TOML file with `[[tokens]]`: `name`, `roles`, `sha256`. Read anew when it changes.
    pub tokens_file: PathBuf,
    /// The issuer's keys for JSON Web Tokens: a file (read anew when it changes), or an `https://` address (fetched every five minutes,
    /// and when a token names a key that is not known).
    pub jwks: String,
    /// Authorities that are trusted when keys are fetched, PEM, instead of the system's.
    pub jwks_ca_file: PathBuf,
    /// The issuer that a JWT must name (`iss`).
    pub jwt_issuer: String,
    /// The audience that a JWT must name (`aud`).
    pub jwt_audience: String,
    /// The claim with the caller's roles: a list, or words with blanks between; words that are not roles are passed over. Default `roles`.
    pub jwt_roles_claim: JwtClaim,
    /// The roles of callers with a certificate of `tls.client_ca_file`, by a DNS name or URI of the certificate.
    pub certificates: BTreeMap<String, Vec<Role>>,
}

/// The name of a claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JwtClaim(pub String);

impl Default for JwtClaim {
    fn default() -> Self {
        Self("roles".to_owned())
    }
}

/// Section `[tls]`: the certificate of this service's gRPC and HTTP servers. Empty: both speak in the clear.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// The certificate and its chain, PEM. Read anew when it changes.
    pub certificate_file: PathBuf,
    /// Its private key, PEM.
    pub key_file: PathBuf,
    /// Authorities whose clients' certificates are trusted, PEM; with it clients are asked for one. Whoever shows none can still reach
    /// health, and what its token allows.
    pub client_ca_file: PathBuf,
}

impl AccessSection {
    /// Whether callers have to say who they are.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.tokens_file.as_os_str().is_empty() || !self.jwks.is_empty() || !self.certificates.is_empty()
    }
}

impl Tls {
    /// Whether the servers speak TLS.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.certificate_file.as_os_str().is_empty()
    }
}

/// What is wrong with the two, and with where is listened.
pub(crate) fn problems(access: &AccessSection, tls: &Tls, listen: &[(&str, SocketAddr)]) -> Vec<String> {
    let mut problems = Vec::new();
    let given = |path: &PathBuf| !path.as_os_str().is_empty();
    if given(&tls.certificate_file) != given(&tls.key_file) {
        problems.push("tls.certificate_file and tls.key_file go together: give both or none".to_owned());
    }
    if given(&tls.client_ca_file) && !tls.is_on() {
        problems.push("tls.client_ca_file is of use only with tls.certificate_file and tls.key_file: give them".to_owned());
    }
    if !access.certificates.is_empty() && !given(&tls.client_ca_file) {
        problems.push("access.certificates needs tls.client_ca_file: the authority that signs clients' certificates".to_owned());
    }
    for (name, roles) in access.certificates.iter().filter(|(_, roles)| roles.is_empty()) {
        problems.push(format!("access.certificates.{name:?} has {} roles: give one or more", roles.len()));
    }
    if !access.jwks.is_empty() && (access.jwt_issuer.is_empty() || access.jwt_audience.is_empty()) {
        problems.push(
            "access.jwks needs access.jwt_issuer and access.jwt_audience: a token for somebody else must not do".to_owned(),
        );
    }
    if access.jwks.starts_with("http://") {
        problems.push("access.jwks would be fetched in the clear: give an https:// address or a file".to_owned());
    }
    if !access.is_on() {
        let open = listen.iter().filter(|(_, address)| !address.ip().is_loopback());
        problems.extend(open.map(|(key, address)| {
            format!(
                "{key} = {address} can be reached by others, and nobody is asked who calls: set [access] (tokens_file, jwks or certificates), or listen on 127.0.0.1"
            )
        }));
    }
    problems
}

/// What is not forbidden and should be known: tokens that others can read on their way.
pub(crate) fn warnings(access: &AccessSection, tls: &Tls, listen: &[(&str, SocketAddr)]) -> Vec<String> {
    let tokens = !access.tokens_file.as_os_str().is_empty() || !access.jwks.is_empty();
    let open = listen.iter().filter(|(_, address)| tokens && !tls.is_on() && !address.ip().is_loopback());
    let words = |(key, address): &(&str, SocketAddr)| {
        format!(
            "{key} = {address} takes bearer tokens in the clear, and whoever reads one may use it: set [tls], or let nothing reach it but a proxy that speaks TLS"
        )
    };
    open.map(words).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_access_only_loopback_is_listened_on() {
        let everywhere: SocketAddr = "0.0.0.0:7101".parse().unwrap();
        let loopback: SocketAddr = "[::1]:7101".parse().unwrap();
        let (off, on) = (AccessSection::default(), AccessSection { tokens_file: "tokens.toml".into(), ..Default::default() });
        let tls = Tls::default();
        assert!(problems(&off, &tls, &[("grpc.listen", loopback)]).is_empty());
        assert!(problems(&on, &tls, &[("grpc.listen", everywhere)]).is_empty());
        let warned = |access, tls| warnings(access, tls, &[("grpc.listen", everywhere), ("http.listen", loopback)]);
        let said = warned(&on, &tls);
        assert!(said.len() == 1 && said[0].contains("grpc.listen = 0.0.0.0:7101") && said[0].contains("[tls]"), "{said:?}");
        let encrypted = Tls { certificate_file: "c".into(), key_file: "k".into(), ..Tls::default() };
        assert!(warned(&on, &encrypted).is_empty() && warned(&off, &tls).is_empty());
        let problem = problems(&off, &tls, &[("grpc.listen", everywhere), ("http.listen", loopback)]);
        assert!(problem.len() == 1 && problem[0].contains("grpc.listen = 0.0.0.0:7101"), "{problem:?}");
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        let full = Tls { certificate_file: "c".into(), key_file: "k".into(), client_ca_file: "a".into() };
        let certificates = BTreeMap::from([("callback".to_owned(), vec![Role::Peer])]);
        let jwt =
            AccessSection { jwks: "keys.json".into(), jwt_issuer: "i".into(), jwt_audience: "a".into(), ..Default::default() };
        let cases = [
            (AccessSection::default(), Tls { key_file: "".into(), ..full.clone() }, "go together"),
            (AccessSection::default(), Tls { client_ca_file: "a".into(), ..Tls::default() }, "client_ca_file"),
            (AccessSection { certificates: certificates.clone(), ..Default::default() }, Tls::default(), "client_ca_file"),
            (
                AccessSection { certificates: BTreeMap::from([("x".into(), vec![])]), ..Default::default() },
                full.clone(),
                "one or more",
            ),
            (AccessSection { jwt_audience: String::new(), ..jwt.clone() }, Tls::default(), "jwt_audience"),
            (AccessSection { jwks: "http://issuer/keys".into(), ..jwt.clone() }, Tls::default(), "in the clear"),
        ];
        for (access, tls, words) in cases {
            let found = problems(&access, &tls, &[]);
            assert!(found.len() == 1 && found[0].contains(words), "{words}: {found:?}");
        }
        assert!(problems(&AccessSection { certificates, ..jwt }, &full, &[]).is_empty());
    }
}
