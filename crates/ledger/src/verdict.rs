//! What came of judging a cluster's logs, in words.

use std::fmt;

/// See [`judge`](crate::judge). Its `Display` says all of it, on several lines if something is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// How many nodes there are.
    pub nodes: usize,
    /// Those that did not live from the beginning to the end, by name.
    pub ended: Vec<String>,
    /// How many messages had to be heard.
    pub messages: usize,
    /// How many nodes sent them.
    pub senders: usize,
    /// How many more were lost with the lives that had sent them: none of those that lived on has them.
    pub lost: usize,
    /// How many times a message was heard.
    pub heard: usize,
    /// What is wrong.
    pub faults: Vec<Fault>,
}

/// Something that is wrong with what one node heard of another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The node that heard it, or did not.
    pub node: String,
    /// The node that sent it; empty for [`Wrong::LogLost`].
    pub of: String,
    /// In which way.
    pub wrong: Wrong,
    /// The values of the messages.
    pub values: Vec<u64>,
}

/// In which way something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrong {
    /// They were not heard.
    Lacks,
    /// They were heard more than once.
    TooOften,
    /// They were heard after others that were sent later.
    OutOfOrder,
    /// They were heard, and not sent.
    NotSent,
    /// It was told that it would not get them, and should have.
    Missed,
    /// The node's log is not complete.
    LogLost,
}

impl Verdict {
    /// Whether nothing is wrong, and there was enough to tell.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.is_enough() && self.faults.is_empty()
    }

    /// Whether anything was sent, and there was somebody else to hear it.
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
        if self.faults.is_empty() {
            f.write_str("each survivor has each of them once")?;
        } else {
            f.write_str("not each survivor has each of them once:")?;
        }
        for fault in &self.faults {
            write!(f, "\n  {fault}")?;
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

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.wrong {
            Wrong::Lacks => "lacks of",
            Wrong::TooOften => "has too often of",
            Wrong::OutOfOrder => "has out of order of",
            Wrong::NotSent => "has what was not sent by",
            Wrong::Missed => "was told that it missed of",
            Wrong::LogLost => return write!(f, "{} lost lines of its log", self.node),
        };
        let values: Vec<_> = self.values.iter().map(u64::to_string).collect();
        write!(f, "{} {how} {}: {}", self.node, self.of, values.join(" "))
    }
}
