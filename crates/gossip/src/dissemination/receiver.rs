//! What other nodes publish: taking it in, acknowledging it, and in which life its origin is. What is missing of it is
//! [repaired](super::repair).

use std::{collections::BTreeSet, net::SocketAddr, time::Instant};

use bytes::Bytes;
use rand::RngExt;

use super::{
    acquaintances::Acquaintances,
    context::{Context, Timer},
    control::{By, Control, Route},
    error::Unusable,
    id::MessageId,
    inbound::Inbound,
    message::Message,
    output::Output,
    payload::Parsed,
    questions::{Questions, Teller},
    revision::{is_named, is_ours},
    ring::FANOUT,
    stream::{StreamError, Taken},
};
use crate::{
    config::Retention,
    membership::{Membership, NodeName, Record},
};

/// A message with an identity, as it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival<'a> {
    pub(super) from: SocketAddr,
    pub(super) origin: &'a [u8],
    pub(super) id: MessageId,
    pub(super) payload: &'a Bytes,
    pub(super) parsed: &'a Parsed<'a>,
    pub(super) route: Route,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) inbound: Inbound,
    /// Streams to acknowledge.
    acks: BTreeSet<(NodeName, u64)>,
    pub(super) questions: Questions,
    pub(super) acquaintances: Acquaintances,
    /// Who is bringing something large over a stream, and when some of it came last.
    pub(super) bringer: Option<(SocketAddr, Instant)>,
}

impl Receiver {
    pub(super) fn new(limits: Retention, replay: bool) -> Self {
        Self {
            inbound: Inbound::new(limits, replay),
            acks: BTreeSet::new(),
            questions: Questions::default(),
            acquaintances: Acquaintances::default(),
            bringer: None,
        }
    }

    /// A member is there, for the first time, again, or at another address.
    pub(super) fn member_up(&mut self, now: Instant, record: &Record) {
        for stream in self.inbound.lives_mut(record.name.as_bytes()) {
            stream.ask_afresh();
        }
        self.inbound.revive(record.name.as_bytes());
        if is_ours(record.versions) {
            if self.acquaintances.has_met(&record.name) {
                self.inbound.iter_mut().for_each(|stream| stream.forget_teller(record.addr()));
            }
            self.acquaintances.meet(now, record);
        }
    }

    /// A member has failed, or has left.
    pub(super) fn member_down(&mut self, cx: &mut Context, now: Instant, name: &NodeName, left: bool) {
        self.questions.forget(name);
        self.acquaintances.forget(name);
        let rounds = cx.tuning.retransmit_mult * cx.rounds();
        for stream in self.inbound.lives_mut(name.as_bytes()) {
            stream.end_life(now, left);
            // Those who have more than others tell them: the origin does not any more.
            stream.rounds = rounds;
        }
        cx.sweep_later(now);
    }

    /// Who says this by name, a live member, and whether that is certain.
    pub(super) fn teller(
        &mut self,
        cx: &mut Context,
        now: Instant,
        from: SocketAddr,
        by: By<'_>,
        record: &Record,
    ) -> Teller {
        let addr = record.addr();
        let answers = by.echo.filter(|echo| self.questions.is_answer(now, &record.name, *echo));
        // Over a stream it comes from a port of the system's choice.
        let at_home = from.ip() == addr.ip();
        if !at_home && self.acquaintances.note_elsewhere(&record.name) {
            cx.counters.elsewhere += 1;
            cx.outputs.push_back(Output::Elsewhere { name: record.name.clone(), announced: addr, from });
        }
        Teller { addr, certain: at_home || answers.is_some(), answers: answers.map(|echo| echo.age) }
    }

    /// Takes a message; gives what came of it, if it may be one.
    pub(super) fn take(
        &mut self,
        cx: &mut Context,
        now: Instant,
        arrival: Arrival<'_>,
        membership: &Membership,
    ) -> Result<Option<Taken>, Unusable> {
        let Arrival { from, origin, id, payload, parsed, route } = arrival;
        let known = self.inbound.get(origin, id.epoch).is_some();
        if !known && !self.open_arrival(cx, now, arrival, membership)? {
            return Ok(None);
        }
        let begins = self.begins_with(cx, arrival);
        let pace = cx.pace();
        let Some((stream, store)) = self.inbound.stream(origin, id.epoch) else { return Ok(None) };
        let build = |origin: NodeName| Message::new(origin, id, parsed, payload, route.hops.saturating_add(1));
        let taken = stream.receive(id.seq, begins, store, build);
        let taken = taken.map_err(|error| Unusable::Stream { origin: stream.origin.clone(), error })?;
        let (acks, lacks) = stream.note_arrival(from, taken == Taken::New, pace.rounds);
        let name = (acks || lacks).then(|| stream.origin.clone());
        if !known {
            cx.sweep_later(now);
            if self.inbound.is_doubtful(origin, id.epoch) {
                self.doubt(cx, now, origin, id.epoch, false, membership);
            }
        }
        if let Some(name) = name {
            if lacks {
                // What is out of order may just be late.
                cx.ask_by(now + pace.patience / 5, &name, id.epoch);
            }
            if acks {
                self.ack_later(cx, now, name, id.epoch);
            }
        }
        Ok(Some(taken))
    }

    /// A message comes of a life that is not known: remembers it, if it may be one. Gives whether it does.
    fn open_arrival(
        &mut self,
        cx: &mut Context,
        now: Instant,
        arrival: Arrival<'_>,
        membership: &Membership,
    ) -> Result<bool, Unusable> {
        let Arrival { from, origin, id, route, .. } = arrival;
        // Its origin is a member, or it was passed on by another member.
        let is_credible =
            membership.get(origin).is_some_and(Record::is_live) || (route.hops > 0 && is_at_member(from, membership));
        if !is_credible {
            // If it is one, its origin repeats it once they know each other.
            cx.counters.strangers += 1;
            return Ok(false);
        }
        let begins = self.begins_with(cx, arrival).then_some(id.seq);
        match self.inbound.open(now, origin, id.epoch, begins, cx.me.latest(now)) {
            Ok(()) => Ok(true),
            Err(StreamError::FormerLife(epoch)) => {
                cx.counters.past_epochs += 1;
                self.doubt(cx, now, origin, epoch, true, membership);
                Ok(false)
            }
            Err(StreamError::FutureLife(epoch))
                if membership
                    .get(origin)
                    .is_some_and(|record| self.questions.ask(cx, now, record, epoch, membership)) =>
            {
                // It comes again, once the origin has said that it is its own.
                cx.counters.unusable += 1;
                Ok(false)
            }
            Err(error) => Err(Unusable::Stream { origin: NodeName::from(origin), error }),
        }
    }

    /// Whether this node begins with a message, unless its origin says otherwise. Whom the origin itself sends its first
    /// message, is a member to it and begins there; unless it is no first message, but said again in a life that was
    /// renewed.
    fn begins_with(&self, cx: &Context, arrival: Arrival<'_>) -> bool {
        let Arrival { origin, id, route, .. } = arrival;
        let first = || route.hops == 0 && !self.inbound.has_other_life(origin, id.epoch);
        id.seq == 0 && (cx.live > FANOUT + 1 || first())
    }

    /// An acknowledgement is to be sent, or a question where to begin.
    pub(super) fn ack_later(&mut self, cx: &mut Context, now: Instant, origin: NodeName, epoch: u64) {
        self.acks.insert((origin, epoch));
        if let Some(spread) = cx.ack_spread()
            && cx.timers.get(&Timer::Acks).is_none()
        {
            cx.timers.set(Timer::Acks, now + spread.mul_f64(cx.rng.random()));
        }
    }

    /// Whether there is something to acknowledge that need not wait for its time.
    pub(super) fn acknowledges_now(&self, cx: &Context) -> bool {
        !self.acks.is_empty() && cx.timers.get(&Timer::Acks).is_none()
    }

    /// Sends what is to be acknowledged.
    pub(super) fn send_acks(&mut self, cx: &mut Context, now: Instant, membership: &Membership) {
        for (origin, epoch) in std::mem::take(&mut self.acks) {
            let Some((stream, _)) = self.inbound.stream(origin.as_bytes(), epoch) else { continue };
            stream.ack_due = false;
            let Some(record) = membership.get(origin.as_bytes()).filter(|record| record.is_live()) else { continue };
            let acked = (stream.acknowledged(), stream.cookie);
            let ack = self.acknowledgement(cx, now, record, epoch, acked);
            cx.send(record.addr(), vec![ack]);
        }
    }

    /// What this node acknowledges of a stream, which has that cookie, or that it asks where to begin in it.
    pub(super) fn acknowledgement(
        &mut self,
        cx: &mut Context,
        now: Instant,
        record: &Record,
        epoch: u64,
        (next, cookie): (Option<u64>, Option<u64>),
    ) -> Bytes {
        let life = cx.me.life;
        if !is_named(record.versions) && cookie.is_none() {
            return Control::Ack { epoch, life, next }.encode();
        }
        let question = next.is_none().then(|| self.questions.question(cx, now, &record.name, epoch));
        Control::Receipt { epoch, life, next, cookie, question }.encode_by(cx.me.by(None))
    }

    /// A node speaks as in a former life, maybe because its clock has been set back.
    fn tell_of_later_life(&self, cx: &mut Context, origin: &[u8], epoch: u64, membership: &Membership) {
        let Some(record) = membership.get(origin).filter(|record| record.is_live()) else { return };
        let Some(latest) = self.inbound.latest_life(origin, epoch) else { return };
        let have = cx.me.encode_for(record.versions, &Control::Have(vec![latest.have()]));
        cx.send(record.addr(), vec![have]);
    }

    /// Somebody speaks of a life of an origin that does not fit what is known here: asks the origin, or tells it
    /// what is known.
    pub(super) fn doubt(
        &mut self,
        cx: &mut Context,
        now: Instant,
        origin: &[u8],
        epoch: u64,
        tells: bool,
        membership: &Membership,
    ) {
        let record = membership.get(origin).filter(|record| record.is_live());
        let asked = record.is_some_and(|record| self.questions.ask(cx, now, record, epoch, membership));
        if !asked && tells {
            self.tell_of_later_life(cx, origin, epoch, membership);
        }
    }

    /// A member has answered that it is in this life, which is so old. If it was met in a former one, who told of that
    /// is asked for it.
    pub(super) fn hear_age(
        &mut self,
        cx: &mut Context,
        origin: &[u8],
        (epoch, age): (u64, u64),
        membership: &Membership,
    ) {
        if !self.acquaintances.met_before(origin, self.questions.since(origin), age) {
            return;
        }
        self.inbound.note_met_before(origin, epoch);
        let former = self.questions.take_former(origin);
        let known = former.and_then(|(epoch, teller)| Some((epoch, membership.find_addr(teller)?)));
        if let Some((epoch, teller)) = known.filter(|(epoch, _)| self.inbound.get(origin, *epoch).is_none()) {
            // Who is asked for what it cannot have answers what there is.
            let want = Control::Want { origin, epoch, ranges: vec![(u64::MAX - 1, 1)] };
            cx.send(teller.addr(), vec![cx.me.encode_for(teller.versions, &want)]);
        }
    }
}

/// Whether some member of ours is at this address, whatever its port.
pub(super) fn is_at_member(from: SocketAddr, membership: &Membership) -> bool {
    membership.others().any(|record| record.is_live() && is_ours(record.versions) && record.addr().ip() == from.ip())
}
