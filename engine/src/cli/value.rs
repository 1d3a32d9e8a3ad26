//! Values of options, read from what people write.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use towpath_stack::wire::ethernet::MacAddress;

use crate::config::{FixedLease, Holder, Uuid};

/// The port of DNS.
const DNS_PORT: u16 = 53;
/// One core for each place of the table that spreads flows.
const CORES_MAX: usize = 128;
/// `auto` takes no more: one core carries more than 10 Gbit/s.
const CORES_AUTO_MAX: usize = 4;

/// A count of cores: a number, or `auto` for one per processor, at most 4.
pub(super) fn cores(text: &str) -> Result<usize, String> {
    if text == "auto" {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        return Ok(processors.min(CORES_AUTO_MAX));
    }
    match text.parse() {
        Ok(count @ 1..=CORES_MAX) => Ok(count),
        _ => Err(format!("must be 1 to {CORES_MAX}, or 'auto'")),
    }
}

/// An address with or without a port: `9.9.9.9`, `127.0.0.1:5353`, `fd00::1`, `[fd00::1]:53`.
pub(super) fn dns_server(text: &str) -> Result<SocketAddr, String> {
    if let Ok(server) = text.parse::<SocketAddr>() {
        return match server.port() {
            0 => Err("port 0 can't be asked".to_owned()),
            _ => Ok(server),
        };
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(address) => Ok(SocketAddr::new(address, DNS_PORT)),
        Err(_) => Err("must be an address, as 9.9.9.9, 127.0.0.1:5353 or [fd00::1]:53".to_owned()),
    }
}

/// A size in bytes, with a suffix k, M or G (powers of 1024): `512M`, `64MiB`, `65536`.
pub(super) fn size(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err("the unit must be k, M or G, as in 512M".to_owned()),
    };
    let size = digits
        .parse::<usize>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift));
    size.ok_or_else(|| "must be a number of bytes, as 65536 or 512M".to_owned())
}

/// A duration: seconds, or with units from the largest to the smallest: `180`, `90s`, `3m`, `2h4m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let mut rest = text;
    let mut seconds = 0;
    for (unit, length) in [('h', 3600), ('m', 60), ('s', 1)] {
        let Some((digits, after)) = rest.split_once(unit) else {
            continue;
        };
        seconds += whole(digits)? * length;
        rest = after;
    }
    if !rest.is_empty() {
        // A bare number stands alone.
        let digits = if rest.len() == text.len() { rest } else { "" };
        seconds += whole(digits)?;
    }
    match seconds {
        0 => Err("must be at least one second, as 180, 3m or 2h4m".to_owned()),
        _ => Ok(Duration::from_secs(seconds)),
    }
}

fn whole(digits: &str) -> Result<u64, String> {
    let number = digits.parse::<u32>().map(u64::from);
    number.map_err(|_| "the units must be h, m and s, in this order, as in 2h4m".to_owned())
}

/// A MAC address of one host: `02:74:6f:77:00:03`.
pub(super) fn mac(text: &str) -> Result<MacAddress, String> {
    let wrong = || "must be six bytes in hex, as 02:74:6f:77:00:03".to_owned();
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts
            .next()
            .filter(|part| matches!(part.len(), 1 | 2))
            .ok_or_else(wrong)?;
        if !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
    }
    if parts.next().is_some() {
        return Err(wrong());
    }
    if bytes[0] & 1 != 0 {
        return Err("is a group's address (odd first byte), an interface can't have it".to_owned());
    }
    if bytes == [0; 6] {
        return Err("is no address".to_owned());
    }
    Ok(MacAddress(bytes))
}

/// A fixed lease: `52:54:00:12:34:56=10.0.2.10`, or a UUID in front, or a name behind: `…=10.0.2.10,web`.
pub(super) fn lease(text: &str) -> Result<FixedLease, String> {
    let wrong = || {
        "must be a MAC or UUID and an address: as 52:54:00:12:34:56=10.0.2.10 or \
         52:54:00:12:34:56=10.0.2.10,web"
            .to_owned()
    };
    let (holder, rest) = text.split_once('=').ok_or_else(wrong)?;
    let (address, name) = match rest.split_once(',') {
        Some((address, name)) => (address, Some(name.parse()?)),
        None => (rest, None),
    };
    let holder = match holder.parse::<Uuid>() {
        Ok(uuid) if !uuid.is_nil() => Holder::Uuid(uuid),
        _ if holder.contains(':') => Holder::Mac(mac(holder)?),
        _ => return Err(wrong()),
    };
    Ok(FixedLease {
        holder,
        address: address.parse().map_err(|_| wrong())?,
        name,
    })
}

/// The name of an interface, as the kernel takes it.
pub(super) fn interface_name(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_graphic() && !b"/%:".contains(&byte);
    if !(1..=15).contains(&text.len()) || !text.bytes().all(allowed) || [".", ".."].contains(&text)
    {
        return Err("must have 1 to 15 characters, without '/', '%', ':' and spaces".to_owned());
    }
    if text == "lo" {
        return Err("is the loopback interface".to_owned());
    }
    Ok(text.to_owned())
}

/// A domain name, as it stands in a search list.
pub(super) fn domain(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.len() > 253 || !name.split('.').all(label) {
        return Err("must be a domain name, as example.org".to_owned());
    }
    Ok(text.to_owned())
}

/// A network namespace: a path, or the name of one that `ip netns` made.
pub(super) fn netns(text: &str) -> Result<PathBuf, String> {
    match text {
        "" | "." | ".." => Err("must be a path, or a name as 'ip netns list' shows it".to_owned()),
        _ if text.contains('/') => Ok(PathBuf::from(text)),
        _ => Ok(PathBuf::from("/run/netns").join(text)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dns_servers_with_and_without_port() {
        for (text, server) in [
            ("9.9.9.9", "9.9.9.9:53"),
            ("127.0.0.1:5353", "127.0.0.1:5353"),
            ("fd00::1", "[fd00::1]:53"),
            ("[fd00::1]", "[fd00::1]:53"),
            ("[fd00::1]:54", "[fd00::1]:54"),
        ] {
            assert_eq!(dns_server(text).unwrap().to_string(), server);
        }
        for text in [
            "",
            "dns.example",
            "9.9.9",
            "9.9.9.9:0",
            "9.9.9.9:x",
            "[9.9.9.9",
            "1.1.1.1:99999",
        ] {
            assert!(dns_server(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_and_durations() {
        assert_eq!(size("65536"), Ok(65_536));
        assert_eq!(size("512M"), Ok(512 << 20));
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("2k"), Ok(2048));
        for text in [
            "",
            "M",
            "1x",
            "-1",
            "99999999999999999999",
            "18446744073709551615G",
            "1.5M",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!(duration("180"), Ok(Duration::from_secs(180)));
        assert_eq!(duration("3m"), Ok(Duration::from_secs(180)));
        assert_eq!(duration("2h4m"), Ok(Duration::from_secs(7440)));
        assert_eq!(duration("1h1m1s"), Ok(Duration::from_secs(3661)));
        for text in ["", "0", "0h", "s", "1d", "-1s", "4m2h", "1m1", "1h1h", "m1"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cores_and_macs() {
        assert_eq!(cores("3"), Ok(3));
        assert!((1..=CORES_AUTO_MAX).contains(&cores("auto").unwrap()));
        for text in ["0", "129", "many", "-1"] {
            assert!(cores(text).is_err(), "{text}");
        }
        assert_eq!(
            mac("02:74:6f:77:0:3"),
            Ok(MacAddress([2, 0x74, 0x6f, 0x77, 0, 3]))
        );
        for text in [
            "",
            "02:74:6f:77:00",
            "02:74:6f:77:00:03:04",
            "01:00:5e:00:00:01",
            "0:0:0:0:0:0",
            "02:+4:6f:77:00:03",
        ] {
            assert!(mac(text).is_err(), "{text}");
        }
    }

    #[test]
    fn leases() {
        let named = lease("52:54:0:12:34:56=10.0.2.10,Web-1").unwrap();
        assert_eq!(
            named.holder,
            Holder::Mac(MacAddress([0x52, 0x54, 0, 0x12, 0x34, 0x56]))
        );
        assert_eq!(named.address.to_string(), "10.0.2.10");
        assert_eq!(named.name.unwrap().as_str(), "web-1");
        let uuid = "0d8ab0d5-3e3f-4f0a-9d6e-6f0f3f1f2f3f";
        let unnamed = lease(&format!("{uuid}=10.0.2.11")).unwrap();
        assert_eq!(unnamed.holder, Holder::Uuid(uuid.parse().unwrap()));
        assert_eq!(unnamed.name, None);
        for text in [
            "",
            "10.0.2.3",
            "x=10.0.2.3",
            "52:54:00:12:34:56=",
            "52:54:00:12:34:56=10.0.2.3,",
            "52:54:00:12:34:56=10.0.2.3,a.b",
            "01:00:5e:00:00:01=10.0.2.3",
            "00000000-0000-0000-0000-000000000000=10.0.2.3",
        ] {
            assert!(lease(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names() {
        assert!(interface_name("tap0").is_ok());
        for text in ["", "lo", "a/b", "a b", "sixteen-bytes-xx", "tap%d", ".."] {
            assert!(interface_name(text).is_err(), "{text}");
        }
        assert!(domain("corp.example.").is_ok() && domain("a_b.c").is_ok());
        for text in ["", ".", "a..b", "a b", "x\ny"] {
            assert!(domain(text).is_err(), "{text:?}");
        }
        assert_eq!(netns("blue").unwrap(), Path::new("/run/netns/blue"));
        assert_eq!(netns("./blue").unwrap(), Path::new("./blue"));
        assert!(netns("").is_err() && netns("..").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC{0,40}") {
            let _ = (cores(&text), dns_server(&text), size(&text), duration(&text));
            let _ = (mac(&text), lease(&text), interface_name(&text), domain(&text), netns(&text));
        }
    }
}
