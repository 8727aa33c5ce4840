//! One configuration from three places: built-in defaults, then a TOML file, then `COUNTERSIGN_<SECTION>__<KEY>`.
//!
//! **Invariant:** a key that nobody reads is refused, wherever it stands: a misspelt key would else be a silent default.
//!
//! **Invariant:** secrets are shown nowhere: see [`Secret`].

mod closest;
mod environment;
mod secret;
mod sections;

use std::path::Path;

use figment::value::{Dict, Value};
use figment::{Figment, Profile, Provider as _, providers::Format as _, providers::Serialized, providers::Toml};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::access::{AccessSection, Tls};
use crate::error::Error;

pub use countersign_telemetry::{Log, LogFormat, LogOutput, Traces};
pub(crate) use environment::process_environment;
pub use secret::Secret;
pub use sections::{Grpc, Http, Shutdown};

/// The configuration of one service.
///
/// Its `Default` is the built-in configuration, down to nested sections: what a file leaves out keeps its value from
/// there. Every section carries `#[serde(deny_unknown_fields)]`, and serializes what it deserializes.
pub trait Settings: Serialize + DeserializeOwned + Default + Send + 'static {
    /// The sections that the launch frame itself needs.
    fn frame(&self) -> Frame<'_>;

    /// Problems within and between the service's own sections, each saying what to do; the common ones are checked by
    /// the frame. None by default.
    fn validate(&self) -> Vec<String> {
        Vec::new()
    }

    /// Brings the tables of this service up to date: `--migrate`. Refuses by default, for a service without tables.
    fn migrate(&self) -> impl Future<Output = anyhow::Result<()>> + Send {
        async { anyhow::bail!("it has no tables: leave --migrate out") }
    }
}

/// The sections that every service has.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// Section `[log]`.
    pub log: &'a Log,
    /// Section `[traces]`.
    pub traces: &'a Traces,
    /// Section `[http]`.
    pub http: &'a Http,
    /// Section `[grpc]`.
    pub grpc: &'a Grpc,
    /// Section `[tls]`.
    pub tls: &'a Tls,
    /// Section `[access]`.
    pub access: &'a AccessSection,
    /// Section `[shutdown]`.
    pub shutdown: &'a Shutdown,
}

/// Loads the configuration from `file`, if any, and from the variables in `environment`; others than
/// `COUNTERSIGN_<SECTION>__<KEY>` are left alone.
///
/// # Errors
/// [`Error::Config`] with every problem found: an unreadable file, an unknown key with the closest known ones, a value of
/// the wrong type, and what validation says.
pub fn load<S: Settings>(file: Option<&Path>, environment: impl IntoIterator<Item = (String, String)>) -> Result<S, Error> {
    let defaults = tree(&S::default()).map_err(Error::Config)?;
    let mut figment = Figment::from(Serialized::defaults(Value::from(defaults.clone())));
    let mut given = Figment::new();
    if let Some(file) = file {
        let toml = read(file)?;
        figment = figment.merge(&toml);
        given = given.merge(&toml);
    }
    let variables = environment::tree(environment, &defaults).map_err(Error::Config)?;
    let variables = Named { name: "the environment".to_owned(), dict: variables };
    figment = figment.merge(&variables);
    given = given.merge(&variables);

    let settings: S = figment.extract().map_err(|e| Error::Config(explain(e)))?;
    let given: Dict = given.extract().map_err(|e| Error::Config(explain(e)))?;
    let effective = tree(&settings).map_err(Error::Config)?;
    let mut problems = closest::ignored(&given, &effective);
    problems.extend(sections::problems(&settings.frame()));
    problems.extend(settings.validate());
    if problems.is_empty() { Ok(settings) } else { Err(Error::Config(problems)) }
}

/// Loads those sections of a service's configuration that `S` has, for a tool that looks at services from outside: as [`load`], but
/// what `S` does not know is passed over, and nothing is validated.
///
/// # Errors
/// [`Error::Config`]: an unreadable file, or a value of the wrong type.
pub fn load_part<S: Serialize + DeserializeOwned + Default>(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<S, Error> {
    let defaults = tree(&S::default()).map_err(Error::Config)?;
    let mut figment = Figment::from(Serialized::defaults(Value::from(defaults.clone())));
    if let Some(file) = file {
        figment = figment.merge(&read(file)?);
    }
    let variables = environment::tree(environment, &defaults).map_err(Error::Config)?;
    figment.merge(&Named { name: "the environment".to_owned(), dict: variables }).extract().map_err(|e| Error::Config(explain(e)))
}

/// The variables of this process that may be configuration: what [`load_part`] takes.
#[must_use]
pub fn variables() -> Vec<(String, String)> {
    process_environment().variables
}

/// The configuration as TOML with secrets hidden.
#[must_use]
pub fn show<S: Settings>(settings: &S) -> String {
    let shown = toml::Table::try_from(settings).map(|table| toml::to_string(&table));
    match shown {
        Ok(Ok(text)) => text,
        Ok(Err(error)) | Err(error) => format!("# this configuration cannot be shown: {error}\n"),
    }
}

/// `settings` as a tree that holds secrets in full, to be merged and read back; never to be shown.
fn tree<S: Serialize>(settings: &S) -> Result<Dict, Vec<String>> {
    let value = secret::in_full(|| Value::serialize(settings).map_err(explain))?;
    Ok(value.into_dict().unwrap_or_default())
}

fn read(file: &Path) -> Result<Named, Error> {
    let one = |problem: String| Error::Config(vec![problem]);
    let text = std::fs::read_to_string(file).map_err(|e| one(format!("{} cannot be read: {e}", file.display())))?;
    Ok(Named { name: file.display().to_string(), dict: parse(file, &text).map_err(one)? })
}

fn parse(file: &Path, text: &str) -> Result<Dict, String> {
    let data = Toml::string(text).data().map_err(|e| format!("{} is not TOML: {e}", file.display()))?;
    Ok(data.into_iter().find(|(profile, _)| *profile == Profile::Default).map(|(_, dict)| dict).unwrap_or_default())
}

/// A tree with the name of the place it came from, for messages.
struct Named {
    name: String,
    dict: Dict,
}

impl figment::Provider for &Named {
    fn metadata(&self) -> figment::Metadata {
        figment::Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<figment::value::Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}

fn explain(errors: figment::Error) -> Vec<String> {
    errors.into_iter().map(|error| explain_one(&error)).collect()
}

fn explain_one(error: &figment::Error) -> String {
    use figment::error::Kind;
    let place = error.metadata.as_ref().map(|m| format!(" (from {})", m.name)).unwrap_or_default();
    let path = error.path.join(".");
    match &error.kind {
        Kind::UnknownField(field, known) => {
            let section = error.path.strip_suffix(std::slice::from_ref(field)).unwrap_or(&error.path);
            closest::unknown(section, field, known.iter().copied(), &place)
        }
        Kind::MissingField(field) => format!("key `{path}.{field}` is missing{place}: give it"),
        kind => format!("key `{path}`{place}: {kind}"),
    }
}

#[cfg(test)]
mod tests;
