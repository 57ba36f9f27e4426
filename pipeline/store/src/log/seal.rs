//! Digests of the objects of a log, each within the object: of a commit or a checkpoint nothing
//! else says what it was when it was written.

use xxhash_rust::xxh3::xxh3_64;

/// Before the digest.
const MARK: &[u8] = b"nilometer-xxh3:";
const DIGITS: usize = 16;
/// What stands in the place of a seal until all else is written.
pub(super) const BLANK: &str = "nilometer-xxh3:0000000000000000";

/// Puts the digest of an object in the place of its last blank.
pub(super) fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(at) = place(&bytes) {
        let digest = format!("{:016x}", xxh3_64(&bytes));
        bytes[at..at + DIGITS].copy_from_slice(digest.as_bytes());
    }
    bytes
}

/// Whether an object is what was sealed; one without a seal is another program's.
pub(super) fn is_intact(bytes: &[u8]) -> bool {
    let Some(at) = place(bytes) else { return true };
    let mut blank = bytes.to_vec();
    blank[at..at + DIGITS].fill(b'0');
    format!("{:016x}", xxh3_64(&blank)).as_bytes() == &bytes[at..at + DIGITS]
}

/// Where the digest begins. It is near the end, and what comes before may say anything.
fn place(bytes: &[u8]) -> Option<usize> {
    let mut places = bytes.windows(MARK.len() + DIGITS).rev();
    let back = places.position(|text| text.starts_with(MARK))?;
    Some(bytes.len() - DIGITS - back)
}
