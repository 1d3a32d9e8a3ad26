//! A guest and what links it to the cores.

use towpath_ring::driver::sim::SimLink;

use crate::guest::Guest;
use crate::guest::stream::StreamLink;

pub(crate) struct Seat {
    pub(crate) guest: Guest,
    pub(crate) link: Link,
    /// When all that the guest wanted was over.
    pub(crate) done_at: Option<u64>,
}

pub(crate) enum Link {
    /// A TAP, which all cores write and one or all read.
    Tap {
        up: Box<SimLink>,
        down: Box<SimLink>,
    },
    /// A stream of frames, which one core has.
    Stream(Box<StreamLink>),
}

impl Seat {
    pub(crate) fn new(guest: Guest, link: Link) -> Seat {
        Seat {
            guest,
            link,
            done_at: None,
        }
    }

    /// When something of it is due by itself.
    pub(crate) fn next_at(&self, now: u64) -> Option<u64> {
        let guest = self.guest.next_at(now).filter(|_| self.is_here());
        let links = match &self.link {
            Link::Tap { up, down } => [up.next_at(), down.next_at()],
            Link::Stream(stream) => [stream.next_at(now), None],
        };
        links.into_iter().chain([guest]).flatten().min()
    }

    /// Whether the guest has a link.
    pub(crate) fn is_here(&self) -> bool {
        match &self.link {
            Link::Tap { .. } => true,
            Link::Stream(stream) => stream.is_here(),
        }
    }

    /// Whether nothing more will come of it by the guest's own will.
    pub(crate) fn is_over(&self, now: u64) -> bool {
        let is_through = || {
            self.guest.datagrams.next_at().is_none()
                && self.guest.flows.iter().all(|flow| flow.is_gone())
        };
        match &self.link {
            Link::Tap { .. } => is_through(),
            Link::Stream(stream) if stream.is_gone() => true,
            Link::Stream(stream) => stream.is_here() && !stream.awaits_fate(now) && is_through(),
        }
    }

    /// The next frame that has arrived at the guest.
    pub(crate) fn take(&mut self, now: u64) -> Option<Vec<u8>> {
        match &mut self.link {
            Link::Tap { down, .. } => down.take(now),
            Link::Stream(stream) => stream.take(now),
        }
    }

    /// A frame of the guest's leaves.
    pub(crate) fn send(&mut self, now: u64, frame: Vec<u8>) {
        match &mut self.link {
            Link::Tap { up, .. } => up.send(now, frame),
            Link::Stream(stream) => stream.send(now, frame),
        }
    }

    pub(crate) fn stream(&self) -> Option<&StreamLink> {
        match &self.link {
            Link::Tap { .. } => None,
            Link::Stream(stream) => Some(stream),
        }
    }

    pub(crate) fn stream_mut(&mut self) -> Option<&mut StreamLink> {
        match &mut self.link {
            Link::Tap { .. } => None,
            Link::Stream(stream) => Some(stream),
        }
    }
}
