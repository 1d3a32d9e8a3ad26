//! Sets of ports as people write them: `5201,8000-8010`.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// A set of port numbers, kept as ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSet(Vec<RangeInclusive<u16>>);

impl PortSet {
    /// Every port, 1 to 65535.
    pub fn all() -> Self {
        Self(vec![1..=u16::MAX])
    }

    /// Whether `port` is in the set.
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }
}

impl FromStr for PortSet {
    type Err = String;

    /// `all`, or numbers and ranges separated by commas.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::all());
        }
        text.split(',')
            .map(parse_range)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            if range.start() == range.end() {
                write!(f, "{comma}{}", range.start())?;
            } else {
                write!(f, "{comma}{}-{}", range.start(), range.end())?;
            }
        }
        Ok(())
    }
}

fn parse_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |part: &str| match part.trim().parse::<u16>() {
        Ok(0) | Err(_) => Err(format!(
            "'{part}' in '{text}' is no port: ports are 1 to 65535"
        )),
        Ok(port) => Ok(port),
    };
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(format!("the range '{text}' ends before it begins"));
    }
    Ok(first..=last)
}

#[cfg(test)]
mod tests {
    use super::PortSet;

    #[test]
    fn lists_and_ranges() {
        let set: PortSet = "5201,8000-8010".parse().unwrap();
        assert!(set.contains(5201) && set.contains(8000) && set.contains(8010));
        assert!(!set.contains(5202) && !set.contains(7999) && !set.contains(8011));
        assert_eq!(set.to_string(), "5201,8000-8010");
        assert!("all".parse::<PortSet>().unwrap().contains(65535));
    }

    #[test]
    fn errors_name_the_part() {
        for (text, part) in [
            ("80,x", "'x'"),
            ("0", "'0'"),
            ("9-3", "'9-3'"),
            ("", "''"),
            ("70000", "'70000'"),
        ] {
            let error = text.parse::<PortSet>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
