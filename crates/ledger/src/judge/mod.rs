//! The judge: compares what each life of a node had to receive with what it received.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use crate::{Anomaly, AnomalyKind, LogEntry, Verdict};

/// One life of a node, from its start to its end, or the part of it that is judged. [`judge`] has an example.
#[derive(Clone, Debug)]
pub struct Life {
    /// The node's name.
    pub node: String,
    /// What it logged, in the order of the log.
    pub entries: Vec<LogEntry>,
    /// What it has to have received from others.
    pub obligation: Obligation,
    /// It need not have received what was sent at this time or before, nor others what it sent then. Times have the format of
    /// the logs; an empty one comes before all others.
    pub since: String,
    /// Which of its messages others have to have received, by their number among those it sent, from 0.
    pub owed: Range<usize>,
    /// It was killed, so that its last messages may have reached nobody. Then no survivor has them.
    pub ended: bool,
    /// `entries` has everything that it sent. Then others cannot have received anything else from it.
    pub complete: bool,
}

/// What one life of a node has to have received. Except with [`Nothing`](Self::Nothing), what it received from a life of
/// another node has to be one unbroken run of messages, each once and in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obligation {
    /// Everything that was sent after its own and the sender's [`since`](Life::since) and up to this time. It survives.
    Until(String),
    /// Any unbroken run.
    Run,
    /// Nothing: it is not judged.
    Nothing,
}

/// A message's life, and its number among the messages of that life.
type MessagePosition = (usize, usize);

/// What tells messages apart: the sender, its epoch where that is known, and the value.
type MessageKey<'a> = (&'a str, Option<u64>, u64);

/// Everything that was sent.
struct SentMessages<'a> {
    /// The values that each life sent, and when.
    by_life: Vec<Vec<(u64, &'a str)>>,
    positions: BTreeMap<MessageKey<'a>, Vec<MessagePosition>>,
    epochs: Vec<Option<u64>>,
}

impl<'a> SentMessages<'a> {
    fn by(lives: &'a [Life]) -> Self {
        let mut sent = Self { by_life: Vec::new(), positions: BTreeMap::new(), epochs: Vec::new() };
        for (at, life) in lives.iter().enumerate() {
            let mut messages = Vec::new();
            let mut life_epoch = None;
            for entry in &life.entries {
                if let LogEntry::Sent { value, epoch, time } = entry {
                    sent.positions.entry((life.node.as_str(), *epoch, *value)).or_default().push((at, messages.len()));
                    messages.push((*value, time.as_str()));
                    life_epoch = *epoch;
                }
            }
            sent.by_life.push(messages);
            sent.epochs.push(life_epoch);
        }
        sent
    }
}

/// Everything that one life of a node received.
#[derive(Default)]
struct ReceivedMessages<'a> {
    /// How often each message was received.
    times: BTreeMap<MessageKey<'a>, usize>,
    /// The numbers of the messages from each life, in the order of their receipt, where the life is certain.
    runs: BTreeMap<usize, Vec<usize>>,
    /// Values that their alleged sender never sent.
    never_sent: BTreeMap<&'a str, Vec<u64>>,
}

impl<'a> ReceivedMessages<'a> {
    fn by(life: &'a Life, lives: &[Life], sent: &SentMessages<'_>) -> Self {
        let mut received = Self::default();
        for entry in &life.entries {
            let LogEntry::Received { from, value, epoch, seq } = entry else { continue };
            if *from == life.node {
                received.never_sent.entry(from).or_default().push(*value);
                continue;
            }
            let key = (from.as_str(), *epoch, *value);
            let positions = sent.positions.get(&key).map_or(&[][..], Vec::as_slice);
            let matches = |(at, position): &&MessagePosition| {
                !lives[*at].complete || seq.is_none_or(|seq| seq == *position as u64)
            };
            match positions.iter().filter(matches).collect::<Vec<_>>()[..] {
                [] if may_be_unlogged(key, *seq, lives, sent) => continue,
                [] => {
                    received.never_sent.entry(from).or_default().push(*value);
                    continue;
                }
                [(at, position)] => received.runs.entry(*at).or_default().push(*position),
                [..] => {}
            }
            *received.times.entry(key).or_default() += 1;
        }
        received
    }

    /// Whether all messages with this key were received.
    fn has(&self, key: &MessageKey<'_>, positions: &[MessagePosition]) -> bool {
        self.times.get(key).is_some_and(|times| *times >= positions.len())
    }

    /// From the first to the last message that was received from a life.
    fn run(&self, of: usize) -> Range<usize> {
        let positions = self.runs.get(&of).map_or(&[][..], Vec::as_slice);
        let [Some(first), Some(last)] = [positions.iter().min(), positions.iter().max()] else { return 0..0 };
        *first..last + 1
    }
}

/// Whether a message that is in no log may have been sent nevertheless.
fn may_be_unlogged(
    (from, epoch, _): MessageKey<'_>,
    seq: Option<u64>,
    lives: &[Life],
    sent: &SentMessages<'_>,
) -> bool {
    let mut lives = lives.iter().enumerate().filter(|(_, life)| life.node == from);
    lives.any(|(at, life)| {
        // A killed node may not have logged its last message.
        let is_next = sent.epochs[at] == epoch && seq.is_none_or(|seq| seq == sent.by_life[at].len() as u64);
        !life.complete || life.ended && is_next && !sent.by_life[at].is_empty()
    })
}

/// Judges the lives of a cluster's nodes: whether each received every message that it had to receive, once and in order.
///
/// ```
/// use broadcast_ledger::{Life, LogEntry, Obligation, judge};
///
/// let life = |node: &str, log: &str| Life {
///     node: node.into(),
///     entries: log.lines().filter_map(LogEntry::read).collect(),
///     obligation: Obligation::Until("~".into()),
///     since: String::new(),
///     owed: 0..usize::MAX,
///     ended: false,
///     complete: true,
/// };
/// let sender = life("a", "2026-11-24T21:26:42.093Z  INFO a send broadcast msg: key=I am a value=1");
/// let receiver = life("b", "2026-11-24T21:26:42.094Z  INFO b received broadcast msg: key=I am a value=1");
/// assert!(judge(&[sender.clone(), receiver]).is_good());
/// assert!(!judge(&[sender, life("b", "")]).is_good(), "b has not received it");
/// ```
#[must_use]
pub fn judge(lives: &[Life]) -> Verdict {
    let sent = SentMessages::by(lives);
    let received: Vec<_> = lives.iter().map(|life| ReceivedMessages::by(life, lives, &sent)).collect();
    let known = known(lives, &sent, &received);

    let nodes: BTreeSet<_> = lives.iter().map(|life| &life.node).collect();
    let ended: BTreeSet<_> = lives.iter().filter(|life| life.ended).map(|life| &life.node).collect();
    let owed: Vec<_> = lives.iter().zip(&sent.by_life).map(|(life, sent)| life.owed(sent.len())).collect();
    let lost: usize =
        owed.iter().zip(&known).map(|(owed, known)| owed.clone().filter(|position| position >= known).count()).sum();
    let of_senders = lives.iter().zip(&owed).filter(|(_, owed)| !owed.is_empty());
    let judged = || lives.iter().zip(&received).filter(|(life, _)| life.obligation != Obligation::Nothing);
    Verdict {
        nodes: nodes.len(),
        ended: ended.into_iter().cloned().collect(),
        messages: owed.iter().map(Range::len).sum::<usize>() - lost,
        senders: of_senders.map(|(life, _)| &life.node).collect::<BTreeSet<_>>().len(),
        lost,
        received: judged().flat_map(|(_, received)| received.times.values()).sum(),
        anomalies: judged().flat_map(|(life, received)| anomalies(life, received, lives, &sent, &known)).collect(),
    }
}

/// How many messages of each life are known: all, but of a killed one only those up to the last that a survivor has. The rest
/// was lost with it.
fn known(lives: &[Life], sent: &SentMessages<'_>, received: &[ReceivedMessages<'_>]) -> Vec<usize> {
    let mut known: Vec<_> =
        lives.iter().zip(&sent.by_life).map(|(life, sent)| if life.ended { 0 } else { sent.len() }).collect();
    let living: Vec<_> =
        lives.iter().zip(received).filter(|(life, _)| matches!(life.obligation, Obligation::Until(_))).collect();
    for (key, positions) in &sent.positions {
        if living.iter().any(|(_, received)| received.has(key, positions)) {
            positions.iter().for_each(|(at, position)| known[*at] = known[*at].max(position + 1));
        }
    }
    known
}

/// The anomalies in what one life received.
fn anomalies(
    life: &Life,
    received: &ReceivedMessages<'_>,
    lives: &[Life],
    sent: &SentMessages<'_>,
    known: &[usize],
) -> Vec<Anomaly> {
    let mut found: BTreeMap<(&str, AnomalyKind), Vec<u64>> = BTreeMap::new();
    let runs: Vec<_> = (0..lives.len()).map(|at| received.run(at)).collect();
    let has_to_receive = |(at, position): &&MessagePosition| {
        let is_owed = lives[*at].owed.contains(position) && *position < known[*at];
        is_owed && life.has_to_receive(&lives[*at], sent.by_life[*at][*position].1) || runs[*at].contains(position)
    };
    for (key, positions) in sent.positions.iter().filter(|((from, ..), _)| *from != life.node) {
        let times = received.times.get(key).copied().unwrap_or_default();
        if times < positions.iter().filter(has_to_receive).count() {
            found.entry((key.0, AnomalyKind::Missing)).or_default().push(key.2);
        }
        if times > positions.len() {
            found.entry((key.0, AnomalyKind::Duplicate)).or_default().push(key.2);
        }
    }
    for (at, positions) in &received.runs {
        let mut last = 0;
        for position in positions {
            if *position < last {
                found
                    .entry((lives[*at].node.as_str(), AnomalyKind::OutOfOrder))
                    .or_default()
                    .push(sent.by_life[*at][*position].0);
            }
            last = last.max(*position);
        }
    }
    for (of, values) in &received.never_sent {
        found.insert((*of, AnomalyKind::NeverSent), values.clone());
    }
    for entry in &life.entries {
        match entry {
            LogEntry::LogLost => _ = found.entry(("", AnomalyKind::LogLost)).or_default(),
            LogEntry::Missed { from, first, .. } if !life.may_lose(entry, lives, sent) => {
                found.entry((from.as_str(), AnomalyKind::ReportedLost)).or_default().push(*first);
            }
            _ => {}
        }
    }
    let anomaly = |((sender, kind), values): ((&str, AnomalyKind), _)| Anomaly {
        node: life.node.clone(),
        sender: sender.into(),
        kind,
        values,
    };
    found.into_iter().map(anomaly).collect()
}

impl Life {
    /// The field of this name, cut to so many messages.
    fn owed(&self, messages: usize) -> Range<usize> {
        self.owed.start.min(messages)..self.owed.end.min(messages)
    }

    /// The time by which the two had met.
    fn met<'a>(&'a self, other: &'a Self) -> &'a str {
        self.since.as_str().max(&other.since)
    }

    /// Whether it has to have received what a sender sent at that time.
    fn has_to_receive(&self, sender: &Self, time: &str) -> bool {
        matches!(&self.obligation, Obligation::Until(until) if time > self.met(sender) && time <= until.as_str())
    }

    /// Whether it may have lost these messages: they were all sent before the two had met. An unknown one is no anomaly of
    /// its own: if it had to be received, it is [missing](AnomalyKind::Missing), too.
    fn may_lose(&self, missed: &LogEntry, lives: &[Self], sent: &SentMessages<'_>) -> bool {
        let LogEntry::Missed { from, epoch, first, count } = missed else { return true };
        let of = |(at, life): &(usize, &Self)| life.node == *from && sent.epochs[*at] == Some(*epoch);
        let Some((at, sender)) = lives.iter().enumerate().find(of) else { return false };
        let last = usize::try_from(first + count - 1).unwrap_or(usize::MAX);
        let before = sent.by_life[at].get(last).is_some_and(|(_, time)| *time <= self.met(sender));
        !sender.complete || *first == 0 && before
    }
}

#[cfg(test)]
mod tests;
