//! Suggestions for words that were not understood.

/// Below this likeness (0 to 1) a suggestion misleads more than it helps.
const LIKE_ENOUGH: f64 = 0.75;

/// `did you mean "…"?`, or all the words there are when none is near.
pub(crate) fn did_you_mean<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str> + Clone,
) -> String {
    match nearest(word, known.clone()) {
        Some(known) => format!("did you mean \"{known}\"?"),
        None => format!("known are {}", list(known)),
    }
}

/// The known word most like `word`, if one is like it at all.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    known
        .into_iter()
        .map(|known| (strsim::jaro_winkler(&word, known), known))
        .filter(|(likeness, _)| *likeness >= LIKE_ENOUGH)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, known)| known)
}

/// `"a", "b", "c"`.
pub(crate) fn list<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = words.into_iter().map(|word| format!("\"{word}\"")).collect();
    quoted.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_suggested() {
        let known = ["batch_size", "connections", "seed"];
        assert_eq!(did_you_mean("batchsize", known), "did you mean \"batch_size\"?");
        assert_eq!(
            did_you_mean("xyz", known),
            "known are \"batch_size\", \"connections\", \"seed\""
        );
    }
}
