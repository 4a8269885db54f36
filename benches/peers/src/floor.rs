//! The floor: the cost of the system calls alone. Bare UDP sockets in one thread, on loopback: each message goes to all of them,
//! and each acknowledges it, as nodes do. There is no encoding, ordering, retention or repair.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Arc, atomic::AtomicU64},
    thread,
    time::Instant,
};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::{
    Outcome,
    measure::{Clock, Load, Mode, Report, Run, Tally},
};

/// The bytes of a datagram that carries a value of 64 bytes from node to node, and of one that acknowledges it.
const MESSAGE: usize = 190;
const ACK: usize = 40;
/// How long a datagram may take, in milliseconds. On loopback none is lost while there is room for so few.
const PATIENCE: u16 = 1000;

/// The sockets; the first one publishes.
struct Sockets {
    all: Vec<UdpSocket>,
    publisher: SocketAddr,
    epoll: Epoll,
    events: Vec<EpollEvent>,
}

impl Sockets {
    fn open(receivers: usize) -> Outcome<Self> {
        let open = |_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0));
        let all = (0..=receivers).map(open).collect::<io::Result<Vec<_>>>()?;
        let epoll = Epoll::new(EpollCreateFlags::empty())?;
        for (at, socket) in all.iter().enumerate() {
            socket.set_nonblocking(true)?;
            epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, at as u64))?;
        }
        Ok(Self { publisher: all[0].local_addr()?, events: vec![EpollEvent::empty(); all.len()], all, epoll })
    }

    /// Waits until there is something to receive; gives at which sockets.
    fn wait(&mut self) -> Outcome<Vec<usize>> {
        let ready = self.epoll.wait(&mut self.events, EpollTimeout::from(PATIENCE))?;
        if ready == 0 {
            return Err("the floor: a datagram was lost on loopback; is the machine overloaded?".into());
        }
        Ok(self.events[..ready].iter().map(|event| event.data() as usize).collect())
    }

    /// What a socket has received, unless that was all.
    fn receive<'a>(&self, at: usize, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        match self.all[at].recv(buffer) {
            Ok(len) => Ok(Some(&buffer[..len])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn acknowledge(&self, at: usize) -> io::Result<()> {
        self.all[at].send_to(&[0; ACK], self.publisher).map(drop)
    }
}

/// `late` puts off acknowledgements until all have received the message.
pub async fn measure(late: bool, receivers: usize, load: &Load) -> Outcome<Report> {
    if load.mode != Mode::Paced {
        return Err("the floor has no flood: without acknowledgements that hold it back, sockets lose it".into());
    }
    let mut sockets = Sockets::open(receivers)?;
    let addrs = sockets.all[1..].iter().map(UdpSocket::local_addr).collect::<io::Result<Vec<_>>>()?;
    let (clock, delivered) = (Clock::start(), Arc::new(AtomicU64::new(0)));
    let mut tallies: Vec<_> = addrs.iter().map(|_| Tally::new(clock, load.mode, &delivered)).collect();
    let (mut receipts, mut buffer) = (Vec::new(), [0; 2048]);
    let run = Run::begin(&[]);
    let mut due = Instant::now();
    for number in 0..load.msgs {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        due += load.period();
        let began = Instant::now();
        let message = clock.stamp(0, number, MESSAGE.max(load.size));
        for addr in &addrs {
            sockets.all[0].send_to(message.as_bytes(), addr)?;
        }
        let (mut heard, mut acknowledged) = (Vec::new(), 0);
        while acknowledged < receivers {
            for at in sockets.wait()? {
                while let Some(received) = sockets.receive(at, &mut buffer)? {
                    if at == 0 {
                        acknowledged += 1;
                        continue;
                    }
                    tallies[at - 1].record(received);
                    heard.push(at);
                    if !late {
                        sockets.acknowledge(at)?;
                    }
                }
            }
            if late && heard.len() == receivers {
                heard.drain(..).try_for_each(|at| sockets.acknowledge(at))?;
            }
        }
        receipts.push(u64::try_from(began.elapsed().as_nanos())?);
    }
    let cost = run.end(&delivered, load.msgs * receivers as u64).await;
    let name = if late { "bare UDP, late receipts" } else { "bare UDP" };
    Ok(Report::new(name, load, (receivers, 1), cost, tallies, receipts))
}
