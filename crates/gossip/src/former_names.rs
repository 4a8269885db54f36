//! Former names of public items, for programs that still use them.

#![allow(missing_docs)]

#[cfg(feature = "net")]
use std::net::IpAddr;

use crate::{
    Config, LimitCounts, MemberOverview, MessageCounts, RejectionCounts, ResourceLimits, Retention, SentBytes,
    SerfConfig, StreamPosition, ViewEntry,
};
#[cfg(feature = "net")]
use crate::{DeliveryError, DepartedMembers, RequestError};

#[cfg(feature = "net")]
#[deprecated = "use `RequestError`"]
pub type AskError = RequestError;

#[deprecated = "use `ViewEntry`"]
pub type Belief = ViewEntry;

#[deprecated = "use `ResourceLimits`"]
pub type Bounds = ResourceLimits;

#[deprecated = "use `MessageCounts`"]
pub type Counters = MessageCounts;

#[cfg(feature = "net")]
#[deprecated = "use `DepartedMembers`"]
pub type Departed = DepartedMembers;

#[deprecated = "use `Retention`"]
pub type Limits = Retention;

#[deprecated = "use `LimitCounts`"]
pub type OverLimit = LimitCounts;

#[deprecated = "use `StreamPosition`"]
pub type Position = StreamPosition;

#[deprecated = "use `RejectionCounts`"]
pub type Rejected = RejectionCounts;

#[deprecated = "use `MemberOverview`"]
pub type Seen = MemberOverview;

#[deprecated = "use `SentBytes`"]
pub type Sent = SentBytes;

#[deprecated = "use `SerfConfig`"]
pub type Serf = SerfConfig;

#[cfg(feature = "net")]
#[deprecated = "use `DeliveryError`"]
pub type Undelivered = DeliveryError;

#[cfg(feature = "net")]
#[deprecated = "use `host_network`"]
pub fn host(ip: IpAddr) -> IpAddr {
    crate::host_network(ip)
}

impl Config {
    #[doc(hidden)]
    #[deprecated = "use `resource_limits`"]
    #[must_use]
    pub fn bounds(self, limits: ResourceLimits) -> Self {
        self.resource_limits(limits)
    }

    #[doc(hidden)]
    #[deprecated = "use `retention`"]
    #[must_use]
    pub fn limits(self, retention: Retention) -> Self {
        self.retention(retention)
    }
}
