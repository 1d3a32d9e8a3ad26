//! Links: TAP queues, whose frames are read one by one and written one by one.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;

use super::poller::{Interest, Poller};
use super::{Key, LARGE_BUFFER_BYTES, Readiness};
use crate::buffer::{FilledPool, Slice};
use crate::driver::kernel::options;
use crate::driver::{Completion, Errno, FRAME_HEADER_MAX, FRAME_SLICES_MAX, LinkId, WriteStats};
use crate::frames::tap::TapQueue;

/// Links of one driver, at most.
const LINKS_MAX: usize = 64;

/// Frames that one wait reads from a link, at most.
const FRAMES_MAX: usize = 32;

/// A link that is there.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) queue: TapQueue,
    pub(super) state: Reading,
    pub(super) writes: WriteStats,
}

/// How far the reading of a link is.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Reading {
    /// Nobody wants its frames.
    Idle,
    /// There may be frames.
    Ready,
    /// There are none: an event will tell.
    Waits,
    /// All buffers are held.
    Starved,
}

/// Places for links.
#[derive(Debug, Default)]
pub(super) struct Links(Vec<Option<Link>>);

impl Links {
    pub(super) fn get(&self, link: LinkId) -> Option<&Link> {
        self.0.get(usize::from(link.0))?.as_ref()
    }

    pub(super) fn get_mut(&mut self, link: LinkId) -> Option<&mut Link> {
        self.0.get_mut(usize::from(link.0))?.as_mut()
    }

    /// Whether any link is in a state.
    pub(super) fn any(&self, state: Reading) -> bool {
        self.0.iter().flatten().any(|link| link.state == state)
    }

    /// Puts all links that are in one state into another.
    pub(super) fn turn(&mut self, from: Reading, to: Reading) {
        for link in self.0.iter_mut().flatten() {
            if link.state == from {
                link.state = to;
            }
        }
    }
}

impl<P: Poller> Readiness<P> {
    /// Puts a queue into a free place. The buffers for frames are made with the first one.
    pub(super) fn admit_link(&mut self, queue: TapQueue) -> io::Result<LinkId> {
        let places = self.links.0.iter();
        let place = places.take_while(|place| place.is_some()).count();
        if place >= LINKS_MAX {
            return Err(Errno::MFILE.into());
        }
        if self.tap.is_none() {
            let count = self.config.tap_buffers;
            self.tap = Some(FilledPool::with_ready(count, LARGE_BUFFER_BYTES, 4)?);
        }
        options::set_blocking(&queue, false);
        let link = Some(Link {
            queue,
            state: Reading::Idle,
            writes: WriteStats::default(),
        });
        match self.links.0.get_mut(place) {
            Some(free) => *free = link,
            None => self.links.0.push(link),
        }
        Ok(LinkId(place as u8))
    }

    /// Gives a link up.
    pub(super) fn dismiss_link(&mut self, id: LinkId) {
        let place = self.links.0.get_mut(usize::from(id.0));
        if let Some(link) = place.and_then(Option::take)
            && link.state != Reading::Idle
        {
            self.poller.forget(link.queue.as_fd(), Interest::Read, true);
        }
    }

    pub(super) fn begin_read_link(&mut self, id: LinkId) -> Result<(), Errno> {
        let link = self.links.get_mut(id).ok_or(Errno::BADF)?;
        if link.state == Reading::Idle {
            let key = Key::Link(id).pack();
            self.poller
                .watch(link.queue.as_fd(), key, None, Interest::Read)?;
            link.state = Reading::Ready;
        }
        Ok(())
    }

    /// Reads some frames of each link that may have some.
    pub(super) fn read_links(&mut self) {
        for place in 0..self.links.0.len() {
            let id = LinkId(place as u8);
            if self
                .links
                .get(id)
                .is_some_and(|link| link.state == Reading::Ready)
            {
                self.read_frames(id);
            }
        }
    }

    fn read_frames(&mut self, id: LinkId) {
        let (Some(link), Some(pool)) = (self.links.get_mut(id), &self.tap) else {
            return;
        };
        for _ in 0..FRAMES_MAX {
            let Some(mut blank) = pool.blank() else {
                self.counters.tap_starved += 1;
                link.state = Reading::Starved;
                return;
            };
            self.counters.enters += 1;
            match rustix::io::read(&link.queue, blank.bytes_mut()) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(len) => self.ready.push(Completion::Frame {
                    link: id,
                    frame: blank.filled(len),
                }),
                Err(Errno::AGAIN) => {
                    link.state = Reading::Waits;
                    return;
                }
                Err(error) => {
                    self.poller.forget(link.queue.as_fd(), Interest::Read, true);
                    link.state = Reading::Idle;
                    self.ready.push(Completion::LinkEnd { link: id, error });
                    return;
                }
            }
        }
    }

    pub(super) fn write_to_link(&mut self, id: LinkId, header: &[u8], payload: &[Slice]) {
        let Some(link) = self.links.get_mut(id) else {
            return;
        };
        if header.is_empty() || header.len() > FRAME_HEADER_MAX || payload.len() > FRAME_SLICES_MAX
        {
            link.writes.refused += 1;
            return;
        }
        let mut row = [IoSlice::new(&[]); 1 + FRAME_SLICES_MAX];
        row[0] = IoSlice::new(header);
        for (part, slice) in row[1..].iter_mut().zip(payload) {
            *part = IoSlice::new(slice);
        }
        self.counters.enters += 1;
        let outcome = rustix::io::writev(&link.queue, &row[..=payload.len()]);
        link.writes.count(outcome.map(|bytes| bytes as u32));
    }
}
