//! Names of guests.

use std::fmt;
use std::str::FromStr;

/// Bytes of a label (RFC 1035 §2.3.4).
const LABEL_MAX: usize = 63;
/// Names that mean something else to every guest. `wpad` and `isatap` would give whoever takes them the
/// others' traffic; `host` and `gateway` are the engine's own.
const TAKEN: [&str; 5] = ["localhost", "host", "gateway", "wpad", "isatap"];

/// The name of one host, without a domain: letters, digits and hyphens (RFC 1123 §2.1), in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostName(Box<str>);

impl HostName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HostName {
    type Err = String;

    /// Takes any case. A name of digits alone is none: resolvers take it for an address.
    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = text.as_bytes();
        let is_label = (1..=LABEL_MAX).contains(&bytes.len())
            && bytes
                .iter()
                .all(|&b| b.is_ascii_alphanumeric() || b == b'-')
            && !text.starts_with('-')
            && !text.ends_with('-')
            && !bytes.iter().all(u8::is_ascii_digit);
        if !is_label {
            return Err(
                "a host's name has 1 to 63 letters, digits and hyphens, no hyphen at an end, and is no \
                 number"
                    .to_owned(),
            );
        }
        let name = text.to_ascii_lowercase();
        if TAKEN.contains(&name.as_str()) {
            return Err(format!("'{name}' is no guest's name"));
        }
        Ok(Self(name.into()))
    }
}
