//! Connections that were not served.

use prometheus::{Error, IntCounterVec};

use super::register::Register;

/// Why a connection is not served.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RefusedConnection {
    /// As many as there may be are open. It is told so when it asks for something.
    TooMany,
    /// There are too many even to be told.
    Untold,
    /// Its TLS handshake failed, or did not end in time.
    Handshake,
}

#[derive(Debug, Clone)]
pub(super) struct Connections {
    refused: IntCounterVec,
}

impl Connections {
    pub(super) fn new(register: Register<'_>) -> Result<Self, Error> {
        let refused = "Connections that were not served: over the limit, closed unanswered because even those to be told of it \
                       were too many, or without a TLS handshake.";
        Ok(Self { refused: register.counters("danaus_connections_refused_total", refused, &["reason"])? })
    }

    pub(super) fn refused(&self, why: RefusedConnection) {
        let reason = match why {
            RefusedConnection::TooMany => "too_many_connections",
            RefusedConnection::Untold => "too_many_to_tell",
            RefusedConnection::Handshake => "tls_handshake",
        };
        self.refused.with_label_values(&[reason]).inc();
    }
}
