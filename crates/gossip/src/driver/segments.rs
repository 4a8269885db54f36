//! Many datagrams in one system call, where the system can: Linux's UDP segmentation offload (GSO, for
//! sending), its reverse (GRO, for receiving), and `sendmmsg`.
//!
//! A run of datagrams of one length to one place, the last of which may be shorter, goes down to the
//! network as one piece, and on loopback and many a card comes up as one. Elsewhere, and where a path
//! refuses it, each datagram goes by itself: [`Datagrams`](super::sockets::Datagrams) sees to that. Datagrams that go
//! by themselves, each to a place of its own, go down in one call as well, as so many pieces.

use std::{io, net::SocketAddr};

use bytes::Bytes;
use tokio::net::UdpSocket;

/// Datagrams in one run at most: what Linux takes.
pub(super) const MAX_RUN: usize = 64;
/// Bytes in one run at most: what an IP packet takes, headers apart.
pub(super) const MAX_RUN_BYTES: usize = 65_000;
/// Datagrams that go by themselves in one call, at most.
pub(super) const MAX_EACH: usize = 32;

/// What one system call has received: datagrams of `stride` bytes each, the last of which may be shorter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    pub(super) from: SocketAddr,
    pub(super) len: usize,
    pub(super) stride: usize,
}

#[cfg(target_os = "linux")]
mod imp {
    use std::{
        io::{IoSlice, IoSliceMut},
        net::{SocketAddrV4, SocketAddrV6},
        os::fd::AsRawFd,
    };

    use nix::sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrLike as _, SockaddrStorage, recvmsg,
        sendmmsg, sendmsg, setsockopt, sockopt::UdpGroSegment,
    };
    use tokio::io::Interest;

    use super::{Bytes, MAX_EACH, MAX_RUN, Received, SocketAddr, UdpSocket, io};

    /// Asks the system to put together what arrives in runs. That it cannot is no error.
    pub(in super::super) fn prepare(socket: &UdpSocket) {
        if let Err(error) = setsockopt(socket, UdpGroSegment, &true) {
            tracing::debug!(%error, "datagrams are received one by one");
        }
    }

    pub(in super::super) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Received> {
        socket.try_io(Interest::READABLE, || {
            let mut control = nix::cmsg_space!(i32);
            let mut parts = [IoSliceMut::new(buffer)];
            let fd = socket.as_raw_fd();
            let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), MsgFlags::empty())?;
            let stride = message.cmsgs()?.find_map(|control| match control {
                ControlMessageOwned::UdpGroSegments(size) => usize::try_from(size).ok(),
                _ => None,
            });
            let from = message.address.as_ref().and_then(to_std).ok_or(io::ErrorKind::InvalidData)?;
            let stride = stride.filter(|stride| *stride > 0).unwrap_or(message.bytes);
            Ok(Received { from, len: message.bytes, stride })
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
    use super::{Bytes, Received, SocketAddr, UdpSocket, io};

    pub(in super::super) fn prepare(_: &UdpSocket) {}

    pub(in super::super) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Received> {
        let (len, from) = socket.try_recv_from(buffer)?;
        Ok(Received { from, len, stride: len })
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
