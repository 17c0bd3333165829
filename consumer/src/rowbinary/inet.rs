//! Network addresses as PostgreSQL prints them.

use std::io::Write;

use super::unencodable::Unencodable;

/// `inet` and `cidr`: family, bits of the mask, whether it is a cidr, length, address.
pub(super) fn network(binary: &[u8], out: &mut Vec<u8>) -> Result<(), Unencodable> {
    let (bits, is_cidr, all_bits) = match *binary {
        [2, bits, is_cidr, 4, a, b, c, d] => {
            let _ = write!(out, "{a}.{b}.{c}.{d}");
            (bits, is_cidr, 32)
        }
        [3, bits, is_cidr, 16, ref address @ ..] => {
            let address = address.try_into().map_err(|_| Unencodable::Malformed)?;
            version_6(address, out);
            (bits, is_cidr, 128)
        }
        _ => return Err(Unencodable::Malformed),
    };
    if bits != all_bits || is_cidr != 0 {
        let _ = write!(out, "/{bits}");
    }
    Ok(())
}

/// The longest run of zero words, if it is of two or more, is left out; an IPv4 address behind zeros
/// is shown as one (PostgreSQL's `inet_net_ntop.c`, which differs from the standard library).
fn version_6(address: &[u8; 16], out: &mut Vec<u8>) {
    let words: [u16; 8] =
        std::array::from_fn(|at| u16::from_be_bytes([address[2 * at], address[2 * at + 1]]));
    let (from, length) = longest_zeros(&words);
    let holds_v4 = from == 0 && (length == 6 || (length == 5 && words[5] == 0xffff));
    for (at, word) in words.iter().enumerate() {
        if (from..from + length).contains(&at) {
            if at == from {
                out.push(b':');
            }
            continue;
        }
        if at != 0 {
            out.push(b':');
        }
        if at == 6 && holds_v4 {
            let [.., a, b, c, d] = address;
            let _ = write!(out, "{a}.{b}.{c}.{d}");
            return;
        }
        let _ = write!(out, "{word:x}");
    }
    if length > 0 && from + length == words.len() {
        out.push(b':');
    }
}

/// Where the first of the longest runs of zeros begins, and its length; 0 if that is less than 2.
fn longest_zeros(words: &[u16; 8]) -> (usize, usize) {
    let run = |from: usize| words[from..].iter().take_while(|word| **word == 0).count();
    let longest = (0..words.len()).map(run).max().filter(|length| *length >= 2).unwrap_or(0);
    let from = (0..words.len()).find(|from| run(*from) == longest).unwrap_or(0);
    (from, longest)
}

/// `macaddr` and `macaddr8`.
pub(super) fn hardware(binary: &[u8], out: &mut Vec<u8>) -> Result<(), Unencodable> {
    if !matches!(binary.len(), 6 | 8) {
        return Err(Unencodable::Malformed);
    }
    for (at, byte) in binary.iter().enumerate() {
        let colon = if at == 0 { "" } else { ":" };
        let _ = write!(out, "{colon}{byte:02x}");
    }
    Ok(())
}
