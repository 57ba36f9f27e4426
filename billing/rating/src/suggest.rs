//! "Did you mean …?" for names in a price book.

use strsim::damerau_levenshtein;

/// Text to append to an error: the known name nearest to `name`, or nothing when none is near.
///
/// Near is a third of the name's length in edits; ties go to the name that sorts first.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let reach = (name.chars().count() / 3).max(1);
    known
        .map(|candidate| (damerau_levenshtein(name, candidate), candidate))
        .filter(|&(distance, _)| distance <= reach)
        .min()
        .map(|(_, candidate)| format!("; did you mean {candidate:?}?"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn only_near_names_are_suggested() {
        let known = ["cpu.time", "cpu.allocation", "net.rx.bytes"];
        let cases = [
            ("cpu.tmie", "; did you mean \"cpu.time\"?"),
            ("cpu.alocation", "; did you mean \"cpu.allocation\"?"),
            ("gpu", ""),
            ("", ""),
        ];
        for (name, expected) in cases {
            assert_eq!(nearest(name, known.into_iter()), expected, "{name}");
        }
    }
}
