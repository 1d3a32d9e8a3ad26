//! What a driver says about links.

use super::Errno;

/// A link of the driver: the index in the list that it was made with.
#[derive(Copy, Clone, Eq, PartialEq, Hash, Debug)]
pub struct LinkId(pub u8);

/// What a link's frames may be like.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Default)]
pub struct LinkFeatures {
    /// A 10-byte virtio-net header is in front of every frame, both ways.
    pub offload_header: bool,
    /// TCP over IPv4 may come and go in super-frames.
    pub tso4: bool,
    /// TCP over IPv6 may come and go in super-frames.
    pub tso6: bool,
    /// UDP may come and go in super-frames.
    pub uso: bool,
    /// Transport checksums may be left to the other side.
    pub checksum: bool,
    /// The largest frame in bytes, without the offload header.
    pub frame_max: usize,
}

/// What became of the frames written to a link.
#[derive(Copy, Clone, Eq, PartialEq, Debug, Default)]
pub struct WriteStats {
    /// Written.
    pub frames: u64,
    /// Bytes written, offload headers included.
    pub bytes: u64,
    /// Dropped: the queue to the guest is full (`EAGAIN`, `ENOBUFS`).
    pub full: u64,
    /// Dropped: the kernel did not understand the frame (`EINVAL`).
    pub invalid: u64,
    /// Dropped: the interface is down or gone (`EIO`, `EBADFD`).
    pub down: u64,
    /// Dropped for another reason; see `last_error`.
    pub other: u64,
    /// Refused before the kernel: too many slices, too long a header, or no such link.
    pub refused: u64,
    /// The last error that the kernel gave.
    pub last_error: Option<Errno>,
}

impl WriteStats {
    /// Counts the outcome of one write.
    pub(crate) fn count(&mut self, result: Result<u32, Errno>) {
        let errno = match result {
            Ok(bytes) => {
                self.frames += 1;
                self.bytes += u64::from(bytes);
                return;
            }
            Err(errno) => errno,
        };
        self.last_error = Some(errno);
        match errno {
            Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM => self.full += 1,
            Errno::INVAL => self.invalid += 1,
            Errno::IO | Errno::BADFD | Errno::BADF => self.down += 1,
            _ => self.other += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_counted_by_reason() {
        let mut stats = WriteStats::default();
        stats.count(Ok(100));
        stats.count(Err(Errno::AGAIN));
        stats.count(Err(Errno::NOBUFS));
        stats.count(Err(Errno::INVAL));
        stats.count(Err(Errno::IO));
        stats.count(Err(Errno::PERM));
        let expected = WriteStats {
            frames: 1,
            bytes: 100,
            full: 2,
            invalid: 1,
            down: 1,
            other: 1,
            refused: 0,
            last_error: Some(Errno::PERM),
        };
        assert_eq!(stats, expected);
    }
}
