//! Reading certificates: whose they are, and how long they are valid. This reads as much of their DER (RFC 5280, X.690) as that
//! needs. It does not verify them.

use std::time::{Duration, SystemTime};

/// How much of a subject is kept, in bytes.
const MAX_SUBJECT: usize = 256;

const INTEGER: u8 = 0x02;
const OBJECT_ID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const BMP_STRING: u8 = 0x1e;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;

/// Object identifiers of attributes, with the names that RFC 4514 has for them.
const ATTRIBUTES: [(&[u8], &str); 9] = [
    (&[0x55, 4, 3], "CN"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1], "UID"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], "DC"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1], "emailAddress"),
];

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The version of X.509. TLS takes only version 3.
    pub version: u8,
    /// The subject, as in RFC 4514: `CN=alice,O=Example`. It may have any characters, and is cut off if it is long.
    pub subject: String,
    /// When it expires.
    pub not_after: SystemTime,
}

impl Certificate {
    /// Reads a certificate from DER; `None` if it is none.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        let (certificate, _) = expect(SEQUENCE, der)?;
        let (mut fields, _) = expect(SEQUENCE, certificate)?;
        let mut version = 1;
        if let Some((number, rest)) = expect(VERSION, fields) {
            let (number, _) = expect(INTEGER, number)?;
            version = number.first()?.checked_add(1)?;
            fields = rest;
        }
        // Serial number, algorithm and issuer.
        for tag in [INTEGER, SEQUENCE, SEQUENCE] {
            fields = expect(tag, fields)?.1;
        }
        let (validity, rest) = expect(SEQUENCE, fields)?;
        let (_, _, not_after) = element(validity)?;
        let (tag, not_after, _) = element(not_after)?;
        let (subject, _) = expect(SEQUENCE, rest)?;
        Some(Self { version, subject: name(subject)?, not_after: time(tag, not_after)? })
    }
}

/// The first element of a text: its tag, its content, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// The first element, if it has this tag: its content, and what follows it.
fn expect(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    element(der).filter(|(found, ..)| *found == tag).map(|(_, content, rest)| (content, rest))
}

/// A name. As RFC 4514 wants, the most significant part comes last.
fn name(mut der: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    while !der.is_empty() {
        let (mut set, rest) = expect(SET, der)?;
        let mut part = String::new();
        while !set.is_empty() {
            let (pair, others) = expect(SEQUENCE, set)?;
            let (id, value) = expect(OBJECT_ID, pair)?;
            let (tag, value, _) = element(value)?;
            if !part.is_empty() {
                part.push('+');
            }
            match ATTRIBUTES.iter().find(|(known, _)| *known == id) {
                Some((_, name)) => part.push_str(name),
                None => id.iter().for_each(|byte| part.extend([byte >> 4, byte & 15].map(hex))),
            }
            part.push('=');
            add_escaped(&mut part, &text(tag, value));
            set = others;
        }
        parts.push(part);
        der = rest;
    }
    parts.reverse();
    let mut name = parts.join(",");
    if name.len() > MAX_SUBJECT {
        let end = (0..=MAX_SUBJECT).rev().find(|end| name.is_char_boundary(*end)).unwrap_or_default();
        name.truncate(end);
        name.push('…');
    }
    Some(name)
}

fn hex(half: u8) -> char {
    char::from_digit(half.into(), 16).expect("half a byte is a digit")
}

fn text(tag: u8, value: &[u8]) -> String {
    if tag == BMP_STRING {
        let units: Vec<_> = value.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
        return String::from_utf16_lossy(&units);
    }
    String::from_utf8_lossy(value).into_owned()
}

/// Puts a backslash before each character that would otherwise end the value.
fn add_escaped(to: &mut String, value: &str) {
    for letter in value.chars() {
        if matches!(letter, ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=') {
            to.push('\\');
        }
        to.push(letter);
    }
}

/// A point in time, in UTC (RFC 5280, section 4.1.2.5).
fn time(tag: u8, text: &[u8]) -> Option<SystemTime> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year: u64 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    if rest.len() != 10 || !rest.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let two = |at: usize| rest[at..at + 2].parse::<u64>().ok();
    let [month, day, hour, minute, second] = [two(0)?, two(2)?, two(4)?, two(6)?, two(8)?];
    let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z");
    // Such a certificate has expired long ago; `humantime` reads no time before 1970.
    if year < 1970 {
        return Some(SystemTime::UNIX_EPOCH);
    }
    // The year 9999 stands for no end (RFC 5280, section 4.1.2.5).
    humantime::parse_rfc3339(&text)
        .ok()
        .or_else(|| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(253_402_300_799)))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(names: &[(DnType, &str)], until: (i32, u8, u8)) -> Vec<u8> {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in names {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.not_after = date_time_ymd(until.0, until.1, until.2);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn subject_and_end_are_read() {
        let day = |text: &str| humantime::parse_rfc3339(text).unwrap();
        let named = [(DnType::OrganizationName, "Exa,mple"), (DnType::CommonName, "älice=1")];
        let read = Certificate::read(&certificate(&named, (2031, 2, 3))).unwrap();
        assert_eq!((read.version, &*read.subject), (3, "CN=älice\\=1,O=Exa\\,mple"));
        assert_eq!(read.not_after, day("2031-02-03T00:00:00Z"));
        let read = Certificate::read(&certificate(&[], (2075, 12, 31))).unwrap();
        assert_eq!((&*read.subject, read.not_after), ("", day("2075-12-31T00:00:00Z")));
        let long = "x".repeat(300);
        let read = Certificate::read(&certificate(&[(DnType::CommonName, &long)], (2031, 1, 1))).unwrap();
        assert_eq!(read.subject, format!("CN={}…", &long[..MAX_SUBJECT - 3]));
    }

    #[test]
    fn what_is_no_certificate_is_none() {
        let well = certificate(&[(DnType::CommonName, "a")], (2031, 2, 3));
        for length in 0..well.len() {
            assert_eq!(Certificate::read(&well[..length]), None, "{length}");
        }
        // Whatever is broken in it, it is read or not.
        for place in 0..well.len() {
            for bit in 0..8 {
                let mut broken = well.clone();
                broken[place] ^= 1 << bit;
                let _ = Certificate::read(&broken);
            }
        }
    }
}
