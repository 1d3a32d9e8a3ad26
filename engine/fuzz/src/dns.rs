//! A guest's DNS message, what a server sends back, and the packets in which both travel.

use towpath::internals::dns_reply;
use towpath::service::message::{Reply, Request};

use crate::input::Input;

/// What any resolver takes by UDP (RFC 1035 §4.2.1).
const UDP_LIMIT: usize = 512;

/// See the module.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let shape = input.u8();
    let message = input.bytes(4096).to_vec();
    let mut answer = input.rest().to_vec();
    check_packet(&message);
    check_packet(&answer);
    if shape & 1 == 1 {
        // A server that repeats the question, which a fuzzer finds only by chance.
        let mut echo = message.clone();
        let len = echo.len().min(answer.len()).min(4);
        echo[..len].copy_from_slice(&answer[..len]);
        echo.extend_from_slice(answer.get(4..).unwrap_or(&[]));
        answer = echo;
    }
    let Some(reply) = dns_reply(&message, &answer) else {
        return;
    };
    assert_eq!(reply[..2], message[..2], "the guest's own id");
    assert!(reply[2] & 0x80 != 0, "an answer");
    // What the guest says that it takes is at most 65,535, and 512 is always allowed.
    assert!(reply.len() <= answer.len().max(UDP_LIMIT));
    assert!(
        dns_reply(&reply, &answer).is_none(),
        "answers are not answered"
    );
}

fn check_packet(bytes: &[u8]) {
    let mut again = Vec::new();
    if let Some(request) = Request::decode(bytes) {
        request.encode(&mut again);
        assert_eq!(again, bytes);
    }
    if let Some(reply) = Reply::decode(bytes) {
        reply.encode(&mut again);
        assert_eq!(again, bytes);
    }
}
