//! A link that misbehaves, from a seed: a wrapper around any driver.
//!
//! # Theory of operation
//!
//! [`Faulty`] passes everything on to the driver in it, except frames: those that come out of
//! `wait` (up, from the guest) and those that go into `write_frame` (down, to the guest). Each
//! frame has its fate (`fate`) drawn by the plan (`plan`): it is lost, comes twice, is held back until others
//! have passed, comes late, or is damaged. Given the same row of frames in one direction, the same seed
//! does the same to them, whatever happens in the other.
//!
//! A frame that nothing happens to passes as it came, without a copy. One that has to wait is copied
//! to memory of its own, because it would keep a pooled buffer from the kernel, and stands in a bounded
//! line (`line`); what does not fit is lost and counted. `wait` wakes for the line as well as for the caller.
//!
//! Links that are sockets stay as they are: what goes over those are bytes and packets, to be framed and
//! counted by who uses them.
//!
//! A frame is what the link takes as one. On a link with offloads that may be a super-frame of 64 KiB,
//! and then all of it is lost, late or doubled: 1 % of loss is one of a hundred super-frames, not one of
//! a hundred segments. Damage makes an ordinary frame of it first (`wire`).

mod fate;
mod line;
mod plan;
mod way;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use self::way::Way;
use super::{
    Adopted, BufferLevels, Completion, Driver, DriverCounters, FRAME_HEADER_MAX, Keepalive,
    LinkFeatures, LinkId, Remote, SendMode, SocketError, SocketId, SocketKind, Token, Waker,
    WriteStats,
};
use crate::buffer::Slice;
use crate::frames::tap::TapQueue;

pub use fate::{Damage, Fate, Fates, FaultCounts};
pub use line::Line;
pub use plan::{BadPlan, FaultPlan, Faults, Share};

/// A driver whose links misbehave. See the module.
#[derive(Debug)]
pub struct Faulty<D> {
    driver: D,
    up: Way,
    down: Way,
    /// What the driver inside completed, before frames are looked at. Empty between two waits.
    arrived: Vec<Completion>,
}

impl<D: Driver> Faulty<D> {
    /// Makes the links of `driver` misbehave as planned.
    #[must_use]
    pub fn new(driver: D, plan: &FaultPlan) -> Faulty<D> {
        Faulty {
            driver,
            up: Way::new(Fates::up(plan)),
            down: Way::new(Fates::down(plan)),
            arrived: Vec::new(),
        }
    }

    /// What was done to frames from the guest.
    #[must_use]
    pub fn up(&self) -> FaultCounts {
        self.up.counts()
    }

    /// What was done to frames to the guest.
    #[must_use]
    pub fn down(&self) -> FaultCounts {
        self.down.counts()
    }

    fn on_frame(&mut self, link: LinkId, frame: &Slice, completions: &mut Vec<Completion>) {
        let offload_header = self.driver.link_features(link).offload_header;
        let now = self.driver.now();
        let passes = self.up.enter(now, link, offload_header, || frame.to_vec());
        for _ in 0..passes {
            let frame = frame.clone();
            completions.push(Completion::Frame { link, frame });
        }
        self.release_up(completions);
    }

    fn release_up(&mut self, completions: &mut Vec<Completion>) {
        while let Some((link, frame)) = self.up.leave(self.driver.now()) {
            completions.push(Completion::Frame { link, frame });
        }
    }

    fn release_down(&mut self) {
        while let Some((link, frame)) = self.down.leave(self.driver.now()) {
            let header = frame.len().min(FRAME_HEADER_MAX);
            let payload = frame.sub(header..frame.len());
            self.driver.write_frame(link, &frame[..header], &[payload]);
        }
    }
}

impl<D: Driver> Driver for Faulty<D> {
    fn now(&self) -> u64 {
        self.driver.now()
    }

    fn wait(&mut self, deadline: Option<u64>, completions: &mut Vec<Completion>) -> io::Result<()> {
        let own = self.up.next_at().into_iter().chain(self.down.next_at());
        let deadline = own.chain(deadline).min();
        let mut arrived = std::mem::take(&mut self.arrived);
        self.driver.wait(deadline, &mut arrived)?;
        for completion in arrived.drain(..) {
            match completion {
                Completion::Frame { link, frame } => self.on_frame(link, &frame, completions),
                other => completions.push(other),
            }
        }
        self.arrived = arrived;
        self.release_up(completions);
        self.release_down();
        Ok(())
    }

    fn link_features(&self, link: LinkId) -> LinkFeatures {
        self.driver.link_features(link)
    }

    fn add_link(&mut self, queue: TapQueue) -> io::Result<LinkId> {
        self.driver.add_link(queue)
    }

    fn remove_link(&mut self, link: LinkId) {
        self.driver.remove_link(link);
    }

    fn read_link(&mut self, link: LinkId) {
        self.driver.read_link(link);
    }

    fn write_frame(&mut self, link: LinkId, header: &[u8], payload: &[Slice]) {
        let offload_header = self.driver.link_features(link).offload_header;
        let now = self.driver.now();
        let copy = || {
            payload.iter().fold(header.to_vec(), |mut frame, part| {
                frame.extend_from_slice(part);
                frame
            })
        };
        for _ in 0..self.down.enter(now, link, offload_header, copy) {
            self.driver.write_frame(link, header, payload);
        }
        self.release_down();
    }

    fn open(&mut self, kind: SocketKind) -> io::Result<SocketId> {
        self.driver.open(kind)
    }

    fn adopt(&mut self, fd: OwnedFd, purpose: Adopted) -> SocketId {
        self.driver.adopt(fd, purpose)
    }

    fn connect(&mut self, socket: SocketId, to: &Remote, token: Token) {
        self.driver.connect(socket, to, token);
    }

    fn send(&mut self, socket: SocketId, payload: &[Slice], mode: SendMode, token: Token) {
        self.driver.send(socket, payload, mode, token);
    }

    fn receive(&mut self, socket: SocketId, max: u32, wait_first: bool, token: Token) {
        self.driver.receive(socket, max, wait_first, token);
    }

    fn send_to(
        &mut self,
        socket: SocketId,
        to: &SocketAddr,
        payload: &[Slice],
        gso_size: u16,
        token: Token,
    ) {
        self.driver.send_to(socket, to, payload, gso_size, token);
    }

    fn send_packet(&mut self, socket: SocketId, payload: &[Slice], token: Token) {
        self.driver.send_packet(socket, payload, token);
    }

    fn send_packets(&mut self, socket: SocketId, packets: &[&[Slice]], token: Token) {
        self.driver.send_packets(socket, packets, token);
    }

    fn receive_from(&mut self, socket: SocketId, token: Token) {
        self.driver.receive_from(socket, token);
    }

    fn take_error(&mut self, socket: SocketId) -> Option<SocketError> {
        self.driver.take_error(socket)
    }

    fn shutdown_write(&mut self, socket: SocketId) {
        self.driver.shutdown_write(socket);
    }

    fn close(&mut self, socket: SocketId, reset: bool) {
        self.driver.close(socket, reset);
    }

    fn set_hop_limit(&mut self, socket: SocketId, hops: u8) -> io::Result<()> {
        self.driver.set_hop_limit(socket, hops)
    }

    fn set_report_errors(&mut self, socket: SocketId) -> io::Result<()> {
        self.driver.set_report_errors(socket)
    }

    fn set_keepalive(&mut self, socket: SocketId, keepalive: &Keepalive) -> io::Result<()> {
        self.driver.set_keepalive(socket, keepalive)
    }

    fn unacknowledged_bytes(&self, socket: SocketId) -> io::Result<u32> {
        self.driver.unacknowledged_bytes(socket)
    }

    fn local_address(&self, socket: SocketId) -> io::Result<SocketAddr> {
        self.driver.local_address(socket)
    }

    fn levels(&self) -> BufferLevels {
        self.driver.levels()
    }

    fn counters(&self) -> DriverCounters {
        self.driver.counters()
    }

    fn write_stats(&self, link: LinkId) -> WriteStats {
        self.driver.write_stats(link)
    }

    fn waker(&self) -> Waker {
        self.driver.waker()
    }

    fn wake(&mut self, peer: &Waker) {
        self.driver.wake(peer);
    }
}
