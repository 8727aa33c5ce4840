//! Binary mode: one `ce-` header per attribute, the body as it is.

use std::borrow::Cow;
use std::collections::BTreeMap;

use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use bytes::Bytes;
use percent_encoding::percent_decode;

use super::{Event, Form};
use crate::refusal::Refusal;

/// Leads the name of every attribute.
const PREFIX: &str = "ce-";
/// What whoever has sent something else is told.
const NO_EVENT: &str = "this is no CloudEvent: send its body as it is, with the headers ce-specversion: 1.0, ce-id, ce-source and \
                        ce-type, or send all of it as JSON with Content-Type: application/cloudevents+json";

/// Reads an event from headers and body.
///
/// # Errors
/// [`Refusal::Invalid`] that names the header.
pub(in crate::http) fn read(headers: &HeaderMap, body: Bytes) -> Result<Event, Refusal> {
    let mut attributes = BTreeMap::new();
    for (header, value) in headers {
        let Some(name) = header.as_str().strip_prefix(PREFIX) else { continue };
        Form::Binary.named(name)?;
        if name == "datacontenttype" || name == "data" {
            let why =
                format!("header {header} is not allowed: the type of the body goes into Content-Type, the data into the body");
            return Err(Refusal::Invalid(why));
        }
        if attributes.insert(name.to_owned(), decoded(header.as_str(), value.as_bytes())?).is_some() {
            return Err(Refusal::Invalid(format!("header {header} comes twice: send it once")));
        }
    }
    if attributes.is_empty() {
        return Err(Refusal::Invalid(NO_EVENT.into()));
    }
    let content_type = match headers.get(CONTENT_TYPE).map(|value| value.to_str()) {
        None => String::new(),
        Some(Ok(text)) => text.to_owned(),
        Some(Err(_)) => return Err(Refusal::Invalid("header Content-Type is not printable ASCII".into())),
    };
    Ok(Event { form: Form::Binary, attributes, content_type, body })
}

/// A value as the HTTP binding has it: quotes are taken off first, then `%` and two digits are one byte of UTF-8.
fn decoded(header: &str, value: &[u8]) -> Result<String, Refusal> {
    let plain = unquoted(value);
    let text = percent_decode(&plain).decode_utf8().map(Cow::into_owned);
    text.map_err(|_| Refusal::Invalid(format!("header {header} is not UTF-8 once percent-decoded: write % as %25")))
}

fn unquoted(value: &[u8]) -> Cow<'_, [u8]> {
    let inside = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    let Some(inside) = inside else { return Cow::Borrowed(value) };
    let (mut plain, mut rest) = (Vec::with_capacity(inside.len()), inside);
    while let [first, after @ ..] = rest {
        (plain, rest) = match (first, after) {
            (b'\\', [escaped, after @ ..]) => (pushed(plain, *escaped), after),
            _ => (pushed(plain, *first), after),
        };
    }
    Cow::Owned(plain)
}

fn pushed(mut bytes: Vec<u8>, byte: u8) -> Vec<u8> {
    bytes.push(byte);
    bytes
}
