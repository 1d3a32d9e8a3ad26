//! What a link does to frames, and how often: read from text such as
//! `loss=1%,reorder=2%,down.delay=500us,seed=7`.

use std::fmt;
use std::str::FromStr;

/// How many frames may pass a reordered one unless `gap` says otherwise.
const GAP_FRAMES: u32 = 3;
/// The most that `gap` may say.
const GAP_FRAMES_MAX: u32 = 1_000;
/// The most that a frame may be late, in ns.
const DELAY_NS_MAX: u64 = 60_000_000_000;

/// The faults of a link, each direction on its own.
///
/// The text is a list of `NAME=VALUE`, parted by commas. `seed=N` chooses the run. The others are
/// the faults of [`Faults`]; they hold for both directions, or for the one that `direction=up` or
/// `direction=down` names. In front of one name, `up.` or `down.` says the same for it alone.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FaultPlan {
    /// Of frames from the guest.
    pub up: Faults,
    /// Of frames to the guest.
    pub down: Faults,
    /// Where the random numbers begin.
    pub seed: u64,
}

/// What happens to frames of one direction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Faults {
    /// `loss=1%`: gone.
    pub loss: Share,
    /// `duplicate=1%`: comes twice.
    pub duplicate: Share,
    /// `reorder=1%`: held back until some later ones have passed.
    pub reorder: Share,
    /// `gap=3`: how many may pass a frame that is held back: one to this.
    pub gap_frames: u32,
    /// `delay=500us`: every frame comes so much later, in ns.
    pub delay_ns: u64,
    /// `jitter=100us`: and up to so much more, without changing the order, in ns.
    pub jitter_ns: u64,
    /// `corrupt=1%`: one bit is flipped.
    pub corrupt: Share,
    /// `truncate=1%`: the end is cut off.
    pub truncate: Share,
}

impl Default for Faults {
    fn default() -> Faults {
        Faults {
            loss: Share::NONE,
            duplicate: Share::NONE,
            reorder: Share::NONE,
            gap_frames: GAP_FRAMES,
            delay_ns: 0,
            jitter_ns: 0,
            corrupt: Share::NONE,
            truncate: Share::NONE,
        }
    }
}

/// A part of all frames, in millionths: 0 to 1,000,000.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Share(u32);

impl Share {
    /// No frame.
    pub const NONE: Share = Share(0);
    const ALL: u32 = 1_000_000;

    /// So many of a million; `None` for more than all.
    #[must_use]
    pub const fn per_million(millionths: u32) -> Option<Share> {
        if millionths > Share::ALL {
            return None;
        }
        Some(Share(millionths))
    }

    /// Whether a random number falls into this share.
    pub(super) fn takes(self, random: u64) -> bool {
        random % u64::from(Share::ALL) < u64::from(self.0)
    }

    fn parse(text: &str) -> Option<Share> {
        let percent: f64 = text.strip_suffix('%')?.parse().ok()?;
        if !(0.0..=100.0).contains(&percent) {
            return None;
        }
        Some(Share((percent * 10_000.0).round() as u32))
    }
}

/// Why a text is no [`FaultPlan`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BadPlan {
    /// The part of the list that is wrong.
    pub part: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

impl fmt::Display for BadPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' {}", self.part, self.problem)
    }
}

impl std::error::Error for BadPlan {}

const FORM: &str = "must be NAME=VALUE, as loss=1% or delay=500us";
const NAME: &str = "has an unknown name; known are loss, duplicate, reorder, gap, delay, jitter, \
                    corrupt and truncate, also with 'up.' or 'down.' in front, direction and seed";
const SHARE: &str = "must have a share from 0% to 100%, as loss=1%";
const TIME: &str = "must have a time up to 60s, as delay=500us, 2ms or 1s";
const COUNT: &str = "must have a number of frames from 1 to 1000, as gap=3";
const SEED: &str = "must have a number below 2^64, as seed=7";
const DIRECTION: &str = "must be direction=up, direction=down or direction=both";
const TWICE: &str = "says again what was said before";

impl FromStr for FaultPlan {
    type Err = BadPlan;

    fn from_str(text: &str) -> Result<FaultPlan, BadPlan> {
        let mut plan = FaultPlan::default();
        let parts: Vec<Part> = text.split(',').map(Part::read).collect::<Result<_, _>>()?;
        let mut usual = Ways::BOTH;
        for part in parts.iter().filter(|part| part.name == "direction") {
            usual = Ways::named(part.value).ok_or_else(|| part.bad(DIRECTION))?;
        }
        for (number, part) in parts.iter().enumerate() {
            let ways = part.ways.unwrap_or(usual);
            let again =
                |before: &Part| before.name == part.name && before.ways.unwrap_or(usual).meet(ways);
            if parts[..number].iter().any(again) {
                return Err(part.bad(TWICE));
            }
            match (part.name, part.ways) {
                ("seed", None) => plan.seed = part.value.parse().map_err(|_| part.bad(SEED))?,
                ("direction", None) => {}
                _ => {
                    for (_, faults) in [(ways.up, &mut plan.up), (ways.down, &mut plan.down)]
                        .into_iter()
                        .filter(|(meant, _)| *meant)
                    {
                        faults.set(part)?;
                    }
                }
            }
        }
        Ok(plan)
    }
}

impl Faults {
    fn set(&mut self, part: &Part) -> Result<(), BadPlan> {
        let share = || Share::parse(part.value).ok_or_else(|| part.bad(SHARE));
        let time = || parse_ns(part.value).ok_or_else(|| part.bad(TIME));
        match part.name {
            "loss" => self.loss = share()?,
            "duplicate" => self.duplicate = share()?,
            "reorder" => self.reorder = share()?,
            "corrupt" => self.corrupt = share()?,
            "truncate" => self.truncate = share()?,
            "delay" => self.delay_ns = time()?,
            "jitter" => self.jitter_ns = time()?,
            "gap" => {
                let count = part.value.parse().ok();
                let count = count.filter(|count| (1..=GAP_FRAMES_MAX).contains(count));
                self.gap_frames = count.ok_or_else(|| part.bad(COUNT))?;
            }
            _ => return Err(part.bad(NAME)),
        }
        Ok(())
    }
}

/// One `[up.|down.]NAME=VALUE` of the list.
struct Part<'a> {
    text: &'a str,
    ways: Option<Ways>,
    name: &'a str,
    value: &'a str,
}

impl<'a> Part<'a> {
    fn read(text: &'a str) -> Result<Part<'a>, BadPlan> {
        let bad = |problem| BadPlan {
            part: text.to_owned(),
            problem,
        };
        let (key, value) = text.split_once('=').ok_or_else(|| bad(FORM))?;
        let (ways, name) = match key.split_once('.') {
            None => (None, key),
            Some((way, name)) => (Some(Ways::named(way).ok_or_else(|| bad(NAME))?), name),
        };
        Ok(Part {
            text,
            ways,
            name,
            value,
        })
    }

    fn bad(&self, problem: &'static str) -> BadPlan {
        BadPlan {
            part: self.text.to_owned(),
            problem,
        }
    }
}

/// The directions that a part is for.
#[derive(Clone, Copy)]
struct Ways {
    up: bool,
    down: bool,
}

impl Ways {
    const BOTH: Ways = Ways {
        up: true,
        down: true,
    };

    fn named(text: &str) -> Option<Ways> {
        match text {
            "up" => Some(Ways {
                up: true,
                down: false,
            }),
            "down" => Some(Ways {
                up: false,
                down: true,
            }),
            "both" => Some(Ways::BOTH),
            _ => None,
        }
    }

    fn meet(self, other: Ways) -> bool {
        self.up && other.up || self.down && other.down
    }
}

fn parse_ns(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_ns: u64 = match &text[digits.len()..] {
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        _ => return None,
    };
    let count: u64 = digits.parse().ok()?;
    count.checked_mul(unit_ns).filter(|&ns| ns <= DELAY_NS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> FaultPlan {
        text.parse().unwrap()
    }

    #[test]
    fn every_fault_has_its_name() {
        let faults = Faults {
            loss: Share(10_000),
            duplicate: Share(5_000),
            reorder: Share(20_000),
            gap_frames: 9,
            delay_ns: 500_000,
            jitter_ns: 2_000_000,
            corrupt: Share(1),
            truncate: Share(1_000_000),
        };
        let text = "loss=1%,duplicate=0.5%,reorder=2%,gap=9,delay=500us,jitter=2ms,\
                    corrupt=0.0001%,truncate=100%,seed=7";
        let expected = FaultPlan {
            up: faults,
            down: faults,
            seed: 7,
        };
        assert_eq!(plan(text), expected);
    }

    #[test]
    fn directions_are_for_all_or_for_one() {
        let lossy = Faults {
            loss: Share(10_000),
            ..Faults::default()
        };
        let only_up = plan("loss=1%,direction=up");
        assert_eq!((only_up.up, only_up.down), (lossy, Faults::default()));
        assert_eq!(plan("up.loss=1%"), only_up);
        let both = plan("up.loss=1%,down.loss=1%,direction=both");
        assert_eq!((both.up, both.down), (lossy, lossy));
        let mixed = plan("direction=up,loss=1%,down.delay=1s");
        assert_eq!(mixed.up, lossy);
        assert_eq!(mixed.down.delay_ns, 1_000_000_000);
    }

    #[test]
    fn the_bad_part_is_named() {
        for (text, part, problem) in [
            ("", "", FORM),
            ("loss", "loss", FORM),
            ("loss=1%,", "", FORM),
            ("seed=1,loss=1", "loss=1", SHARE),
            ("loss=101%", "loss=101%", SHARE),
            ("loss=-1%", "loss=-1%", SHARE),
            ("loss=nan%", "loss=nan%", SHARE),
            ("delay=5", "delay=5", TIME),
            ("delay=61s", "delay=61s", TIME),
            (
                "jitter=99999999999999999999s",
                "jitter=99999999999999999999s",
                TIME,
            ),
            ("gap=0", "gap=0", COUNT),
            ("seed=x", "seed=x", SEED),
            ("up.seed=1", "up.seed=1", NAME),
            ("direction=left", "direction=left", DIRECTION),
            ("left.loss=1%", "left.loss=1%", NAME),
            ("lose=1%", "lose=1%", NAME),
            ("loss=1%,up.loss=2%", "up.loss=2%", TWICE),
            ("seed=1,seed=1", "seed=1", TWICE),
        ] {
            let error = text.parse::<FaultPlan>().unwrap_err();
            assert_eq!(
                (error.part.as_str(), error.problem),
                (part, problem),
                "{text}"
            );
        }
    }

    #[test]
    fn a_share_takes_its_part_of_all_numbers() {
        let taken = |share: Share| (0..Share::ALL).filter(|&n| share.takes(n.into())).count();
        assert_eq!(taken(Share::NONE), 0);
        assert_eq!(taken(Share(10_000)), 10_000);
        assert_eq!(taken(Share(Share::ALL)), 1_000_000);
        assert_eq!(Share::per_million(1_000_001), None);
        assert_eq!(Share::per_million(10_000), Some(Share(10_000)));
    }
}
