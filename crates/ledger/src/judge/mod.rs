//! Who had to hear what, and heard it or did not.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use crate::{Entry, Fault, Verdict, Wrong};

/// One life of a node, from its start to its end, or as much of it as is looked at.
#[derive(Clone, Debug)]
pub struct Life {
    /// The node's name.
    pub node: String,
    /// What it logged, in the order of the log.
    pub entries: Vec<Entry>,
    /// What it has to have heard of others.
    pub duty: Duty,
    /// It does not have to hear what was sent at this time or before, nor others what it sent then. A time is as logs have
    /// it; all come after an empty one.
    pub since: String,
    /// Which of the messages it sent others have to have heard, by their place in `entries`, the first being 0.
    pub owed: Range<usize>,
    /// It was ended, and what it sent last may have reached nobody: then none of those that live on has it.
    pub ended: bool,
    /// It logged all that it ever sent. Then whatever others heard of it must be in `entries`.
    pub whole: bool,
}

/// What one life of a node has to have heard. Whatever it heard of a life of another node is one unbroken run of
/// messages, each once and in order, unless nothing is asked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Duty {
    /// All that was sent after its `since`, and the other's, up to this time. It lives on.
    Until(String),
    /// An unbroken run, but nothing in particular.
    Run,
    /// Nothing: it is not looked at.
    Nothing,
}

/// Where a message stands: in which life, and at which place in what was sent in it.
type Place = (usize, usize);

/// What tells messages apart: who sent them, in which life where that is known, and the value.
type Key<'a> = (&'a str, Option<u64>, u64);

/// All that was sent.
struct Sent<'a> {
    /// By life: values, each with its time.
    by_life: Vec<Vec<(u64, &'a str)>>,
    places: BTreeMap<Key<'a>, Vec<Place>>,
    epochs: Vec<Option<u64>>,
}

impl<'a> Sent<'a> {
    fn by(lives: &'a [Life]) -> Self {
        let mut sent = Self { by_life: Vec::new(), places: BTreeMap::new(), epochs: Vec::new() };
        for (at, life) in lives.iter().enumerate() {
            let mut messages = Vec::new();
            let mut of_life = None;
            for entry in &life.entries {
                if let Entry::Sent { value, epoch, time } = entry {
                    sent.places.entry((life.node.as_str(), *epoch, *value)).or_default().push((at, messages.len()));
                    messages.push((*value, time.as_str()));
                    of_life = *epoch;
                }
            }
            sent.by_life.push(messages);
            sent.epochs.push(of_life);
        }
        sent
    }
}

/// What one life of a node heard.
#[derive(Default)]
struct Heard<'a> {
    times: BTreeMap<Key<'a>, usize>,
    /// Of each life of which that is sure: the places, in the order in which they were heard.
    runs: BTreeMap<usize, Vec<usize>>,
    /// Of whom, and what.
    not_sent: BTreeMap<&'a str, Vec<u64>>,
}

impl<'a> Heard<'a> {
    fn by(life: &'a Life, lives: &[Life], sent: &Sent<'_>) -> Self {
        let mut heard = Self::default();
        for entry in &life.entries {
            let Entry::Heard { from, value, epoch, seq } = entry else { continue };
            if *from == life.node {
                heard.not_sent.entry(from).or_default().push(*value);
                continue;
            }
            let key = (from.as_str(), *epoch, *value);
            let places = sent.places.get(&key).map_or(&[][..], Vec::as_slice);
            let is_it = |(at, place): &&Place| !lives[*at].whole || seq.is_none_or(|seq| seq == *place as u64);
            match places.iter().filter(is_it).collect::<Vec<_>>()[..] {
                [] if may_be_unlogged(key, *seq, lives, sent) => continue,
                [] => {
                    heard.not_sent.entry(from).or_default().push(*value);
                    continue;
                }
                [(at, place)] => heard.runs.entry(*at).or_default().push(*place),
                [..] => {}
            }
            *heard.times.entry(key).or_default() += 1;
        }
        heard
    }

    /// Whether all messages that look like this one were heard.
    fn has(&self, key: &Key<'_>, places: &[Place]) -> bool {
        self.times.get(key).is_some_and(|times| *times >= places.len())
    }

    /// From the first to the last message of a life that was heard.
    fn run(&self, of: usize) -> Range<usize> {
        let places = self.runs.get(&of).map_or(&[][..], Vec::as_slice);
        let [Some(first), Some(last)] = [places.iter().min(), places.iter().max()] else { return 0..0 };
        *first..last + 1
    }
}

/// Whether a message that is in no sender's log may have been sent all the same.
fn may_be_unlogged((from, epoch, _): Key<'_>, seq: Option<u64>, lives: &[Life], sent: &Sent<'_>) -> bool {
    let mut lives = lives.iter().enumerate().filter(|(_, life)| life.node == from);
    lives.any(|(at, life)| {
        // Who is killed may not have logged its last one.
        let is_next = sent.epochs[at] == epoch && seq.is_none_or(|seq| seq == sent.by_life[at].len() as u64);
        !life.whole || life.ended && is_next && !sent.by_life[at].is_empty()
    })
}

/// What the lives of a cluster's nodes had to hear of each other, and did not, or too often, or in another order.
#[must_use]
pub fn judge(lives: &[Life]) -> Verdict {
    let sent = Sent::by(lives);
    let heard: Vec<_> = lives.iter().map(|life| Heard::by(life, lives, &sent)).collect();
    let known = known(lives, &sent, &heard);

    let nodes: BTreeSet<_> = lives.iter().map(|life| &life.node).collect();
    let ended: BTreeSet<_> = lives.iter().filter(|life| life.ended).map(|life| &life.node).collect();
    let owed: Vec<_> = lives.iter().zip(&sent.by_life).map(|(life, sent)| life.owed(sent.len())).collect();
    let lost: usize =
        owed.iter().zip(&known).map(|(owed, known)| owed.clone().filter(|place| place >= known).count()).sum();
    let of_senders = lives.iter().zip(&owed).filter(|(_, owed)| !owed.is_empty());
    let judged = || lives.iter().zip(&heard).filter(|(life, _)| life.duty != Duty::Nothing);
    Verdict {
        nodes: nodes.len(),
        ended: ended.into_iter().cloned().collect(),
        messages: owed.iter().map(Range::len).sum::<usize>() - lost,
        senders: of_senders.map(|(life, _)| &life.node).collect::<BTreeSet<_>>().len(),
        lost,
        heard: judged().flat_map(|(_, heard)| heard.times.values()).sum(),
        faults: judged().flat_map(|(life, heard)| faults(life, heard, lives, &sent, &known)).collect(),
    }
}

/// Of each life, how many of its messages are known: all, but of one that ended only those up to the last one that
/// any of those that live on has. What comes then was lost with it.
fn known(lives: &[Life], sent: &Sent<'_>, heard: &[Heard<'_>]) -> Vec<usize> {
    let mut known: Vec<_> =
        lives.iter().zip(&sent.by_life).map(|(life, sent)| if life.ended { 0 } else { sent.len() }).collect();
    let living: Vec<_> = lives.iter().zip(heard).filter(|(life, _)| matches!(life.duty, Duty::Until(_))).collect();
    for (key, places) in &sent.places {
        if living.iter().any(|(_, heard)| heard.has(key, places)) {
            places.iter().for_each(|(at, place)| known[*at] = known[*at].max(place + 1));
        }
    }
    known
}

/// What is wrong with what one life heard.
fn faults(life: &Life, heard: &Heard<'_>, lives: &[Life], sent: &Sent<'_>, known: &[usize]) -> Vec<Fault> {
    let mut wrong: BTreeMap<(&str, Wrong), Vec<u64>> = BTreeMap::new();
    let runs: Vec<_> = (0..lives.len()).map(|at| heard.run(at)).collect();
    let has_to_hear = |(at, place): &&Place| {
        let is_owed = lives[*at].owed.contains(place) && *place < known[*at];
        is_owed && life.has_to_hear(&lives[*at], sent.by_life[*at][*place].1) || runs[*at].contains(place)
    };
    for (key, places) in sent.places.iter().filter(|((from, ..), _)| *from != life.node) {
        let times = heard.times.get(key).copied().unwrap_or_default();
        if times < places.iter().filter(has_to_hear).count() {
            wrong.entry((key.0, Wrong::Lacks)).or_default().push(key.2);
        }
        if times > places.len() {
            wrong.entry((key.0, Wrong::TooOften)).or_default().push(key.2);
        }
    }
    for (at, places) in &heard.runs {
        let mut last = 0;
        for place in places {
            if *place < last {
                wrong
                    .entry((lives[*at].node.as_str(), Wrong::OutOfOrder))
                    .or_default()
                    .push(sent.by_life[*at][*place].0);
            }
            last = last.max(*place);
        }
    }
    for (of, values) in &heard.not_sent {
        wrong.insert((*of, Wrong::NotSent), values.clone());
    }
    for entry in &life.entries {
        match entry {
            Entry::LogLost => _ = wrong.entry(("", Wrong::LogLost)).or_default(),
            Entry::Missed { from, first, .. } if !life.may_miss(entry, lives, sent) => {
                wrong.entry((from.as_str(), Wrong::Missed)).or_default().push(*first);
            }
            _ => {}
        }
    }
    let fault =
        |((of, wrong), values): ((&str, Wrong), _)| Fault { node: life.node.clone(), of: of.into(), wrong, values };
    wrong.into_iter().map(fault).collect()
}

impl Life {
    /// See the field. There are so many messages.
    fn owed(&self, messages: usize) -> Range<usize> {
        self.owed.start.min(messages)..self.owed.end.min(messages)
    }

    /// When it had met the other one.
    fn met<'a>(&'a self, other: &'a Self) -> &'a str {
        self.since.as_str().max(&other.since)
    }

    /// Whether it has to have heard what a sender's life sent at that time.
    fn has_to_hear(&self, sender: &Self, time: &str) -> bool {
        matches!(&self.duty, Duty::Until(until) if time > self.met(sender) && time <= until.as_str())
    }

    /// Whether all that it is told to have missed was sent before the two had met. What is not known is not
    /// held against it: what it had to hear, it lacks.
    fn may_miss(&self, missed: &Entry, lives: &[Self], sent: &Sent<'_>) -> bool {
        let Entry::Missed { from, epoch, first, count } = missed else { return true };
        let of = |(at, life): &(usize, &Self)| life.node == *from && sent.epochs[*at] == Some(*epoch);
        let Some((at, sender)) = lives.iter().enumerate().find(of) else { return false };
        let last = usize::try_from(first + count - 1).unwrap_or(usize::MAX);
        let before = sent.by_life[at].get(last).is_some_and(|(_, time)| *time <= self.met(sender));
        !sender.whole || *first == 0 && before
    }
}

#[cfg(test)]
mod tests;
