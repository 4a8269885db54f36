//! What must be so in the end, when nothing is published and nothing fails any more.

use std::time::Duration;

use super::{Break, CHECKPOINT, Run};
use crate::{
    node::Node,
    sim::{checker::Check, network::HostId},
};

/// How much later than the messages the news arrive of who has failed, and with them the receipts.
const LATE_NEWS: Duration = Duration::from_secs(60);

impl Run<'_> {
    /// Waits until everything is as it must be; since when nothing goes wrong any more decides for how long.
    pub(super) fn come_to_rest(&mut self, since: Duration, control: &super::Control) -> Result<(), Break> {
        let deadline = since + self.scenario.settle;
        loop {
            let (lacking, until) = match self.lacking() {
                Some(lacking) => (lacking, deadline),
                None => match self.pending() {
                    Some(pending) => (pending, deadline + LATE_NEWS),
                    None => return Ok(()),
                },
            };
            if self.net.elapsed() >= until {
                return if self.checker.promises().complete { Err(Break::Late(lacking)) } else { Ok(()) };
            }
            self.steps((self.net.elapsed() + CHECKPOINT).min(until), control)?;
        }
    }

    /// What is not yet as it must be of the messages.
    fn lacking(&self) -> Option<String> {
        if let Some(host) = self.hosts.iter().position(|status| status.is_new) {
            return Some(format!("{} has not found its way into the cluster", self.net.name(host)));
        }
        if let Some(publisher) = self.publishers.iter().find(|publisher| publisher.held.is_some()) {
            return Some(format!("{} is still held back from publishing", self.net.name(publisher.host)));
        }
        self.checker.standing().first_missing
    }

    /// The same of what nodes know of each other.
    fn pending(&self) -> Option<String> {
        let running = (0..self.hosts.len()).filter(|host| self.runs(*host).is_some()).count();
        for host in (0..self.hosts.len()).filter(|host| self.runs(*host).is_some()) {
            let view = self.hosts[host].view;
            if view != running {
                return Some(format!("{} sees {view} members, but {running} run", self.net.name(host)));
            }
        }
        if let Some(pending) = self.not_introduced() {
            return Some(pending);
        }
        self.publishers.iter().find_map(|publisher| {
            let (host, name) = (publisher.host, self.net.name(publisher.host));
            let node = self.runs(host)?;
            let last = node.next_id().seq.checked_sub(1)?;
            let (with, without) = node.acked_by(last);
            let served = self.checker.served(host, last);
            if let Some(other) = without.first() {
                return Some(format!("{name} still waits for {other} to acknowledge message {last}"));
            }
            (with < served)
                .then(|| format!("the receipt of {name} says that {with} nodes have message {last}, but {served} have"))
        })
    }

    /// Who does not know yet who another one is, of those that tell the others.
    fn not_introduced(&self) -> Option<String> {
        let running = || (0..self.hosts.len()).filter_map(|host| Some((self.net.name(host), self.runs(host)?)));
        let telling = || running().filter(|(_, node)| node.info().is_some());
        telling().find_map(|(name, node)| {
            let (other, _) = telling().find(|(other, it)| node.info_of(other).as_ref() != it.info())?;
            Some(format!("{name} does not know who {other} is"))
        })
    }

    /// Receipts say of nobody that it has what it has not.
    pub(super) fn check_receipts(&self) -> Check {
        for publisher in &self.publishers {
            let Some(node) = self.runs(publisher.host) else { continue };
            let Some(last) = node.next_id().seq.checked_sub(1) else { continue };
            let (with, _) = node.acked_by(last);
            let check = self.checker.receipt(publisher.host, last, with);
            check.map_err(|what| format!("{}: {what}", self.net.name(publisher.host)))?;
        }
        Ok(())
    }

    /// A node that runs and does not leave.
    fn runs(&self, host: HostId) -> Option<&Node> {
        self.net.node(host).filter(|node| !node.has_left() && !self.hosts[host].leaves)
    }
}
