//! Many datagrams in one system call, where the system can: Linux's UDP segmentation offload (GSO, for sending), its
//! counterpart (GRO, for receiving), `sendmmsg` and `recvmmsg`.
//!
//! A *run* is a sequence of datagrams of the same length to one destination, the last of which may be shorter. It passes
//! through the network stack as one packet; on loopback and many network cards it is also received as one. On other systems,
//! and where a path refuses runs, datagrams are sent one by one: [`DatagramSocket`](super::sockets::DatagramSocket) decides
//! that. Single datagrams to several destinations also share a system call (`sendmmsg`).

use std::{collections::VecDeque, io, net::SocketAddr};

use bytes::Bytes;
use tokio::net::UdpSocket;

/// Datagrams in one run, at most; Linux's limit.
pub(super) const MAX_RUN: usize = 64;
/// Bytes in one run, at most; what fits into an IP packet with its headers.
pub(super) const MAX_RUN_BYTES: usize = 65_000;
/// Single datagrams in one `sendmmsg`, at most.
pub(super) const MAX_EACH: usize = 32;

/// Runs that are received in one call, at most.
const SLOTS: usize = if cfg!(target_os = "linux") { 8 } else { 1 };
/// The longest run that can be received, in bytes.
const SLOT: usize = 65_536;

/// A received run: datagrams from one peer, of `stride` bytes each, the last of which may be shorter.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReceivedRun {
    pub(super) from: SocketAddr,
    /// Its range in the receive buffer.
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) stride: usize,
}

/// The buffer for [`receive`]. Its pages take memory only once something was received into them.
pub(super) fn buffer() -> Box<[u8]> {
    vec![0; SLOTS * SLOT].into()
}

#[cfg(target_os = "linux")]
mod imp {
    use std::{
        io::{IoSlice, IoSliceMut},
        net::{SocketAddrV4, SocketAddrV6},
        os::fd::AsRawFd,
    };

    use nix::sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrLike as _, SockaddrStorage, recvmmsg,
        sendmmsg, sendmsg, setsockopt, sockopt::UdpGroSegment,
    };
    use tokio::io::Interest;

    use super::{Bytes, MAX_EACH, MAX_RUN, ReceivedRun, SLOT, SLOTS, SocketAddr, UdpSocket, VecDeque, io};

    /// Asks the system to put together what arrives in runs. That it cannot is no error.
    pub(in super::super) fn prepare(socket: &UdpSocket) {
        if let Err(error) = setsockopt(socket, UdpGroSegment, &true) {
            tracing::debug!(%error, "datagrams are received one by one");
        }
    }

    /// Adds what has arrived to `received`, where it lies in `buffer`. `WouldBlock` says that nothing else is there, though
    /// something may have been received: a socket that has just been emptied is not asked again before more arrives.
    pub(in super::super) fn receive(
        socket: &UdpSocket,
        buffer: &mut [u8],
        received: &mut VecDeque<ReceivedRun>,
    ) -> io::Result<()> {
        socket.try_io(Interest::READABLE, || {
            let mut slots = buffer.chunks_exact_mut(SLOT);
            let mut parts: [_; SLOTS] = std::array::from_fn(|_| [IoSliceMut::new(slots.next().unwrap_or_default())]);
            // Not kept from call to call: the system shortens in it what room there is for the next.
            let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(SLOTS, Some(nix::cmsg_space!(i32)));
            let messages = recvmmsg(socket.as_raw_fd(), &mut headers, &mut parts, MsgFlags::empty(), None)?;
            let mut filled = 0;
            for message in messages {
                let start = filled * SLOT;
                filled += 1;
                let (Ok(mut controls), Some(from)) = (message.cmsgs(), message.address.as_ref().and_then(to_std))
                else {
                    tracing::debug!("lost a datagram: the system does not say all of it");
                    continue;
                };
                let stride = controls.find_map(|control| match control {
                    ControlMessageOwned::UdpGroSegments(size) => usize::try_from(size).ok(),
                    _ => None,
                });
                let stride = stride.filter(|stride| *stride > 0).unwrap_or(message.bytes);
                received.push_back(ReceivedRun { from, start, end: start + message.bytes, stride });
            }
            if filled < SLOTS { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        })
    }

    fn to_std(address: &SockaddrStorage) -> Option<SocketAddr> {
        match address.family()? {
            nix::sys::socket::AddressFamily::Inet => {
                address.as_sockaddr_in().map(|&address| SocketAddrV4::from(address).into())
            }
            _ => address.as_sockaddr_in6().map(|&address| SocketAddrV6::from(address).into()),
        }
    }

    pub(in super::super) fn send_run(
        socket: &UdpSocket,
        to: SocketAddr,
        run: &mut dyn Iterator<Item = &Bytes>,
        stride: usize,
    ) -> io::Result<()> {
        let stride = u16::try_from(stride).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut parts = [IoSlice::new(&[]); MAX_RUN];
        let mut count = 0;
        for (part, payload) in parts.iter_mut().zip(run) {
            *part = IoSlice::new(payload);
            count += 1;
        }
        socket.try_io(Interest::WRITABLE, || {
            let control = [ControlMessage::UdpGsoSegments(&stride)];
            let to = SockaddrStorage::from(to);
            sendmsg(socket.as_raw_fd(), &parts[..count], &control, MsgFlags::empty(), Some(&to))?;
            Ok(())
        })
    }

    /// Gives how many of these, from the first on, the system has taken: at least one. An error is of the first.
    pub(in super::super) fn send_each<'a>(
        socket: &UdpSocket,
        datagrams: impl Iterator<Item = (SocketAddr, &'a Bytes)>,
    ) -> io::Result<usize> {
        let mut parts = [[IoSlice::new(&[])]; MAX_EACH];
        let mut to = [None; MAX_EACH];
        let mut count = 0;
        for ((part, to), (addr, payload)) in parts.iter_mut().zip(&mut to).zip(datagrams) {
            *part = [IoSlice::new(payload)];
            *to = Some(SockaddrStorage::from(addr));
            count += 1;
        }
        socket.try_io(Interest::WRITABLE, || {
            // Not kept from call to call: nix does not let it cross threads.
            let mut headers = MultiHeaders::preallocate(count, None);
            let fd = socket.as_raw_fd();
            Ok(sendmmsg(fd, &mut headers, &parts[..count], &to[..count], [], MsgFlags::empty())?.count())
        })
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use super::{Bytes, ReceivedRun, SocketAddr, UdpSocket, VecDeque, io};

    pub(in super::super) fn prepare(_: &UdpSocket) {}

    pub(in super::super) fn receive(
        socket: &UdpSocket,
        buffer: &mut [u8],
        received: &mut VecDeque<ReceivedRun>,
    ) -> io::Result<()> {
        let (len, from) = socket.try_recv_from(buffer)?;
        received.push_back(ReceivedRun { from, start: 0, end: len, stride: len });
        Ok(())
    }

    pub(in super::super) fn send_run(
        _: &UdpSocket,
        _: SocketAddr,
        _: &mut dyn Iterator<Item = &Bytes>,
        _: usize,
    ) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(in super::super) fn send_each<'a>(
        socket: &UdpSocket,
        datagrams: impl Iterator<Item = (SocketAddr, &'a Bytes)>,
    ) -> io::Result<usize> {
        let mut sent = 0;
        for (to, payload) in datagrams {
            match socket.try_send_to(payload, to) {
                Ok(_) => sent += 1,
                Err(error) if sent == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(sent)
    }
}

pub(super) use imp::{prepare, receive, send_each, send_run};
