//! A file of JSON lines, each behind a sum of its own, so that damage costs the lines it touches.
//!
//! ```text
//! 1c291ca3 {"…"}
//! └ CRC-32 of what follows the space, in hexadecimal
//! ```

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Digits of the sum.
const DIGITS: usize = 8;

/// Adds a line.
pub(crate) fn write<T: Serialize>(line: &T, out: &mut Vec<u8>) -> serde_json::Result<()> {
    let at = out.len();
    out.extend_from_slice(&[b' '; DIGITS + 1]);
    if let Err(error) = serde_json::to_writer(&mut *out, line) {
        out.truncate(at);
        return Err(error);
    }
    let sum = format!("{:08x}", crc32fast::hash(&out[at + DIGITS + 1..]));
    out[at..at + DIGITS].copy_from_slice(sum.as_bytes());
    out.push(b'\n');
    Ok(())
}

/// The lines that are whole, and how many are not.
pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8]) -> (Vec<T>, usize) {
    let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let (mut whole, mut damaged) = (Vec::new(), 0);
    for line in lines {
        match read_one(line) {
            Some(line) => whole.push(line),
            None => damaged += 1,
        }
    }
    (whole, damaged)
}

fn read_one<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    let (sum, json) = line.split_at_checked(DIGITS + 1)?;
    let sum = std::str::from_utf8(sum).ok()?.strip_suffix(' ')?;
    let sum = u32::from_str_radix(sum, 16).ok()?;
    (crc32fast::hash(json) == sum).then(|| serde_json::from_slice(json).ok())?
}
