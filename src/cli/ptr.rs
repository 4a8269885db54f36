//! The question for the name of an address, and its answer, as they travel to and from a name server
//! (RFC 1035 §4). Pure; no answer makes it panic or loop.

use std::net::IpAddr;

const PTR: u16 = 12;
const INTERNET: u16 = 1;
const HEADER: usize = 12;

/// Asks for the name of `addr`.
pub(super) fn question(id: u16, addr: IpAddr) -> Vec<u8> {
    let mut packet = Vec::with_capacity(128);
    packet.extend(id.to_be_bytes());
    // Recursion desired; one question.
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    let mut label = |text: &str| {
        // At most "ip6" or "arpa" or three digits.
        packet.push(text.len() as u8);
        packet.extend(text.bytes());
    };
    match addr.to_canonical() {
        IpAddr::V4(ip) => {
            ip.octets().iter().rev().for_each(|byte| label(&byte.to_string()));
            label("in-addr");
        }
        IpAddr::V6(ip) => {
            for byte in ip.octets().iter().rev() {
                label(&format!("{:x}", byte & 0xf));
                label(&format!("{:x}", byte >> 4));
            }
            label("ip6");
        }
    }
    label("arpa");
    packet.push(0);
    packet.extend(PTR.to_be_bytes());
    packet.extend(INTERNET.to_be_bytes());
    packet
}

/// The answer to the question `id`: a name, or that there is none. `None` when the packet is no
/// answer to it.
pub(super) fn answer(id: u16, packet: &[u8]) -> Option<Option<String>> {
    let is_answer = packet.get(2)? & 0x80 != 0;
    if !is_answer || number(packet, 0)? != id {
        return None;
    }
    Some(first_pointer(packet))
}

fn first_pointer(packet: &[u8]) -> Option<String> {
    let (questions, records) = (number(packet, 4)?, number(packet, 6)?);
    let mut at = HEADER;
    for _ in 0..questions {
        at = behind_name(packet, at)? + 4;
    }
    for _ in 0..records {
        at = behind_name(packet, at)?;
        let (kind, class) = (number(packet, at)?, number(packet, at + 2)?);
        let length = usize::from(number(packet, at + 8)?);
        at += 10;
        if (kind, class) == (PTR, INTERNET) {
            return name(packet, at);
        }
        at += length;
    }
    None
}

fn number(packet: &[u8], at: usize) -> Option<u16> {
    let bytes = packet.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// Where what follows the name at `at` begins.
fn behind_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            0xc0.. => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

/// The name at `at`, with dots. A name is at most 255 bytes long and has at most 127 parts, so this
/// ends even where its pointers go round in a circle.
fn name(packet: &[u8], mut at: usize) -> Option<String> {
    let mut name = String::new();
    for _ in 0..255 {
        match *packet.get(at)? {
            0 => return (!name.is_empty()).then_some(name),
            0xc0.. => at = usize::from(number(packet, at)? & 0x3fff),
            length @ 1..=63 => {
                let end = at + 1 + usize::from(length);
                let label = std::str::from_utf8(packet.get(at + 1..end)?).ok()?;
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(label);
                if name.len() > 255 {
                    return None;
                }
                at = end;
            }
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_question_names_the_address_backwards() {
        let v4 = question(0x0102, "10.0.200.1".parse().expect("an address"));
        assert_eq!(v4, b"\x01\x02\x01\0\0\x01\0\0\0\0\0\0\x011\x03200\x010\x0210\x07in-addr\x04arpa\0\0\x0c\0\x01");
        let v6 = question(0, "fd00::2".parse().expect("an address"));
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
        assert_eq!(answer(0x0102, &question(0x0102, [10, 0, 0, 1].into())), None, "it is the question");
    }

    #[test]
    fn a_name_that_goes_round_in_a_circle_is_none() {
        let mut packet = ANSWER.to_vec();
        let end = packet.len();
        packet[end - 2..].copy_from_slice(&[0xc0, (end - 2) as u8]);
        assert_eq!(answer(0x0102, &packet), Some(None));
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), cut in 0..100usize) {
            let _ = answer(0x0102, &bytes);
            let mut packet = ANSWER[..cut.min(ANSWER.len())].to_vec();
            packet.extend_from_slice(&bytes);
            let _ = answer(0x0102, &packet);
        }
    }
}
