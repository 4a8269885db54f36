//! The DNS query for the name of an address (PTR, RFC 1035 §3.5), and its answer.

use std::{fmt::Write as _, net::IpAddr};

use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, SimpleDnsError, TYPE, rdata::RData};

/// The query for the name of `addr`.
pub(super) fn question(id: u16, addr: IpAddr) -> Result<Vec<u8>, SimpleDnsError> {
    let mut name = String::new();
    match addr.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            let _ = write!(name, "{d}.{c}.{b}.{a}.in-addr.arpa");
        }
        IpAddr::V6(ip) => {
            for byte in ip.octets().iter().rev() {
                let _ = write!(name, "{:x}.{:x}.", byte & 0xf, byte >> 4);
            }
            name.push_str("ip6.arpa");
        }
    }
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    packet.questions.push(Question::new(Name::new(&name)?, TYPE::PTR.into(), CLASS::IN.into(), false));
    packet.build_bytes_vec()
}

/// The answer to the query `id`: a name, or `Some(None)` if there is none. `None`, if the packet does not answer it.
pub(super) fn answer(id: u16, packet: &[u8]) -> Option<Option<String>> {
    let packet = Packet::parse(packet).ok()?;
    if packet.id() != id || !packet.has_flags(PacketFlag::RESPONSE) {
        return None;
    }
    Some(packet.answers.iter().find_map(|record| match &record.rdata {
        RData::PTR(pointer) => Some(pointer.to_string()),
        _ => None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_names_the_address_backwards() {
        let ask = |addr: &str| question(0x0102, addr.parse().expect("an address")).expect("a question");
        let v4 = ask("10.0.200.1");
        assert_eq!(v4, b"\x01\x02\x01\0\0\x01\0\0\0\0\0\0\x011\x03200\x010\x0210\x07in-addr\x04arpa\0\0\x0c\0\x01");
        let v6 = ask("fd00::2");
        assert!(v6[12..].starts_with(b"\x012\x010\x010") && v6.ends_with(b"\x01d\x01f\x03ip6\x04arpa\0\0\x0c\0\x01"));
    }

    /// An answer with an alias before the pointer, whose name ends in the question's.
    const ANSWER: &[u8] = b"\x01\x02\x81\x80\0\x01\0\x02\0\0\0\0\x02ab\x03net\0\0\x0c\0\x01\
        \xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x02\xc0\x0f\
        \xc0\x0c\0\x0c\0\x01\0\0\0\x3c\0\x08\x05x_y-3\xc0\x0f";

    #[test]
    fn an_answer_gives_the_name() {
        assert_eq!(answer(0x0102, ANSWER), Some(Some("x_y-3.net".into())));
        assert_eq!(answer(0x0103, ANSWER), None, "it answers another question");
        let no_such_name = b"\x01\x02\x81\x83\0\0\0\0\0\0\0\0";
        assert_eq!(answer(0x0102, no_such_name), Some(None));
        let question = question(0x0102, [10, 0, 0, 1].into()).expect("a question");
        assert_eq!(answer(0x0102, &question), None, "it is the question");
    }
}
