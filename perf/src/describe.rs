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
        read(text).map_err(|what| format!("{what}; a peer is described as {FORM}"))
    }
}

/// What stands in a description, key by key.
#[derive(Default)]
struct Keys<'a> {
    name: Option<&'a str>,
    kind: Option<&'a str>,
    address: Option<String>,
    gateway: Option<Ipv4Addr>,
}

fn read(text: &str) -> Result<Peer, String> {
    let (keys, command) = text
        .split_once(",cmd=")
        .ok_or("cmd is missing, or is not the last key")?;
    let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
    if command.is_empty() {
        return Err("cmd is empty".to_owned());
    }
    let keys = Keys::read(keys)?;
    let name = keys.name.filter(|name| is_name(name));
    let name = name.ok_or("name is missing, or is not a plain word")?;
    if KNOWN.contains(&name) {
        return Err(format!("{name} is a peer that is known already"));
    }
    let link = keys.link()?;
    let place = match link {
        Link::Socket { .. } => "{sock}",
        Link::Netns => "{netns}",
        _ => "",
    };
    if !command.iter().any(|word| word.contains(place)) {
        return Err(format!("cmd has no {place}"));
    }
    let role = if name.starts_with("towpath") {
        Role::Subject
    } else {
        Role::Rival
    };
    Ok(Peer {
        name: name.to_owned(),
        role,
        link,
        command,
        package: None,
        mtu_max: u32::MAX,
    })
}

impl Keys<'_> {
    fn read(text: &str) -> Result<Keys<'_>, String> {
        let mut keys = Keys::default();
        for key in text.split(',') {
            match key.split_once('=') {
                Some(("name", value)) => keys.name = Some(value),
                Some(("kind", value)) => keys.kind = Some(value),
                Some(("addr", value)) => keys.address = Some(parse_address(value)?),
                Some(("gw", value)) => {
                    let gateway = value.parse();
                    keys.gateway = Some(gateway.map_err(|_| format!("gw={value} is no address"))?);
                }
                _ => return Err(format!("{key:?} is not a key of a peer")),
            }
        }
        Ok(keys)
    }

    fn link(self) -> Result<Link, String> {
        let (framing, address, gateway) = match self.kind {
            Some("qemu") => (Framing::Qemu, HOST_ADDRESS, HOST_GATEWAY),
            Some("vpnkit") => (Framing::Vpnkit, VPNKIT.0, VPNKIT.1),
            Some("netns" | "vhost-user") if self.address.is_some() || self.gateway.is_some() => {
                return Err("addr and gw are for kind=qemu and kind=vpnkit alone".to_owned());
            }
            Some("netns") => return Ok(Link::Netns),
            Some("vhost-user") => return Ok(Link::VhostUser),
            Some(other) => return Err(format!("there is no kind {other:?}")),
            None => return Err("kind is missing".to_owned()),
        };
        Ok(Link::Socket {
            framing,
            address: self.address.unwrap_or_else(|| address.to_owned()),
            gateway: self.gateway.unwrap_or(gateway),
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
            ("name=a,kind=netns,gw=1.2.3.4,cmd=p {netns}", "addr and gw"),
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
