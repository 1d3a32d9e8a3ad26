//! A whole core without a kernel: the bytes say what the guest sends, what host sockets do and when.
//!
//! `script.rs` makes the guest's frames and judges those of the core; `driver.rs` is the machine below
//! the core: it answers operations late, in part and with errors, and judges what is asked of it.
//!
//! Streams are told right from wrong by their content: the guest's bytes go by their sequence
//! number, the host's by their place in the stream.

mod driver;
mod script;

use std::cell::RefCell;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::rc::Rc;
use std::time::Duration;

use towpath::config::Network;
use towpath::internals::{BareCore, Stop};

use self::driver::{FuzzDriver, Pools};
use crate::input::Input;

/// See the module.
///
/// # Panics
///
/// When the core does what it must not.
pub fn run(data: &[u8]) {
    let pools = Rc::new(RefCell::new(Pools::new().expect("memory for buffers")));
    let stop = Stop::default();
    let network = network();
    let input = Input::new(data);
    let mut driver = FuzzDriver::new(input, &network, stop.clone(), Rc::clone(&pools));
    let service = driver.adopt_service();
    let mut core = BareCore::new(driver, service, &network, &stop);
    core.run().expect("the driver never fails");
    drop(core);
    pools.borrow().check_all_home();
}

fn network() -> Network {
    Network {
        subnet4: (Ipv4Addr::new(10, 0, 2, 0), 24),
        subnet6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0),
        mtu: 1500,
        gateway_mac: Network::GATEWAY_MAC,
        domain: None,
        search: Vec::new(),
        lease: Duration::from_secs(3600),
    }
}
