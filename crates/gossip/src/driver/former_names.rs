//! Public names that were changed, for programs that use them still.

use std::net::IpAddr;

use super::{DeliveryError, DepartedMembers, RequestError};

#[doc(hidden)]
#[deprecated(note = "now `RequestError`")]
pub type AskError = RequestError;

#[doc(hidden)]
#[deprecated(note = "now `DepartedMembers`")]
pub type Departed = DepartedMembers;

#[doc(hidden)]
#[deprecated(note = "now `DeliveryError`")]
pub type Undelivered = DeliveryError;

#[doc(hidden)]
#[deprecated(note = "now `host_network`")]
pub fn host(ip: IpAddr) -> IpAddr {
    super::host_network(ip)
}
