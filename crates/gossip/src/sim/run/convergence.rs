//! Convergence: what must hold in the end, when there are no more publications and faults.

use std::time::Duration;

use super::{CHECKPOINT, Run, RunError};
use crate::{
    node::Node,
    sim::{checker::CheckResult, network::HostId},
};

/// How much longer than the messages the nodes' views, and with them the receipts, may take.
const VIEW_DELAY: Duration = Duration::from_secs(60);

impl Run<'_> {
    /// Waits until everything is delivered and all views agree. The time for that counts from `since`, the end of the faults.
    pub(super) fn await_convergence(&mut self, since: Duration, control: &super::RunControl) -> Result<(), RunError> {
        let deadline = since + self.scenario.settle;
        loop {
            let (problem, until) = match self.undelivered() {
                Some(undelivered) => (undelivered, deadline),
                None => match self.unconverged() {
                    Some(unconverged) => (unconverged, deadline + VIEW_DELAY),
                    None => return Ok(()),
                },
            };
            if self.net.elapsed() >= until {
                return if self.checker.guarantees().complete { Err(RunError::Overdue(problem)) } else { Ok(()) };
            }
            self.steps((self.net.elapsed() + CHECKPOINT).min(until), control)?;
        }
    }

    /// What is wrong with deliveries, if anything is.
    fn undelivered(&self) -> Option<String> {
        if let Some(host) = self.hosts.iter().position(|status| status.is_new) {
            return Some(format!("{} has not found its way into the cluster", self.net.name(host)));
        }
        if let Some(publisher) = self.publishers.iter().find(|publisher| publisher.waiting.is_some()) {
            return Some(format!("{} is still held back from publishing", self.net.name(publisher.host)));
        }
        self.checker.completeness().first_missing
    }

    /// What is wrong with views and receipts, if anything is.
    fn unconverged(&self) -> Option<String> {
        let running = (0..self.hosts.len()).filter(|host| self.runs(*host).is_some()).count();
        for host in (0..self.hosts.len()).filter(|host| self.runs(*host).is_some()) {
            let view = self.hosts[host].members_seen;
            if view != running {
                return Some(format!("{} sees {view} members, but {running} run", self.net.name(host)));
            }
        }
        if let Some(unconverged) = self.not_introduced() {
            return Some(unconverged);
        }
        self.publishers.iter().find_map(|publisher| {
            let (host, name) = (publisher.host, self.net.name(publisher.host));
            let node = self.runs(host)?;
            let last = node.next_id().seq.checked_sub(1)?;
            let (with, without) = node.acked_by(last);
            let served = self.checker.delivered_count(host, last);
            if let Some(other) = without.first() {
                return Some(format!("{name} still waits for {other} to acknowledge message {last}"));
            }
            (with < served)
                .then(|| format!("the receipt of {name} says that {with} nodes have message {last}, but {served} have"))
        })
    }

    /// A node that does not know another one's identity, among those that tell theirs.
    fn not_introduced(&self) -> Option<String> {
        let running = || (0..self.hosts.len()).filter_map(|host| Some((self.net.name(host), self.runs(host)?)));
        let telling = || running().filter(|(_, node)| node.info().is_some());
        telling().find_map(|(name, node)| {
            let (other, _) = telling().find(|(other, it)| node.info_of(other).as_ref() != it.info())?;
            Some(format!("{name} does not know who {other} is"))
        })
    }

    /// Checks that receipts count only nodes that have the message.
    pub(super) fn check_receipts(&self) -> CheckResult {
        for publisher in &self.publishers {
            let Some(node) = self.runs(publisher.host) else { continue };
            let Some(last) = node.next_id().seq.checked_sub(1) else { continue };
            let (with, _) = node.acked_by(last);
            let check = self.checker.check_receipt(publisher.host, last, with);
            check.map_err(|what| format!("{}: {what}", self.net.name(publisher.host)))?;
        }
        Ok(())
    }

    /// A host's node, if it runs and is not leaving.
    fn runs(&self, host: HostId) -> Option<&Node> {
        self.net.node(host).filter(|node| !node.has_left() && !self.hosts[host].is_leaving)
    }
}
