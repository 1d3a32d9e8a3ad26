//! Peers by description: `--peer name=…,kind=…,cmd=…`.

use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::bridge::Framing;
use crate::peers::{KNOWN, Link, Peer, Role};
use crate::world::{HOST_ADDRESS, HOST_GATEWAY};

/// What a description is made of, for its errors.
const FORM: &str = "name=NAME,kind=netns|qemu|vpnkit|vhost-user[,addr=A.B.C.D/LEN][,gw=A.B.C.D],\
                    cmd=PROGRAM ARGS…";

impl FromStr for Peer {
    type Err = String;

    /// Reads a description. `cmd` comes last and is all the rest, commas too; its words are parted
    /// by spaces.
    fn from_str(text: &str) -> Result<Peer, String> {
        let wrong = |what: String| format!("{what}; a peer is described as {FORM}");
        let (keys, command) = match text.split_once(",cmd=") {
            Some(parts) => parts,
            None => return Err(wrong("cmd is missing, or is not the last key".to_owned())),
        };
        let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        let (mut name, mut kind, mut address, mut gateway) = (None, None, None, None);
        for key in keys.split(',') {
            match key.split_once('=') {
                Some(("name", value)) => name = Some(value),
                Some(("kind", value)) => kind = Some(value),
                Some(("addr", value)) => address = Some(parse_address(value).map_err(wrong)?),
                Some(("gw", value)) => {
                    let parsed = value.parse::<Ipv4Addr>();
                    gateway = Some(parsed.map_err(|_| wrong(format!("gw={value} is no address")))?);
                }
                _ => return Err(wrong(format!("{key:?} is not a key of a peer"))),
            }
        }
        let name = name.filter(|name| is_name(name));
        let name = name.ok_or_else(|| wrong("name is missing, or is not a plain word".into()))?;
        if KNOWN.contains(&name) {
            return Err(wrong(format!("{name} is a peer that is known already")));
        }
        if command.is_empty() {
            return Err(wrong("cmd is empty".to_owned()));
        }
        let socket = |framing: Framing, at: (&str, Ipv4Addr)| Link::Socket {
            framing,
            address: address.clone().unwrap_or_else(|| at.0.to_owned()),
            gateway: gateway.unwrap_or(at.1),
        };
        let link = match kind {
            Some("netns") => Link::Netns,
            Some("qemu") => socket(Framing::Qemu, (HOST_ADDRESS, HOST_GATEWAY)),
            Some("vpnkit") => socket(Framing::Vpnkit, VPNKIT),
            Some("vhost-user") => Link::VhostUser,
            Some(other) => return Err(wrong(format!("there is no kind {other:?}"))),
            None => return Err(wrong("kind is missing".to_owned())),
        };
        for (place, needed) in [
            ("{sock}", matches!(link, Link::Socket { .. })),
            ("{netns}", link == Link::Netns),
        ] {
            if needed && !command.iter().any(|word| word.contains(place)) {
                return Err(wrong(format!("cmd has no {place}")));
            }
        }
        Ok(Peer {
            name: name.to_owned(),
            role: if name.starts_with("towpath") {
                Role::Subject
            } else {
                Role::Rival
            },
            link,
            command,
            package: None,
        })
    }
}

/// The first guest's address and gateway of vpnkit's defaults.
const VPNKIT: (&str, Ipv4Addr) = ("192.168.65.3/24", Ipv4Addr::new(192, 168, 65, 1));

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty() && name.bytes().all(plain)
}

fn parse_address(text: &str) -> Result<String, String> {
    let parts = text.split_once('/');
    let good = parts.is_some_and(|(address, length)| {
        address.parse::<Ipv4Addr>().is_ok() && length.parse::<u8>().is_ok_and(|bits| bits <= 32)
    });
    if good {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "addr={text} is not an address with a prefix length"
        ))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_described_peer_has_its_link_and_its_words() {
        let text = "name=gvproxy,kind=qemu,addr=192.168.127.2/24,gw=192.168.127.1,\
                    cmd=gvproxy -mtu {mtu} -listen-qemu unix://{sock} -x a,b";
        let peer: Peer = text.parse().unwrap();
        assert_eq!((&*peer.name, peer.role), ("gvproxy", Role::Rival));
        assert_eq!(
            peer.link,
            Link::Socket {
                framing: Framing::Qemu,
                address: "192.168.127.2/24".to_owned(),
                gateway: Ipv4Addr::new(192, 168, 127, 1),
            }
        );
        assert_eq!(peer.command.last().unwrap(), "a,b");
        let vpnkit: Peer = "name=v,kind=vpnkit,cmd=vpnkit --ethernet {sock}"
            .parse()
            .unwrap();
        assert!(matches!(
            vpnkit.link,
            Link::Socket {
                framing: Framing::Vpnkit,
                ..
            }
        ));
        let ours: Peer = "name=towpath-2,kind=netns,cmd=t {netns}".parse().unwrap();
        assert_eq!((ours.role, ours.link), (Role::Subject, Link::Netns));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("name=a,kind=qemu", "cmd is missing"),
            ("name=a,kind=qemu,cmd=", "cmd is empty"),
            ("kind=qemu,cmd=p {sock}", "name is missing"),
            ("name=a b,kind=qemu,cmd=p {sock}", "not a plain word"),
            ("name=pasta,kind=qemu,cmd=p {sock}", "known already"),
            ("name=a,cmd=p {sock}", "kind is missing"),
            ("name=a,kind=tcp,cmd=p {sock}", "no kind \"tcp\""),
            ("name=a,kind=qemu,cmd=p", "no {sock}"),
            ("name=a,kind=netns,cmd=p {sock}", "no {netns}"),
            ("name=a,kind=qemu,addr=1.2.3.4,cmd=p {sock}", "addr=1.2.3.4"),
            ("name=a,kind=qemu,gw=x,cmd=p {sock}", "gw=x"),
            ("name=a,kind=qemu,mac=x,cmd=p {sock}", "\"mac=x\""),
        ] {
            let error = text.parse::<Peer>().unwrap_err();
            assert!(
                error.contains(part) && error.contains("described as"),
                "{error}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in ".*", tail in ".*") {
            let _ = text.parse::<Peer>();
            let _ = format!("name=a,kind={text},cmd={tail}").parse::<Peer>();
        }
    }
}
