//! The links of a ring: TAP queues in its table of fixed files, which come and go.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use super::group::BufferGroup;
use super::operation::Family;
use super::{GROUP_TAP, HOT_FRAME_BYTES, LARGE_BUFFER_BYTES, LINKS_MAX, TAP_BUFFERS_MAX, Uring};
use crate::driver::{Errno, LinkId, WriteStats};
use crate::frames::tap::TapQueue;

/// A link that is there.
#[derive(Debug)]
pub(super) struct Link {
    /// Also in the ring's table of fixed files, at the link's index.
    pub(super) queue: TapQueue,
    pub(super) reading: bool,
    /// Given up: its place is free when its read has ended.
    leaving: bool,
    pub(super) writes: WriteStats,
}

/// Places for links.
#[derive(Debug, Default)]
pub(super) struct Links(Vec<Option<Link>>);

impl Links {
    pub(super) fn get(&self, link: u8) -> Option<&Link> {
        let link = self.0.get(usize::from(link))?.as_ref();
        link.filter(|link| !link.leaving)
    }

    pub(super) fn get_mut(&mut self, link: u8) -> Option<&mut Link> {
        let link = self.0.get_mut(usize::from(link))?.as_mut();
        link.filter(|link| !link.leaving)
    }

    /// How many reads are in the kernel.
    pub(super) fn reading(&self) -> usize {
        self.0.iter().flatten().filter(|link| link.reading).count()
    }

    /// The reads of a link are over.
    pub(super) fn stop_reading(&mut self, link: u8) {
        if let Some(Some(link)) = self.0.get_mut(usize::from(link)) {
            link.reading = false;
        }
    }
}

impl Uring {
    /// Puts a queue into a free place. The buffers for frames are made with the first one.
    pub(super) fn admit_link(&mut self, queue: TapQueue) -> io::Result<LinkId> {
        if !self.features.usable(true) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let places = self.links.0.iter();
        let place = places.take_while(|place| place.is_some()).count();
        if place >= LINKS_MAX as usize {
            return Err(Errno::MFILE.into());
        }
        let submitter = self.ring.submitter();
        if self.tap.is_none() {
            self.tap = Some(BufferGroup::new(
                &submitter,
                GROUP_TAP,
                self.config.tap_buffers.min(TAP_BUFFERS_MAX),
                LARGE_BUFFER_BYTES,
                HOT_FRAME_BYTES,
            )?);
        }
        submitter.register_files_update(place as u32, &[queue.as_fd().as_raw_fd()])?;
        let link = Some(Link {
            queue,
            reading: false,
            leaving: false,
            writes: WriteStats::default(),
        });
        match self.links.0.get_mut(place) {
            Some(free) => *free = link,
            None => self.links.0.push(link),
        }
        Ok(LinkId(place as u8))
    }

    /// Gives a link up; it is closed when its read has ended.
    pub(super) fn dismiss_link(&mut self, link: LinkId) {
        let Some(state) = self.links.get_mut(link.0) else {
            return;
        };
        state.leaving = true;
        let starved = self.starved.links.contains(&link.0);
        if starved {
            // Its read is not in the kernel.
            self.starved.links.retain(|&other| other != link.0);
            self.links.stop_reading(link.0);
        }
        match self.links.0[usize::from(link.0)] {
            Some(Link { reading: true, .. }) => self.cancel(Family::Link, link.0.into()),
            _ => {
                self.vacate(link.0);
            }
        }
    }

    /// Frees the place of a link that is given up, if this is one. Answers whether it was.
    pub(super) fn vacate(&mut self, link: u8) -> bool {
        let Some(place) = self.links.0.get_mut(usize::from(link)) else {
            return false;
        };
        if place.take_if(|link| link.leaving).is_none() {
            return false;
        }
        // What was written is to go to this link, not to the next one in its place.
        let _ = self.ring.submit();
        let _ = self
            .ring
            .submitter()
            .register_files_update(link.into(), &[-1]);
        true
    }
}
