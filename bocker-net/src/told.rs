//! What is recorded of a container on networks: `connect` and `disconnect`.

use bocker_pipe::events::{Event, Type};
use bocker_pipe::{Call, Document};
use serde_json::Value;

const ATTACHMENTS: &str = "/bocker/net/attachments";

/// That a container was put on its networks, or taken off.
pub(crate) fn events(document: &Document, action: &str) -> Vec<Event> {
    let container = document.value("/bocker/id").and_then(Value::as_str);
    let attachments = document.value(ATTACHMENTS).and_then(Value::as_array);
    let event = |attachment: &Value| {
        let network = attachment["network"].as_str()?;
        let bridge = attachment["bridge"].as_str();
        // The bridge of a network that somebody made has the network's id as its name.
        let event = Event::new(Type::Network, action, bridge.unwrap_or(network)).name(network);
        let kind = if bridge.is_some() { "bridge" } else { "cni" };
        Some(event.with("container", container?).with("type", kind))
    };
    attachments
        .into_iter()
        .flatten()
        .filter_map(event)
        .collect()
}

/// The same of a call that puts one on networks.
pub(crate) fn tells(call: &mut Call) {
    call.tells(
        |document| events(document, "connect"),
        |document| events(document, "disconnect"),
    );
}
