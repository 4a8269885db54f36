//! The result of judging a cluster's logs, and how it is written.

use std::fmt;

/// The result of [`judge`](crate::judge). `Display` writes it on one line, and on several if there are anomalies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How many nodes there are.
    pub nodes: usize,
    /// The names of the nodes that were killed or restarted.
    pub ended: Vec<String>,
    /// How many messages had to be received.
    pub messages: usize,
    /// How many nodes sent them.
    pub senders: usize,
    /// How many more messages were lost with the lives that had sent them: no survivor has them.
    pub lost: usize,
    /// How many messages were received, each time counted.
    pub received: usize,
    /// Everything that is wrong.
    pub anomalies: Vec<Anomaly>,
}

/// Something wrong in what one node received from another. [`Verdict::anomalies`] has them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Anomaly {
    /// The node that received them, or did not.
    pub node: String,
    /// The node that sent them; empty for [`AnomalyKind::LogLost`].
    pub sender: String,
    /// What is wrong.
    pub kind: AnomalyKind,
    /// The values of the messages.
    pub values: Vec<u64>,
}

/// The kinds of anomalies. [`Anomaly::kind`] has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AnomalyKind {
    /// The messages were not received.
    Missing,
    /// They were received more than once.
    Duplicate,
    /// They were received after others that were sent later.
    OutOfOrder,
    /// They were received, but never sent.
    NeverSent,
    /// The node was told that it had missed them, and should have received them.
    ReportedLost,
    /// The node's log is not complete.
    LogLost,
}

impl Verdict {
    /// Whether there are no anomalies, and there was enough to judge.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.is_enough() && self.anomalies.is_empty()
    }

    /// Whether a message was sent, and another node was there to receive it.
    fn is_enough(&self) -> bool {
        self.survivors() >= 2 && self.messages > 0
    }

    fn survivors(&self) -> usize {
        self.nodes - self.ended.len()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} nodes survived", self.survivors(), self.nodes)?;
        if !self.ended.is_empty() {
            write!(f, " (killed or restarted: {})", self.ended.join(" "))?;
        }
        write!(f, "; {} messages sent by {} senders; ", self.messages, self.senders)?;
        if !self.is_enough() {
            return f.write_str("which is too little to check");
        }
        if self.anomalies.is_empty() {
            f.write_str("each survivor has each of them once")?;
        } else {
            f.write_str("not each survivor has each of them once:")?;
        }
        for anomaly in &self.anomalies {
            write!(f, "\n  {anomaly}")?;
        }
        if self.lost > 0 {
            write!(
                f,
                "\n  ({} more were lost with the killed node that had sent them, before any survivor had them)",
                self.lost
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.kind {
            AnomalyKind::Missing => "lacks of",
            AnomalyKind::Duplicate => "has too often of",
            AnomalyKind::OutOfOrder => "has out of order of",
            AnomalyKind::NeverSent => "has what was not sent by",
            AnomalyKind::ReportedLost => "was told that it missed of",
            AnomalyKind::LogLost => return write!(f, "{} lost lines of its log", self.node),
        };
        let values: Vec<_> = self.values.iter().map(u64::to_string).collect();
        write!(f, "{} {how} {}: {}", self.node, self.sender, values.join(" "))
    }
}
