//! Structured mode: the whole event is one JSON object, a batch an array of them.
//!
//! JSON data are the bytes that were sent, spaces and order of members included: they are what the fingerprint is made of.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Event, Form, MAX_ATTRIBUTES, shown};
use crate::refusal::Refusal;
use crate::upstream::Upstream;

/// Attributes that are texts; an extension may be a number or a truth value as well.
const TEXTS: [&str; 11] = [
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "subject",
    "dataschema",
    "datacontenttype",
    "exchange",
    "routingkey",
    "data_base64",
];
/// What the data are when an event does not say.
const JSON: &str = "application/json";

/// Reads one event.
///
/// # Errors
/// [`Refusal::Invalid`] that names the member.
pub(in crate::http) fn read(json: &[u8]) -> Result<Event, Refusal> {
    let members = serde_json::from_slice::<Members<'_>>(json);
    let Members(members) = members.map_err(|error| not_json("the event is not one JSON object", &error))?;
    let (mut attributes, mut data, mut base64) = (BTreeMap::new(), None, None);
    for (name, value) in members {
        match name.as_str() {
            _ if value.get() == "null" => {}
            "data" => data = Some(value),
            "data_base64" => base64 = Some(text(&name, value)?),
            _ => {
                Form::Structured.named(&name)?;
                let text = text(&name, value)?;
                attributes.insert(name, text);
            }
        }
    }
    let content_type = attributes.remove("datacontenttype").unwrap_or_else(|| JSON.into());
    let body = match (data, base64) {
        (Some(_), Some(_)) => return Err(Refusal::Invalid("data and data_base64 are both there: send one of them".into())),
        (Some(data), None) => body(data, &content_type)?,
        (None, Some(base64)) => STANDARD
            .decode(base64)
            .map_err(|error| Refusal::Invalid(format!("member \"data_base64\" is not base64 (RFC 4648, padded): {error}")))?
            .into(),
        (None, None) => Bytes::new(),
    };
    Ok(Event { form: Form::Structured, attributes, content_type, body })
}

/// Splits a batch into its events, and counts them; of those past [`Upstream::MAX_BATCH_MESSAGES`] only the number is kept.
///
/// # Errors
/// [`Refusal::Invalid`]: it is no array.
pub(in crate::http) fn split(json: &[u8]) -> Result<(Vec<&RawValue>, usize), Refusal> {
    let batch = serde_json::from_slice::<Batch<'_>>(json);
    let Batch { events, count } = batch.map_err(|error| not_json("the batch is not one JSON array of events", &error))?;
    Ok((events, count))
}

/// Never with the error's own words: they repeat what was sent.
fn not_json(what: &str, error: &serde_json::Error) -> Refusal {
    let why = match error.classify() {
        serde_json::error::Category::Data if error.to_string().starts_with(TWICE) => {
            "a member comes twice, or there are too many"
        }
        serde_json::error::Category::Eof => "it ends too early",
        serde_json::error::Category::Data => "it is something else",
        _ => "it is not JSON",
    };
    Refusal::Invalid(format!("{what}: {why}, at line {} column {}", error.line(), error.column()))
}

/// Leads the error of an object that is not read further.
const TWICE: &str = "members";

fn text(name: &str, value: &RawValue) -> Result<String, Refusal> {
    let json = value.get();
    let wrong = |what: &str| Refusal::Invalid(format!("{} is not {what}", Form::Structured.place(&shown(name))));
    match json.bytes().next() {
        Some(b'"') => serde_json::from_str(json).map_err(|_| wrong("valid Unicode")),
        _ if TEXTS.contains(&name) => Err(wrong("a JSON string: put it into quotes")),
        Some(b't' | b'f') => Ok(json.to_owned()),
        _ => json
            .parse::<i32>()
            .map(|number| number.to_string())
            .map_err(|_| wrong("a string, a whole number of 32 bit, or a truth value")),
    }
}

fn body(data: &RawValue, content_type: &str) -> Result<Bytes, Refusal> {
    let json = data.get();
    if is_json(content_type) {
        return Ok(Bytes::copy_from_slice(json.as_bytes()));
    }
    let wrong = |_| {
        let why = format!(
            "member \"data\" is not a JSON string, and {:?} is not JSON: send text as a string, anything else as data_base64",
            shown(content_type)
        );
        Refusal::Invalid(why)
    };
    serde_json::from_str::<String>(json).map(Bytes::from).map_err(wrong)
}

/// Whether a media type is JSON: `…/json` or `…+json`.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.ends_with("/json") || essence.ends_with("+json")
}

/// The members of an object, in order, each name once.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: BTreeMap<String, &'de RawValue> = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    if members.insert(name, value).is_some() || members.len() > MAX_ATTRIBUTES {
                        return Err(A::Error::custom(TWICE));
                    }
                }
                Ok(Members(members.into_iter().collect()))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// The first events of an array, and how many there are.
struct Batch<'a> {
    events: Vec<&'a RawValue>,
    count: usize,
}

impl<'de: 'a, 'a> Deserialize<'de> for Batch<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Array;
        impl<'de> Visitor<'de> for Array {
            type Value = Batch<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut batch = Batch { events: Vec::new(), count: 0 };
                while batch.events.len() < Upstream::MAX_BATCH_MESSAGES {
                    let Some(event) = seq.next_element()? else { return Ok(batch) };
                    batch.events.push(event);
                    batch.count += 1;
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    batch.count += 1;
                }
                Ok(batch)
            }
        }
        deserializer.deserialize_seq(Array)
    }
}
