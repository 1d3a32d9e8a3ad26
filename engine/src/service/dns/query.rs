//! What the forwarder must know of a DNS message (RFC 1035 §4.1): little.
//!
//! ```text
//! 0..2 id   2: QR opcode(4) AA TC RD   3: RA Z AD CD rcode(4)
//! 4..6 questions   6..8 answers   8..10 authorities   10..12 additionals   12.. question …
//! ```
//!
//! A query has one question, and its name is written out: there is nothing before it that a
//! compression pointer could point to. Of the rest only EDNS's OPT record matters (RFC 6891 §6.1),
//! for the size that the guest takes; a query whose rest can't be walked goes on as it is.

use crate::service::names::Record;

const HEADER: usize = 12;
const NAME_MAX: usize = 255;
const LABEL_MAX: u8 = 63;

const QR: u8 = 0x80;
const OPCODE: u8 = 0x78;
const AA: u8 = 0x04;
const TC: u8 = 0x02;
const RD: u8 = 0x01;
const RA: u8 = 0x80;
const CD: u8 = 0x10;
const RCODE: u8 = 0x0f;

const FORMERR: u8 = 1;
const SERVFAIL: u8 = 2;
const NOTIMP: u8 = 4;
const REFUSED: u8 = 5;

const TYPE_A: u16 = 1;
const TYPE_PTR: u16 = 12;
const OPT: u16 = 41;
const CLASS_IN: u16 = 1;
const CLASS_ANY: u16 = 255;
/// A compression pointer to the question's name, which stands behind the header.
const QUESTION_NAME: [u8; 2] = [0xc0, HEADER as u8];
/// How long others may keep what we answer: a guest may be gone in a moment.
const OUR_TTL_SECS: u32 = 10;
/// The DO bit in the OPT record's flags (RFC 3225 §3).
const DNSSEC_OK: u8 = 0x80;
/// What every resolver takes by UDP (RFC 1035 §4.2.1).
const UDP_LIMIT: u16 = 512;
/// What we say that we take, in the answers that we write ourselves (RFC 9715 §3.1).
const OUR_UDP_LIMIT: u16 = 1232;

/// A well-formed query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Query {
    message: Vec<u8>,
    /// Where the question section ends.
    question_end: usize,
    edns: Option<Edns>,
}

/// What the guest's OPT record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Edns {
    udp_limit: u16,
    dnssec_ok: bool,
}

/// Why a message is not forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    /// It is no query that we understand; this tells so.
    FormErr(Vec<u8>),
    /// It has no id, or is an answer itself: answering answers could go on forever.
    Unanswerable,
}

/// What a server's answer is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Worth {
    /// It goes to the guest.
    Answer,
    /// The server can't or won't; another may.
    Refusal,
}

impl Query {
    /// Takes a guest's message if it is a query with one question.
    pub(crate) fn parse(message: &[u8]) -> Result<Self, Rejected> {
        let &[id0, id1, ref rest @ ..] = message else {
            return Err(Rejected::Unanswerable);
        };
        let flags = rest.first().copied().unwrap_or(0);
        if flags & QR != 0 {
            return Err(Rejected::Unanswerable);
        }
        match (count(message, 4), question_end(message)) {
            (Some(1), Some(question_end)) => {
                let edns = find_edns(message, question_end);
                Ok(Self {
                    message: message.to_vec(),
                    question_end,
                    edns,
                })
            }
            _ => {
                let flags = QR | flags & (OPCODE | RD);
                let header = [id0, id1, flags, RA | FORMERR, 0, 0, 0, 0, 0, 0, 0, 0];
                Err(Rejected::FormErr(header.to_vec()))
            }
        }
    }

    /// The query as it goes to a server: the guest's, but for the id.
    pub(super) fn with_id(&self, id: [u8; 2]) -> Vec<u8> {
        let mut message = self.message.clone();
        message[..2].copy_from_slice(&id);
        message
    }

    /// Bytes of the longest answer that the guest takes by UDP.
    pub(crate) fn udp_limit(&self) -> usize {
        // RFC 6891 §6.2.3: values below 512 are 512.
        usize::from(
            self.edns
                .map_or(UDP_LIMIT, |edns| edns.udp_limit.max(UDP_LIMIT)),
        )
    }

    /// Judges what came from the server that was asked with `id`; `None` when it is no answer to
    /// this query (RFC 5452 §9.1).
    pub(crate) fn judge(&self, id: [u8; 2], answer: &[u8]) -> Option<Worth> {
        let header = answer.first_chunk::<HEADER>()?;
        if header[..2] != id || header[2] & QR == 0 {
            return None;
        }
        let rcode = header[3] & RCODE;
        match count(answer, 4)? {
            1 => {
                let question = answer.get(HEADER..question_end(answer)?)?;
                if !same_question(question, self.question()) {
                    return None;
                }
                match rcode {
                    SERVFAIL | NOTIMP | REFUSED => Some(Worth::Refusal),
                    _ => Some(Worth::Answer),
                }
            }
            // Servers that could not read the query may leave the question out. Such an answer
            // carries nothing but an error, so nothing can be forged with it but a refusal.
            0 if rcode != 0 && count(answer, 6)? == 0 => Some(Worth::Refusal),
            _ => None,
        }
    }

    /// Gives an answer the guest's id back.
    pub(crate) fn restore_id(&self, answer: &mut [u8]) {
        if let (Some(to), Some(from)) = (answer.get_mut(..2), self.message.get(..2)) {
            to.copy_from_slice(from);
        }
    }

    /// Our own answer when no server gave one.
    pub(crate) fn servfail(&self) -> Vec<u8> {
        let flags = self.message[2] & (OPCODE | RD);
        self.bare(QR | flags, RA | self.message[3] & CD | SERVFAIL, None)
    }

    /// The name that is asked for, with dots between its labels, and the type; `None` unless it is an
    /// ordinary question for the Internet's (or any) class with a name that can be written so.
    pub(super) fn asked(&self) -> Option<(String, u16)> {
        let (mut rest, kind) = self.question().split_last_chunk::<4>()?;
        let &[kind0, kind1, class0, class1] = kind;
        let class = u16::from_be_bytes([class0, class1]);
        if self.message[2] & OPCODE != 0 || ![CLASS_IN, CLASS_ANY].contains(&class) {
            return None;
        }
        let mut name = String::new();
        while let Some((&length, label)) = rest.split_first()
            && length > 0
        {
            let (label, after) = label.split_at_checked(usize::from(length))?;
            let label = str::from_utf8(label)
                .ok()
                .filter(|label| !label.contains('.'))?;
            if !name.is_empty() {
                name.push('.');
            }
            name.push_str(label);
            rest = after;
        }
        Some((name, u16::from_be_bytes([kind0, kind1])))
    }

    /// Our own answer with one record, or with none because there is none of that kind.
    pub(super) fn answer(&self, record: &Record) -> Vec<u8> {
        let flags = QR | AA | self.message[2] & (OPCODE | RD);
        let codes = RA | self.message[3] & CD;
        match record {
            Record::A(address) => self.bare(flags, codes, Some((TYPE_A, &address.octets()))),
            Record::Ptr(name) => self.bare(flags, codes, Some((TYPE_PTR, &encode_name(name)))),
            Record::None => self.bare(flags, codes, None),
        }
    }

    /// What is left of an answer that is too long for the guest: that it was (RFC 2181 §9).
    pub(crate) fn truncate(&self, answer: &[u8]) -> Vec<u8> {
        let flag = |at: usize| answer.get(at).copied().unwrap_or(0);
        self.bare(flag(2) | QR | TC, flag(3), None)
    }

    /// A message of header and question, with a record of this type and content for the name of the
    /// question, and with an OPT record if the query had one (RFC 6891 §7).
    fn bare(&self, flags: u8, codes: u8, answer: Option<(u16, &[u8])>) -> Vec<u8> {
        let [id0, id1] = [self.message[0], self.message[1]];
        let answers = u8::from(answer.is_some());
        let records = u8::from(self.edns.is_some());
        let mut message = vec![id0, id1, flags, codes, 0, 1, 0, answers, 0, 0, 0, records];
        message.extend_from_slice(self.question());
        if let Some((kind, content)) = answer {
            message.extend_from_slice(&QUESTION_NAME);
            message.extend_from_slice(&kind.to_be_bytes());
            message.extend_from_slice(&CLASS_IN.to_be_bytes());
            message.extend_from_slice(&OUR_TTL_SECS.to_be_bytes());
            message.extend_from_slice(&(content.len() as u16).to_be_bytes());
            message.extend_from_slice(content);
        }
        if let Some(edns) = self.edns {
            let [size0, size1] = OUR_UDP_LIMIT.to_be_bytes();
            let flags = if edns.dnssec_ok { DNSSEC_OK } else { 0 };
            let [_, opt] = OPT.to_be_bytes();
            message.extend_from_slice(&[0, 0, opt, size0, size1, 0, 0, flags, 0, 0, 0]);
        }
        message
    }

    fn question(&self) -> &[u8] {
        &self.message[HEADER..self.question_end]
    }
}

/// Labels with their lengths; only names that fit are made into records.
fn encode_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

fn count(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*message.get(at..)?.first_chunk()?))
}

/// Names are compared without regard to ASCII case (RFC 4343 §3), type and class as they are. The
/// length bytes of labels are below `A`, so the whole name can be compared at once.
fn same_question(one: &[u8], other: &[u8]) -> bool {
    match (one.split_last_chunk::<4>(), other.split_last_chunk::<4>()) {
        (Some((name, kind)), Some((other_name, other_kind))) => {
            kind == other_kind && name.eq_ignore_ascii_case(other_name)
        }
        _ => false,
    }
}

/// Where the first question ends, if its name is written out and all of it is there.
fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match *message.get(at)? {
            0 => break,
            length @ 1..=LABEL_MAX => at += 1 + usize::from(length),
            _ => return None,
        }
        // RFC 1035 §3.1: a name is at most 255 bytes, its last zero included.
        if at - HEADER >= NAME_MAX {
            return None;
        }
    }
    let end = at + 1 + 4;
    (end <= message.len()).then_some(end)
}

/// Where the record name at `at` ends; a compression pointer ends it.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=LABEL_MAX => at += 1 + usize::from(length),
            0xc0.. => return Some(at + 2),
            _ => return None,
        }
    }
}

/// Walks over the records behind the question to the OPT record among the additional ones.
fn find_edns(message: &[u8], question_end: usize) -> Option<Edns> {
    let before = usize::from(count(message, 6)?) + usize::from(count(message, 8)?);
    let all = before + usize::from(count(message, 10)?);
    let mut at = question_end;
    for number in 0..all {
        at = skip_name(message, at)?;
        let fields = message.get(at..)?.first_chunk::<10>()?;
        let &[kind0, kind1, size0, size1, _, _, flags, _, length0, length1] = fields;
        if number >= before && u16::from_be_bytes([kind0, kind1]) == OPT {
            return Some(Edns {
                udp_limit: u16::from_be_bytes([size0, size1]),
                dnssec_ok: flags & DNSSEC_OK != 0,
            });
        }
        at += 10 + usize::from(u16::from_be_bytes([length0, length1]));
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::{Edns, Query, Record, Rejected, Worth};

    /// `www.example. IN A`, recursion desired, id 0x1234.
    pub(in super::super) fn plain_query() -> Vec<u8> {
        let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend_from_slice(b"\x03www\x07example\x00\x00\x01\x00\x01");
        query
    }

    /// The same with an OPT record that says `udp_limit` and DO.
    pub(in super::super) fn edns_query(udp_limit: u16) -> Vec<u8> {
        let mut query = plain_query();
        query[11] = 1;
        query.extend_from_slice(&[0, 0, 41]);
        query.extend_from_slice(&udp_limit.to_be_bytes());
        query.extend_from_slice(&[0, 0, 0x80, 0, 0, 0]);
        query
    }

    /// An answer to `query` with `rcode` and `size` bytes of a TXT record.
    pub(in super::super) fn answer_to(query: &[u8], rcode: u8, size: u16) -> Vec<u8> {
        let mut answer = query[..29].to_vec();
        answer[2] |= 0x80;
        answer[3] = 0x80 | rcode;
        answer[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
        answer.extend_from_slice(&[0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60]);
        answer.extend_from_slice(&size.to_be_bytes());
        answer.resize(answer.len() + usize::from(size), b'x');
        answer
    }

    #[test]
    fn a_query_goes_on_but_for_its_id() {
        let bytes = edns_query(4096);
        let query = Query::parse(&bytes).unwrap();
        let sent = query.with_id([0xab, 0xcd]);
        assert_eq!(sent[..2], [0xab, 0xcd]);
        assert_eq!(sent[2..], bytes[2..]);
        let mut answer = answer_to(&sent, 0, 4);
        query.restore_id(&mut answer);
        assert_eq!(answer[..2], [0x12, 0x34]);
    }

    #[test]
    fn the_guest_says_how_much_it_takes() {
        let limit = |bytes: &[u8]| Query::parse(bytes).unwrap().udp_limit();
        assert_eq!(limit(&plain_query()), 512);
        assert_eq!(limit(&edns_query(1232)), 1232);
        assert_eq!(limit(&edns_query(65_535)), 65_535);
        assert_eq!(limit(&edns_query(100)), 512, "RFC 6891 §6.2.3");
        let mut cut = edns_query(4096);
        cut.truncate(cut.len() - 3);
        assert_eq!(limit(&cut), 512, "a broken rest is the server's affair");
    }

    #[test]
    fn an_opt_record_is_found_behind_other_records() {
        let mut bytes = plain_query();
        bytes[7] = 1;
        bytes[11] = 1;
        bytes.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 1, 2, 3, 4]);
        bytes.extend_from_slice(&[0, 0, 41, 8, 0, 0, 0, 0, 0, 0, 0]);
        let query = Query::parse(&bytes).unwrap();
        assert_eq!(
            query.edns,
            Some(Edns {
                udp_limit: 2048,
                dnssec_ok: false
            })
        );
    }

    #[test]
    fn malformed_queries_get_formerr() {
        let formerr = |bytes: &[u8]| match Query::parse(bytes) {
            Err(Rejected::FormErr(answer)) => {
                assert_eq!(answer.len(), 12);
                assert_eq!(answer[..2], bytes[..2]);
                assert_eq!(answer[2] & 0x80, 0x80);
                assert_eq!(answer[3], 0x81);
            }
            other => panic!("{bytes:x?}: {other:?}"),
        };
        let query = plain_query();
        for end in 2..query.len() {
            formerr(&query[..end]);
        }
        for (at, byte) in [(5, 0), (5, 2), (4, 1), (12, 0xc0), (12, 64)] {
            let mut broken = plain_query();
            broken[at] = byte;
            formerr(&broken);
        }
        let mut endless = plain_query();
        endless.truncate(12);
        endless.extend([1, b'a'].repeat(127));
        let mut longest = endless.clone();
        longest.extend_from_slice(&[0, 0, 1, 0, 1]);
        assert!(Query::parse(&longest).is_ok(), "255 bytes of name");
        endless.extend_from_slice(&[1, b'a', 0, 0, 1, 0, 1]);
        formerr(&endless);
    }

    #[test]
    fn what_can_not_be_answered_is_not() {
        let mut answer = plain_query();
        answer[2] |= 0x80;
        for bytes in [&[][..], &[1], &answer] {
            assert_eq!(Query::parse(bytes), Err(Rejected::Unanswerable));
        }
    }

    #[test]
    fn only_answers_to_the_question_count() {
        let query = Query::parse(&plain_query()).unwrap();
        let id = [7, 8];
        let good = answer_to(&query.with_id(id), 0, 4);
        assert_eq!(query.judge(id, &good), Some(Worth::Answer));
        assert_eq!(query.judge([7, 9], &good), None, "id");
        let mutated = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            query.judge(id, &bytes)
        };
        assert_eq!(mutated(2, 1), None, "no response bit");
        assert_eq!(mutated(13, b'W'), Some(Worth::Answer), "case of the name");
        assert_eq!(mutated(13, b'v'), None, "name");
        assert_eq!(mutated(26, 28), None, "type");
        assert_eq!(mutated(28, 3), None, "class");
        assert_eq!(mutated(5, 2), None, "two questions");
        assert_eq!(mutated(5, 0), None, "no question");
        assert_eq!(query.judge(id, &good[..20]), None, "cut");
        assert_eq!(query.judge(id, &query.with_id(id)), None, "our own query");
        for (rcode, worth) in [
            (2, Worth::Refusal),
            (4, Worth::Refusal),
            (5, Worth::Refusal),
        ] {
            assert_eq!(mutated(3, rcode), Some(worth));
        }
        assert_eq!(
            mutated(3, 3),
            Some(Worth::Answer),
            "a name that does not exist is an answer"
        );
        let bare = [7, 8, 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(query.judge(id, &bare), Some(Worth::Refusal));
    }

    #[test]
    fn own_answers_echo_question_and_edns() {
        let mut bytes = edns_query(4096);
        bytes[3] = 0x10;
        let servfail = Query::parse(&bytes).unwrap().servfail();
        let mut golden = vec![0x12, 0x34, 0x81, 0x92, 0, 1, 0, 0, 0, 0, 0, 1];
        golden.extend_from_slice(&bytes[12..29]);
        golden.extend_from_slice(&[0, 0, 41, 0x04, 0xd0, 0, 0, 0x80, 0, 0, 0]);
        assert_eq!(servfail, golden);

        let query = Query::parse(&plain_query()).unwrap();
        let long = answer_to(&plain_query(), 3, 600);
        let mut golden = vec![0x12, 0x34, 0x83, 0x83, 0, 1, 0, 0, 0, 0, 0, 0];
        golden.extend_from_slice(&plain_query()[12..]);
        assert_eq!(query.truncate(&long), golden);
    }

    #[test]
    fn what_is_asked_is_read() {
        let asked = |bytes: &[u8]| Query::parse(bytes).unwrap().asked();
        assert_eq!(asked(&plain_query()), Some(("www.example".into(), 1)));
        let mut bytes = plain_query();
        bytes[13] = b'.';
        assert_eq!(asked(&bytes), None, "a dot in a label");
        bytes = plain_query();
        bytes[28] = 3;
        assert_eq!(asked(&bytes), None, "of another class");
        bytes = plain_query();
        bytes[2] |= 0x28;
        assert_eq!(asked(&bytes), None, "an update");
        let root = [0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 255];
        assert_eq!(asked(&root), Some((String::new(), 2)));
    }

    #[test]
    fn own_records_are_golden_bytes() {
        let query = Query::parse(&edns_query(4096)).unwrap();
        let mut golden = vec![0x12, 0x34, 0x85, 0x80, 0, 1, 0, 1, 0, 0, 0, 1];
        golden.extend_from_slice(&plain_query()[12..]);
        golden.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 10, 0, 4, 10, 0, 2, 5]);
        golden.extend_from_slice(&[0, 0, 41, 0x04, 0xd0, 0, 0, 0x80, 0, 0, 0]);
        assert_eq!(query.answer(&Record::A([10, 0, 2, 5].into())), golden);

        let query = Query::parse(&plain_query()).unwrap();
        let mut golden = vec![0x12, 0x34, 0x85, 0x80, 0, 1, 0, 0, 0, 0, 0, 0];
        golden.extend_from_slice(&plain_query()[12..]);
        assert_eq!(query.answer(&Record::None), golden);
        golden[7] = 1;
        golden.extend_from_slice(&[0xc0, 12, 0, 12, 0, 1, 0, 0, 0, 10, 0, 12]);
        golden.extend_from_slice(b"\x01a\x08internal\0");
        assert_eq!(query.answer(&Record::Ptr("a.internal".into())), golden);
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(query: Vec<u8>, answer: Vec<u8>, head in 0..3_u8) {
            // Half of the time with a header that leads deep into the parser.
            let mut bytes = if head > 0 { plain_query()[..12].to_vec() } else { Vec::new() };
            if head > 1 {
                bytes[7] = 2;
                bytes[11] = 3;
                bytes.extend_from_slice(b"\x01a\x00\x00\x01\x00\x01");
            }
            bytes.extend(query);
            if let Ok(query) = Query::parse(&bytes) {
                prop_assert_eq!(query.with_id([bytes[0], bytes[1]]), bytes);
                prop_assert!(query.udp_limit() >= 512);
                prop_assert!(query.servfail().len() <= 512);
                let _ = query.asked();
                let _ = query.judge([0, 0], &answer);
                prop_assert!(query.truncate(&answer).len() <= 512);
            }
        }

        #[test]
        fn any_answer_is_judged(tail: Vec<u8>, flags: u8, codes: u8, questions in 0..2_u8) {
            let query = Query::parse(&plain_query()).unwrap();
            let mut answer = vec![0, 0, flags, codes, 0, questions, 0, 0, 0, 0, 0, 0];
            answer.extend(tail);
            let _ = query.judge([0, 0], &answer);
        }
    }
}
