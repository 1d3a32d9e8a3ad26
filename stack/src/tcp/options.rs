//! What both ends agreed on in the SYN segments (RFC 9293 §3.7.1, RFC 7323, RFC 2018).

use super::config::Config;
use super::segment::{Options, Timestamps};

/// The MSS when the guest names none. 536 is right for IPv4; IPv6 would allow 1220, but a guest that
/// says nothing is not one to gain speed with (RFC 9293 §3.7.1).
const MSS_DEFAULT: u16 = 536;
/// A smaller MSS would let a guest make us send mostly headers.
pub(super) const MSS_MIN: u16 = 88;
/// Largest shift count (RFC 7323 §2.3).
const SCALE_MAX: u8 = 14;
/// Bytes of the timestamps option with its padding (RFC 7323 appendix A).
pub(super) const TIMESTAMPS_LEN: u16 = 12;

/// What both ends agreed on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Agreed {
    /// Largest payload that we send, without options, in bytes.
    pub(super) mss: u16,
    /// Shift count of windows that the guest sends.
    pub(super) guest_scale: u8,
    /// Shift count of windows that we send.
    pub(super) our_scale: u8,
    /// Whether windows are scaled at all: a zero shift count must still be answered.
    pub(super) scaled: bool,
    pub(super) timestamps: bool,
    pub(super) sack: bool,
}

impl Agreed {
    /// Before the guest's SYN is seen: what our own SYN offers is offered, nothing is agreed.
    pub(super) const fn offered() -> Self {
        Self {
            mss: MSS_DEFAULT,
            guest_scale: 0,
            our_scale: 0,
            scaled: true,
            timestamps: true,
            sack: true,
        }
    }

    /// From the options of the guest's SYN or SYN-ACK. All that it offers is taken.
    pub(super) fn new(config: &Config, guest: &Options) -> Self {
        let mss = guest.mss.unwrap_or(MSS_DEFAULT);
        Self {
            mss: mss.min(config.mss).max(MSS_MIN),
            // RFC 7323 §2.3: a larger count acts as 14.
            guest_scale: guest.window_scale.unwrap_or(0).min(SCALE_MAX),
            our_scale: match guest.window_scale {
                Some(_) => config.window_scale.min(SCALE_MAX),
                None => 0,
            },
            scaled: guest.window_scale.is_some(),
            timestamps: guest.timestamps.is_some(),
            sack: guest.sack_permitted,
        }
    }

    /// The options of our SYN or SYN-ACK.
    pub(super) fn syn_options(&self, config: &Config, timestamps: Timestamps) -> Options {
        Options {
            mss: Some(config.mss),
            window_scale: self.scaled.then(|| config.window_scale.min(SCALE_MAX)),
            sack_permitted: self.sack,
            timestamps: self.timestamps.then_some(timestamps),
            ..Options::default()
        }
    }

    /// Payload bytes of a full segment that carries no SACK blocks: the MSS does not count options
    /// (RFC 6691 §2).
    pub(super) const fn payload_max(&self) -> u16 {
        if self.timestamps {
            self.mss - TIMESTAMPS_LEN
        } else {
            self.mss
        }
    }

    /// SACK blocks that a segment may carry: as many as fit beside the other options
    /// (RFC 2018 §3), none when the guest does not know them.
    pub(super) const fn sack_blocks_max(&self) -> usize {
        match (self.sack, self.timestamps) {
            (false, _) => 0,
            (true, true) => 3,
            (true, false) => 4,
        }
    }
}

/// Bytes of a SACK option with its padding.
pub(super) const fn sack_len(blocks: usize) -> u16 {
    if blocks == 0 {
        0
    } else {
        4 + 8 * blocks as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_mss_is_respected_within_bounds() {
        let config = Config::default();
        let mss = |mss| {
            Agreed::new(
                &config,
                &Options {
                    mss,
                    ..Options::default()
                },
            )
            .mss
        };
        assert_eq!(mss(Some(1200)), 1200);
        assert_eq!(mss(Some(9000)), 1460);
        assert_eq!(mss(Some(0)), 88);
        assert_eq!(mss(None), 536);
    }

    #[test]
    fn only_what_the_guest_offers_is_answered() {
        let config = Config::default();
        let bare = Agreed::new(&config, &Options::default());
        let options = bare.syn_options(&config, Timestamps::default());
        assert_eq!(
            options,
            Options {
                mss: Some(1460),
                ..Options::default()
            }
        );
        assert_eq!((bare.our_scale, bare.guest_scale), (0, 0));

        let scale_zero = Options {
            window_scale: Some(0),
            ..Options::default()
        };
        let scaled = Agreed::new(&config, &scale_zero);
        let options = scaled.syn_options(&config, Timestamps::default());
        assert_eq!(options.window_scale, Some(8));
        assert_eq!((scaled.our_scale, scaled.guest_scale), (8, 0));
    }

    #[test]
    fn options_leave_room_for_payload_at_the_smallest_mss() {
        let config = Config::default();
        let options = Options {
            mss: Some(1),
            timestamps: Some(Timestamps::default()),
            sack_permitted: true,
            ..Options::default()
        };
        let agreed = Agreed::new(&config, &options);
        assert_eq!(agreed.payload_max(), 76);
        assert_eq!(
            agreed.payload_max() - sack_len(agreed.sack_blocks_max()),
            48
        );
        assert_eq!(sack_len(0), 0);
    }
}
