//! Acts of operators, as services tell callback of them over the receipts queue.
//!
//! **Invariant:** no batch of acts can be read as a batch of receipts, so a callback that knows no acts quarantines it and loses nothing.

use countersign_delivery::Timestamp;
use countersign_delivery::ports::audit::{ActResult, ToldAct};
use countersign_delivery::ports::broker::{HeaderValue, Properties, Publication};
use prost::Message as _;
use prost::bytes::Bytes;
use uuid::Uuid;

use crate::error::WireError;
use crate::values::version_is_known;
use crate::{names, proto, publication};

/// The last millisecond of the year 9999: no act is later.
const AT_MAX: i64 = 253_402_300_799_999;

/// The publication of acts of one service. `message_id` is unique among the publications in flight. Service and name are those of the first.
#[must_use]
pub fn publication(acts: &[ToldAct], message_id: String, queue: String) -> Publication {
    let mut publication = publication::to_queue(queue, message_id, encode(acts));
    publication.properties.headers.insert(names::ACTS.into(), HeaderValue::Int(i64::from(names::VERSION)));
    publication
}

/// Whether a delivery of the receipts queue tells of acts.
#[must_use]
pub fn are(properties: &Properties) -> bool {
    properties.headers.contains_key(names::ACTS)
}

fn encode(acts: &[ToldAct]) -> Bytes {
    let (service, service_name) = acts.first().map(|act| (act.service.clone(), act.service_name.clone())).unwrap_or_default();
    let acts = acts.iter().map(|act| proto::OperatorAct {
        id: Bytes::copy_from_slice(act.id.as_bytes()),
        by: act.by.clone(),
        act: act.act.clone(),
        target: act.target.clone(),
        subscription: act.subscription.clone(),
        reason: act.reason.clone(),
        at_ms: act.at.as_millis(),
        ended_at_ms: act.ended_at.map_or(0, Timestamp::as_millis),
        result: to_wire(act.result).into(),
        detail: act.detail.clone(),
    });
    let batch = proto::OperatorActBatch { acts: acts.collect(), version: names::VERSION, service, service_name };
    batch.encode_to_vec().into()
}

/// What was told, each text cut to what the audit keeps.
///
/// # Errors
/// [`WireError`]: it belongs into quarantine.
pub fn decode(bytes: Bytes) -> Result<Vec<ToldAct>, WireError> {
    let batch = proto::OperatorActBatch::decode(bytes).map_err(|error| WireError::Malformed(error.to_string()))?;
    version_is_known(batch.version)?;
    if batch.service.is_empty() {
        return Err(WireError::Missing("service of acts"));
    }
    let (service, service_name) = (batch.service, batch.service_name);
    batch.acts.into_iter().map(|act| from_wire(act, &service, &service_name)).collect()
}

fn from_wire(act: proto::OperatorAct, service: &str, service_name: &str) -> Result<ToldAct, WireError> {
    let result = match act.result() {
        proto::ActResult::Unspecified => return Err(WireError::OutOfRange("result of an act")),
        proto::ActResult::Begun => ActResult::Begun,
        proto::ActResult::Done => ActResult::Done,
        proto::ActResult::Refused => ActResult::Refused,
        proto::ActResult::Failed => ActResult::Failed,
    };
    let id = Uuid::from_slice(&act.id).map_err(|_| WireError::OutOfRange("id of an act"))?;
    if act.act.is_empty() {
        return Err(WireError::Missing("act"));
    }
    if [act.at_ms, act.ended_at_ms].iter().any(|at| !(0..=AT_MAX).contains(at)) {
        return Err(WireError::OutOfRange("time of an act"));
    }
    if (act.ended_at_ms == 0) != (result == ActResult::Begun) {
        return Err(WireError::OutOfRange("end of an act"));
    }
    let told = ToldAct {
        id,
        service: service.to_owned(),
        service_name: service_name.to_owned(),
        by: act.by,
        act: act.act,
        target: act.target,
        subscription: act.subscription,
        reason: act.reason,
        at: Timestamp::from_millis(act.at_ms),
        ended_at: (act.ended_at_ms != 0).then(|| Timestamp::from_millis(act.ended_at_ms)),
        result,
        detail: act.detail,
    };
    Ok(told.clipped())
}

const fn to_wire(result: ActResult) -> proto::ActResult {
    match result {
        ActResult::Begun => proto::ActResult::Begun,
        ActResult::Done => proto::ActResult::Done,
        ActResult::Refused => proto::ActResult::Refused,
        ActResult::Failed => proto::ActResult::Failed,
    }
}

#[cfg(test)]
mod tests {
    use countersign_delivery::ports::audit::Act;
    use proptest::prelude::*;

    use super::*;
    use crate::receipts;

    fn a_pause(result: ActResult) -> ToldAct {
        ToldAct {
            id: Uuid::from_u128(1),
            service: "downstream".into(),
            service_name: "stock".into(),
            by: "ada".into(),
            act: Act::Pause.as_str().into(),
            target: "inventory".into(),
            subscription: "inventory".into(),
            reason: "a bad roll-out".into(),
            at: Timestamp::from_millis(1_700_000_000_123),
            ended_at: (result != ActResult::Begun).then(|| Timestamp::from_millis(1_700_000_000_125)),
            result,
            detail: String::new(),
        }
    }

    fn written(act: proto::OperatorAct) -> Bytes {
        let batch = proto::OperatorActBatch { acts: vec![act], version: 1, service: "downstream".into(), ..Default::default() };
        batch.encode_to_vec().into()
    }

    #[test]
    fn acts_are_read_back_and_are_told_from_receipts() {
        let acts = ActResult::ALL.map(a_pause);
        let sent = publication(&acts, "acts/1".into(), "countersign.receipts".into());
        assert!(are(&sent.properties) && !are(&publication::to_queue("q".into(), "receipts/1".into(), Bytes::new()).properties));
        assert_eq!((sent.exchange.as_str(), sent.routing_key.as_str()), ("", "countersign.receipts"));
        assert_eq!(decode(sent.body).unwrap(), acts);
    }

    #[test]
    fn the_bytes_of_a_batch_stay_what_they_are() {
        let act = ToldAct { reason: String::new(), subscription: String::new(), ..a_pause(ActResult::Begun) };
        let hex: String = encode(&[act]).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        let id = "0a1000000000000000000000000000000001";
        let words = "12036164611a0570617573652209696e76656e746f7279";
        assert_eq!(hex, format!("0a32{id}{words}38fbd095ffbc314801{}", "10011a0a646f776e73747265616d220573746f636b"));
    }

    /// What a callback does that knows no acts: it decodes receipts, whatever the headers say.
    #[test]
    fn a_callback_that_knows_no_acts_cannot_read_them_as_receipts() {
        for acts in [&[][..], &[a_pause(ActResult::Begun)], &[a_pause(ActResult::Done), a_pause(ActResult::Failed)]] {
            for content_type in [None, Some(names::PROTOBUF), Some(names::JSON), Some("application/x-of-tomorrow")] {
                let read = receipts::decode(content_type, encode(acts));
                assert!(matches!(read, Err(WireError::Malformed(_))), "{content_type:?} {read:?}");
            }
        }
    }

    #[test]
    fn what_is_no_batch_of_acts_says_why() {
        let act = || proto::OperatorAct {
            id: Bytes::copy_from_slice(&[1; 16]),
            act: "pause".into(),
            at_ms: 1,
            result: proto::ActResult::Begun.into(),
            ..Default::default()
        };
        assert_eq!(decode(written(act())).unwrap().len(), 1);
        let nobody = proto::OperatorActBatch { version: 1, ..Default::default() };
        let newer = proto::OperatorActBatch { version: 2, service: "upstream".into(), ..Default::default() };
        let rows = [
            (Bytes::from_static(b"not protobuf"), "cannot be decoded"),
            (Bytes::new(), "version 0"),
            (newer.encode_to_vec().into(), "version 2"),
            (nobody.encode_to_vec().into(), "service of acts is missing"),
            (written(proto::OperatorAct { id: Bytes::from_static(b"short"), ..act() }), "id of an act"),
            (written(proto::OperatorAct { act: String::new(), ..act() }), "act is missing"),
            (written(proto::OperatorAct { result: 0, ..act() }), "result of an act"),
            (written(proto::OperatorAct { result: 77, ..act() }), "result of an act"),
            (written(proto::OperatorAct { at_ms: -1, ..act() }), "time of an act"),
            (written(proto::OperatorAct { at_ms: i64::MAX, ..act() }), "time of an act"),
            (written(proto::OperatorAct { ended_at_ms: 2, ..act() }), "end of an act"),
            (written(proto::OperatorAct { result: proto::ActResult::Done.into(), ..act() }), "end of an act"),
        ];
        for (bytes, words) in rows {
            let error = decode(bytes).unwrap_err().to_string();
            assert!(error.contains(words), "{error:?} does not say {words:?}");
        }
    }

    #[test]
    fn endless_texts_are_cut() {
        let long = "ä".repeat(5_000);
        let act = proto::OperatorAct {
            id: Bytes::copy_from_slice(&[1; 16]),
            act: long.clone(),
            by: long.clone(),
            target: long.clone(),
            subscription: long.clone(),
            reason: long.clone(),
            detail: long,
            at_ms: 1,
            result: proto::ActResult::Begun.into(),
            ..Default::default()
        };
        let act = decode(written(act)).unwrap().remove(0);
        let bytes = [act.act, act.by, act.target, act.subscription, act.reason, act.detail].map(|text| text.len());
        assert_eq!(bytes, [200, 64, 200, 200, 500, 1_000]);
    }

    proptest! {
        #[test]
        fn any_act_survives_the_wire(
            (id, at) in (any::<u128>(), 0..AT_MAX),
            (by, target, detail) in ("[^\\s]{0,16}", ".{0,40}", ".{0,80}"),
            which in 0..ActResult::ALL.len(),
        ) {
            let act = ToldAct { id: Uuid::from_u128(id), at: Timestamp::from_millis(at), by, target, detail, ..a_pause(ActResult::ALL[which]) };
            prop_assert_eq!(decode(encode(std::slice::from_ref(&act))).unwrap(), [act]);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(bytes.into());
        }
    }
}
